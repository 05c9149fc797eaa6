"""The table over seeds, from numbers whose mean is known."""

import importlib.util
import json
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("report", RECIPES / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(run: Path, minutes: float, **tests: tuple[str, float, float]) -> None:
    (run / "run").mkdir(parents=True)
    for name, (decoder, wer, cer) in tests.items():
        values = {"decoder": decoder, "wer": {"rate": wer}, "cer": {"rate": cer}}
        (run / f"{name}.json").write_text(json.dumps(values))
    lines = [{"kind": "step", "seconds": 1.0}, {"kind": "epoch", "seconds": 60 * minutes}]
    (run / "run" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_mean_least_and_most(report, tmp_path):
    write(tmp_path / "grid" / "seed-0", 5, test=("greedy", 0.01, 0.005))
    write(tmp_path / "grid" / "seed-1", 6, test=("greedy", 0.02, 0.005))
    write(tmp_path / "grid" / "seed-2", 10, test=("greedy", 0.06, 0.02))
    write(tmp_path / "an4" / "seed-0", 9, test=("greedy", 0.08, 0.04), test_lm=("beam", 0.05, 0.03))
    (tmp_path / "grid" / "seed-0" / "settings.json").write_text("{}")  # no result
    assert [line.strip("| ").split(" | ") for line in report.table(tmp_path).splitlines()[2:]] == [
        ["an4", "test", "greedy", "1", "8.00 (8.00 to 8.00)%", "4.00 (4.00 to 4.00)%"]
        + ["9 (9 to 9) min"],
        ["an4", "test_lm", "beam", "1", "5.00 (5.00 to 5.00)%", "3.00 (3.00 to 3.00)%"]
        + ["9 (9 to 9) min"],
        ["grid", "test", "greedy", "3", "3.00 (1.00 to 6.00)%", "1.00 (0.50 to 2.00)%"]
        + ["7 (5 to 10) min"],
    ]


def test_a_folder_without_runs_is_said(report, tmp_path):
    with pytest.raises(SystemExit, match="has no RECIPE/seed-N"):
        report.table(tmp_path)
