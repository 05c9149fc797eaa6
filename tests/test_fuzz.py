"""The native core's language models, beam search, alignment and GRU under the sanitizers: damaged
files, random texts, random decoders, random arrays; the same on an emulated Arm. (The loss:
test_ctc_header.py.)

CTCSPEECH_FUZZ_SECONDS=10 python -m pytest tests/test_fuzz.py
"""

import gzip
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CXX = os.environ.get("CXX", "g++")
ARM_CXX = "aarch64-linux-gnu-g++"
SOURCES = {  # folders of csrc
    "ngram": ["ngram"],
    "estimate": ["ngram", "ngram/estimate"],
    "beam": ["ngram", "neural", "beam"],
    "align": ["align", "gru", "base"],
}
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"],
}
ARM = "arm"  # in place of a sanitizer: they do not run under the emulator
FEWEST = {"ngram": 100, "estimate": 50, "beam": 20, "align": 20}  # cases in a second or more

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CTCSPEECH_FUZZ_SECONDS" not in os.environ, reason="takes minutes to build"),
    pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler"),
]


def compiler(sanitizer):
    if sanitizer == ARM:
        return [ARM_CXX, "-std=c++17", "-static", "-Wall", "-Wextra", "-Werror"]
    return [CXX, "-std=c++17", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds a fuzzer; what two of them share is compiled once."""
    folder = tmp_path_factory.mktemp("fuzz")

    def compiled(source, sanitizer):
        target = folder / f"{source.parent.name}-{source.stem}-{sanitizer.replace(',', '-')}.o"
        if not target.exists():
            command = [*compiler(sanitizer), "-O1", "-g1", "-c", f"-I{ROOT / 'csrc'}"]
            command += ISA_FLAGS.get(source.stem[source.stem.rfind("_") :], [])
            subprocess.run([*command, str(source), "-o", str(target)], check=True)
        return str(target)

    def build(name, sanitizer):
        sources = [p for f in SOURCES[name] for p in sorted((ROOT / "csrc" / f).glob("*.cpp"))]
        if platform.machine() != "x86_64" or sanitizer == ARM:
            sources = [p for p in sources if not p.stem.endswith(tuple(ISA_FLAGS))]
        sources.append(ROOT / "tests" / "fuzz" / f"{name}_fuzz.cpp")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: compiled(source, sanitizer), sources))
        fuzzer = folder / f"{name}-{sanitizer.replace(',', '-')}"
        command = [*compiler(sanitizer), *objects, "-pthread", "-o", str(fuzzer)]
        subprocess.run(command, check=True)
        return fuzzer

    return build


def kenlm_binaries(folder):
    paths = []
    for packed in sorted((ROOT / "tests" / "golden" / "ngram" / "kenlm").glob("*.gz")):
        paths.append(folder / packed.stem)
        paths[-1].write_bytes(gzip.decompress(packed.read_bytes()))
    assert paths
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("name", "sanitizer"),
    [
        ("ngram", "address,undefined"),
        ("estimate", "address,undefined"),
        ("beam", "address,undefined"),
        ("beam", "thread"),
        ("align", "address,undefined"),
        ("align", "thread"),
    ],
)
def test_fuzz(build, name, sanitizer, tmp_path):
    run([str(build(name, sanitizer))], name, FEWEST[name], tmp_path)


@pytest.mark.skipif(
    shutil.which(ARM_CXX) is None or shutil.which("qemu-aarch64") is None,
    reason="no compiler for Arm, or no emulator (Debian: g++-aarch64-linux-gnu, qemu-user)",
)
@pytest.mark.parametrize("name", SOURCES)
def test_fuzz_on_arm(build, name, tmp_path):
    """The alignment and the GRU with NEON against the portable vectors, on an emulated 64-bit Arm;
    the others for what differs there (char has no sign)."""
    run(["qemu-aarch64", str(build(name, ARM))], name, FEWEST[name] // 5, tmp_path)


def run(command, name, fewest, folder):
    corpus = kenlm_binaries(folder) if name == "ngram" else []
    seconds = os.environ["CTCSPEECH_FUZZ_SECONDS"]
    done = subprocess.run([*command, seconds, "0", *corpus], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    cases = int(done.stdout.split()[0])
    assert cases > fewest
    if name == "ngram":
        read = int(done.stdout.split()[2])
        assert 0.03 * cases < read < 0.97 * cases  # damage is refused, what is left whole is read
