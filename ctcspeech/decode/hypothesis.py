"""What a recogniser answers: words with their times, and hypotheses with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ctcspeech.text.alphabet import Alphabet

__all__ = ["Hypothesis", "Word", "word_frames", "word_spans"]

# Labels of a word do not stand further apart than this. A model that sees the whole utterance can
# put a word's first or last label far out into the silence beside it; the word's time is then that
# of its other labels, and _STRAY_SECONDS more in place of the stray one.
_LONGEST_GAP_SECONDS = 0.25
_STRAY_SECONDS = 0.1


@dataclass
class Word:
    """A recognised or aligned word. Times are seconds from the start of the recording."""

    text: str
    start: float
    end: float
    confidence: float | None = None  # probability in [0, 1] that the word is right


@dataclass
class Hypothesis:
    """One reading of an utterance, with the parts of its score.

    Q(c) = ctc_score + lm_weight * lm_score + word_score * word_count (natural logarithms; Hannun et
    al. 2014, section 3).
    """

    text: str
    tokens: list[int]
    score: float  # Q
    ctc_score: float  # ln P_ctc(c | x)
    lm_score: float = 0.0  # ln P_lm(c), 0 without a language model
    words: list[Word] = field(default_factory=list)
    attention_score: float | None = None  # ln P of an attention decoder, where one was asked


def word_spans(alphabet: Alphabet, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Which tokens make a word: (first, last + 1) for each, the separators left out.

    Words end at the separator (`alphabet.space`); with SentencePiece they begin at a piece that is
    marked so. Where an alphabet has neither, all tokens are one word.
    """
    pieces = alphabet.has_pieces
    spans: list[tuple[int, int]] = []
    first = 0
    for i, token in enumerate(tokens):
        if token == alphabet.space:
            spans.append((first, i))
            first = i + 1
        elif pieces and alphabet.labels[token].startswith("▁"):
            spans.append((first, i))
            first = i
    spans.append((first, len(tokens)))
    return [(begin, end) for begin, end in spans if end > begin]


def word_frames(starts: np.ndarray, ends: np.ndarray, seconds: float) -> tuple[int, int]:
    """First frame and last + 1 of a word, from those of its labels (L,), `seconds` a frame.

    Where labels stand more than 0.25 s apart, those that stand most together tell the time, and 0.1
    s is added for the others.
    """
    far = np.flatnonzero((starts[1:] - ends[:-1]) * seconds > _LONGEST_GAP_SECONDS) + 1
    if not len(far):
        return int(starts[0]), int(ends[-1])
    edges = [0, *far.tolist(), len(starts)]
    first, last = max(zip(edges, edges[1:], strict=False), key=lambda group: group[1] - group[0])
    stray = round(_STRAY_SECONDS / seconds)
    begin = int(starts[first]) - (stray if first else 0)
    return begin, int(ends[last - 1]) + (stray if last < len(starts) else 0)
