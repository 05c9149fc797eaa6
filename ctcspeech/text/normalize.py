"""Text normalisation: from what people write to what people say, as far as rules go.

    normalizer = Normalizer()
    normalizer("“Don’t,” said the U.S. envoy — twice.")    # don't said the u s envoy twice

A normaliser is a pydantic model: it stands in a configuration file as it is, and `model_dump()`
and `model_validate()` carry it through JSON.
"""

import unicodedata
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from ctcspeech.errors import AlphabetError

__all__ = ["Normalizer"]

# What is written for an apostrophe: quotation marks, the modifier letter, accents, the prime.
APOSTROPHES = "’‘‛ʼʹ`´′＇"


class Normalizer(BaseModel):
    """The rules, applied in the order in which they stand here. Call it with a text.

    Runs of white space become one space and the ends are stripped, always. Applied to its own
    result it changes nothing, `replace` apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Composed characters (NFC), or also compatibility forms: ﬁ to fi, ½ to 1⁄2, full width (NFKC).
    unicode: Literal["NFC", "NFKC", "none"] = "NFKC"
    # What to write for what, as {"&": " and ", "Dr.": "doctor"}; longer ones first.
    replace: dict[str, str] = {}
    case: Literal["lower", "upper", "keep"] = "lower"
    # é to e: for alphabets of plain letters.
    accents: Literal["keep", "remove"] = "keep"
    # Punctuation and symbols become a space: "well-known" is two words.
    punctuation: Literal["remove", "keep"] = "remove"
    # Marks that stay all the same. An apostrophe stays only beside a letter, and typographic
    # apostrophes become the plain one.
    keep: str = "'"
    # Digits have many readings (1984): "refuse" raises, so that a person writes them as words.
    digits: Literal["keep", "refuse"] = "keep"

    _table: Any = PrivateAttr(default=None)

    def __call__(self, text: str) -> str:
        """The normalised text. Raises AlphabetError for digits when they are refused."""
        original = text
        if self._table is None:
            self._table = _Table(self)
        if self.unicode != "none":
            # Acute accents of their own are apostrophes here, and NFKC would tear them apart.
            text = text.replace("´", "'") if "'" in self.keep else text
            text = unicodedata.normalize(self.unicode, text)
        for old in sorted(self.replace, key=len, reverse=True):
            text = text.replace(old, self.replace[old])
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        if self.accents == "remove":
            apart = unicodedata.normalize("NFD", text)
            text = "".join(c for c in apart if unicodedata.category(c) != "Mn")
        text = text.translate(self._table)
        if self.unicode != "none":
            text = unicodedata.normalize(self.unicode, text)  # lower() can take characters apart
        if self.punctuation == "remove" and "'" in self.keep and "'" in text:
            text = _keep_apostrophes_of_words(text)
        if self.digits == "refuse":
            digits = sorted({c for c in text if unicodedata.category(c)[0] == "N"})
            if digits:
                raise AlphabetError(
                    f"the text {original!r} has digits ({' '.join(digits)}); write them as words"
                )
        return " ".join(text.split())


class _Table(dict[int, str]):
    """For str.translate: what becomes of each character, worked out when first met."""

    def __init__(self, rules: Normalizer) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = self.convert(character)
        return self[code]

    def convert(self, character: str) -> str:
        if character in self.rules.keep:
            return character
        category = unicodedata.category(character)
        if self.rules.punctuation == "remove":
            if character in APOSTROPHES and "'" in self.rules.keep:
                return "'"
            if category[0] in "PS":
                return " "
        if category == "Cf":  # soft hyphens, zero-width marks: invisible and unspoken
            return ""
        if category[0] in "ZC":
            return " "
        return character


def _keep_apostrophes_of_words(text: str) -> str:
    """Apostrophes that touch no letter become spaces; several in a row are a quotation mark."""
    out = list(text)
    for i, character in enumerate(text):
        if character != "'":
            continue
        before = text[i - 1] if i else " "
        after = text[i + 1] if i + 1 < len(text) else " "
        beside_letter = before.isalpha() or after.isalpha() or _is_mark(before)
        if not beside_letter or "'" in (before, after):
            out[i] = " "
    return "".join(out)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"
