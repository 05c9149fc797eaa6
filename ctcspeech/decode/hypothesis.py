"""What a recogniser answers: words with their times, and hypotheses with their scores."""

from dataclasses import dataclass, field

__all__ = ["Hypothesis", "Word"]


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
