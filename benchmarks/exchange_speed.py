"""python benchmarks/exchange_speed.py RUN MANIFEST RECORDING [--minutes 10] [--repeats 10]

An exported model and its checkpoint by torch, in the same run: from the start of the command
`ctcspeech transcribe` to the text of RECORDING (processor time of the whole process, resident
memory at most), and the real-time factor on one long recording, the manifest's joined, on one and
two threads. The runs alternate; the texts are compared before anything is timed.
Results: benchmarks/results/exchange.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from machine import describe

from ctcspeech import Recognizer, audio, read_manifest
from ctcspeech.text.error_rates import word_errors

Run = tuple[float, float]  # processor seconds, and elapsed seconds or megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("run")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # By another process: a child's resident memory counts what its parent held when it began.
        command = [sys.executable, "-m", "ctcspeech", "export", arguments.run, str(folder / "out")]
        subprocess.run([*command, "--int8"], check=True)
        models = {
            "float": str(folder / "out" / "model.onnx"),
            "int8": str(folder / "out" / "model.int8.onnx"),
            "torch": arguments.run,
        }
        starts(models, arguments.recording, arguments.repeats)
        long = joined(arguments.manifest, folder / "long.wav", 60 * arguments.minutes)
        factors(models, long, max(1, arguments.repeats // 2))


def starts(models: dict[str, str], recording: Path, repeats: int) -> None:
    texts, runs = {}, {name: list[Run]() for name in models}
    for number in range(repeats + 1):
        for name, model in models.items():
            texts[name], spent = transcribed(model, recording)
            if number:  # the first reads the disk
                runs[name].append(spent)
    print(f"\n{recording}, {repeats} runs in turn: {texts}")
    report(runs, "processor time {:.2f} s ({:.2f} to {:.2f})", "at most {:.0f} MB")


def transcribed(model: str, recording: Path) -> tuple[str, Run]:
    """One process on one thread: its text, processor seconds and megabytes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed, with its modules compiled
    arguments = ["-m", "ctcspeech", "transcribe", model, str(recording), "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        text = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{model}: exit code {process.returncode}")
    return text, (usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def joined(manifest: Path, path: Path, seconds: float) -> Path:
    """The recordings of a manifest, one after the other and again, with 0.3 s between them."""
    items = read_manifest(manifest)
    first, rate = audio.load(items[0].audio_filepath)
    parts, length = [], 0
    while length < seconds * rate:
        for item in items:
            parts += [audio.load(item.audio_filepath, rate)[0], np.zeros(int(0.3 * rate))]
            length += len(parts[-1]) + len(parts[-2])
    soundfile.write(path, np.concatenate(parts)[: int(seconds * rate)], rate)
    return path


def factors(models: dict[str, str], recording: Path, repeats: int) -> None:
    length = soundfile.info(recording).duration
    for threads in (1, 2):
        texts, runs = {}, {name: list[Run]() for name in models}
        made = {name: Recognizer.load(model, threads=threads) for name, model in models.items()}
        for name, recognizer in made.items():  # once unmeasured
            (transcript,) = recognizer.transcribe([recording])
            texts[name] = transcript.text
        words = len(texts["torch"].split())
        print(f"\n{length:.0f} s, {threads} threads, {repeats} runs in turn, {words} words")
        for name in ("float", "int8"):
            wrong = word_errors(texts["torch"], texts[name]).errors
            print(f"  {name}: {wrong} words unlike torch's")
        for _ in range(repeats):
            for name, recognizer in made.items():
                runs[name].append(timed(lambda used=recognizer: used.transcribe([recording])))
        shares = {k: [(a / length, b / length) for a, b in v] for k, v in runs.items()}
        report(shares, "processor time / audio {:.5f} ({:.5f} to {:.5f})", "real time {:.5f}")


def timed(work: Callable[[], object]) -> Run:
    processor, elapsed = time.process_time(), time.monotonic()
    list(work())  # type: ignore[call-overload]
    return time.process_time() - processor, time.monotonic() - elapsed


def report(runs: dict[str, list[Run]], first: str, second: str) -> None:
    for name, values in runs.items():
        spent, other = zip(*values, strict=True)
        told = first.format(statistics.median(spent), min(spent), max(spent))
        print(f"  {name}: {told}, {second.format(statistics.median(other))}")


if __name__ == "__main__":
    main()
