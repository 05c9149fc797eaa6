"""python benchmarks/bulk_speed.py --data DIR/kathleen/all.jsonl [--model runs/english]

Speed of `ctcspeech bulk --workers 2` against the plain `ctcspeech transcribe --threads 2` on the
same recordings, whose results must be the same records. Both are run in turn, --repeats times; what
counts is the processor's time of all their processes for an hour of audio (on a machine with other
work the time on the clock says little; it is given besides). Starting the programs, which a long
run does not notice, is measured on 16 recordings and taken off.

Results go to benchmarks/results/bulk_speed.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe, write_page
from transcribe import untrained

RESULTS = Path(__file__).parent / "results" / "bulk_speed.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument("--model", help="a run or checkpoint folder; default: an untrained one")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = arguments.model or untrained(place / "model")
        for data in arguments.data:
            rows.append(compare(place, model, data, arguments.repeats))
            print(rows[-1], flush=True)
    write(rows, arguments)


def compare(place: Path, model: str, data: Path, repeats: int) -> dict[str, object]:
    lines = []
    for line in data.read_text().splitlines():
        row = json.loads(line)
        row["audio_filepath"] = str((data.parent / row["audio_filepath"]).absolute())
        lines.append(json.dumps(row))
    many, one = place / "many.jsonl", place / "one.jsonl"
    many.write_text("\n".join(lines) + "\n")
    one.write_text("\n".join(lines[:16]) + "\n")  # a part for each worker
    hours = sum(json.loads(line)["duration"] for line in lines) / 3600
    found: dict[str, list[tuple[float, float]]] = {"transcribe": [], "bulk": []}
    starts: dict[str, list[tuple[float, float]]] = {"transcribe": [], "bulk": []}
    for number in range(repeats):
        for manifest, into, more in ((many, found, []), (one, starts, ["--shards", "2"])):
            plain = place / "plain.jsonl"
            command = [model, str(manifest), "--format", "jsonl", "-o", str(plain)]
            into["transcribe"].append(run("transcribe", *command, "--threads", "2"))
            output = place / f"out-{data.parent.name}-{number}-{manifest.stem}"
            into["bulk"].append(
                run("bulk", model, str(manifest), "-o", str(output), "--workers", "2", *more)
            )
            records = [
                json.loads(line)
                for file in output.glob("run-*/results/*.jsonl")
                for line in file.read_text().splitlines()
            ]
            check(records, [json.loads(line) for line in plain.read_text().splitlines()])
    return {
        "data": data.parent.name,
        "recordings": len(lines),
        "hours": hours,
        **{
            f"{name}_{what}": [values[k] for values in runs[name]]
            for name in found
            for what, runs, k in (
                ("cpu", found, 1),
                ("wall", found, 0),
                ("start", starts, 1),
            )
        },
    }


def check(records: list[dict], plain: list[dict]) -> None:
    """The same texts and times; confidences to 1e-3, for other batches round otherwise."""
    assert len(records) == len(plain)

    def order(record: dict) -> tuple:
        return record["audio_filepath"], record["id"]

    records, plain = sorted(records, key=order), sorted(plain, key=order)
    different = 0
    for one, other in zip(records, plain, strict=True):
        confidences = []
        for record in (one, other):
            confidences.append([word.pop("confidence") for word in record["words"]])
        if one != other or any(abs(a - b) > 1e-3 for a, b in zip(*confidences, strict=True)):
            different += 1
    assert different <= len(plain) / 1000, f"{different} of {len(plain)} records differ"


# A program of its own, so that all processes below it are counted.
LAUNCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, time.perf_counter() - started, usage.ru_utime + usage.ru_stime]))
"""


def run(*arguments: str) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    command = [sys.executable, "-m", "ctcspeech", *arguments]
    output = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCH, *command], capture_output=True, text=True, check=True
    ).stdout
    code, seconds, cpu = json.loads(output)
    if code:
        raise SystemExit(f"{' '.join(command)} failed with exit code {code}")
    return seconds, cpu


def write(rows: list[dict], arguments: argparse.Namespace) -> None:
    text = [
        "# ctcspeech bulk: speed",
        "",
        f"`python benchmarks/bulk_speed.py {' '.join(sys.argv[1:])}".rstrip() + "`",
        "",
        f"{describe()}, shared with other work; Python {platform.python_version()}. Model: "
        + (arguments.model or "that of benchmarks/transcribe.py, 1.16 M parameters, untrained")
        + ". Greedy decoding.",
        "",
        "Processor seconds for an hour of audio, all processes in sum, without those of starting "
        f"the programs (given besides); median of {arguments.repeats} (lowest to highest). "
        "Throughput per core: that of `bulk --workers 2` over that of `transcribe --threads 2`, by "
        "the medians. Records were compared: the same texts and times.",
        "",
        "| recordings | hours | transcribe | bulk | throughput per core | start: transcribe | "
        "start: bulk | seconds on the clock |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        starts = {k: statistics.median(row[f"{k}_start"]) for k in ("transcribe", "bulk")}
        net = {k: [(value - starts[k]) / row["hours"] for value in row[f"{k}_cpu"]] for k in starts}
        middle = {k: statistics.median(values) for k, values in net.items()}
        shown = {k: f"{middle[k]:.1f} ({min(v):.1f} to {max(v):.1f})" for k, v in net.items()}
        walls = ", ".join(f"{statistics.median(row[f'{k}_wall']):.0f}" for k in starts)
        text.append(
            f"| {row['recordings']} of {row['data']} | {row['hours']:.2f} | {shown['transcribe']} "
            f"| {shown['bulk']} | {middle['transcribe'] / middle['bulk']:.2f} | "
            f"{starts['transcribe']:.1f} | {starts['bulk']:.1f} | {walls} |"
        )
    write_page(RESULTS, text)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
