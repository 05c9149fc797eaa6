"""Draws where the decoder looks for each letter of a translation.

    python recipes/translate/draw.py runs/translate/run runs/translate/data -o attention.png
    python recipes/translate/draw.py runs/translate/run runs/translate/data --text "Open the file"

Without a text, the test's message whose translation is the longest of those that are right is taken
(or, where none is, the first).
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ctcspeech import Recognizer
from ctcspeech.decode.attention import AttentionSearch
from ctcspeech.evaluate.plot_attention import attention_map, plot_attention


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", help="in English")
    parser.add_argument("--output", "-o", type=Path, default=Path("attention.png"))
    arguments = parser.parse_args()
    emitter = Recognizer.load(arguments.run).emitter
    symbols = json.loads((arguments.data / "symbols.json").read_text(encoding="utf-8"))
    numbers = {letter: i for i, letter in enumerate(symbols)}

    def frames(text: str) -> np.ndarray:
        return np.array([[numbers.get(letter, 0)] for letter in text], np.float32)

    source = arguments.text or example(emitter, arguments.data / "test.jsonl", frames)
    attention = attention_map(emitter, frames(source))
    plot_attention(attention, list(source), source).savefig(arguments.output)
    print(f"{arguments.output}: {source} -> {''.join(attention.names[:-1])}")


def example(emitter, manifest: Path, frames) -> str:
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()][:100]
    rows = emitter.with_states().compute([frames(line["source"]) for line in lines])
    search = AttentionSearch(emitter.alphabet, emitter.frame_shift_ms, emitter.attention)
    found = [item[0].text for item in search.decode(rows)]
    right = [line for line, text in zip(lines, found, strict=True) if line["text"] == text]
    return max(right or lines[:1], key=lambda line: len(line["text"]))["source"]


if __name__ == "__main__":
    main()
