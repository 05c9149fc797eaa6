"""What labels are to the beam search: the text that each adds, and where words begin."""

import re
from collections.abc import Sequence
from typing import Any

from ctcspeech.errors import DecoderError
from ctcspeech.lm.neural import NeuralLanguageModel
from ctcspeech.text.alphabet import WORD_START, Alphabet

__all__ = ["neural_labels", "read_labels", "token_words", "tokens_of"]

_BYTE_LABEL = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPECIAL_LABEL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
# What a character n-gram model may call the space.
_SPACE_NAMES = ("|", WORD_START, "<space>", "<sp>", "_")


def read_labels(
    labels: Alphabet | Sequence[str], blank: int | None, separator: str | None
) -> tuple[list[str], int, str | None]:
    if isinstance(labels, Alphabet):
        if blank is not None and blank != labels.blank:
            raise ValueError(f"blank is {blank}, but the alphabet's is {labels.blank}")
        blank = labels.blank
        if separator is None and labels.space is not None:
            separator = labels.labels[labels.space]
        names = list(labels.labels)
    elif isinstance(labels, str):
        raise TypeError("labels must be an Alphabet or a sequence of labels, got a single str")
    else:
        names = [str(label) for label in labels]
    blank = 0 if blank is None else blank
    if not 0 <= blank < len(names):
        raise ValueError(f"blank must be an index into the {len(names)} labels, got {blank}")
    if separator is not None and separator not in names:
        raise ValueError(f"separator must be one of the labels, got {separator!r}")
    return names, blank, separator


def tokens_of(
    labels: list[str], blank: int, separator: str | None
) -> list[tuple[bytes, bool, bool, bool]]:
    """What each label adds to the text: (bytes, begins a word, stands between words, is never
    hypothesised)."""
    others = [label for i, label in enumerate(labels) if i != blank]
    if separator is None:
        separator = next((s for s in (" ", "|") if s in others), None)
    word_pieces = any(label.startswith("##") and len(label) > 2 for label in others)
    tokens = []
    for i, label in enumerate(labels):
        byte = _BYTE_LABEL.fullmatch(label)
        if i == blank:
            token = (b"", False, False, True)
        elif label == separator:
            token = (b"", True, True, False)
        elif byte:
            token = (bytes([int(byte[1], 16)]), False, False, False)
        elif not label or _SPECIAL_LABEL.fullmatch(label):
            token = (b"", False, False, True)
        elif label.startswith(WORD_START):
            token = (label[1:].replace(WORD_START, " ").encode(), True, False, False)
        elif word_pieces:
            begins = not label.startswith("##")
            token = ((label if begins else label[2:]).encode(), begins, False, False)
        else:
            token = (label.encode(), False, False, False)
        tokens.append(token)
    return tokens


def token_words(
    labels: list[str], tokens: list[tuple[bytes, bool, bool, bool]], lm: Any
) -> list[str]:
    """What a model over tokens calls each label."""
    if lm is None:
        return labels
    words = list(labels)
    for i, (text, begins_word, _, _) in enumerate(tokens):
        if begins_word and not text and lm.index(labels[i]) == 0:
            found = next((name for name in _SPACE_NAMES if lm.index(name)), None)
            if found is None:
                raise DecoderError(
                    f"the language model over tokens has no word for the label {labels[i]!r} "
                    f"between words; it may be called {', '.join(_SPACE_NAMES)}"
                )
            words[i] = found
    return words


def neural_labels(
    labels: list[str], separator: str | None, model: NeuralLanguageModel | None
) -> list[int]:
    """The number that a neural model over labels has for each; the separator is its space."""
    if model is None:
        return []
    if separator is None:
        separator = next((s for s in (" ", "|") if s in labels), None)
    spaced = [" " if label == separator else label for label in labels]
    numbers = [model.index(label) for label in spaced]
    if not any(n > 1 for n in numbers):
        raise DecoderError("the neural language model knows none of the labels")
    return numbers
