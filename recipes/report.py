"""The table of a folder of runs: error rates over seeds, mean (least, most), and training time.

    python recipes/report.py runs/report

Reads RECIPE/seed-*/NAME.json, which `ctcspeech evaluate --summary` wrote, and the run's
metrics.jsonl and config.toml; prints Markdown.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(table(Path(sys.argv[1])))


def table(folder: Path) -> str:
    """A row a recipe and test, with the seeds counted. Ends the program where there is no run."""
    rows: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    minutes: dict[str, list[float]] = defaultdict(list)
    for run in sorted(folder.glob("*/seed-*")):
        recipe = run.parent.name
        for path in sorted(run.glob("*.json")):
            values = json.loads(path.read_text())
            if {"wer", "cer", "decoder"} <= values.keys():
                rates = (values["wer"]["rate"], values["cer"]["rate"])
                rows[recipe, path.stem, values["decoder"]].append(rates)
        minutes[recipe].append(training_minutes(run))
    if not rows:
        sys.exit(f"{folder} has no RECIPE/seed-N/test.json")
    lines = [
        "| recipe | test | decoder | seeds | WER | CER | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for (recipe, test, decoder), rates in rows.items():
        wer, cer = zip(*rates, strict=True)
        lines.append(
            f"| {recipe} | {test} | {decoder} | {len(rates)} | {spread(wer, 100)}% | "
            f"{spread(cer, 100)}% | {spread(minutes[recipe], 1, 0)} min |"
        )
    return "\n".join(lines)


def spread(values: list[float] | tuple[float, ...], scale: float, digits: int = 2) -> str:
    """mean (least to most)."""
    mean, least, most = (scale * f for f in (sum(values) / len(values), min(values), max(values)))
    return f"{mean:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def training_minutes(run: Path) -> float:
    """By the clock, validation included."""
    lines = (run / "run" / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(line)["seconds"] for line in lines) / 60


if __name__ == "__main__":
    main()
