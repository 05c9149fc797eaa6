"""An n-gram language model of words in a search that goes from label to label.

    fusion = WordFusion(alphabet, LanguageModel.load("lm.bin"), weight=0.4)
    decoder = AttentionSearch(alphabet, 40, head, ctc_weight=0.3, fusion=fusion)

To a text c it adds (natural logarithms)

    weight * ln P_lm(c) + word_score * word_count(c) + unk_score * unknown_words(c)

A word is scored where it ends, at the label between words or the first of the next one. Until then
it is worth what the likeliest word that begins so is without context (unigram look-ahead: Ortmanns,
Ney & Eiden 1996), so that prefixes within a word and at its end can be compared. Once the word has
ended nothing of that estimate is left.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from ctcspeech.decode.tokens import read_labels, tokens_of
from ctcspeech.errors import DecoderError
from ctcspeech.lm.model import LanguageModel, State
from ctcspeech.text.alphabet import Alphabet

__all__ = ["FusedPrefix", "WordFusion"]

_LN10 = math.log(10)
_AFTER_ALL = b"\xff"  # no UTF-8 text has this byte: what begins so sorts after what begins alike


@dataclass(frozen=True)
class FusedPrefix:
    """What the language model knows of a prefix."""

    state: State  # after the complete words
    lm: float = 0.0  # ln P_lm of the complete words
    added: float = 0.0  # word_score and unk_score of the words, the begun one included
    begun: bytes = b""  # of the word that has not ended
    pending: float = 0.0  # what that word will add, estimated


class WordFusion:
    """The language model's share of a search's scores. Immutable; may be shared among threads."""

    def __init__(
        self,
        alphabet: Alphabet,
        lm: LanguageModel,
        *,
        weight: float = 0.3,
        word_score: float = 0.0,
        unk_score: float | None = None,
    ) -> None:
        """
        weight: of ln P_lm, at least 0.
        word_score: added for each word.
        unk_score: None: words that the model does not know cannot be said. Else added for each of
            them, besides what the model gives `<unk>`; at most 0.

        Raises ValueError for a value out of range, DecoderError where the alphabet can spell no
        word of the model.
        """
        if not 0 <= weight <= 1000:
            raise ValueError(f"weight must be 0 to 1000, got {weight!r}")
        if not -1000 <= word_score <= 1000:
            raise ValueError(f"word_score must be -1000 to 1000, got {word_score!r}")
        if unk_score is not None and not -1000 <= unk_score <= 0:
            raise ValueError(f"unk_score must be -1000 to 0, got {unk_score!r}")
        self.lm, self.weight = lm, weight
        self.word_score, self.unk_score = word_score, unk_score
        self._labels = tokens_of(*read_labels(alphabet, None, None))
        spelled = {byte for text, *_ in self._labels for byte in text}
        core = lm.core
        words = sorted(
            word
            for word in (core.word(i) for i in range(1, core.vocab_size))
            if word not in (b"<s>", b"</s>") and spelled.issuperset(word)
        )
        if not words:
            raise DecoderError(
                "the language model has no word that the labels of the acoustic model can spell; "
                "give one of words in the alphabet of the training texts"
            )
        alone = lm.null_state()
        self._words = words
        self._values = np.array(
            [core.score_word(alone, core.index(word))[0] * _LN10 for word in words]
        )
        self._unknown = core.score_word(alone, 0)[0] * _LN10
        self._ahead: dict[bytes, float] = {}  # of the known beginnings that were asked for

    def start(self) -> FusedPrefix:
        """The empty prefix."""
        return FusedPrefix(self.lm.begin_state())

    def value(self, prefix: FusedPrefix) -> float:
        """What is added to a prefix's score, the begun word's estimate included."""
        return self._weighted(prefix.lm) + prefix.added + prefix.pending

    def extended(self, prefix: FusedPrefix, label: int) -> FusedPrefix:
        """The prefix with a label more."""
        text, begins, _, never = self._labels[label]
        if never:
            return replace(prefix, pending=-math.inf)
        if begins:
            prefix = self._closed(prefix)
        first, *others = text.split(b" ")
        prefix = self._spelled(prefix, first)
        for part in others:
            prefix = self._spelled(self._closed(prefix), part)
        return prefix

    def ended(self, prefix: FusedPrefix) -> FusedPrefix:
        """The prefix as a whole text: its last word and the end of the sentence are scored."""
        prefix = self._closed(prefix)
        return replace(prefix, lm=prefix.lm + self.lm.score_end(prefix.state) * _LN10)

    def _spelled(self, prefix: FusedPrefix, more: bytes) -> FusedPrefix:
        if not more:
            return prefix
        begun = prefix.begun + more
        added = prefix.added if prefix.begun else prefix.added + self.word_score
        return replace(prefix, begun=begun, added=added, pending=self._likeliest(begun))

    def _closed(self, prefix: FusedPrefix) -> FusedPrefix:
        """With the begun word, if there is one, scored as what it is."""
        if not prefix.begun:
            return prefix
        index = self.lm.core.index(prefix.begun)
        if index == 0 and self.unk_score is None:
            return replace(prefix, lm=-math.inf, begun=b"", pending=0.0)
        log10, state = self.lm.core.score_word(prefix.state, index)
        added = prefix.added + (0.0 if index or self.unk_score is None else self.unk_score)
        return FusedPrefix(state, prefix.lm + log10 * _LN10, added)

    def _likeliest(self, begun: bytes) -> float:
        """What the likeliest word that begins so adds, without context."""
        found = self._ahead.get(begun)
        if found is None:
            first = bisect_left(self._words, begun)
            last = bisect_left(self._words, begun + _AFTER_ALL)
            found = self._weighted(float(self._values[first:last].max(initial=-math.inf)))
            if self.unk_score is not None:
                found = max(found, self._weighted(self._unknown) + self.unk_score)
            if first < last:  # beginnings of unknown words are without number
                self._ahead[begun] = found
        return found

    def _weighted(self, log_prob: float) -> float:
        # A word that cannot be said stays so, be the weight 0.
        return self.weight * log_prob if math.isfinite(log_prob) else log_prob
