"""What is compiled for each instruction set: none of it reaches a machine without that set, and
each of them can be asked for."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctcspeech import _core
from ctcspeech.align.forced import forced_align
from ctcspeech.ctc import core

CSRC = Path(__file__).parent.parent / "csrc"
FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"],
}
SOURCES = sorted(CSRC.rglob("*_avx2.cpp")) + sorted(CSRC.rglob("*_avx512.cpp"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other instruction sets")
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="no compiler, no nm")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_of_an_instruction_set_can_be_shared(source, tmp_path):
    """A function defined in several object files is linked once, whichever of them comes first.
    Without optimisation each inline function stands in the object file, so that none hides."""
    target = str(tmp_path / "object.o")
    flags = ["-std=c++17", "-O0", "-w", f"-I{CSRC}", *FLAGS[source.stem.rpartition("_")[2]]]
    subprocess.run(["g++", *flags, "-c", str(source), "-o", target], check=True)
    listed = subprocess.run(
        ["nm", "--demangle", "--defined-only", target], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbols = [line.split(" ", 2)[1:] for line in listed]
    assert any(kind == "T" for kind, _ in symbols), "the table of functions"
    shared = [name for kind, name in symbols if kind in "WVu" and "ctcspeech" in name]
    assert shared == []


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("nm"), reason="no nm, not Linux")
def test_the_library_shows_its_initialisation_alone():
    """Else a template of the C++ library might be taken from, or by, another module."""
    command = ["nm", "--dynamic", "--defined-only", _core.__file__]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert listed[1:] == ["T", "PyInit__core"]


@pytest.fixture
def force(monkeypatch):
    def choose(isa):
        monkeypatch.setenv("CTCSPEECH_ISA", isa)
        core.read_environment()

    yield choose
    monkeypatch.undo()
    core.read_environment()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("C", [5, 29, 31, 100])
def test_alignment_on_each(isa, C, dtype, force):
    """Its log-probabilities are those of the path it names, by NumPy; no other set of them finds
    a better path."""
    random = np.random.default_rng(C)
    x = random.normal(0, 3, (4, 90, C)).astype(dtype)
    labels = [random.integers(1, C, n) for n in (0, 1, 17, 40)]
    force(isa)
    found = forced_align(x, labels)
    force("baseline")
    wide = x.astype(np.float64)
    log_probs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    for n, (one, other) in enumerate(zip(found, forced_align(x, labels), strict=True)):
        on_path = log_probs[n, np.arange(90), one.path]
        np.testing.assert_allclose(one.frame_log_probs, on_path, rtol=2e-6, atol=2e-6)
        assert one.score == pytest.approx(on_path.sum(), rel=1e-6)
        assert one.score == pytest.approx(other.score, rel=1e-6)


def test_alignment_by_a_set_that_is_missing(force):
    missing = {"baseline", "avx2", "avx512", "neon"} - set(_core.available_isas())
    force(sorted(missing)[0])
    with pytest.raises(ValueError, match="does not have that instruction set"):
        forced_align(np.zeros((5, 3)), [1])
