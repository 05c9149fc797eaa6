"""`python -m ctcspeech.info` says what is installed."""

import subprocess
import sys

import numpy
import torch

import ctcspeech
from ctcspeech import _core, ctc
from ctcspeech.info import _agreement, report


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
    from ctcspeech.ctc import arguments as _ctc_arguments

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
