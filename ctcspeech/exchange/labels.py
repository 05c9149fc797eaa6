"""Lists of labels as other toolkits write them, and the alphabets that they make.

tokens.txt (sherpa-onnx, icefall, WeNet): `symbol id` a line; the space is ▁ or a line with a bare
id. vocab.txt (onnx-asr, NeMo): the same, or a symbol a line. vocab.json (transformers): an object
of symbols and ids.
"""

import json
from pathlib import Path

from ctcspeech.errors import AlphabetError, ModelError
from ctcspeech.text.alphabet import Alphabet

__all__ = ["FILES", "alphabet_of", "find_labels", "read_labels", "write_tokens"]

FILES = ("tokens.txt", "vocab.txt", "vocab.json", "units.txt", "words.txt")
"""Names under which the labels lie beside a model."""

BLANKS = ("<blk>", "<blank>", "<eps>", "<pad>", "[PAD]", "<BLANK>", "-", "_")
"""What the blank is called, likeliest first; wav2vec2's is its padding, torchaudio's a dash."""


def find_labels(folder: Path) -> Path | None:
    """The file with the labels in a model's folder."""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    found += sorted(folder.glob("*tokens.txt"))
    return found[0] if found else None


def read_labels(path: Path) -> list[str]:
    """The labels in the order of their ids. Raises ModelError for gaps and repeated ids."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the labels {path}: {error}") from error
    if path.suffix == ".json":
        try:
            values = json.loads(text)
            pairs = [(str(label), int(number)) for label, number in values.items()]
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is no object of labels and ids: {error}") from error
    else:
        pairs = _pairs(path, text)
    ids = [number for _, number in pairs]
    if sorted(ids) != list(range(len(ids))):
        missing = sorted(set(range(max(ids, default=-1) + 1)) - set(ids))
        repeated = sorted({number for number in ids if ids.count(number) > 1})
        raise ModelError(
            f"{path}: ids must be 0 to {len(ids) - 1}, each once; missing "
            f"{missing[:10] or 'none'}, repeated {repeated[:10] or 'none'}"
        )
    labels = [""] * len(pairs)
    for label, number in pairs:
        labels[number] = label
    return labels


def _pairs(path: Path, text: str) -> list[tuple[str, int]]:
    lines = [line for line in text.split("\n") if line.strip("\r")]
    if not lines:
        raise ModelError(f"{path} has no labels")
    if not all(_id(line) is not None for line in lines):
        if any(_id(line) is not None and " " in line.strip() for line in lines):
            wrong = next(k for k, line in enumerate(lines, 1) if _id(line) is None)
            raise ModelError(f"{path}:{wrong}: no id at the end of {lines[wrong - 1]!r}")
        return [(line.rstrip("\r"), index) for index, line in enumerate(lines)]  # one a line
    pairs = []
    for line in lines:
        number = _id(line)
        assert number is not None
        label = line.rstrip("\r\n").rstrip()[: -len(str(number))]
        pairs.append((label[:-1] or " ", number))  # a bare id: the label is the space
    return pairs


def _id(line: str) -> int | None:
    parts = line.rsplit(None, 1) if line.strip() else []
    return int(parts[-1]) if parts and parts[-1].isdecimal() else None


def alphabet_of(labels: list[str], blank: int | None = None) -> Alphabet:
    """The alphabet: of characters where every label is one, else of pieces.

    blank: its index; found by its name unless given. Raises ModelError where it cannot be told.
    """
    if blank is None:
        named = [labels.index(name) for name in BLANKS if name in labels]
        if not named:
            raise ModelError(
                f"none of the {len(labels)} labels is the blank ({', '.join(BLANKS)}); name its "
                "index in ctcspeech.json"
            )
        blank = named[0]
    if not 0 <= blank < len(labels):
        raise ModelError(f"blank must be an index into the {len(labels)} labels, got {blank}")
    separator = next((mark for mark in (" ", "|", "▁") if mark in labels), " ")
    try:
        try:
            return Alphabet(labels, blank, separator)
        except AlphabetError:
            return Alphabet.of_pieces(labels, blank)
    except AlphabetError as error:
        raise ModelError(str(error)) from error


def write_tokens(alphabet: Alphabet) -> str:
    """The text of a tokens.txt: the blank is `<blk>`, the space ▁."""
    lines = []
    for number, label in enumerate(alphabet.labels):
        if number == alphabet.blank:
            label = "<blk>"
        elif number == alphabet.space:
            label = "▁"
        lines.append(f"{label} {number}\n")
    return "".join(lines)
