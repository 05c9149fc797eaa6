"""Makes the golden binaries beside this script with KenLM's `build_binary`.

    python tests/golden/ngram/kenlm/generate.py PATH/TO/build_binary

KenLM's sources are in its Python package's source distribution. The models are those of the golden
ARPA files one folder up, and one that lists no <unk>.
"""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent

# name: (ARPA file, arguments of build_binary)
BINARIES = {
    "probing": ("order3_vocabulary", ["probing"]),
    "probing-sparse": ("order3_vocabulary", ["-p", "2.7", "-w", "mmap", "probing"]),
    "probing-no-unk": ("no-unk", ["probing"]),
    "trie": ("order3_vocabulary", ["trie"]),
    "trie-no-unk": ("no-unk", ["trie"]),
    "trie-split": ("order5_pruned", ["-a", "255", "trie"]),
    "trie-quantised": ("order3_vocabulary", ["-q", "5", "-b", "6", "trie"]),
    "trie-quantised-split": ("order5_pruned", ["-q", "8", "-b", "7", "-a", "3", "trie"]),
    "without-words": ("no-unk", ["-v", "trie"]),
}
NO_UNK = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-99\t<s>\t-0.5
-0.9\t</s>
-0.7\ta\t-0.25
-0.8\tb\t-0.125
-0.6\tc

\\2-grams:
-0.3\t<s> a\t-0.0625
-0.4\ta b\t-0.03125
-0.5\tb a
-0.2\tb </s>

\\3-grams:
-0.1\t<s> a b
-0.15\ta b </s>

\\end\\
"""


def arpa(name: str) -> bytes:
    if name == "no-unk":
        return NO_UNK.encode()
    return gzip.decompress((FOLDER.parent / f"{name}.arpa.gz").read_bytes())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, arguments) in BINARIES.items():
            text, binary = Path(folder) / "model.arpa", Path(folder) / "model.bin"
            text.write_bytes(arpa(source))
            subprocess.run([sys.argv[1], *arguments, str(text), str(binary)], check=True)
            packed = gzip.compress(binary.read_bytes(), 9, mtime=0)
            (FOLDER / f"{name}.bin.gz").write_bytes(packed)
            binary.unlink()


if __name__ == "__main__":
    main()
