"""The readers of n-gram models under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = "arpa arpa_write image mix probing table trie trie_build vocabulary".split()


@pytest.mark.slow
def test_damaged_models_under_sanitizers(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", "-g", "-O1", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{ROOT / 'csrc'}", "-o", str(tmp_path / "fuzz")]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}")
    if subprocess.run([compiler, *flags, str(probe)], capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    sources = [ROOT / "tests/fuzz/ngram_fuzz.cpp", ROOT / "csrc/ngram.cpp"]
    sources += [ROOT / f"csrc/ngram_{name}.cpp" for name in SOURCES]
    subprocess.run([compiler, *flags, *map(str, sources)], check=True)
    run = subprocess.run([tmp_path / "fuzz", "3000"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    read = int(run.stdout.split()[0])
    assert 100 < read < 2900  # damage is refused, what is left whole is read
