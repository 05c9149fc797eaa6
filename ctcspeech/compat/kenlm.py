"""The interface of the `kenlm` package over `ctcspeech.LanguageModel`.

    from ctcspeech.compat import kenlm

    model = kenlm.Model("lm.arpa")      # or a binary, of KenLM or of this package
    model.score("this is a sentence")   # log10 P

Scores, lengths of n-grams and states are those of `kenlm`. Different on purpose: `Config` is taken
and has no effect (a file is read as LanguageModel.load reads it, quietly), and a damaged file is a
LanguageModelError (an OSError too, as kenlm's callers expect).
"""

import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.model import LanguageModel as _NgramModel
from ctcspeech.lm.model import State as _NgramState

__all__ = [
    "ARPALoadComplain",
    "Config",
    "FullScoreReturn",
    "LanguageModel",
    "LoadMethod",
    "Model",
    "State",
]

Text = str | bytes


class LoadMethod:
    """How kenlm reads a binary. Taken and not used: ours is mapped."""

    LAZY, POPULATE_OR_LAZY, POPULATE_OR_READ, READ, PARALLEL_READ = range(5)


class ARPALoadComplain:
    """How much kenlm says about ARPA files. Taken and not used: ours is quiet."""

    ALL, EXPENSIVE, NONE = range(3)


class Config:
    """Options of kenlm's loader, kept but not used."""

    def __init__(self) -> None:
        self.load_method = LoadMethod.POPULATE_OR_READ
        self.show_progress = False
        self.arpa_complain = ARPALoadComplain.NONE


class FullScoreReturn(NamedTuple):
    """What BaseFullScore returns."""

    log_prob: float
    ngram_length: int
    oov: bool


class ModelError(LanguageModelError, OSError):
    """A model that cannot be read: kenlm raises OSError."""


@functools.total_ordering
class State:
    """What later scores depend on; a box that BeginSentenceWrite, NullContextWrite and BaseScore
    fill. Comparable and hashable by its contents."""

    def __init__(self) -> None:
        self._state: _NgramState | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._state == other._state

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return self._words() < other._words()

    def __hash__(self) -> int:
        return hash(self._state)

    def _words(self) -> list[int]:
        return [] if self._state is None else list(self._state.words)

    def __copy__(self) -> "State":
        copied = State()
        copied._state = self._state  # never changed in place
        return copied

    def __deepcopy__(self, memo: Any = None) -> "State":
        return self.__copy__()


class Model:
    """`kenlm.Model`. Words and sentences are str or bytes (UTF-8)."""

    def __init__(self, path: str | bytes | os.PathLike[str], config: Config | None = None) -> None:
        self.path = os.fsencode(os.path.abspath(os.fsdecode(path)))
        try:
            self._lm = _NgramModel.load(os.fsdecode(path))
        except LanguageModelError as error:
            raise ModelError(f"Cannot read model '{os.fsdecode(path)}' ({error})") from error
        except OSError as error:
            raise ModelError(
                f"Cannot read model '{os.fsdecode(path)}' ({error.strerror})"
            ) from error

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return self._lm.order

    def score(self, sentence: Text, bos: bool = True, eos: bool = True) -> float:
        """log10 P(sentence), as `LanguageModel.score`."""
        return self._lm.score(sentence, bool(bos), bool(eos))

    def perplexity(self, sentence: Text) -> float:
        """10^(-log10 P / words), with `</s>` as a word and unknown words included."""
        return self._lm.perplexity(sentence)

    def full_scores(
        self, sentence: Text, bos: bool = True, eos: bool = True
    ) -> Iterator[tuple[float, int, bool]]:
        """(log10 P, length of the n-gram used, whether unknown) of each word, and of `</s>`."""
        for score in self._lm.full_scores(sentence, bool(bos), bool(eos)):
            yield tuple(score)  # type: ignore[misc]

    def BeginSentenceWrite(self, state: State) -> None:
        """Makes it the state after `<s>`."""
        state._state = self._lm.begin_state()

    def NullContextWrite(self, state: State) -> None:
        """Makes it the state without context."""
        state._state = self._lm.null_state()

    def BaseScore(self, in_state: State, word: Text, out_state: State) -> float:
        """log10 P(word | in_state); the state after the word goes to `out_state`."""
        return self.BaseFullScore(in_state, word, out_state).log_prob

    def BaseFullScore(self, in_state: State, word: Text, out_state: State) -> FullScoreReturn:
        """The same, with the length of the n-gram used and whether the word is unknown."""
        before = in_state._state if in_state._state is not None else self._lm.null_state()
        score, out_state._state = self._lm.full_score_word(before, word)
        return FullScoreReturn(*score)

    def __contains__(self, word: Text) -> bool:
        return word in self._lm

    def __repr__(self) -> str:
        return f"<Model from {os.path.basename(os.fsdecode(self.path))}>"

    def __reduce__(self) -> Any:
        return Model, (os.fsdecode(self.path),)


LanguageModel = Model  # kenlm keeps both names
