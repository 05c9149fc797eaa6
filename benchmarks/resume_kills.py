"""A training that is killed at random moments and resumed, against one that is left alone.

    python benchmarks/resume_kills.py --kills 20                 # 0, 1 and 2 workers in turn
    python benchmarks/resume_kills.py --kills 20 --processes 2   # torchrun --max-restarts (gloo)

Every kill is SIGKILL or SIGINT (torchrun: SIGKILL of a random process), at a moment drawn from the
seed: while Python starts, in training, validation, or the writing of a checkpoint. At the end the
weights, the optimizer's state, the log without its seconds, and the result must be those of the
run that was left alone, bit by bit. Exit code 1 if they are not.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from tone_training import differences, write_training  # noqa: E402

OVERRIDES = [
    *("model.hidden=48", "model.dropout=0.1", "train.learning_rate=5e-3", "train.threads=1"),
    "train.checkpoint_minutes=0.002",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_training(folder, 120, 12)
        settings = arguments.workers if arguments.processes == 1 else [0]
        for i, workers in enumerate(settings):
            kills = arguments.kills // len(settings) + (i < arguments.kills % len(settings))
            equal &= compare(folder, workers, kills, arguments, chance)
    sys.exit(not equal)


def compare(folder, workers, kills, arguments, chance) -> bool:
    whole, parts = (folder / f"{kind}-{workers}" for kind in ("whole", "parts"))
    began = time.monotonic()
    process = start(folder, whole, workers, arguments)
    code = process.wait()
    seconds = time.monotonic() - began
    assert code == 0, Path(f"{whole}.log").read_text()[-3000:]
    if arguments.processes > 1:
        done = killed_under_torchrun(folder, parts, workers, kills, seconds, arguments, chance)
    else:
        done = killed(folder, parts, workers, kills, seconds, arguments, chance)
    found = list(differences(whole, parts))
    result = f"DIFFERENT: {', '.join(found)}" if found else "equal bit by bit"
    what = f"{arguments.processes} process(es), {workers} workers"
    print(f"{what}: {done}; left alone {seconds:.0f} s; {result}", flush=True)
    return not found


def start(folder, run, workers, arguments) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ctcspeech", "train"]
    if arguments.processes > 1:
        command[1:3] = [
            *("-m", "torch.distributed.run", "--standalone", "--max-restarts", "1000"),
            *("--nproc-per-node", str(arguments.processes), "-m", "ctcspeech", "--"),
        ]
    command += [str(folder / "tones.toml"), "--run", str(run), "--resume", *OVERRIDES]
    command += [f"data.workers={workers}", f"train.epochs={arguments.epochs}"]
    with open(f"{run}.log", "a") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def killed(folder, run, workers, kills, seconds, arguments, chance) -> str:
    counts = {"SIGKILL": 0, "SIGINT": 0}
    log = Path(f"{run}.log")
    while True:
        size = log.stat().st_size if log.exists() else 0
        process = start(folder, run, workers, arguments)
        left = kills - sum(counts.values())
        if left:
            if chance.random() < 0.85:  # in training; else at any moment from the start on
                while process.poll() is None and "device cpu" not in log.read_text()[size:]:
                    time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.8 * seconds / max(4, kills)))
            kind = chance.choice([signal.SIGKILL, signal.SIGINT])
            if process.poll() is None:
                process.send_signal(kind)
                process.wait()
                counts[kind.name] += 1
                continue
        if process.wait() == 0:
            return f"{counts['SIGKILL']} SIGKILL, {counts['SIGINT']} SIGINT"
        raise SystemExit(log.read_text()[-3000:])


def killed_under_torchrun(folder, run, workers, kills, seconds, arguments, chance) -> str:
    process = start(folder, run, workers, arguments)
    log, count = Path(f"{run}.log"), 0
    while process.poll() is None:
        seen = log.read_text().count("device cpu")
        if count < kills and seen > count:
            time.sleep(chance.uniform(0, 0.8 * seconds / max(4, kills)))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children and process.poll() is None:
                os.kill(int(chance.choice(children)), signal.SIGKILL)
                count += 1
                while process.poll() is None and log.read_text().count("device cpu") <= seen:
                    time.sleep(0.05)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(log.read_text()[-3000:])
    return f"{count} SIGKILL of a process"


if __name__ == "__main__":
    main()
