"""pyctcdecode's alphabet: labels by the names that are usual for blank, space and unknown."""

import json
import re
from collections.abc import Sequence

__all__ = [
    "BLANK_TOKEN_PTN",
    "BPE_TOKEN",
    "UNK_BPE_TOKEN",
    "UNK_TOKEN",
    "UNK_TOKEN_PTN",
    "Alphabet",
]

BPE_TOKEN = "▁"  # begins a word's first piece
UNK_TOKEN = "⁇"
UNK_BPE_TOKEN = "▁⁇▁"
BLANK_TOKEN_PTN = re.compile(r"^[<\[]pad[>\]]$", flags=re.IGNORECASE)
UNK_TOKEN_PTN = re.compile(r"^[<\[]unk[>\]]$", flags=re.IGNORECASE)
_SPECIAL_PTN = re.compile(r"^[<\[].+[>\]]$")


class Alphabet:
    """Labels in the form that the decoder knows: the blank is "", the space " " (or pieces begin
    with "▁")."""

    def __init__(self, labels: list[str], is_bpe: bool) -> None:
        self._labels = labels
        self._is_bpe = is_bpe

    @property
    def is_bpe(self) -> bool:
        """Whether the labels are pieces of words that mark the words' beginnings."""
        return self._is_bpe

    @property
    def labels(self) -> list[str]:
        return list(self._labels)

    @classmethod
    def build_alphabet(cls, labels: Sequence[str], ctc_token_idx: int | None = None) -> "Alphabet":
        """The labels of a model, by the names that are usual for blank, space and unknown.

        ctc_token_idx: the blank, where its label does not tell ("", [PAD], <pad>, or "_" among
        characters). If there is none it is taken to come after the last label.
        """
        names = [str(label) for label in labels]
        if len(set(names)) != len(names):
            raise ValueError("Alphabet contains duplicate entries, this is not allowed.")
        word_pieces = any(name.startswith("##") for name in names)
        is_bpe = word_pieces or any(name.startswith(BPE_TOKEN) for name in names)
        if is_bpe and any(" " in name for name in names):
            raise ValueError("Space token ' ' found in vocabulary even though it looks like BPE.")
        if ctc_token_idx is not None:
            names[ctc_token_idx] = ""
        if word_pieces:
            names = [_marked(name) for name in names]
        if not is_bpe and "|" in names and " " not in names:
            names[names.index("|")] = " "
        names = ["" if BLANK_TOKEN_PTN.match(name) else name for name in names]
        if not is_bpe and "_" in names and "" not in names:
            names[names.index("_")] = ""
        if "" not in names:
            names.append("")
        unknown = UNK_BPE_TOKEN if is_bpe else UNK_TOKEN
        return cls([unknown if UNK_TOKEN_PTN.match(name) else name for name in names], is_bpe)

    def dumps(self) -> str:
        return json.dumps({"labels": self.labels, "is_bpe": self.is_bpe})

    @classmethod
    def loads(cls, s: str) -> "Alphabet":
        values = json.loads(s)
        if set(values) != {"is_bpe", "labels"}:
            raise ValueError(f"expected the keys is_bpe and labels, found {sorted(values)}")
        return cls(values["labels"], values["is_bpe"])


def _marked(piece: str) -> str:
    """A WordPiece in the manner of SentencePiece."""
    if piece.startswith("##"):
        return piece[2:]
    if _SPECIAL_PTN.match(piece) or piece in ("", BPE_TOKEN, UNK_BPE_TOKEN):
        return piece
    return BPE_TOKEN + piece
