"""N-gram language models: reading and scoring.

    model = LanguageModel.load("lm.bin")
    model.score("the quick brown fox")          # log10 P
    model.perplexity("the quick brown fox")

Three forms of a model hold the same n-grams. ARPA is text, which every toolkit reads. `probing` is
a binary of hash tables, the fastest to query. `trie` is a binary of sorted, bit-packed n-grams,
about half as large, less still with quantised numbers. Binaries are mapped: processes share the
memory. KenLM's binaries are read too, anew each time: `lm convert` them once. csrc/ngram/format.h
and kenlm.h describe the formats.

Probabilities and back-off weights are base-10 logarithms, as in ARPA files.
"""

import copyreg
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ctcspeech._core import NgramModel, NgramTable
from ctcspeech._core import NgramState as State
from ctcspeech.errors import LanguageModelError
from ctcspeech.files import atomic_write
from ctcspeech.lm.files import DEFAULT_UNKNOWN, read_model, write_table

__all__ = [
    "LanguageModel",
    "State",
    "TextScore",
    "Vocabulary",
    "WordScore",
]


class WordScore(NamedTuple):
    """One word of a sentence: log10 P(word | words before it), the length of the n-gram whose
    probability was used, and whether the word is outside the vocabulary. The fields stand in the
    order in which the `kenlm` package has them."""

    log10: float
    order: int
    oov: bool


class TextScore(NamedTuple):
    """Sums over a text. Tokens are the words and one `</s>` a sentence."""

    sentences: int
    tokens: int
    oov: int
    log10: float  # of P(text)
    log10_oov: float  # the part of it that the words outside the vocabulary have
    by_order: list[int]  # tokens by the length of the n-gram used, from 1

    @property
    def perplexity(self) -> float:
        """10^(-log10 P / tokens), the words outside the vocabulary included."""
        return _power(-self.log10, self.tokens)

    @property
    def perplexity_without_oov(self) -> float:
        """The same over the tokens of the vocabulary alone."""
        return _power(-(self.log10 - self.log10_oov), self.tokens - self.oov)

    def __add__(self, other: Any) -> "TextScore":  # type: ignore[override]
        return TextScore(
            self.sentences + other.sentences,
            self.tokens + other.tokens,
            self.oov + other.oov,
            self.log10 + other.log10,
            self.log10_oov + other.log10_oov,
            [a + b for a, b in zip(self.by_order, other.by_order, strict=True)],
        )


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
        return isinstance(word, str) and self._core.index(_encode(word)) != 0

    def index(self, value: str, *_: Any) -> int:  # type: ignore[override]
        """The word's index, 0 (that of `<unk>`) for a word that is not in the vocabulary."""
        return self._core.index(_encode(value))


class LanguageModel:
    """A back-off n-gram language model. Immutable; may be shared among threads.

    A model that was loaded from a file is pickled as the file's path, and the file must be there
    and hold the same model when it is unpickled (the binary is mapped again: processes share it).
    Any other is pickled whole.

    The native model is in `.core` for the other parts of the native core.
    """

    def __init__(
        self, core: Any, path: Path | None = None, unknown_log10: float = DEFAULT_UNKNOWN
    ) -> None:
        self.core, self.path = core, path
        self._unknown_log10 = unknown_log10  # with which the file was read

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        unknown_log10: float = DEFAULT_UNKNOWN,
        verify: bool = True,
    ) -> "LanguageModel":
        """Reads an ARPA file (plain, gzip, bzip2, xz), a binary of this package, or one of KenLM
        (probing or trie, quantised or not), told apart by content. A binary of this package is
        mapped, the others are read.

        `unknown_log10` is the log10 probability of `<unk>` for an ARPA file that lists none.
        `verify`: compare the checksums of a binary of this package and look at every value, as
        `verify()` does, which reads it once (about 0.4 s a GB where it is in the file cache).
        Without, only its header is looked at; one that is damaged elsewhere scores wrongly, or
        finds no n-grams, but never crashes.

        Raises LanguageModelError if the file is damaged or of another kind (with the line of an
        ARPA file), FileNotFoundError and the like if it cannot be opened.
        """
        path = Path(path)
        return cls(read_model(path, unknown_log10, verify), path, unknown_log10)

    @classmethod
    def read_arpa(
        cls, file: IO[bytes], *, name: str = "<file>", unknown_log10: float = DEFAULT_UNKNOWN
    ) -> "LanguageModel":
        """Reads an ARPA file from an open binary file. `name` stands in error messages."""
        return cls(NgramTable.read_arpa(file, name, unknown_log10).build("probing", 0, 0))

    def save(
        self,
        path: str | os.PathLike[str],
        kind: str | None = None,
        *,
        probability_bits: int = 0,
        backoff_bits: int = 0,
    ) -> None:
        """Writes the model. `kind` is that of `convert`, by default the kind that it has.

        Raises LanguageModelError for a change of kind if the model is of kind `probing`, which
        keeps hashes of its n-grams only: use `convert` on the ARPA file then.
        """
        if kind in (None, self.kind) and probability_bits == backoff_bits == 0:
            with atomic_write(path, "wb") as file:
                self.core.write(file.write)
        else:
            table = NgramTable.from_model(self.core)
            write_table(table, Path(path), str(kind or self.kind), probability_bits, backoff_bits)

    def verify(self) -> None:
        """Reads the whole model: LanguageModelError if a checksum is wrong, a probability is above
        0 or no number, or a back-off weight is not finite."""
        self.core.verify()

    def info(self) -> dict[str, Any]:
        """What the model holds: kind, order, counts, vocabulary, bytes, bits of quantisation."""
        facts = self.core.info()
        return {
            "path": str(self.path) if self.path else None,
            "kind": self.kind,
            "order": self.order,
            "counts": self.counts,
            "vocabulary": len(self.vocabulary),
            **{k: v for k, v in facts.items() if k != "kind"},
        }

    @property
    def kind(self) -> str:
        """`probing` or `trie`: how the n-grams are stored. An ARPA file becomes `probing`."""
        return self.core.info()["kind"]

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

    def __contains__(self, word: str | bytes) -> bool:
        return self.core.index(_encode(word)) != 0

    def __copy__(self) -> "LanguageModel":
        return self  # it never changes

    def __deepcopy__(self, memo: Any) -> "LanguageModel":
        return self

    def __reduce__(self) -> Any:
        if self.path is None:
            return LanguageModel, (self.core,)
        path = os.path.abspath(self.path)
        return _unpickled, (path, self._unknown_log10, self.core.fingerprint)

    def __repr__(self) -> str:
        return f"LanguageModel(order={self.order}, counts={self.counts})"

    def score(
        self, sentence: str | bytes | Sequence[str], bos: bool = True, eos: bool = True
    ) -> float:
        """log10 P(sentence). `sentence` is a text (bytes: UTF-8), split at ASCII white space, or
        a list of words; `bos` starts in the context of `<s>`, `eos` ends with the probability of
        `</s>`."""
        return self.core.score(_encoded(sentence), bos, eos)

    def full_scores(
        self, sentence: str | bytes | Sequence[str], bos: bool = True, eos: bool = True
    ) -> list[WordScore]:
        """The score of each word, and of `</s>` last if `eos`."""
        return [WordScore(*s) for s in self.core.full_scores(_encoded(sentence), bos, eos)]

    def perplexity(self, sentence: str | bytes | Sequence[str]) -> float:
        """10^(-log10 P / words), with `</s>` counted as a word and unknown words included."""
        scores = self.full_scores(sentence)
        return _power(-sum(s.log10 for s in scores), len(scores))

    def score_text(
        self, lines: Sequence[str | bytes], bos: bool = True, eos: bool = True
    ) -> TextScore:
        """Sums over many sentences, quicker than one by one."""
        encoded = [_encode(line) for line in lines]
        return TextScore(len(lines), *self.core.summarize(encoded, bos, eos))

    def begin_state(self) -> State:
        """The state after `<s>`."""
        return self.core.begin_state()

    def null_state(self) -> State:
        """The state without any context."""
        return self.core.null_state()

    def score_word(self, state: State, word: str) -> tuple[float, State]:
        """log10 P(word | state), and the state after the word. States are small, hashable, and
        equal exactly if every continuation scores the same."""
        return self.core.score_word(state, self.core.index(_encode(word)))

    def full_score_word(self, state: State, word: str | bytes) -> tuple[WordScore, State]:
        """`score_word` with the length of the n-gram used, and whether the word is unknown."""
        index = self.core.index(_encode(word))
        log10, order, after = self.core.full_score_word(state, index)
        return WordScore(log10, order, index == 0), after

    def score_end(self, state: State) -> float:
        """log10 P(</s> | state)."""
        return self.core.score_word(state, self.core.eos)[0]


def _core_from_bytes(image: bytes) -> Any:
    return NgramModel.from_bytes(image, "the pickled model")


def _reduce_core(core: Any) -> Any:
    image = io.BytesIO()
    core.write(image.write)
    return _core_from_bytes, (image.getvalue(),)


copyreg.pickle(NgramModel, _reduce_core)


def _unpickled(path: str, unknown_log10: float, fingerprint: int) -> LanguageModel:
    try:
        model = LanguageModel.load(path, unknown_log10=unknown_log10)
    except OSError as error:
        raise LanguageModelError(
            f"{path}: {error.strerror}; the pickled model refers to this file"
        ) from error
    if model.core.fingerprint != fingerprint:
        raise LanguageModelError(
            f"{path}: holds another model than when it was pickled; unpickle where the file is the "
            "same"
        )
    return model


def _power(exponent: float, count: int) -> float:
    if count == 0:
        return math.nan
    try:
        return math.pow(10.0, exponent / count)
    except OverflowError:
        return math.inf


def _encode(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _encoded(sentence: str | bytes | Sequence[str]) -> bytes | list[bytes]:
    # A text is split by the native core, at ASCII white space: str.split() would also split at
    # U+00A0 and its like, which can stand within a word of a model.
    if isinstance(sentence, (str, bytes)):
        return _encode(sentence)
    return [_encode(word) for word in sentence]
