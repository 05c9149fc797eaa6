"""What was recognised in a recording: its text, passages between pauses, words with times."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import CtcSpeechError
from ctcspeech.recognize.recordings import Recording

__all__ = ["Decoder", "Passage", "Transcript", "decoder_kind", "moved"]


class Decoder(Protocol):
    """What turns emissions into text: GreedyDecoder, BeamDecoder, or one of your own.

    One with an attribute `attends` that is true (AttentionSearch, AttentionRescorer) is given rows
    (T, C + H), the encoder's states beside the log-probabilities.
    """

    def decode(self, emissions: list[np.ndarray]) -> list[list[Hypothesis]]:
        """For each (T, C) of log-probabilities its hypotheses, best first, at least one. Word
        times are seconds from the first frame."""
        ...


def decoder_kind(decoder: Decoder) -> str:
    """By which the calibrations of confidences are told apart: a decoder of a user's own has its
    class's full name, and no other's calibration."""
    if isinstance(decoder, GreedyDecoder):
        return "greedy"
    if isinstance(decoder, BeamDecoder):
        return "beam"
    return f"{type(decoder).__module__}.{type(decoder).__qualname__}"


@dataclass
class Passage:
    """What was recognised between two pauses. Times are seconds in the recording."""

    start: float
    end: float
    hypotheses: list[Hypothesis]  # best first


@dataclass
class Transcript:
    """What was recognised in one recording, or the error that kept it from being read."""

    name: str
    duration: float = 0.0  # seconds that were read
    passages: list[Passage] = field(default_factory=list)
    error: CtcSpeechError | None = None
    recording: Recording | None = None
    separator: str = " "  # between the texts of two passages

    @property
    def text(self) -> str:
        texts = (passage.hypotheses[0].text for passage in self.passages)
        return self.separator.join(text for text in texts if text)

    @property
    def words(self) -> list[Word]:
        return [word for passage in self.passages for word in passage.hypotheses[0].words]

    def to_dict(self, n_best: bool = False) -> dict[str, Any]:
        """For JSON: audio_filepath, duration, text, and the words with their times.

        n_best: all hypotheses of each passage, too, with their scores.
        """
        values: dict[str, Any] = {"audio_filepath": self.name}
        if self.recording is not None and self.recording.utterance is not None:
            utterance = self.recording.utterance
            values["id"] = utterance.id
            if utterance.offset:
                values["offset"] = utterance.offset
        values["duration"] = round(self.duration, 3)
        values["text"] = self.text
        values["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": None if word.confidence is None else round(word.confidence, 4),
            }
            for word in self.words
        ]
        if n_best:
            values["passages"] = [
                {
                    "start": round(passage.start, 3),
                    "end": round(passage.end, 3),
                    "hypotheses": [
                        {
                            "text": item.text,
                            "score": round(item.score, 4),
                            "ctc_score": round(item.ctc_score, 4),
                            "lm_score": round(item.lm_score, 4),
                            **_attention_score(item),
                        }
                        for item in passage.hypotheses
                    ],
                }
                for passage in self.passages
            ]
        return values


def _attention_score(hypothesis: Hypothesis) -> dict[str, float]:
    score = hypothesis.attention_score
    return {} if score is None else {"attention_score": round(score, 4)}


def moved(hypothesis: Hypothesis, seconds: float, end: float = math.inf) -> Hypothesis:
    """The hypothesis with its words so much later, none of them after `end`.

    A model that hears a tail after the recording may write the last word there.
    """
    words = [
        replace(word, start=min(word.start + seconds, end), end=min(word.end + seconds, end))
        for word in hypothesis.words
    ]
    return replace(hypothesis, words=words)
