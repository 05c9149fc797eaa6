"""What the recipes' scripts call, by a `ctcspeech` that only writes down its arguments."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ctcspeech.data.manifest import read_manifest

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def called(tmp_path):
    """Runs a script; returns the arguments of each call of `ctcspeech`, in order."""
    program = tmp_path / "bin" / "ctcspeech"
    program.parent.mkdir()
    log = tmp_path / "calls.jsonl"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    program.chmod(0o755)

    def run(script: str, *arguments: object) -> list[list[str]]:
        environment = {
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "WORK": str(tmp_path / "work"),
        }
        (tmp_path / "work").mkdir(exist_ok=True)
        command = ["bash", str(RECIPES / script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def line_of(path: str, text: str) -> str:
    return json.dumps({"audio_filepath": path, "duration": 1.5, "text": text}) + "\n"


@pytest.fixture
def kathleen(tmp_path):
    folder = tmp_path / "data" / "kathleen"
    folder.mkdir(parents=True)
    for part, count in (("train", 3), ("dev", 1), ("test", 1)):
        lines = [line_of(f"{part}{i}.wav", f"{part} {i}") for i in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(lines))
    return tmp_path / "data"


def options(call: list[str]) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in call if "=" in item)


def test_reader_alone(called, kathleen):
    stats, train, evaluate = called("reader/run.sh", "--data", kathleen, "train.epochs=2")
    assert stats[:2] == ["data", "stats"] and train[0] == "train"
    assert train[1] == str(RECIPES / "reader" / "reader.toml")
    given = options(train)
    assert given["data.train"] == str(kathleen / "kathleen" / "train.jsonl")
    assert given["train.epochs"] == "2" and "train.init_from" not in given
    assert evaluate[:3] == ["evaluate", train[3], str(kathleen / "kathleen" / "test.jsonl")]


def test_reader_from_a_base_with_a_language_model(called, kathleen, tmp_path):
    base = tmp_path / "base"
    (base / "data").mkdir(parents=True)
    lines = [line_of(f"{i}.wav", f"synthetic {i}") for i in range(20)]
    (base / "data" / "train.jsonl").write_text("".join(lines))
    text = tmp_path / "text.txt"
    calls = called("reader/run.sh", "--data", kathleen, "--base", base, "--text", text)
    assert [call[0] for call in calls] == (
        ["data", "train", "train", "evaluate", "lm", "lm", "lm", "tune", "evaluate"]
    )
    mixing, alone = calls[1:3]
    assert mixing[1] == alone[1] == str(RECIPES / "reader" / "reader_from_base.toml")
    given = options(mixing)
    assert given["train.init_from"] == str(base / "run")
    work = tmp_path / "work"
    assert given["data.train"] == str(work / "mixed.jsonl")
    mixed = read_manifest(work / "mixed.jsonl")
    real = [u for u in mixed if u.path.parent == kathleen / "kathleen"]
    assert Counter(u.text for u in real) == {f"train {i}": 3 for i in range(3)}
    assert len({u.id for u in mixed}) == 18  # each time augmented otherwise
    spoken = [u.path for u in mixed if u not in real]  # as much as there is real speech
    assert spoken == [base / "data" / f"{i}.wav" for i in range(9)]
    assert options(alone)["train.init_from"] == mixing[3] == str(work / "mixed")
    assert options(alone)["data.train"] == str(kathleen / "kathleen" / "train.jsonl")
    assert alone[3] == str(work / "run")
    assert (work / "train.txt").read_text() == "train 0\ntrain 1\ntrain 2\n"
    assert calls[7][1:3] == [str(work / "run"), str(kathleen / "kathleen" / "dev.jsonl")]
    model = calls[7][calls[7].index("--lm") + 1]
    assert calls[6][:2] == ["lm", "mix"] and model in calls[6]


def test_the_base_of_a_configuration_has_the_same_model():
    """`train.init_from` refuses another network: only the dropout may differ."""
    from ctcspeech.train.config import differences, load_config

    base = load_config(RECIPES / "synthetic" / "synthetic.toml")
    tuned = load_config(RECIPES / "reader" / "reader_from_base.toml")
    assert set(differences(base.model, tuned.model)) <= {"dropout"}
    assert "features" not in tuned.model_fields_set


def test_the_report_trains_what_is_not_there(called, tmp_path):
    """Data of one recipe only; a seed whose result is there is not trained again."""
    data, work = tmp_path / "data", tmp_path / "work"
    (data / "kathleen").mkdir(parents=True)
    for part in ("train", "dev", "test"):
        (data / "kathleen" / f"{part}.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    for seed in range(3):
        run = work / "reader" / f"seed-{seed}"
        (run / "run").mkdir(parents=True)
        (run / "run" / "metrics.jsonl").write_text('{"seconds": 60}\n')
    result = {"decoder": "greedy", "wer": {"rate": 0.5}, "cer": {"rate": 0.2}}
    (work / "reader" / "seed-1" / "test.json").write_text(json.dumps(result))
    calls = called("report.sh", "--data", data)
    trained = [options(call)["train.seed"] for call in calls if call[0] == "train"]
    assert trained == ["0", "2"]
