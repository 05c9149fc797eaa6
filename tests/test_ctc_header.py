"""The C header: compiles as C, and survives random problems under the sanitizers;
csrc/ctc/cuda/cuda_loss.cu too, with a thread for each of a block's.

CTCSPEECH_FUZZ_SECONDS=10 python -m pytest tests/test_ctc_header.py
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ctcspeech import _core

ROOT = Path(__file__).parent.parent
CXX = os.environ.get("CXX", "g++")
ARM_CXX = "aarch64-linux-gnu-g++"
FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"],
}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_header_compiles_as_c(tmp_path, standard):
    source = tmp_path / "use.c"
    use = "size_t f(void) { return sizeof(ctcspeech_ctc_input); }"
    source.write_text(f'#include "ctc/ctc.h"\n{use}\n')
    flags = [f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run(["gcc", *flags, f"-I{ROOT / 'csrc'}", str(source)], check=True)


def build_fuzzer(folder, compiler, options, instruction_sets):
    sources = ["ctc/ctc.cpp", "ctc/reference.cpp", "ctc/cuda/on_host.cpp", "base/cpu.cpp"]
    sources += [f"ctc/cpu/fast_loss_{isa}.cpp" for isa in ("baseline", *instruction_sets)]
    common = [compiler, "-std=c++17", "-O1", "-g1", f"-I{ROOT / 'csrc'}", *options]
    jobs, objects = [], []
    for source in [*(ROOT / "csrc" / name for name in sources), ROOT / "tests/fuzz/ctc_fuzz.cpp"]:
        target = folder / f"{source.stem}.o"
        flags = FLAGS.get(source.stem.removeprefix("fast_loss_"), [])
        jobs.append(subprocess.Popen([*common, *flags, "-c", str(source), "-o", str(target)]))
        objects.append(str(target))
    assert all(job.wait() == 0 for job in jobs)
    fuzzer = folder / "ctc_fuzz"
    subprocess.run([*common, *objects, "-pthread", "-o", str(fuzzer)], check=True)
    return fuzzer


@pytest.mark.slow
@pytest.mark.skipif("CTCSPEECH_FUZZ_SECONDS" not in os.environ, reason="takes minutes to build")
@pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")
@pytest.mark.skipif("avx2" not in _core.available_isas(), reason="builds the x86-64 paths")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_fuzz(tmp_path, sanitizer):
    options = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    run_fuzzer([str(build_fuzzer(tmp_path, CXX, options, ("avx2", "avx512")))])


def run_fuzzer(command):
    seconds = os.environ["CTCSPEECH_FUZZ_SECONDS"]
    done = subprocess.run([*command, seconds, "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 100


@pytest.mark.slow
@pytest.mark.skipif("CTCSPEECH_FUZZ_SECONDS" not in os.environ, reason="takes a minute to build")
@pytest.mark.skipif(
    shutil.which(ARM_CXX) is None or shutil.which("qemu-aarch64") is None,
    reason="no compiler for Arm, or no emulator (Debian: g++-aarch64-linux-gnu, qemu-user)",
)
def test_fuzz_on_arm(tmp_path):
    """NEON and the portable vectors on an emulated 64-bit Arm."""
    options = ["-static", "-Wall", "-Wextra", "-Werror"]
    run_fuzzer(["qemu-aarch64", str(build_fuzzer(tmp_path, ARM_CXX, options, ("neon",)))])


@pytest.mark.slow
@pytest.mark.skipif("CTCSPEECH_FUZZ_SECONDS" not in os.environ, reason="takes a minute to build")
@pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")
def test_threads_of_a_block_do_not_race(tmp_path):
    names = ("tests/fuzz/ctc_threads.cpp", "csrc/ctc/cuda/on_host.cpp")
    sources = [str(ROOT / name) for name in names]
    program = str(tmp_path / "ctc_threads")
    flags = ["-std=c++17", "-O1", "-g1", "-fsanitize=thread", "-pthread", "-DCTCSPEECH_CUDA=1"]
    flags.append(f"-I{ROOT / 'tests/fuzz/cuda_on_host'}")
    flags.append(f"-I{ROOT / 'csrc'}")
    subprocess.run([CXX, *flags, *sources, "-o", program], check=True)
    seconds = os.environ["CTCSPEECH_FUZZ_SECONDS"]
    done = subprocess.run([program, seconds], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 0
