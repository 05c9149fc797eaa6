"""Forced alignment against torchaudio.functional.forced_align, and of an hour of audio, on the CPU.

    python benchmarks/align.py --output benchmarks/results/align.md

Emissions are random with the labels' peaks in them, 50 frames a second, 29 classes, 15 characters a
second. Both get log-probabilities, float32. torchaudio takes one utterance a call, so its batch is
a loop of calls. Equal results first: the paths' probabilities must agree. Both work in one process,
in turns, so that what else the machine does meets both.
"""

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import torch
from torchaudio.functional import forced_align as torchaudio_align

from ctcspeech.align.forced import forced_align

CLASSES, FRAMES_PER_SECOND = 29, 50


def emissions(frames: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """(T, C) log-probabilities, float32, of a model that is mostly right."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1, (frames, CLASSES)).astype(np.float32)
    scores[:, 0] += 4  # the blank
    places = np.sort(random.choice(frames, len(labels), replace=False))
    scores[places, labels] += 7
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    return scores


def batch(count: int, seconds: float) -> tuple[np.ndarray, list[np.ndarray]]:
    frames = int(seconds * FRAMES_PER_SECOND)
    random = np.random.default_rng(1)
    labels = [random.integers(1, CLASSES, int(seconds * 15)) for _ in range(count)]
    return np.stack([emissions(frames, row, i) for i, row in enumerate(labels)]), labels


def theirs(scores: torch.Tensor, labels: list[torch.Tensor]) -> list[tuple]:
    return [torchaudio_align(scores[i : i + 1], row[None], blank=0) for i, row in enumerate(labels)]


def check_equal(scores: np.ndarray, labels: list[np.ndarray]) -> str:
    """Asserts that both find paths of the same probability; tells how far they are the same."""
    ours = forced_align(scores, labels, threads=1)
    peers = theirs(torch.from_numpy(scores), [torch.from_numpy(row) for row in labels])
    same = total = 0
    for alignment, (path, path_scores) in zip(ours, peers, strict=True):
        expected = float(path_scores.double().sum())
        assert abs(alignment.score - expected) < 1e-5 * abs(expected), (alignment.score, expected)
        same += int((path[0].numpy() == alignment.path).sum())
        total += len(alignment.path)
    return f"{100 * same / total:.3f}% of the frames have the same label, scores agree to 1e-5"


def in_turns(
    works: list[Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for record, work in zip(times, works, strict=True):
            start = clock()
            work()
            record.append(clock() - start)
    return times


def spread(times: list[float]) -> str:
    low, middle, high = (1000 * value for value in statistics.quantiles(times, n=4))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def batch_table(rounds: int) -> list[str]:
    lines = [
        "| batch | torchaudio, ms | ctcspeech, ms | ratio | 2 threads / 1 thread |",
        "|---|---|---|---|---|",
    ]
    notes = []
    for count, seconds in ((16, 15), (1, 15), (16, 3)):
        scores, labels = batch(count, seconds)
        notes.append(f"{count} x {seconds} s: {check_equal(scores, labels)}")
        tensor = torch.from_numpy(scores)
        label_tensors = [torch.from_numpy(row) for row in labels]

        def peers(t: torch.Tensor = tensor, rows: list = label_tensors) -> object:
            return theirs(t, rows)

        def one(s: np.ndarray = scores, rows: list = labels) -> object:
            return forced_align(s, rows, threads=1)

        def two(s: np.ndarray = scores, rows: list = labels) -> object:
            return forced_align(s, rows, threads=2)

        peer, ours = in_turns([peers, one], rounds, time.process_time)
        wall_one, wall_two = in_turns([one, two], 4 * rounds, time.perf_counter)
        lines.append(
            f"| {count} x {seconds} s | {spread(peer)} | {spread(ours)} | "
            f"{statistics.median(peer) / statistics.median(ours):.1f} | "
            f"{min(wall_two) / min(wall_one):.2f} |"
        )
    return [*lines, "", *[f"- {note}" for note in notes]]


def hour() -> list[str]:
    labels = np.random.default_rng(2).integers(1, CLASSES, 50_000)
    scores = emissions(3600 * FRAMES_PER_SECOND, labels, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    (alignment,) = forced_align(scores, labels, threads=1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        f"{len(scores):,} frames, {len(labels):,} labels, one thread: {seconds:.1f} s "
        f"({cpu:.1f} s of CPU time), score {alignment.score:.1f}. Peak memory of the process "
        f"{peak / 2**20:.2f} GB, of which {(peak - before) / 2**20:.2f} GB came with the "
        "alignment (the rest are Python, torch and the emissions)."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*forced_align.*")  # deprecation, in torchaudio 2.8
    hour_lines = hour()  # first: its peak memory is the process's so far
    lines = [
        "# Forced alignment",
        "",
        "`python benchmarks/align.py`. Milliseconds of processor time on one thread: median, "
        "quartiles in brackets. Two threads against one: wall-clock time, best against best. "
        f"{machine.describe()}, shared with other work.",
        "",
        "## Batches",
        "",
        *batch_table(arguments.rounds),
        "",
        "## One hour",
        "",
        *hour_lines,
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
