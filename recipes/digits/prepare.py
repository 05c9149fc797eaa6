"""Prepares the digits recipe: synthetic speech, and real one where it is at hand.

    python recipes/digits/prepare.py work/digits                       # synthetic alone
    python recipes/digits/prepare.py work/digits --data DIR            # and DIR/fsdd
    python recipes/digits/prepare.py work/digits --download            # fetches that

Writes into the folder: train.jsonl; dev.jsonl, by which the model is chosen; synthetic_test.jsonl,
spoken by voices that are not in training; and, with real speech, test.jsonl (the official test of
the Free Spoken Digit Dataset, single digits) and test_strings.jsonl (strings of 3 to 7 of its
digits, with pauses).
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from strings import SAMPLE_RATE, Digits, string_of
from synthesize import synthesize
from voices import DIGITS

from ctcspeech.audio.read import load
from ctcspeech.data.manifest import Utterance, write_manifest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from acoustics import write_noises, write_rooms  # noqa: E402
from fetch import fetch, unpack  # noqa: E402

FSDD_URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.zip"
TEST_INDICES = range(5)  # the official test: recordings 0 to 4 of each digit and speaker
DEV_INDICES = range(5, 8)  # of the others: not trained on, the model is chosen by them
Recordings = dict[str, list[Utterance]]  # by part: train, dev, test


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    write_noises(work / "noise", seed=arguments.seed)
    write_rooms(work / "rir", seed=arguments.seed)
    spoken = make_synthetic(work / "synthetic", arguments.synthetic, arguments)
    write_manifest(
        work / "synthetic_test.jsonl", make_synthetic(work / "synthetic_test", 200, arguments, True)
    )
    chosen_by = max(len(spoken) // 20, 1)
    parts = {"train": spoken[chosen_by:], "dev": spoken[:chosen_by]}
    folder = download(work / "fsdd") if arguments.download else arguments.data
    if folder is not None:
        real = divide(read_fsdd(folder), arguments.leave_out)
        strings = make_real_strings(work, real, arguments)
        write_manifest(work / "test.jsonl", real["test"])
        write_manifest(work / "test_strings.jsonl", strings["test"])
        if not arguments.synthetic_only:
            parts["train"] += real["train"] + strings["train"]
            parts["dev"] = real["dev"] + strings["dev"]
    for name, utterances in parts.items():
        write_manifest(work / f"{name}.jsonl", utterances)
    hours = sum(utterance.duration for utterance in parts["train"]) / 3600
    print(
        f"{len(parts['train'])} utterances ({hours:.2f} h) to train on, {len(parts['dev'])} to "
        f"choose the model by, in {time.monotonic() - started:.0f} s: {work / 'train.jsonl'}"
    )


def parse_arguments(values: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder to write to")
    parser.add_argument("--data", type=Path, help="folder that holds fsdd/")
    parser.add_argument("--download", action="store_true", help=f"fetch {FSDD_URL}")
    parser.add_argument("--synthetic", type=int, default=4000, help="synthetic utterances")
    parser.add_argument("--strings", type=int, default=2500, help="strings of real digits")
    parser.add_argument(
        "--synthetic-only", action="store_true", help="test on real speech, do not train on it"
    )
    parser.add_argument(
        "--leave-out", metavar="SPEAKER", help="test on all recordings of a speaker, train on none"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="processes (default: all cores)")
    arguments = parser.parse_args(values)
    if arguments.data is not None:
        if arguments.download:
            parser.error("give --data or --download, not both")
        arguments.data = arguments.data / "fsdd"
        if not arguments.data.is_dir():
            parser.error(f"--data: there is no folder {arguments.data}")
    if arguments.synthetic < 20 or arguments.strings < 1:
        parser.error("--synthetic must be at least 20, --strings at least 1")
    return arguments


def make_synthetic(
    folder: Path, count: int, arguments: argparse.Namespace, test: bool = False
) -> list[Utterance]:
    made = []
    for values in synthesize(folder, count, arguments.seed, arguments.jobs, test):
        made.append(Utterance(**values))
        if len(made) % 1000 == 0:
            print(f"  {len(made)} of {count} utterances synthesised", file=sys.stderr)
    return made


def download(folder: Path) -> Path:
    """Fetches the Free Spoken Digit Dataset (15 MB; CC BY-SA 4.0) unless it is there already."""
    unpacked = folder / "recordings"
    if not unpacked.is_dir():
        unpack(fetch(FSDD_URL, folder), folder / "unpacking")
        os.replace(folder / "unpacking", unpacked)  # only a whole one has that name
    return unpacked


def read_fsdd(folder: Path) -> list[Utterance]:
    """All recordings under a folder that are named as the corpus names them: 7_jackson_32.wav."""
    found = []
    for path in sorted(folder.rglob("*.wav")):
        if match := re.fullmatch(r"([0-9])_([a-z]+)_([0-9]+)", path.stem):
            digit, speaker, index = match.groups()
            duration = soundfile.info(path).duration
            extra = {"digit": int(digit), "index": int(index)}
            found.append(Utterance(path, duration, DIGITS[int(digit)], speaker, extra=extra))
    if not found:
        sys.exit(f"{folder} holds no recordings like 7_jackson_32.wav")
    return found


def divide(real: list[Utterance], left_out: str | None) -> Recordings:
    """The parts train, dev and test; with a speaker left out, the test is all that they said."""
    speakers = sorted({str(utterance.speaker) for utterance in real})
    if left_out is not None and left_out not in speakers:
        sys.exit(f"--leave-out must be one of {', '.join(speakers)}, got {left_out}")
    parts: Recordings = {"train": [], "dev": [], "test": []}
    for utterance in real:
        index = utterance.extra["index"]
        if left_out is None:
            part = "test" if index in TEST_INDICES else "dev" if index in DEV_INDICES else "train"
        elif utterance.speaker == left_out:
            part = "test"
        else:
            part = "dev" if index in DEV_INDICES else "train"
        parts[part].append(utterance)
    return parts


def make_real_strings(work: Path, real: Recordings, arguments: argparse.Namespace) -> Recordings:
    counts = {"train": arguments.strings, "dev": 100, "test": 250}
    if arguments.synthetic_only:
        del counts["train"]
    return {
        part: make_strings(real[part], work / f"{part}_strings", count, arguments.seed)
        for part, count in counts.items()
    }


def make_strings(singles: list[Utterance], folder: Path, count: int, seed: int) -> list[Utterance]:
    """Writes `count` strings of 3 to 7 digits, each of one speaker, as wav files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, len(singles), count])
    recordings: dict[str, Digits] = collections.defaultdict(lambda: collections.defaultdict(list))
    for utterance in singles:
        samples, _ = load(utterance.path, SAMPLE_RATE)
        recordings[str(utterance.speaker)][utterance.extra["digit"]].append(samples)
    made = []
    for index in range(count):
        speaker = str(rng.choice(sorted(recordings)))
        samples, digits = string_of(recordings[speaker], rng)
        path = folder / f"{index:05d}.wav"
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        text = " ".join(DIGITS[digit] for digit in digits)
        made.append(Utterance(path, len(samples) / SAMPLE_RATE, text, speaker))
    return made


if __name__ == "__main__":
    main()
