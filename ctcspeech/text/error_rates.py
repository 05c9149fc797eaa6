"""Error rates of transcripts: edit distance, its parts, and how far chance may move them.

    word_errors("one two three", "one too three four")
    # ErrorCounts(substitutions=1, deletions=0, insertions=1, reference_length=3), .rate 0.667

The alignment is one of fewest edits (Levenshtein 1966), found by rapidfuzz. Where several have as
few, they can differ in how many of the edits are substitutions; the one taken is jiwer's.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "ErrorCounts",
    "align",
    "aligned_rows",
    "bootstrap_interval",
    "character_error_rate",
    "character_errors",
    "count_errors",
    "word_error_rate",
    "word_errors",
]


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn a reference into a hypothesis. Add them up over utterances with +."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def correct(self) -> int:
        return self.reference_length - self.substitutions - self.deletions

    @property
    def rate(self) -> float:
        """Errors per token of the reference: 0.25 is 25%. Can exceed 1. Of an empty reference, 0
        without errors and infinity with some."""
        if self.reference_length:
            return self.errors / self.reference_length
        return float("inf") if self.errors else 0.0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        if not isinstance(other, ErrorCounts):
            return NotImplemented
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )

    def __radd__(self, other: object) -> "ErrorCounts":
        return self if other == 0 else NotImplemented  # sum() starts from 0


def word_errors(reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> ErrorCounts:
    """Word errors of one utterance: two texts, split at white space, or two lists of words."""
    return count_errors(_words(reference), _words(hypothesis))


def character_errors(
    reference: str | Sequence[str], hypothesis: str | Sequence[str]
) -> ErrorCounts:
    """Character errors of one utterance, in code points: two texts, or two lists of words.

    The space between two words counts as a character; other white space is reduced to it.
    """
    return count_errors(" ".join(_words(reference)), " ".join(_words(hypothesis)))


def word_error_rate(references: str | Iterable[str], hypotheses: str | Iterable[str]) -> float:
    """WER over a corpus: all word errors over all words of the references (0.25 is 25%).

    Two iterables of texts of the same length, or two texts. Raises TypeError for a text beside an
    iterable, ValueError for iterables of different length.
    """
    pairs = _pairs(references, hypotheses)
    return sum((word_errors(*pair) for pair in pairs), ErrorCounts()).rate


def character_error_rate(references: str | Iterable[str], hypotheses: str | Iterable[str]) -> float:
    """CER over a corpus: all character errors over all characters of the references.

    Arguments and errors are those of `word_error_rate`.
    """
    pairs = _pairs(references, hypotheses)
    return sum((character_errors(*pair) for pair in pairs), ErrorCounts()).rate


def _pairs(
    references: str | Iterable[str], hypotheses: str | Iterable[str]
) -> Iterable[tuple[str, str]]:
    # A str is an iterable of str: taken as one, its characters would be the utterances.
    if isinstance(references, str) and isinstance(hypotheses, str):
        return [(references, hypotheses)]
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, str):
            raise TypeError(
                f"{name} is one text, but the other argument holds several; pass two "
                "texts or two lists of texts"
            )
    return zip(references, hypotheses, strict=True)


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """Errors of any two sequences of tokens."""
    from rapidfuzz.distance import Levenshtein  # here, as transcribing needs none of it

    counts = {"replace": 0, "delete": 0, "insert": 0}
    for edit in Levenshtein.editops(*_numbered(reference, hypothesis)):
        counts[edit.tag] += 1
    return ErrorCounts(counts["replace"], counts["delete"], counts["insert"], len(reference))


def align(
    reference: Sequence[Hashable], hypothesis: Sequence[Hashable]
) -> list[tuple[int | None, int | None]]:
    """Pairs of an index into `reference` and one into `hypothesis`, from the first to the last.

    (i, j) is a correct or substituted token, (i, None) a deletion, (None, j) an insertion. Time is
    proportional to the product of the lengths.
    """
    from rapidfuzz.distance import Levenshtein

    pairs: list[tuple[int | None, int | None]] = []
    for block in Levenshtein.opcodes(*_numbered(reference, hypothesis)):
        sources = range(block.src_start, block.src_end)
        targets = range(block.dest_start, block.dest_end)
        if block.tag == "delete":
            pairs.extend((i, None) for i in sources)
        elif block.tag == "insert":
            pairs.extend((None, j) for j in targets)
        else:
            pairs.extend(zip(sources, targets, strict=True))
    return pairs


def _numbered(*sequences: Sequence[Hashable]) -> list[list[int]]:
    # rapidfuzz compares hashes, which two words could share; equal numbers are equal tokens.
    number: dict[Hashable, int] = {}
    return [[number.setdefault(token, len(number)) for token in tokens] for tokens in sequences]


def _words(text: str | Sequence[str]) -> Sequence[str]:
    return text.split() if isinstance(text, str) else text


def aligned_rows(
    reference: str | Sequence[str], hypothesis: str | Sequence[str], width: int = 100
) -> list[str]:
    """Reference, hypothesis and marks (S, D, I) below each other, as lines for people to read.

        REF: the cat *** sat
        HYP: the hat has sat
                 S   I

    Wider alignments than `width` characters go on in another group of three lines.
    """
    reference, hypothesis = _words(reference), _words(hypothesis)
    lines: list[str] = []
    rows = ["REF:", "HYP:", "    "]

    def flush() -> None:
        lines.extend(row.rstrip() for row in rows)
        rows[:] = ["REF:", "HYP:", "    "]

    for r, h in align(reference, hypothesis):
        ref = "" if r is None else reference[r]
        hyp = "" if h is None else hypothesis[h]
        size = max(len(ref), len(hyp), 1)
        mark = "I" if r is None else "D" if h is None else "" if ref == hyp else "S"
        if len(rows[0]) + 1 + size > width and len(rows[0]) > 4:
            flush()
        cells = (ref or "*" * size, hyp or "*" * size, mark)
        for k, cell in enumerate(cells):
            rows[k] += " " + cell.ljust(size)
    flush()
    return lines


def bootstrap_interval(
    counts: Sequence[ErrorCounts],
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the corpus error rate, by the percentile bootstrap.

    Utterances are drawn with replacement (Bisani and Ney 2004, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation"). With `groups` (a speaker for each utterance, say)
    whole groups are drawn, because errors of one speaker are not independent. The same seed gives
    the same interval. Raises ValueError when there is nothing to draw from.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but is {level}")
    if not counts:
        raise ValueError("counts must hold at least one utterance, but is empty")
    errors = np.array([count.errors for count in counts], dtype=np.float64)
    lengths = np.array([count.reference_length for count in counts], dtype=np.float64)
    if groups is not None:
        if len(groups) != len(counts):
            raise ValueError(
                f"groups must have one entry for each of the {len(counts)} counts, "
                f"but has {len(groups)}"
            )
        number: dict[Hashable, int] = {}
        index = np.array([number.setdefault(group, len(number)) for group in groups])
        errors = np.bincount(index, errors).astype(np.float64)
        lengths = np.bincount(index, lengths).astype(np.float64)
    generator = np.random.default_rng(seed)
    rates = np.empty(resamples)
    for k in range(resamples):
        drawn = generator.integers(0, len(errors), len(errors))
        length = lengths[drawn].sum()
        rates[k] = errors[drawn].sum() / length if length else np.nan
    rates = rates[np.isfinite(rates)]  # a draw of empty references alone says nothing
    if not len(rates):
        raise ValueError("counts must hold a reference that is not empty")
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
