"""N-gram language models: reading, scoring, converting.

    model = LanguageModel.load("lm.bin")
    model.score("the quick brown fox")          # log10 P
    model.perplexity("the quick brown fox")
    convert("lm.arpa.gz", "lm.bin", kind="trie")

Three forms of a model hold the same n-grams. ARPA is text, which every toolkit reads. `probing` is
a binary of hash tables, the fastest to query. `trie` is a binary of sorted, bit-packed n-grams,
about half as large, less still with quantised numbers. Binaries are mapped, not read: loading takes
no time, and processes share the memory. csrc/ngram/format.h describes them.

Probabilities and back-off weights are base-10 logarithms, as in ARPA files.
"""

import bz2
import contextlib
import copyreg
import gzip
import io
import lzma
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ctcspeech._core import NgramModel, NgramTable
from ctcspeech._core import NgramState as State
from ctcspeech.errors import LanguageModelError
from ctcspeech.files import atomic_write

__all__ = [
    "LanguageModel",
    "State",
    "TextScore",
    "Vocabulary",
    "WordScore",
    "convert",
    "fit_mixture",
    "mix",
]

KINDS = ("arpa", "probing", "trie")

DEFAULT_UNKNOWN = -100.0  # log10 P(<unk>) where an ARPA file lists no <unk>, as in KenLM

# The first bytes of a compressed file, and what opens it.
_COMPRESSIONS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_BINARY = b"\x89CLM"  # how a binary of this package begins


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
        cls, path: str | os.PathLike[str], *, unknown_log10: float = DEFAULT_UNKNOWN
    ) -> "LanguageModel":
        """Reads an ARPA file (plain, gzip, bzip2, xz) or a binary of this package, told apart by
        content. A binary is mapped, not read.

        `unknown_log10` is the log10 probability of `<unk>` for an ARPA file that lists none.

        Raises LanguageModelError if the file is damaged or of another kind (with the line of an
        ARPA file), FileNotFoundError and the like if it cannot be opened.
        """
        path = Path(path)
        with open(path, "rb") as file:
            binary = file.read(4) == _BINARY
        if binary:
            return cls(NgramModel.load(os.fspath(path), DEFAULT_UNKNOWN), path)
        return cls(_read_table(path, unknown_log10).build("probing", 0, 0), path, unknown_log10)

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
            _write_table(table, Path(path), str(kind or self.kind), probability_bits, backoff_bits)

    def verify(self) -> None:
        """Reads the whole model and compares its checksums; LanguageModelError if one is wrong.

        Loading checks the header only. A binary that is damaged elsewhere scores wrongly, or finds
        no n-grams, but never crashes.
        """
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

    def __contains__(self, word: str) -> bool:
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

    def score(self, sentence: str | Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """log10 P(sentence). `sentence` is a text, split at white space, or a list of words; `bos`
        starts in the context of `<s>`, `eos` ends with the probability of `</s>`."""
        return self.core.score(_encoded(sentence), bos, eos)

    def full_scores(
        self, sentence: str | Sequence[str], bos: bool = True, eos: bool = True
    ) -> list[WordScore]:
        """The score of each word, and of `</s>` last if `eos`."""
        return [WordScore(*s) for s in self.core.full_scores(_encoded(sentence), bos, eos)]

    def perplexity(self, sentence: str | Sequence[str]) -> float:
        """10^(-log10 P / words), with `</s>` counted as a word and unknown words included."""
        scores = self.full_scores(sentence)
        return _power(-sum(s.log10 for s in scores), len(scores))

    def score_text(
        self, lines: Sequence[str | bytes], bos: bool = True, eos: bool = True
    ) -> TextScore:
        """Sums over many sentences, quicker than one by one."""
        encoded = [_encode(line) if isinstance(line, str) else line for line in lines]
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


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str | None = None,
    *,
    probability_bits: int = 0,
    backoff_bits: int = 0,
    unknown_log10: float = DEFAULT_UNKNOWN,
) -> None:
    """Writes the model of one file in another form.

    `kind` is `arpa`, `probing` or `trie`; by default `arpa` if the target's name ends in `.arpa`
    (then perhaps `.gz`), else `probing`. A trie may be quantised: `probability_bits` (1 to 24) and
    `backoff_bits` (2 to 24) are the bits of a number, 0 keeps the 32 of a float; 8 and 8 change
    scores by about 0.01 each.

    Raises LanguageModelError if the source is damaged, or is of kind `probing` and the target is
    not: a probing binary keeps hashes of its n-grams and cannot list them.
    """
    source, target = Path(source), Path(target)
    if kind is None:
        name = target.name.lower()
        kind = "arpa" if name.endswith((".arpa", ".arpa.gz")) else "probing"
    _check_kind(kind, probability_bits, backoff_bits)
    with open(source, "rb") as file:
        binary = file.read(4) == _BINARY
    if not binary:
        table = _read_table(source, unknown_log10)
    else:
        model = LanguageModel.load(source)
        model.verify()
        if kind == model.kind == "probing":
            return model.save(target)
        table = NgramTable.from_model(model.core)
    _write_table(table, target, kind, probability_bits, backoff_bits)


def mix(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    target: str | os.PathLike[str],
    first_weight: float,
    kind: str = "probing",
) -> None:
    """Writes one model that interpolates two: P = w P1 + (1 - w) P2 for every n-gram that either
    lists, with back-off weights that make the sum over all words 1 (Stolcke 2002, "SRILM").

    A word that one model lacks has the probability 0 there. The files may be ARPA or `trie`.
    """
    if not 0 <= first_weight <= 1:
        raise ValueError(f"first_weight must be from 0 to 1, got {first_weight}")
    _check_kind(kind, 0, 0)
    tables = [_listed(Path(path)) for path in (first, second)]
    _write_table(NgramTable.mix(*tables, first_weight), Path(target), kind, 0, 0)


def fit_mixture(
    first: LanguageModel,
    second: LanguageModel,
    sentences: Sequence[str],
    tolerance: float = 1e-5,
) -> float:
    """The weight of the first model with which `mix` gives the sentences the highest probability,
    by expectation maximisation (Dempster et al. 1977). Words that neither has are left out."""
    pairs = _mixture_pairs(first, second, sentences)
    if not pairs:
        raise LanguageModelError("no word of the text is in a vocabulary of the two models")
    weight = 0.5
    for _ in range(1000):
        total = 0.0
        for a, b in pairs:
            ours = weight * a
            total += ours / (ours + (1.0 - weight) * b)
        updated = total / len(pairs)
        change, weight = abs(updated - weight), updated
        if change < tolerance:
            break
    return weight


def _mixture_pairs(
    first: LanguageModel, second: LanguageModel, sentences: Sequence[str]
) -> list[tuple[float, float]]:
    pairs = []
    for sentence in sentences:
        scores = zip(first.full_scores(sentence), second.full_scores(sentence), strict=True)
        for a, b in scores:
            p, q = (0.0 if s.oov else math.pow(10.0, s.log10) for s in (a, b))
            if p > 0 or q > 0:
                pairs.append((p, q))
    return pairs


def _power(exponent: float, count: int) -> float:
    if count == 0:
        return math.nan
    try:
        return math.pow(10.0, exponent / count)
    except OverflowError:
        return math.inf


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _encoded(sentence: str | Sequence[str]) -> bytes | list[bytes]:
    # A text is split by the native core, at ASCII white space: str.split() would also split at
    # U+00A0 and its like, which can stand within a word of a model.
    return _encode(sentence) if isinstance(sentence, str) else [_encode(w) for w in sentence]


def _check_kind(kind: str, probability_bits: int, backoff_bits: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, bits, least in (
        ("probability_bits", probability_bits, 1),
        ("backoff_bits", backoff_bits, 2),
    ):
        if bits != 0 and not least <= bits <= 24:
            raise ValueError(f"{name} must be 0 or from {least} to 24, got {bits}")
        if bits and kind != "trie":
            raise ValueError(f"{name} needs kind 'trie', got {kind!r}")


def _read_table(path: Path, unknown_log10: float) -> Any:
    """The n-grams of an ARPA file, compressed or not."""
    if not unknown_log10 <= 0:
        raise ValueError(f"unknown_log10 must be at most 0, got {unknown_log10}")
    with open(path, "rb") as plain:
        head = plain.read(16)
        if head.startswith(b"mmap lm http"):
            raise LanguageModelError(
                f"{path}: a binary of KenLM, whose layout is KenLM's own; convert the ARPA file "
                "that it was made from: ctcspeech lm convert model.arpa model.bin"
            )
        plain.seek(0)
        with contextlib.ExitStack() as stack:
            file: Any = plain
            for magic, opener in _COMPRESSIONS:
                if head.startswith(magic):
                    file = stack.enter_context(opener(plain, "rb"))
            try:
                return NgramTable.read_arpa(file, str(path), unknown_log10)
            except (EOFError, OSError, lzma.LZMAError) as error:
                raise LanguageModelError(f"{path}: cannot be decompressed: {error}") from error


def _listed(path: Path) -> Any:
    """The n-grams of an ARPA file or of a trie."""
    with open(path, "rb") as file:
        binary = file.read(4) == _BINARY
    if not binary:
        return _read_table(path, DEFAULT_UNKNOWN)
    try:
        return NgramTable.from_model(LanguageModel.load(path).core)
    except LanguageModelError as error:
        raise LanguageModelError(f"{path}: {error}") from None


def _write_table(
    table: Any, path: Path, kind: str, probability_bits: int, backoff_bits: int
) -> None:
    _check_kind(kind, probability_bits, backoff_bits)
    if kind != "arpa":
        model = table.build(kind, probability_bits, backoff_bits)
        with atomic_write(path, "wb") as file:
            model.write(file.write)
        return
    with atomic_write(path, "wb") as file:
        if path.suffix == ".gz":
            # No name and no time of day: the same model gives the same file.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                table.write_arpa(packed.write)
        else:
            table.write_arpa(file.write)
