"""How long a training takes to its first step on a manifest of a million lines, and its memory.

    python benchmarks/manifest.py --lines 1000000

The lines name a few hundred recordings. The number of utterances that the run finds is compared
with the lines that were written before anything is printed.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from tones import write_corpus  # noqa: E402

# The model of tests/tones.toml, on a manifest of many lines.
OVERRIDES = [
    *("data.validation=[]", "data.batch_seconds=60", "train.threads=1"),
    "train.statistics_utterances=300",
]


class Reached(Exception):
    """The first step would be taken now."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write(folder, lines)
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        from ctcspeech.train import trainer
        from ctcspeech.train.config import load_config

        imported = resource.getrusage(resource.RUSAGE_SELF)
        found = []

        def step(self, batches, progress):
            found.append(len(self.dataset))
            raise Reached

        trainer.Trainer._step = step
        try:
            config = load_config(folder / "tones.toml", [f"data.train={data}", *OVERRIDES])
            trainer.train(config, folder / "run", report=lambda _: None)
        except Reached:
            pass
        assert found == [lines], found
        now = resource.getrusage(resource.RUSAGE_SELF)
        seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        print(
            f"{lines} lines: first step after {time.monotonic() - began:.1f} s, {seconds:.1f} s of "
            f"the processor; peak memory {now.ru_maxrss / 1024:.0f} MB "
            f"({imported.ru_maxrss / 1024:.0f} MB with torch imported)"
        )


def write(folder: Path, lines: int) -> Path:
    few = write_corpus(folder, "few", 300, 5).read_text().splitlines()
    values = [json.loads(line) for line in few]
    chance = random.Random(0)
    with open(folder / "train.jsonl", "w") as file:
        for i in range(lines):
            line = {**chance.choice(values), "speaker": f"s{i % 1000}", "id": f"u{i}"}
            file.write(json.dumps(line) + "\n")
    shutil.copy(ROOT / "tests" / "tones.toml", folder)
    return folder / "train.jsonl"


if __name__ == "__main__":
    main()
