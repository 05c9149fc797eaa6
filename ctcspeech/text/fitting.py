"""Texts written as an alphabet of unknown rules has them: its case, its punctuation."""

import unicodedata

from ctcspeech.text.alphabet import Alphabet

__all__ = ["FittingNormalizer"]


class FittingNormalizer:
    """Letters in the case that the alphabet has, of punctuation what it has.

    For models of other toolkits, and for those whose texts were not normalised: their rules are not
    known, their labels are.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self._rules: object = None  # made when first needed: recognition alone never does

    def __call__(self, text: str) -> str:
        if self._rules is None:
            self._rules = self._made()
        return self._rules(text)  # type: ignore[operator]

    def _made(self) -> object:
        from ctcspeech.text.normalize import Normalizer

        labels = self.alphabet.labels
        others = [label for i, label in enumerate(labels) if i != self.alphabet.blank]
        characters = set("".join(label for label in others if label[:1] + label[-1:] != "<>"))
        upper = any(c.isupper() for c in characters)
        lower = any(c.islower() for c in characters)
        marks = "".join(sorted(c for c in characters if unicodedata.category(c)[0] in "PS"))
        if upper and not lower:
            return Normalizer(case="upper", keep=marks)
        return Normalizer(case="keep" if upper else "lower", keep=marks)
