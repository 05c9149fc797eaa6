"""`python -m ctcspeech.info` says what is installed."""

import subprocess
import sys

import numpy
import torch

import ctcspeech
from ctcspeech import _core
from ctcspeech.info import report


def rows(text):
    return {
        name.strip(): value for name, value in (line.split("  ", 1) for line in text.split("\n"))
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


def test_forced_instruction_set_is_named(monkeypatch):
    from ctcspeech import _ctc_arguments

    monkeypatch.setenv("CTCSPEECH_ISA", "baseline")
    _ctc_arguments.read_environment()
    try:
        assert "in use: baseline" in report()
    finally:
        monkeypatch.undo()
        _ctc_arguments.read_environment()


def test_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "ctcspeech.info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ctcspeech ") and done.stderr == ""
