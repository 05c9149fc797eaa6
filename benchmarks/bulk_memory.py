"""python benchmarks/bulk_memory.py --model runs/digits --data DIR/fsdd [--lines 10000 1000000]

Memory of `ctcspeech bulk`, its driver and its two workers, over manifests of up to a million lines.
Their lines are synthetic, but point at 300 real recordings, under other ids.

To transcribe a million recordings would take hours and show nothing more, so all but about --todo
of them are said to be done by records of completion that are written beforehand; the command itself
reads the whole manifest, sorts it, compares it with the records, transcribes the rest with 2
workers, and writes the report over all. Resident memory is sampled ten times a second. Results go
to benchmarks/results/bulk_memory.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from machine import describe, write_page

RESULTS = Path(__file__).parent / "results" / "bulk_memory.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", required=True, help="a run or checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--todo", type=int, default=10_000)
    arguments = parser.parse_args()
    rows = []
    for lines in arguments.lines:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), lines, arguments))
            print(rows[-1], flush=True)
    write(rows, arguments)


def write_manifest(manifest: Path, data: Path, lines: int) -> None:
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()[:300]]
    with open(manifest, "w") as file:
        for number in range(lines):
            row = rows[number % len(rows)]
            path = str((data / row["audio_filepath"]).absolute())
            line = {"audio_filepath": path, "duration": row["duration"], "id": f"call-{number:08}"}
            file.write(json.dumps(line) + "\n")


PRETEND = """
import sys
from pathlib import Path
from ctcspeech.bulk.completion import Completion, part_name
from ctcspeech.bulk.job import Bulk
from ctcspeech.cli.bulk import _model_identity, _settings
from ctcspeech.cli.decoder_options import DecodingOptions

model, manifest, output, todo = sys.argv[1:]
with Bulk(output, _model_identity(MODEL(model)), _settings(DecodingOptions(), 30.0)) as job:
    tally = job.prepare([manifest])
    job._save_settings(job.plan.shape)
    left = min(int(todo), tally.total)
    for place in job.todo.parts:
        if left > 0:
            left -= place.items
            continue
        part = job.todo.read(place)
        completion = Completion(None, [item.key for item in part.items], seconds=place.seconds)
        completion.save(job.storage, part.name)
""".replace("MODEL(", "Path(")


def measure(folder: Path, lines: int, arguments: argparse.Namespace) -> dict[str, float]:
    manifest, output = folder / "m.jsonl", folder / "out"
    write_manifest(manifest, arguments.data, lines)
    pretend = [arguments.model, str(manifest), str(output), str(arguments.todo)]
    subprocess.run([sys.executable, "-c", PRETEND, *pretend], check=True)
    before = len(list(output.glob("run-*/done/*")))
    command = [sys.executable, "-m", "ctcspeech", "bulk", arguments.model, str(manifest)]
    command += ["-o", str(output), "--workers", "2"]
    log = open(folder / "log", "w")
    process = psutil.Popen(command, stderr=log, stdout=log)
    driver: dict[str, list[float]] = {"reading": [], "working": [], "finishing": []}
    workers: list[float] = []
    phase, cpu = "reading", 0.0
    while process.poll() is None:
        try:
            memory = process.memory_info().rss / 2**20
            cpu = sum(process.cpu_times()[:2])
            children = [
                child.memory_info().rss / 2**20
                for child in process.children()
                if "spawn_main" in " ".join(child.cmdline())
            ]
        except psutil.Error:
            continue
        if children:
            phase = "working"
            workers.append(max(children))
        elif phase == "working":
            phase = "finishing"
        driver[phase].append(memory)
        time.sleep(0.1)
    assert process.returncode == 0, (folder / "log").read_text()
    (report,) = output.glob("run-*/report.json")
    assert json.loads(report.read_text())["recordings"] == lines
    done = len(list(output.glob("run-*/done/*"))) - before
    loaded = [value for value in workers if value > 0.8 * max(workers)]
    third = max(1, len(loaded) // 3)
    return {
        "lines": lines,
        "parts": done,
        "driver_cpu": cpu,
        "driver_reading": max(driver["reading"]),
        "driver_working": max(driver["working"]),
        "driver_finishing": max(driver["finishing"], default=max(driver["working"])),
        "worker_first": max(loaded[:third]),
        "worker_last": max(loaded[-third:]),
        "results": sum(
            len(file.read_bytes().splitlines()) for file in output.glob("run-*/results/*")
        ),
    }


def write(rows: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    text = [
        "# ctcspeech bulk: memory",
        "",
        f"`python benchmarks/bulk_memory.py {' '.join(sys.argv[1:])}".rstrip() + "`",
        "",
        f"{describe()}; Python {platform.python_version()}.",
        "",
        "Lines are synthetic and point at 300 real recordings under other ids. All but those "
        "under *transcribed* are named by records of completion that were written beforehand; the "
        "command reads, sorts and compares all lines. Peaks of resident memory, MiB: of the driver "
        "while it reads the inputs, while its workers work, and while it writes the report; of "
        "the larger of two workers in the first and the last third of its work.",
        "",
        "| lines | transcribed | driver: reading | working | finishing | worker: first third | "
        "last third | driver, processor seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        text.append(
            f"| {row['lines']:,} | {row['results']:,} | {row['driver_reading']:.0f} | "
            f"{row['driver_working']:.0f} | {row['driver_finishing']:.0f} | "
            f"{row['worker_first']:.0f} | {row['worker_last']:.0f} | {row['driver_cpu']:.0f} |"
        )
    write_page(RESULTS, text)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
