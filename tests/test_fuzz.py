"""The native core's language models, beam search, alignment and GRU under the sanitizers: damaged
files, random texts, random decoders, random arrays. (The loss: test_ctc_header.py.)

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
FEWEST = {"ngram": 100, "estimate": 50, "beam": 20, "align": 20}  # cases in a second or more

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CTCSPEECH_FUZZ_SECONDS" not in os.environ, reason="takes minutes to build"),
    pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds a fuzzer; what two of them share is compiled once."""
    folder = tmp_path_factory.mktemp("fuzz")

    def compiled(source, sanitizer):
        target = folder / f"{source.parent.name}-{source.stem}-{sanitizer.replace(',', '-')}.o"
        if not target.exists():
            command = [CXX, "-std=c++17", "-O1", "-g1", f"-fsanitize={sanitizer}", "-c"]
            command += ["-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]
            command += ISA_FLAGS.get(source.stem[source.stem.rfind("_") :], [])
            subprocess.run([*command, str(source), "-o", str(target)], check=True)
        return str(target)

    def build(name, sanitizer):
        sources = [p for f in SOURCES[name] for p in sorted((ROOT / "csrc" / f).glob("*.cpp"))]
        if platform.machine() != "x86_64":
            sources = [p for p in sources if not p.stem.endswith(tuple(ISA_FLAGS))]
        sources.append(ROOT / "tests" / "fuzz" / f"{name}_fuzz.cpp")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: compiled(source, sanitizer), sources))
        fuzzer = folder / f"{name}-{sanitizer.replace(',', '-')}"
        link = [CXX, f"-fsanitize={sanitizer}", *objects, "-pthread", "-o", str(fuzzer)]
        subprocess.run(link, check=True)
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
    fuzzer = build(name, sanitizer)
    seconds = os.environ["CTCSPEECH_FUZZ_SECONDS"]
    corpus = kenlm_binaries(tmp_path) if name == "ngram" else []
    done = subprocess.run([str(fuzzer), seconds, "0", *corpus], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    cases = int(done.stdout.split()[0])
    assert cases > FEWEST[name]
    if name == "ngram":
        read = int(done.stdout.split()[2])
        assert 0.03 * cases < read < 0.97 * cases  # damage is refused, what is left whole is read
