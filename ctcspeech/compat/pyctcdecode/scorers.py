"""Models of pyctcdecode's kinds as the search asks them: WordScorer of ctcspeech.decode.beam."""

import math
from collections.abc import Collection
from typing import Any

from ctcspeech.compat.pyctcdecode.language_model import AbstractLanguageModel
from ctcspeech.lm.model import LanguageModel as NgramModel
from ctcspeech.lm.model import State

__all__ = [
    "LN10",
    "From",
    "Place",
    "Weighted",
]

LN10 = math.log(10)


class Place:
    """A state of a user's model, and how it was reached, for the end of the sentence."""

    def __init__(self, state: Any, before: Any = None, word: str | None = None) -> None:
        self.state, self.before, self.word = state, before, word
        self._key = tuple(state) if isinstance(state, list) else state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class Weighted:
    """A model of the user's own (`AbstractLanguageModel`) as a WordScorer: its scores are final."""

    def __init__(
        self, model: AbstractLanguageModel, start: Any, known: Collection[str], unknown: float
    ) -> None:
        """known: the words of the search's lexicon. unknown: what the search itself charges for
        others, as soon as they leave it; it is part of the model's score for them."""
        self.model, self.start = model, start
        self.known, self.unknown = known, unknown

    def begin_state(self) -> Place:
        return Place(self.model.get_start_state() if self.start is None else self.start)

    def score(self, place: Place, word: str) -> tuple[float, Place]:
        score, after = self.model.score(place.state, word, is_last_word=False)
        if self.known and word not in self.known:
            score -= self.unknown
        return score, Place(after, place.state, word)

    def finish(self, place: Place) -> float:
        if place.word is None:
            return 0.0
        last, _ = self.model.score(place.before, place.word, is_last_word=True)
        return last - self.model.score(place.before, place.word, is_last_word=False)[0]


class From:
    """The model from a state of its own (`ctcspeech.decode.beam.WordScorer`)."""

    def __init__(self, model: NgramModel, start: State, end: bool) -> None:
        self.model, self.start, self.end = model, start, end

    def begin_state(self) -> State:
        return self.start

    def score(self, state: State, word: str) -> tuple[float, State]:
        log10, after = self.model.score_word(state, word)
        return log10 * LN10, after

    def finish(self, state: State) -> float:
        return self.model.score_end(state) * LN10 if self.end else 0.0
