"""Makes the golden ARPA files beside this script with KenLM's `lmplz`, the independent estimator.

    python tests/golden/ngram/generate.py PATH/TO/lmplz

KenLM's sources are in its Python package's source distribution; build lmplz there with CMake and
Boost. The text is made up here, with the long-tailed counts that Kneser-Ney discounts need.
"""

import gzip
import random
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent

# name: (text, arguments of lmplz)
MODELS = {
    "order3": ("text", ["-o", "3"]),
    "order4_pruned": ("text", ["-o", "4", "--prune", "0", "0", "1", "1"]),
    "order5_pruned": ("text", ["-o", "5", "--prune", "0", "1", "1", "2", "2"]),
    "order1": ("text", ["-o", "1"]),
    "order3_vocabulary": ("text", ["-o", "3", "--limit_vocab_file", "VOCABULARY"]),
    "order3_fallback": ("tiny", ["-o", "3", "--discount_fallback"]),
}
VOCABULARY = [f"w{i}" for i in range(0, 60)]


def sentences() -> list[str]:
    """A Markov chain over 300 words with Zipf's frequencies; some lines are empty, some repeat."""
    chance = random.Random(7)
    words = [f"w{i}" for i in range(300)]
    weights = [1 / (i + 1) for i in range(300)]
    follow = {w: chance.choices(words, weights, k=12) for w in words}
    lines = []
    for i in range(700):
        line = [chance.choices(words, weights)[0]]
        while chance.random() < 0.86:
            usual = chance.random() < 0.7
            line.append(
                chance.choice(follow[line[-1]]) if usual else chance.choices(words, weights)[0]
            )
        lines.append("" if i % 97 == 0 else "  ".join(line) if i % 10 == 0 else " ".join(line))
    return lines + lines[:20]


TEXTS = {"text": sentences(), "tiny": ["a b c a b", "a c", "b"]}


def main() -> None:
    lmplz = sys.argv[1]
    for name, lines in TEXTS.items():
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        words.write_text(" ".join(VOCABULARY))
        for name, (text, arguments) in MODELS.items():
            arguments = [str(words) if a == "VOCABULARY" else a for a in arguments]
            command = [lmplz, *arguments, "-S", "100M", "-T", folder]
            arpa = subprocess.run(
                command,
                input=(FOLDER / f"{text}.txt").read_bytes(),
                capture_output=True,
                check=True,
            ).stdout
            (FOLDER / f"{name}.arpa.gz").write_bytes(gzip.compress(arpa, 9, mtime=0))


if __name__ == "__main__":
    main()
