"""`ctcspeech doctor` says what is installed and what is wrong; where `ctcspeech` alone begins."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from typer.testing import CliRunner

import ctcspeech
from ctcspeech import _core, ctc
from ctcspeech.cli import app
from ctcspeech.extras import EXTRAS
from ctcspeech.info import _agreement, problems, report


def rows(text):
    return {
        name.strip(): value
        for name, value in (line.split("  ", 1) for line in text.split("\n") if "  " in line)
    }


def test_report():
    got = {name: value.strip() for name, value in rows(report()).items()}
    assert got["ctcspeech"] == ctcspeech.__version__
    assert got["torch"] == torch.__version__.split("+")[0] or got["torch"] == torch.__version__
    assert got["numpy"] == numpy.__version__
    isas = _core.available_isas()
    assert got["instruction sets"] == f"{', '.join(isas)}; in use: {isas[-1]}"
    if ctcspeech.cuda_built():
        last = _core.cuda_architectures().split()[-1]
        assert got["CUDA kernels"].endswith(f"sm_{last}; PTX of compute_{last}")
    else:
        assert got["CUDA kernels"] == "no"
    if not torch.cuda.is_available():
        assert got["CUDA devices"] == "none"


def test_doctor(monkeypatch):
    monkeypatch.delenv("CTCSPEECH_ISA", raising=False)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0 and done.output.rstrip().endswith("nothing is wrong")
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert told["problems"] == [] and told["facts"]["ctcspeech"] == ctcspeech.__version__
    assert {f"[{extra}]" for extra in EXTRAS} <= set(told["facts"])


def test_doctor_says_what_is_wrong(monkeypatch):
    monkeypatch.setenv("CTCSPEECH_ISA", "baseline")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "WRONG: CTCSPEECH_ISA=baseline forces" in done.output
    monkeypatch.delenv("CTCSPEECH_ISA")
    assert problems([("soxr", "not installed")]) == [
        "soxr is not installed: pip install ctcspeech brings it"
    ]
    assert problems([("loss on cuda:0", "WRONG (relative difference 1)")]) == [
        "loss on cuda:0: WRONG (relative difference 1)"
    ]


ROOT = Path(__file__).parent.parent


def test_extras_are_those_of_the_project():
    """One table for errors and doctor: what pyproject.toml offers, but for developers' extras; the
    first page lists the same, and errors name no other."""
    tomllib = pytest.importorskip("tomllib")
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = offered["optional-dependencies"]
    assert set(EXTRAS) == set(offered) - {"test", "docs"}
    for name, extra in EXTRAS.items():
        needed = " ".join(offered[name]).replace("-", "_").lower()
        for package in extra.packages:
            plain = package.lower().replace("hersheyfonts", "hershey_fonts")
            assert plain in needed, f"[{name}] of pyproject.toml does not bring {package}"
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`\[(\w+)\]`", page)) == set(EXTRAS)
    for path in (ROOT / "ctcspeech").rglob("*.py"):
        named = set(re.findall(r"ctcspeech\[(\w+)\]", path.read_text(encoding="utf-8")))
        assert named <= set(EXTRAS), f"{path} names an extra that there is not: {named}"


def test_plain_command_shows_where_to_begin():
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    for hint in ("ctcspeech transcribe MODEL", "ctcspeech doctor", "--help", "run.sh"):
        assert hint in done.output
    assert CliRunner().invoke(app, ["--version"]).output.strip() == ctcspeech.__version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    code = "import sys; sys.argv = ['ctcspeech']; from ctcspeech.cli import main; main()"
    words = {"COMP_WORDS": "ctcspeech tr", "COMP_CWORD": "1"}
    words |= {"_TYPER_COMPLETE_ARGS": "ctcspeech tr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = {**os.environ, **words, "_CTCSPEECH_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "train" in done.stdout and "transcribe" in done.stdout and "evaluate" not in done.stdout


def test_forced_instruction_set_is_named(monkeypatch):
    from ctcspeech.ctc import core

    monkeypatch.setenv("CTCSPEECH_ISA", "baseline")
    core.read_environment()
    try:
        assert "in use: baseline" in report()
    finally:
        monkeypatch.undo()
        core.read_environment()


def test_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "ctcspeech.info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ctcspeech ") and done.stderr == ""


def test_agreement_of_a_device_with_the_cpu(monkeypatch):
    """In place of a device: the CPU again, a loss that is wrong, one that fails."""
    assert _agreement("cpu") == "as on the CPU (relative difference 0e+00, gradient 0e+00)"
    right, calls = ctc.ctc_loss, []

    def wrong(*args, **options):
        calls.append(args)
        return right(*args, **options) * (1.0 if len(calls) % 2 else 1.001)

    monkeypatch.setattr(ctc.loss, "ctc_loss", wrong)
    assert _agreement("cpu").startswith("WRONG (relative difference 1e-03")

    def failing(*args, **options):
        raise RuntimeError("the CTC kernels failed: no kernel image")

    monkeypatch.setattr(ctc.loss, "ctc_loss", failing)
    assert _agreement("cpu") == "FAILS: the CTC kernels failed: no kernel image"
