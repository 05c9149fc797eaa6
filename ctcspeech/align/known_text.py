"""When each word of a known text is spoken, in recordings of any length.

recognizer = Recognizer.load("runs/english")
for transcript, emissions in recognizer.recording_emissions(["talk.flac"]):
    aligned = align_text(emissions, text, recognizer.alphabet, recognizer.normalizer)
    for word in aligned.words:
        print(word.start, word.end, word.text)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ctcspeech.align.forced import WILDCARD, Alignment, forced_align
from ctcspeech.decode.hypothesis import Hypothesis, Word, word_frames
from ctcspeech.emissions import Emissions
from ctcspeech.errors import AlignmentError, AlphabetError
from ctcspeech.recognize.transcript import Passage, Transcript, moved
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.fitting import FittingNormalizer

__all__ = ["AlignedText", "align_text"]

SKIPS = ("none", "ends", "lines")


@dataclass
class AlignedText:
    """The words of a text with their times, and what the alignment says of them."""

    words: list[Word]  # as written in the text, punctuation included
    normalized: list[str]  # what stands for each word in the alphabet; "" for an unknown one
    lines: list[tuple[int, int]]  # the words of each line: first, last + 1
    frames: np.ndarray  # (W, 2) first frame of each word, last + 1
    alignment: Alignment
    emissions: Emissions
    unknown: dict[int, str] = field(default_factory=dict)  # word: why it is a wildcard

    @property
    def log_prob(self) -> float:
        """Mean log-probability of the path over all frames."""
        frames = self.alignment.frame_log_probs
        return float(frames.mean()) if len(frames) else 0.0

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def transcript(self, read: Transcript) -> Transcript:
        """`read` with this text and its words, to be written in any of the formats."""
        score = self.alignment.score
        hypothesis = Hypothesis(self.text, self.alignment.labels.tolist(), score, score)
        hypothesis.words = self.words
        hypothesis = moved(hypothesis, 0.0, read.duration)
        return replace(read, passages=[Passage(0.0, read.duration, [hypothesis])])


def align_text(
    emissions: Emissions,
    text: str | Sequence[str],
    alphabet: Alphabet | None = None,
    normalizer: Callable[[str], str] | None = None,
    *,
    skip: str = "none",
    wildcard_score: float = -0.2,
    band: int | None = None,
) -> AlignedText:
    """Word times of a text that is known to be spoken.

    Args:
        text: words, separated by white space; several lines as a sequence.
        alphabet: writes the text in labels; by default one of the emissions' labels, if these are
            characters (those of another toolkit's model, with " " or "|" between words).
        normalizer: makes words fit the alphabet; without one letters take the alphabet's case and
            punctuation is left out. A word is normalised alone and keeps its spelling in the
            result; one that has nothing to be spoken (a dash) is left out.
        skip: where speech may be passed over that is not in the text: "none", at both "ends" of the
            recording, or also between "lines".
        wildcard_score: what a frame of skipped speech costs, against the model's best label there
            (natural logarithm, at most 0); less than speech read as blanks, more than silence.
        band: see `forced_align`.

    A word that the alphabet cannot write becomes a wildcard: it gets the time that its neighbours
    leave, no confidence, and an entry in `unknown`. A word's confidence is the geometric mean of
    the probabilities of its path over its frames. A label that stands further than 0.25 s from the
    others of its word, out in a silence, does not count for the word's times.

    Raises AlignmentError if the text is empty, has no word that can be written, or has no path, and
    AlphabetError where the emissions' labels are no characters and there is no alphabet.
    """
    if skip not in SKIPS:
        raise ValueError(f"skip must be one of {', '.join(SKIPS)}, got {skip!r}")
    if alphabet is None:
        separator = "|" if "|" in emissions.labels and " " not in emissions.labels else " "
        alphabet = Alphabet(emissions.labels, emissions.blank, separator)
    if len(emissions.labels) != len(alphabet):
        raise ValueError(
            f"emissions have {len(emissions.labels)} labels, the alphabet has {len(alphabet)}"
        )
    lines = [text] if isinstance(text, str) else list(text)
    targets = _Targets(alphabet, normalizer or FittingNormalizer(alphabet), skip)
    for line in lines:
        targets.add_line(line)
    labels = targets.finish()
    try:
        (alignment,) = forced_align(
            emissions.scores,
            labels,
            blank=emissions.blank,
            band=band,
            wildcard_score=wildcard_score,
        )
    except AlignmentError as error:
        raise AlignmentError(_explain(error, labels, len(emissions))) from error
    return targets.result(alignment, emissions)


class _Targets:
    """The labels of a text, and which of them belong to which word."""

    def __init__(self, alphabet: Alphabet, normalizer: Callable[[str], str], skip: str) -> None:
        self.alphabet, self.normalizer, self.skip = alphabet, normalizer, skip
        self.labels: list[int] = []
        self.words: list[str] = []
        self.normalized: list[str] = []
        self.spans: list[tuple[int, int]] = []  # labels of each word
        self.lines: list[tuple[int, int]] = []
        self.unknown: dict[int, str] = {}
        if skip != "none":
            self.labels.append(WILDCARD)

    def add_line(self, line: str) -> None:
        first = len(self.words)
        for word in line.split():
            normalized, why = self._normalized(word)
            if not normalized and not why:
                continue
            labels = [WILDCARD] if why else self.alphabet.encode(normalized)
            if len(self.words) > first or (first and self.skip != "lines"):
                self._separate()
            elif first:
                self.labels.append(WILDCARD)
            if why:
                self.unknown[len(self.words)] = why
            self.spans.append((len(self.labels), len(self.labels) + len(labels)))
            self.labels.extend(labels)
            self.words.append(word)
            self.normalized.append(normalized)
        self.lines.append((first, len(self.words)))

    def _separate(self) -> None:
        if self.alphabet.space is not None:
            self.labels.append(self.alphabet.space)

    def _normalized(self, word: str) -> tuple[str, str]:
        """The word as the alphabet writes it, or why it cannot."""
        try:
            normalized = self.normalizer(word)
        except AlphabetError as error:
            return "", str(error)
        if self.alphabet.kind == "characters" and self.alphabet.space is None:
            normalized = normalized.replace(" ", "")
        missing = self.alphabet.missing(normalized)
        if missing:
            names = " ".join(missing)
            return "", f"{word!r} has characters outside the alphabet: {names}"
        return normalized, ""

    def finish(self) -> list[int]:
        if not self.words:
            raise AlignmentError("there is no text to align: it is empty, or only punctuation")
        if len(self.unknown) == len(self.words):
            raise AlignmentError(
                "no word of the text can be written with the model's alphabet: "
                + next(iter(self.unknown.values()))
            )
        if self.skip != "none":
            self.labels.append(WILDCARD)
        return self.labels

    def result(self, alignment: Alignment, emissions: Emissions) -> AlignedText:
        shift = emissions.frame_shift_ms / 1000
        frames = np.array(
            [
                word_frames(alignment.starts[first:last], alignment.ends[first:last], shift)
                for first, last in self.spans
            ]
        )
        sums = np.concatenate([[0.0], np.cumsum(alignment.frame_log_probs)])
        means = (sums[frames[:, 1]] - sums[frames[:, 0]]) / np.maximum(np.diff(frames)[:, 0], 1)
        times = emissions.seconds(frames)
        words = [
            Word(
                text,
                float(times[i, 0]),
                float(times[i, 1]),
                None if i in self.unknown else float(np.exp(min(means[i], 0.0))),
            )
            for i, text in enumerate(self.words)
        ]
        return AlignedText(
            words, self.normalized, self.lines, frames, alignment, emissions, self.unknown
        )


def _explain(error: AlignmentError, labels: list[int], frames: int) -> str:
    """forced_align's error in the terms of a text."""
    if len(labels) > frames:
        return (
            f"the text needs at least {len(labels)} frames, the recording has {frames}: it is "
            "another recording's text, or too long for the model's frame rate"
        )
    return str(error).replace("targets[0]", "the text").replace("input_lengths[0]", "the recording")
