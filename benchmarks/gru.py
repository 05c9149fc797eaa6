"""A bidirectional GRU layer, forward and backward, against torch's own on the CPU.

    python benchmarks/gru.py --threads 1 --output benchmarks/results/gru.md

Both run on the same packed batch with the same weights; states and gradients are compared before
anything is timed. They work in turns in one process, so that what else the machine does meets both.
"""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

import machine
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ctcspeech.model.recurrent import RecurrentLayer

# utterances, longest in frames (the shortest is three quarters of it), inputs, units
SIZES = [(8, 75, 192, 192), (8, 75, 384, 192), (32, 80, 256, 128), (16, 150, 512, 256)]


def make(count: int, frames: int, inputs: int) -> PackedSequence:
    lengths = torch.linspace(frames, 0.75 * frames, count).long()
    return pack_padded_sequence(torch.randn(count, frames, inputs), lengths, batch_first=True)


def step(layer: RecurrentLayer, packed: PackedSequence, ours: bool) -> list[torch.Tensor]:
    """States, and the gradients of input and weights."""
    layer.zero_grad()
    inputs = packed.data.clone().requires_grad_()
    batch = packed._replace(data=inputs)
    states = layer(batch).data if ours else layer.cell(batch)[0].data
    states.sum().backward()
    return [states.detach(), inputs.grad, *(p.grad for p in layer.parameters())]


def compare(size: tuple[int, int, int, int], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round of torch and of ctcspeech."""
    count, frames, inputs, units = size
    torch.manual_seed(0)
    packed = make(count, frames, inputs)
    layer = RecurrentLayer("gru", inputs, units, merge="concat")
    for mine, its in zip(step(layer, packed, True), step(layer, packed, False), strict=True):
        assert (mine - its).norm() <= 1e-5 * its.norm(), "results differ"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for ours in (False, True):
            start = time.perf_counter()
            step(layer, packed, ours)
            times[ours].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# GRU layers on the CPU",
        "",
        f"`{shlex.join(['python', *sys.argv])}`, {machine.describe()}, torch {torch.__version__}, "
        f"{arguments.rounds} rounds in turns. Milliseconds forward and backward of one "
        "bidirectional layer: median (least).",
        "",
        "| threads | utterances, frames, inputs, units | torch | ctcspeech | ratio of medians |",
        "|---|---|---|---|---|",
    ]
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for size in SIZES:
            theirs, ours = compare(size, arguments.rounds)
            shown = [
                f"{1e3 * statistics.median(t):.1f} ({1e3 * min(t):.1f})" for t in (theirs, ours)
            ]
            ratio = statistics.median(theirs) / statistics.median(ours)
            lines.append(
                f"| {threads} | {', '.join(map(str, size))} | {shown[0]} | {shown[1]} "
                f"| {ratio:.1f} |"
            )
            print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
