"""Cutting a long recording by its text into utterances for training, bad pairs left out.

    aligned = align_text(emissions, lines, alphabet, normalizer, skip="ends")
    pieces = split_text(aligned, duration)
    good = [piece for piece in pieces if not piece.dropped]

After Kürzinger et al. 2020, CTC-Segmentation of Large Corpora for German End-to-End Speech
Recognition: the whole text is aligned with the whole recording at once, and an utterance is judged
by the worst stretch of its path.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctcspeech.align.known_text import AlignedText

__all__ = ["Piece", "SplitLimits", "sentences", "split_text"]

# A sentence ends at . ! ? … and closing quotes or brackets before white space, not after an
# initial ("J. Smith") or a usual abbreviation; at the full stops of Chinese and Japanese anywhere.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'»”’)\]]*\s+|[。！？]+[」』”]*\s*|\n\s*\n")
_ABBREVIATION = re.compile(r"(?:^|[\s(\"“])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|No|vs|etc|e\.g|i\.e)$")

_LEEWAY = 0.1  # seconds kept of skipped speech: labels begin and end within their sounds


@dataclass(frozen=True)
class SplitLimits:
    """Which utterances are kept, and how they are cut. Times are seconds."""

    min_score: float = -1.5  # worst window's mean log-probability, natural logarithm
    window: float = 1.0  # of the score
    min_seconds: float = 0.3
    max_seconds: float = 20.0  # longer ones are divided at the longest pauses between words
    padding: float = 0.25  # kept before the first and after the last label, at most

    def __post_init__(self) -> None:
        if self.min_score > 0:
            raise ValueError(f"min_score must be at most 0, got {self.min_score}")
        if not self.window > 0 or self.padding < 0:
            raise ValueError("window must be above 0, padding at least 0")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                "must be: 0 <= min_seconds < max_seconds, got "
                f"{self.min_seconds}, {self.max_seconds}"
            )


@dataclass
class Piece:
    """One utterance of the recording. `dropped` says why it is no good pair, "" if it is kept."""

    line: int  # of the text, from 0
    text: str  # as the model's alphabet writes it
    original: str
    start: float  # seconds
    end: float
    score: float
    dropped: str = ""


def sentences(text: str) -> list[str]:
    """The sentences of a text, punctuation included; paragraphs end sentences too."""
    found, begin = [], 0
    for match in _SENTENCE_END.finditer(text):
        ending = match.group().strip()
        if ending == "." and _ABBREVIATION.search(text[begin : match.start()]):
            continue
        found.append(text[begin : match.end()])
        begin = match.end()
    found.append(text[begin:])
    return [" ".join(sentence.split()) for sentence in found if sentence.strip()]


def split_text(
    aligned: AlignedText, duration: float, limits: SplitLimits | None = None
) -> list[Piece]:
    """The utterances of an aligned text, one a line, longer ones divided.

    duration: of the recording, in seconds. An utterance reaches from its first label to its last,
    and `padding` further where the recording goes on without another's labels or skipped speech;
    where two utterances are nearer to each other they meet in the middle.

    The score is the least mean log-probability of the path over any `window` seconds of the
    utterance (over all of it where it is shorter). An utterance is dropped for its score, for its
    length, or for words that the alphabet cannot write.
    """
    limits = limits or SplitLimits()
    groups: list[tuple[int, int, int]] = []  # line, first word, last word + 1
    for number, (first, last) in enumerate(aligned.lines):
        if last > first:
            groups += [(number, *part) for part in _divided(aligned, first, last, limits)]
    return [
        _piece(
            aligned,
            number,
            (first, last),
            (_start(aligned, first, limits), _end(aligned, last - 1, duration, limits)),
            limits,
        )
        for number, first, last in groups
    ]


def _divided(
    aligned: AlignedText, first: int, last: int, limits: SplitLimits
) -> list[tuple[int, int]]:
    """The words [first, last) in parts that are not too long, cut at the longest pauses."""
    words = aligned.words
    seconds = words[last - 1].end - words[first].start + 2 * limits.padding
    if seconds <= limits.max_seconds or last - first < 2:
        return [(first, last)]
    pauses = [words[i].start - words[i - 1].end for i in range(first + 1, last)]
    # Of pauses alike in length the one nearest to the middle.
    middle = (words[first].start + words[last - 1].end) / 2
    away = [abs(words[i].start - middle) / seconds for i in range(first + 1, last)]
    worth = np.minimum(pauses, 0.5) - 0.2 * np.array(away)
    place = first + 1 + int(np.argmax(worth))
    left = _divided(aligned, first, place, limits)
    return left + _divided(aligned, place, last, limits)


def _start(aligned: AlignedText, word: int, limits: SplitLimits) -> float:
    start, earliest = aligned.words[word].start, 0.0
    if skipped := _skipped_speech(aligned, word - 1, word):
        earliest = skipped[1] - min(limits.padding, _LEEWAY)
    elif word:
        earliest = (aligned.words[word - 1].end + start) / 2
    return min(start, max(start - limits.padding, earliest))


def _end(aligned: AlignedText, word: int, duration: float, limits: SplitLimits) -> float:
    end, latest = aligned.words[word].end, duration
    if skipped := _skipped_speech(aligned, word, word + 1):
        latest = skipped[0] + min(limits.padding, _LEEWAY)
    elif word + 1 < len(aligned.words):
        latest = (end + aligned.words[word + 1].start) / 2
    return min(max(end, min(end + limits.padding, latest)), duration)


def _skipped_speech(aligned: AlignedText, before: int, after: int) -> tuple[float, float] | None:
    """Start and end of what a wildcard between two words passes over, None for next to nothing."""
    frames = aligned.frames
    begin = int(frames[before, 1]) if before >= 0 else 0
    end = int(frames[after, 0]) if after < len(frames) else len(aligned.alignment.path)
    wild = np.flatnonzero(aligned.alignment.path[begin:end] < 0)
    if len(wild) * aligned.emissions.frame_shift_ms < 100:  # a wildcard takes a frame of silence
        return None
    first, last = aligned.emissions.seconds([begin + wild[0], begin + wild[-1] + 1])
    return float(first), float(last)


def _piece(
    aligned: AlignedText,
    number: int,
    words: tuple[int, int],
    times: tuple[float, float],
    limits: SplitLimits,
) -> Piece:
    first, last = words
    frames = aligned.frames
    path = aligned.alignment.frame_log_probs[frames[first, 0] : frames[last - 1, 1]]
    window = max(1, round(limits.window * 1000 / aligned.emissions.frame_shift_ms))
    piece = Piece(
        line=number,
        text=" ".join(text for text in aligned.normalized[first:last] if text),
        original=" ".join(word.text for word in aligned.words[first:last]),
        start=round(times[0], 3),
        end=round(times[1], 3),
        score=worst_window(path, window),
    )
    unknown = [aligned.unknown[i] for i in range(first, last) if i in aligned.unknown]
    seconds = piece.end - piece.start
    if unknown:
        piece.dropped = f"alphabet: {unknown[0]}"
    elif piece.score < limits.min_score:
        piece.dropped = f"score: {piece.score:.2f} is below {limits.min_score:g}"
    elif seconds < limits.min_seconds:
        piece.dropped = f"short: {seconds:.2f} s is less than {limits.min_seconds:g} s"
    elif seconds > limits.max_seconds:
        piece.dropped = f"long: {seconds:.2f} s is more than {limits.max_seconds:g} s"
    return piece


def worst_window(log_probs: Sequence[float] | np.ndarray, window: int) -> float:
    """The least mean of `window` neighbouring values, of all where there are fewer."""
    values = np.asarray(log_probs, np.float64)
    width = min(window, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return float(((sums[width:] - sums[:-width]) / width).min())
