"""python benchmarks/transcribe.py [--model runs/digits] [--data DIR] [--hours 3]

Speed and memory of `ctcspeech transcribe` on a long recording: the command itself, started as users
start it, its peak resident memory from the operating system (wait4), its real-time factor with the
start of the program and the loading of the model included.

The recording is made of those of a manifest of --data (by default noise in the rhythm of speech),
joined with pauses of 0 to 1 s until it has the hours asked for. Without --model an untrained one of
the digits recipe's size is used: speed and memory do not depend on what the weights are.
Results go to benchmarks/results/transcribe.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

RESULTS = Path(__file__).parent / "results" / "transcribe.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", help="a run or checkpoint folder")
    parser.add_argument("--data", type=Path, help="a manifest, or a folder with test.jsonl")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3, help="of the runs for speed")
    parser.add_argument("--speed-minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = arguments.model or untrained(place / "model")
        rate, description = describe(model)
        long = join(place / "long.wav", arguments.data, rate, arguments.hours * 3600)
        short = join(place / "short.wav", arguments.data, rate, arguments.speed_minutes * 60)
        rows = []
        for threads in (1, 2):
            runs = [transcribe(model, short, threads) for _ in range(arguments.repeats)]
            rows.append((f"{arguments.speed_minutes:g} minutes", threads, runs))
        rows.append((f"{arguments.hours:g} hours", 1, [transcribe(model, long, 1)]))
        idle = start_only()
    write(rows, idle, description, arguments)


def untrained(folder: Path) -> str:
    from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
    from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
    from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
    from ctcspeech.text.alphabet import Alphabet

    torch.manual_seed(0)
    alphabet = Alphabet.from_text(["zero one two three four five six seven eight nine"])
    features = FeatureExtractor(FeatureConfig(sample_rate=8000, normalization="utterance"))
    config = DeepSpeech2Config(
        convolution="1d",
        channels=[192, 192],
        time_width=[5, 5],
        time_stride=[2, 1],
        hidden=192,
        layers=2,
    )
    model = build_model(config, features.num_features, len(alphabet))
    save_checkpoint(folder, Checkpoint(model, features, alphabet))
    return str(folder)


def describe(model: str) -> tuple[int, str]:
    from ctcspeech.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(model)
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    config = checkpoint.model.config
    rate = checkpoint.features.config.sample_rate
    return rate, (
        f"{config.architecture}, {parameters / 1e6:.2f} M parameters, {rate} Hz, "
        f"{checkpoint.frame_shift_ms:g} ms a frame of emissions"
    )


def join(path: Path, data: Path | None, rate: int, seconds: float) -> Path:
    generator = np.random.default_rng(0)
    done = 0
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for samples in recordings(data, rate, generator):
            pause = 1e-3 * generator.standard_normal(int(generator.uniform(0, 1) * rate))
            file.write(samples)
            file.write(pause)
            done += len(samples) + len(pause)
            if done >= seconds * rate:
                return path
    raise AssertionError("recordings() does not end")


def recordings(
    data: Path | None, rate: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Again and again those of a manifest, or noise that is loud and soft as syllables are."""
    if data is None:
        while True:
            time_axis = np.arange(int(generator.uniform(1, 6) * rate)) / rate
            loudness = 0.05 * (1.1 + np.sin(2 * np.pi * 4 * time_axis))
            yield loudness * generator.standard_normal(len(time_axis))
    from ctcspeech.audio.read import load
    from ctcspeech.data.manifest import read_manifest

    manifest = data / "test.jsonl" if data.is_dir() else data
    paths = [utterance.path for utterance in read_manifest(manifest)]
    while True:
        for path in paths:
            yield load(path, rate)[0]


def transcribe(model: str, recording: Path, threads: int) -> dict[str, float]:
    """Seconds by the clock and of the processors, peak MiB of the command."""
    command = [sys.executable, "-m", "ctcspeech", "transcribe", model, str(recording)]
    command += ["--threads", str(threads), "--format", "jsonl", "-o", f"{recording}.jsonl"]
    return {**measure(command), "audio": soundfile.info(recording).duration}


def start_only() -> dict[str, float]:
    """What the program costs before it does anything."""
    return measure([sys.executable, "-c", "from ctcspeech import Recognizer"])


# A program of its own starts the command, because the system counts what the parent had in memory
# at the start as the child's: this one has torch.
LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss / 1024]))
"""


def measure(command: list[str]) -> dict[str, float]:
    """Of a command, seconds by the clock and of the processors, and peak MiB."""
    launch = [sys.executable, "-S", "-c", LAUNCH, *command]
    output = subprocess.run(launch, capture_output=True, text=True, check=True).stdout
    code, seconds, cpu_seconds, peak = json.loads(output)
    if code:
        raise SystemExit(f"{' '.join(command)} failed with exit code {code}")
    return {"seconds": seconds, "cpu": cpu_seconds, "peak": peak}


def write(
    rows: list[tuple[str, int, list[dict[str, float]]]],
    idle: dict[str, float],
    description: str,
    arguments: argparse.Namespace,
) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    lines = [
        "# ctcspeech transcribe: speed and memory",
        "",
        f"`python benchmarks/transcribe.py {' '.join(sys.argv[1:])}".rstrip() + "`",
        "",
        f"{cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch "
        f"{torch.__version__}; commit {commit}.",
        "",
        f"Model: {description}{'' if arguments.model else ' (untrained)'}. Greedy decoding, JSON "
        "lines with word times.",
        "",
        "Processor seconds are those of all threads, the clock's depend on what else the machine "
        "does; both with the start of the program, median (lowest to highest). Real-time factor: "
        "processor seconds for a second of audio. Peak: resident memory.",
        "",
        "| recording | threads | runs | processor s | clock s | real-time factor | peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, threads, runs in rows:
        cells = [spread([run[key] for run in runs], 1) for key in ("cpu", "seconds")]
        cells.append(spread([run["cpu"] / run["audio"] for run in runs], 4))
        peak = max(run["peak"] for run in runs)
        lines.append(f"| {name} | {threads} | {len(runs)} | {' | '.join(cells)} | {peak:.0f} |")
    lines.append(
        f"| none: starting and importing | | 1 | {idle['cpu']:.1f} | {idle['seconds']:.1f} | | "
        f"{idle['peak']:.0f} |"
    )
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


def spread(values: list[float], digits: int) -> str:
    """Median (lowest to highest)."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
