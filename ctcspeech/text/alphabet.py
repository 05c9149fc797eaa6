"""The alphabet: which labels the network can write, and how text becomes labels and back.

Three kinds. *characters*: one label a Unicode character; *bytes*: the 256 bytes of UTF-8, any
language and no unknown character; *sentencepiece*: pieces of words (Kudo and Richardson 2018), the
trained model inside the alphabet, so that nothing else is needed beside it. A fourth, *pieces*, is
of other toolkits' models, whose pieces are known but not how a text is divided into them.

    alphabet = Alphabet.from_text(["hello world", "it's me"])
    ids = alphabet.encode("hello")
    alphabet.decode(ids)                        # "hello"
    alphabet.decode(alphabet.collapse(path))    # of a network's path, one label a frame

The file is JSON: `format` (always "ctcspeech-alphabet") and `version` MUST be there; `kind`,
`blank`, and by kind `labels` (pieces), `labels` and `separator` (characters) or `model`
(sentencepiece, base64 of the model file). A reader MUST refuse a version that it does not know.
"""

import base64
import binascii
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctcspeech.errors import AlphabetError
from ctcspeech.files import atomic_write, parse_json

__all__ = ["BLANK_LABEL", "Alphabet", "describe_character"]

FORMAT = "ctcspeech-alphabet"
VERSION = 1
KINDS = ("characters", "bytes", "sentencepiece", "pieces")
BLANK_LABEL = "<blank>"
WORD_START = "▁"  # SentencePiece's mark of a word's first piece
BYTE_LABEL = re.compile(r"<0x([0-9A-F]{2})>")


class Alphabet:
    """The labels of a network, the blank among them.

    `labels` (list of str, in the network's order), `blank` (index), `space` (index of the label
    that separates words, or None: sentencepiece marks the start of a word within the piece),
    `kind`, `len()`. Equal alphabets write the same labels with the same numbers.
    """

    space: int | None

    def __init__(self, labels: Sequence[str], blank: int = 0, separator: str = " ") -> None:
        """An alphabet of characters: `labels` with the blank among them, at index `blank`.

        `separator` is the label that stands for the space between words (wav2vec2's is "|").
        Raises AlphabetError when labels repeat, are empty, or are not single characters.
        """
        labels = list(labels)
        if not 0 <= blank < len(labels):
            raise AlphabetError(
                f"blank must be an index into the {len(labels)} labels, got {blank}"
            )
        for index, label in enumerate(labels):
            if index != blank and len(label) != 1 and not _is_special(label):
                raise AlphabetError(
                    f"labels[{index}] must be one character (or a special label such as <unk>), "
                    f"got {label!r}; pieces of several characters need kind sentencepiece"
                )
        repeated = [label for label, count in Counter(labels).items() if count > 1]
        if repeated:
            raise AlphabetError(f"these labels stand in the alphabet twice: {repeated}")
        self._setup("characters", labels, blank)
        self.separator = separator
        if separator in labels:
            self.space = labels.index(separator)

    def _setup(self, kind: str, labels: list[str], blank: int) -> None:
        self.kind = kind
        self.labels = labels
        self.blank = blank
        self.separator = " "
        self.space = None
        self._index = {label: i for i, label in enumerate(labels) if i != blank}
        self._model: bytes | None = None  # the serialised SentencePiece model
        self._processor: Any = None  # loaded from it when first needed; never pickled

    # -- making one ---------------------------------------------------------------------------

    @classmethod
    def from_text(
        cls,
        texts: Iterable[str],
        kind: str = "characters",
        *,
        size: int = 256,
        extra: str = "",
        blank: int = 0,
        model_type: str = "unigram",
    ) -> "Alphabet":
        """The alphabet that writes these texts.

        characters: every character that occurs, and those of `extra`, in code point order (the
        space first). bytes: the same for any text. sentencepiece: `size` pieces (the blank
        not counted) trained on the texts; `model_type` unigram or bpe.
        """
        if kind == "bytes":
            return cls.of_bytes(blank)
        if kind == "sentencepiece":
            return cls._train_pieces(texts, size, blank, model_type)
        if kind != "characters":
            raise AlphabetError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if isinstance(texts, str):
            raise TypeError("texts must be an iterable of texts, got a single str")
        found: set[str] = set(extra)
        for text in texts:
            if not found.issuperset(text):
                found.update(text)
                for character in text:
                    if character != " " and unicodedata.category(character) in _NOT_IN_TEXT:
                        raise AlphabetError(
                            f"the text {text!r} has {describe_character(character)}, which is no "
                            "label; normalise the texts first (ctcspeech.normalize)"
                        )
        if not found:
            raise AlphabetError("an alphabet cannot be made: the texts are all empty")
        labels = sorted(found)
        return cls(_with_blank(labels, blank), blank)

    @classmethod
    def of_bytes(cls, blank: int = 0) -> "Alphabet":
        """The bytes of UTF-8: 256 labels and the blank."""
        alphabet = cls.__new__(cls)
        names = [chr(b) if 0x20 <= b < 0x7F else f"<0x{b:02X}>" for b in range(256)]
        alphabet._setup("bytes", _with_blank(names, blank), blank)
        alphabet.space = alphabet.labels.index(" ")
        return alphabet

    @classmethod
    def from_sentencepiece(
        cls, model: bytes | str | os.PathLike[str], blank: int = 0
    ) -> "Alphabet":
        """The pieces of a SentencePiece model (its serialised bytes, or the file's path).

        Control pieces and <unk> are no labels: the network has nothing to hear there.
        """
        if not isinstance(model, bytes):
            try:
                model = Path(model).read_bytes()
            except OSError as error:
                raise AlphabetError(f"cannot read the SentencePiece model: {error}") from error
        processor = _load_processor(model)
        pieces = [
            processor.id_to_piece(i)
            for i in range(processor.get_piece_size())
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i))
        ]
        alphabet = cls.__new__(cls)
        alphabet._setup("sentencepiece", _with_blank(pieces, blank), blank)
        alphabet._model = model
        alphabet._processor = processor
        return alphabet

    @classmethod
    def of_pieces(cls, labels: Sequence[str], blank: int) -> "Alphabet":
        """Pieces of words, ▁ marking a word's beginning, the blank among them at index `blank`.

        Raises AlphabetError when labels repeat or are empty.
        """
        labels = list(labels)
        if not 0 <= blank < len(labels):
            raise AlphabetError(
                f"blank must be an index into the {len(labels)} labels, got {blank}"
            )
        others = Counter(label for i, label in enumerate(labels) if i != blank)
        wrong = [label for label, count in others.items() if count > 1 or not label]
        if wrong:
            raise AlphabetError(f"these labels are empty or stand in the alphabet twice: {wrong}")
        alphabet = cls.__new__(cls)
        alphabet._setup("pieces", labels, blank)
        return alphabet

    @property
    def has_pieces(self) -> bool:
        """Whether ▁ within a label marks a word's beginning."""
        return self.kind in ("sentencepiece", "pieces")

    @classmethod
    def _train_pieces(
        cls, texts: Iterable[str], size: int, blank: int, model_type: str
    ) -> "Alphabet":
        sentencepiece = _import_sentencepiece()
        if model_type not in ("unigram", "bpe"):
            raise AlphabetError(f"model_type must be unigram or bpe, got {model_type!r}")
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([text for text in texts if text.strip()]),
                model_writer=written,
                vocab_size=size + 1,  # and <unk>
                model_type=model_type,
                character_coverage=1.0,
                normalization_rule_name="identity",  # the texts are normalised already
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                num_threads=1,  # the same pieces on every machine
                minloglevel=2,
            )
        except RuntimeError as error:
            raise AlphabetError(
                f"SentencePiece cannot make {size} pieces of these texts (more text allows more "
                f"pieces; there must be at least one for each character): {error}"
            ) from error
        return cls.from_sentencepiece(written.getvalue(), blank)

    # -- text and labels ----------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The labels of a text, without blanks.

        Raises AlphabetError naming the characters that the alphabet does not have, and the text.
        """
        if self.kind == "bytes":
            return [self._from_byte(byte) for byte in text.encode("utf-8")]
        if self.kind == "sentencepiece":
            return self._encode_pieces(text)
        if self.kind == "pieces":
            return self._fewest_pieces(text)
        if self.separator != " ":
            text = text.replace(" ", self.separator)
        try:
            return [self._index[character] for character in text]
        except KeyError:
            raise self._unknown(text) from None

    def missing(self, text: str) -> list[str]:
        """The characters of `text` that the alphabet cannot write, each once."""
        if self.kind == "bytes":
            return []
        if self.kind == "pieces":
            writable = set("".join(self._index))
            found = [c for c in text if c not in writable and c != " "]
        elif self.kind == "sentencepiece":
            processor = self._pieces_processor()
            ids, pieces = processor.encode(text, out_type=int), processor.encode(text, out_type=str)
            unknown = [p for i, p in zip(ids, pieces, strict=True) if processor.is_unknown(i)]
            found = [character for character in "".join(unknown) if character != WORD_START]
        else:
            spaced = text.replace(" ", self.separator) if self.separator != " " else text
            found = [character for character in spaced if character not in self._index]
        return list(dict.fromkeys(found))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of labels; blanks write nothing. Repeats are not merged: see `collapse`.

        Bytes that are no valid UTF-8 (a network may write such) become U+FFFD.
        """
        labels = [self.labels[i] for i in ids if i != self.blank]
        if self.kind == "bytes":
            return b"".join(_label_byte(label) for label in labels).decode("utf-8", "replace")
        if self.has_pieces:
            return _join_pieces(labels)
        text = "".join(labels)
        return text.replace(self.separator, " ") if self.separator != " " else text

    def collapse(self, path: Iterable[int]) -> list[int]:
        """The labelling of a path with one label a frame: repeats merged, then blanks dropped.

        The map B of Graves et al. 2006, section 3.1.
        """
        ids, previous = [], None
        for label in path:
            label = int(label)
            if label != previous and label != self.blank:
                ids.append(label)
            previous = label
        return ids

    def _from_byte(self, byte: int) -> int:
        return byte + (byte >= self.blank)

    def _encode_pieces(self, text: str) -> list[int]:
        pieces = self._pieces_processor().encode(text, out_type=str)
        try:
            return [self._index[piece] for piece in pieces]
        except KeyError:
            raise self._unknown(text) from None

    def _fewest_pieces(self, text: str) -> list[int]:
        """The division of each word into the fewest pieces, of these the one with the longest
        first ones. (What the model was trained on is not known; it is most often this one.)"""
        ids: list[int] = []
        longest = max(map(len, self._index))
        for word in text.split():
            marked = WORD_START + word
            count = [0.0] * len(marked) + [0.0]
            step = [0] * len(marked)
            for first in range(len(marked) - 1, -1, -1):
                count[first] = float("inf")
                for last in range(min(len(marked), first + longest), first, -1):
                    if marked[first:last] in self._index and 1 + count[last] < count[first]:
                        count[first], step[first] = 1 + count[last], last
            if count[0] == float("inf"):
                raise self._unknown(text)
            place = 0
            while place < len(marked):
                ids.append(self._index[marked[place : step[place]]])
                place = step[place]
        return ids

    def _pieces_processor(self) -> Any:
        if self._processor is None:
            assert self._model is not None
            self._processor = _load_processor(self._model)
        return self._processor

    def _unknown(self, text: str) -> AlphabetError:
        names = ", ".join(describe_character(character) for character in self.missing(text))
        return AlphabetError(
            f"the text {_shorten(text)!r} has characters outside the alphabet: {names}; "
            "normalise the text, or make an alphabet that has them"
        )

    # -- files --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "blank": self.blank,
        }
        if self.kind == "characters":
            values["separator"] = self.separator
            values["labels"] = list(self.labels)
        elif self.kind == "sentencepiece":
            assert self._model is not None
            values["model"] = base64.b64encode(self._model).decode("ascii")
            values["labels"] = list(self.labels)  # decoding needs no sentencepiece
        elif self.kind == "pieces":
            values["labels"] = list(self.labels)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Alphabet":
        """The inverse of `to_dict`. Raises AlphabetError saying what is wrong."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise AlphabetError(f'this is no alphabet: it lacks "format": "{FORMAT}"')
        version = values.get("version")
        if version != VERSION:
            raise AlphabetError(
                f"the alphabet has version {version!r}, this release reads version {VERSION}; "
                "read it with a newer ctcspeech"
            )
        kind, blank = values.get("kind"), values.get("blank")
        if not isinstance(blank, int) or isinstance(blank, bool):
            raise AlphabetError(f'"blank" must be an integer, got {blank!r}')
        if kind == "bytes":
            return cls.of_bytes(blank)
        if kind not in KINDS:
            raise AlphabetError(f'"kind" must be one of {", ".join(KINDS)}, got {kind!r}')
        labels = values.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise AlphabetError('"labels" must be a list of strings')
        if kind == "characters":
            separator = values.get("separator", " ")
            if not isinstance(separator, str):
                raise AlphabetError(f'"separator" must be a string, got {separator!r}')
            return cls(labels, blank, separator)
        if kind == "pieces":
            return cls.of_pieces(labels, blank)
        if not 0 <= blank < len(labels):
            raise AlphabetError(f'"blank" must be an index into "labels", got {blank}')
        alphabet = cls.__new__(cls)
        alphabet._setup("sentencepiece", labels, blank)
        try:
            alphabet._model = base64.b64decode(values["model"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise AlphabetError('"model" must be a SentencePiece model in base64') from error
        return alphabet

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the alphabet to a JSON file."""
        with atomic_write(path) as file:
            json.dump(self.to_dict(), file, ensure_ascii=False, indent=1)
            file.write("\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Alphabet":
        """Reads an alphabet from its JSON file. Raises AlphabetError naming the file."""
        try:
            values = parse_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise AlphabetError(f"cannot read the alphabet {path}: {error.strerror}") from error
        except ValueError as error:
            raise AlphabetError(f"{path} is no alphabet: not JSON ({error})") from error
        try:
            return cls.from_dict(values)
        except AlphabetError as error:
            raise AlphabetError(f"{path}: {error}") from error

    # -- the rest -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Alphabet):
            return NotImplemented
        return (self.kind, self.blank, self.separator, self.labels, self._model) == (
            other.kind,
            other.blank,
            other.separator,
            other.labels,
            other._model,
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.blank, tuple(self.labels)))

    def __repr__(self) -> str:
        return f"Alphabet(kind={self.kind!r}, {len(self)} labels, blank={self.blank})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processor": None}


_NOT_IN_TEXT = {"Cc", "Zs", "Zl", "Zp", "Cs", "Cn"}  # control, white space, no character at all


def describe_character(character: str) -> str:
    """`'é' (U+00E9, LATIN SMALL LETTER E WITH ACUTE)`: visible also where a font has no glyph."""
    name = unicodedata.name(character, "no name")
    return f"{character!r} (U+{ord(character):04X}, {name})"


def _is_special(label: str) -> bool:
    """Labels of foreign models that no text has: <s>, </s>, <unk>, [PAD]."""
    return len(label) > 2 and label[0] + label[-1] in ("<>", "[]")


def _with_blank(labels: list[str], blank: int) -> list[str]:
    if not 0 <= blank <= len(labels):
        raise AlphabetError(f"blank must be between 0 and {len(labels)}, got {blank}")
    return [*labels[:blank], BLANK_LABEL, *labels[blank:]]


def _label_byte(label: str) -> bytes:
    match = BYTE_LABEL.fullmatch(label)
    return bytes([int(match[1], 16)]) if match else label.encode("ascii")


def _join_pieces(pieces: list[str]) -> str:
    """SentencePiece's own decoding: ▁ is a space, <0xNN> are bytes, the first space goes."""
    out, pending = [], bytearray()
    for piece in pieces:
        match = BYTE_LABEL.fullmatch(piece)
        if match:
            pending.append(int(match[1], 16))
            continue
        if pending:
            out.append(pending.decode("utf-8", "replace"))
            pending.clear()
        out.append(piece.replace(WORD_START, " "))
    if pending:
        out.append(pending.decode("utf-8", "replace"))
    return "".join(out).removeprefix(" ")


def _import_sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise AlphabetError(
            "an alphabet of pieces needs the package sentencepiece: "
            "pip install 'ctcspeech[sentencepiece]'"
        ) from error
    return sentencepiece


def _load_processor(model: bytes) -> Any:
    sentencepiece = _import_sentencepiece()
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise AlphabetError(f"the SentencePiece model is damaged: {error}") from error
    return processor


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
