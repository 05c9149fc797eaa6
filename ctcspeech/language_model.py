"""N-gram language models: reading, scoring, converting.

    model = LanguageModel.load("lm.bin")
    model.score("the quick brown fox")          # log10 P
    model.perplexity("the quick brown fox")

Probabilities and back-off weights are base-10 logarithms, as in ARPA files.
"""

import bz2
import gzip
import lzma
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ctcspeech._core import NgramModel
from ctcspeech._core import NgramState as State
from ctcspeech.errors import LanguageModelError

__all__ = ["LanguageModel", "State", "Vocabulary", "WordScore"]

DEFAULT_UNKNOWN = -100.0  # log10 P(<unk>) where an ARPA file lists no <unk>, as in KenLM

# The first bytes of a compressed file, and what opens it.
_COMPRESSIONS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))


class WordScore(NamedTuple):
    """One word of a sentence: log10 P(word | words before it), the length of the n-gram whose
    probability was used, and whether the word is outside the vocabulary. The fields stand in the
    order in which the `kenlm` package has them."""

    log10: float
    order: int
    oov: bool


class Vocabulary(Sequence[str]):
    """The words of a model by index; 0 is `<unk>`. `word in vocabulary` is quick."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __len__(self) -> int:
        return self._core.vocab_size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"word {index} of a vocabulary of {len(self)} words")
        return self._core.word(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self._core.index(word) != 0

    def index(self, value: str, *_: Any) -> int:  # type: ignore[override]
        """The word's index, 0 (that of `<unk>`) for a word that is not in the vocabulary."""
        return self._core.index(value)


class LanguageModel:
    """A back-off n-gram language model. Immutable; may be shared among threads.

    The native model is in `.core` for the other parts of the native core.
    """

    def __init__(self, core: Any, path: Path | None = None) -> None:
        self.core, self.path = core, path

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, unknown_log10: float = DEFAULT_UNKNOWN
    ) -> "LanguageModel":
        """Reads an ARPA file (plain, gzip, bzip2, xz) or a binary of this package, told apart by
        content. A binary is mapped, not read.

        `unknown_log10` is the log10 probability of `<unk>` for an ARPA file that lists none.

        Raises LanguageModelError if the file is damaged or of another kind (with the line of an
        ARPA file), FileNotFoundError and the like if it cannot be opened.
        """
        if not unknown_log10 <= 0:
            raise ValueError(f"unknown_log10 must be at most 0, got {unknown_log10}")
        path = Path(path)
        with open(path, "rb") as file:
            head = file.read(8)
        for magic, opener in _COMPRESSIONS:
            if head.startswith(magic):
                with opener(path, "rb") as file:
                    return cls(_read_arpa(file, str(path), unknown_log10), path)
        return cls(NgramModel.load(os.fspath(path), unknown_log10), path)

    @classmethod
    def read_arpa(
        cls, file: IO[bytes], *, name: str = "<file>", unknown_log10: float = DEFAULT_UNKNOWN
    ) -> "LanguageModel":
        """Reads an ARPA file from an open binary file. `name` stands in error messages."""
        return cls(_read_arpa(file, name, unknown_log10))

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return self.core.order

    @property
    def counts(self) -> list[int]:
        """The number of n-grams of each order, unigrams first, `<unk>` included."""
        return self.core.counts

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the model, `<unk>`, `<s>` and `</s>` included."""
        return Vocabulary(self.core)

    def __contains__(self, word: str) -> bool:
        return self.core.index(word) != 0

    def __repr__(self) -> str:
        return f"LanguageModel(order={self.order}, counts={self.counts})"

    def score(self, sentence: str | Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """log10 P(sentence). `sentence` is a text, split at white space, or a list of words; `bos`
        starts in the context of `<s>`, `eos` ends with the probability of `</s>`."""
        return self.core.score(_words(sentence), bos, eos)

    def full_scores(
        self, sentence: str | Sequence[str], bos: bool = True, eos: bool = True
    ) -> list[WordScore]:
        """The score of each word, and of `</s>` last if `eos`."""
        return [WordScore(*s) for s in self.core.full_scores(_words(sentence), bos, eos)]

    def perplexity(self, sentence: str | Sequence[str]) -> float:
        """10^(-log10 P / words), with `</s>` counted as a word and unknown words included."""
        words = _words(sentence)
        return math.pow(10.0, -self.core.score(words, True, True) / (len(words) + 1))

    def begin_state(self) -> State:
        """The state after `<s>`."""
        return self.core.begin_state()

    def null_state(self) -> State:
        """The state without any context."""
        return self.core.null_state()

    def score_word(self, state: State, word: str) -> tuple[float, State]:
        """log10 P(word | state), and the state after the word. States are small, hashable, and
        equal exactly if every continuation scores the same."""
        return self.core.score_word(state, self.core.index(word))

    def score_end(self, state: State) -> float:
        """log10 P(</s> | state)."""
        return self.core.score_word(state, self.core.eos)[0]


def _words(sentence: str | Sequence[str]) -> list[str]:
    # str.split() would also split at U+00A0 and its like, which can stand within a word of a model.
    if isinstance(sentence, str):
        return [w.decode("utf-8", "surrogatepass") for w in _encode(sentence).split()]
    return list(sentence)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _read_arpa(file: IO[bytes], name: str, unknown_log10: float) -> Any:
    try:
        return NgramModel.read_arpa(file, name, unknown_log10)
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise LanguageModelError(f"{name}: cannot be decompressed: {error}") from error
