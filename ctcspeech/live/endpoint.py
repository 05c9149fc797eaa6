"""Where an utterance ends: Kaldi's rules, silence told by the blank.

An endpoint comes where any rule holds (online2/online-endpoint.h of Kaldi; the values are those of
sherpa-onnx):

1. silence for so long, even if nothing was said;
2. silence for so long after something was said;
3. an utterance of such a length: then it ends at the next end of a word.

A frame is silent when the blank, and the separator of words, have a probability above a threshold.

A model that looks ahead has heard more than it has written about: by its frames alone an utterance
would end later than the rule says, by as much as is looked ahead to, and by the delay of the last
label. So rule 2 holds, too, where the audio has been quiet for so long and the frames have been
silent for half of that. Quiet is what is 30 dB under the loudest of the last seconds; where the
background is louder than that, the frames alone tell.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctcspeech.text.alphabet import Alphabet

__all__ = ["Endpointing", "EndpointDetector", "QuietAudio"]

_QUIET = 1e-3  # of the loudest block's power
_LOUDEST_SECONDS = 5.0  # in which that one is looked for
_SURE = 1.5  # times the longest utterance after which any silent frame ends it


@dataclass(frozen=True)
class Endpointing:
    """Seconds of the three rules; math.inf switches one off."""

    silence_alone: float = 2.4
    silence_after_speech: float = 1.2
    longest_utterance: float = 20.0
    blank_threshold: float = 0.8  # probability above which a frame is silent

    def __post_init__(self) -> None:
        for name in ("silence_alone", "silence_after_speech", "longest_utterance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        if not 0 < self.blank_threshold < 1:
            raise ValueError(
                f"blank_threshold must be a probability between 0 and 1, got {self.blank_threshold}"
            )

    @classmethod
    def off(cls) -> "Endpointing":
        """No endpoints: utterances end where the caller says so."""
        return cls(math.inf, math.inf, math.inf)


class EndpointDetector:
    """Follows the frames of one utterance after another."""

    def __init__(self, rules: Endpointing, alphabet: Alphabet, frame_seconds: float) -> None:
        self.rules, self.frame_seconds = rules, frame_seconds
        self._silent = [alphabet.blank]
        if alphabet.space is not None:
            self._silent.append(alphabet.space)
        # Labels that show that the word before them is complete.
        self._borders = {
            i
            for i, label in enumerate(alphabet.labels)
            if i == alphabet.space or (alphabet.kind == "sentencepiece" and label.startswith("▁"))
        }
        self.reset()

    def reset(self) -> None:
        """Another utterance begins."""
        self.frames = self.trailing = 0  # frames of the utterance, and silent ones at its end
        self.spoken = False
        self._label = -1  # the likeliest of the last frame

    @property
    def silence(self) -> float:
        """Seconds of silence at the end so far."""
        return self.trailing * self.frame_seconds

    def accept(
        self, log_probs: np.ndarray, quiet: Sequence[float] | None = None
    ) -> tuple[int, str] | None:
        """The next frames (T, C). Where an endpoint is among them: how many of them come before it,
        and its rule, "silence" or "length". What follows an endpoint has not been looked at.

        quiet: for each frame the seconds for which the audio that was heard for it has been quiet.
        """
        silence = np.exp(log_probs[:, self._silent]).sum(1) > self.rules.blank_threshold  # (T,)
        labels = log_probs.argmax(1).tolist()
        for t, (silent, label) in enumerate(zip(silence.tolist(), labels, strict=True)):
            if self._full(label, silent):
                return t, "length"
            self._label = label
            self.frames += 1
            self.trailing = self.trailing + 1 if silent else 0
            self.spoken = self.spoken or not silent
            rules = self.rules
            enough = rules.silence_after_speech if self.spoken else rules.silence_alone
            # Rounded: 0.6 s are 15 frames of 0.04 s.
            if self.trailing >= min(enough, rules.silence_alone) / self.frame_seconds - 1e-6:
                return t + 1, "silence"
            if quiet is not None and self._quiet(quiet[t]):
                return t + 1, "silence"
        return None

    def _quiet(self, seconds: float) -> bool:
        """Whether the utterance ends with so much of quiet audio."""
        enough = self.rules.silence_after_speech - 1e-6
        return self.spoken and seconds >= enough and self.silence >= enough / 2

    def _full(self, label: int, silent: bool) -> bool:
        """Whether the utterance is long enough to end before a frame of this likeliest label."""
        seconds = self.frames * self.frame_seconds
        if seconds < self.rules.longest_utterance:
            return False
        if label in self._borders and label != self._label:
            return True
        return silent and (not self._borders or seconds >= _SURE * self.rules.longest_utterance)


class QuietAudio:
    """For how long a stream's audio has been quiet at any of its samples that are still to come.

    Told by blocks of 10 ms, so that it does not depend on how the samples were divided.
    """

    def __init__(self, sample_rate: int) -> None:
        self.block = max(1, sample_rate // 100)
        self.block_seconds = self.block / sample_rate
        self._memory = round(_LOUDEST_SECONDS / self.block_seconds)
        self._waiting: list[np.ndarray] = []  # samples that have not been looked at
        self._count = 0  # blocks so far
        self._loudest: deque[tuple[int, float]] = deque()  # place and power, from loud to faint
        self._run = 0  # quiet blocks at the end
        self._runs: deque[int] = deque()  # at the end of each block that may still be asked for

    def push(self, samples: np.ndarray) -> None:
        """The next samples (S,)."""
        self._waiting.append(samples)

    def _take(self) -> None:
        """The powers of the blocks that are full, at once: a stream comes in small pieces."""
        samples = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        blocks = len(samples) // self.block
        used = blocks * self.block
        self._waiting = [samples[used:].copy()] if used < len(samples) else []
        if not blocks:
            return
        whole = samples[:used].reshape(blocks, self.block)
        loudest, runs = self._loudest, self._runs
        for power in np.einsum("ij,ij->i", whole, whole).tolist():
            while loudest and loudest[-1][1] <= power:
                loudest.pop()
            loudest.append((self._count, power))
            if loudest[0][0] <= self._count - self._memory:
                loudest.popleft()
            self._run = self._run + 1 if power <= _QUIET * loudest[0][1] else 0
            self._count += 1
            runs.append(self._run)

    def at(self, sample: int) -> float:
        """Seconds of quiet before this sample (of what is there, where there are fewer). To be
        asked in rising order: what lies before is forgotten."""
        if self._waiting and sample // self.block > self._count:
            self._take()
        last = min(sample // self.block, self._count) - 1  # the block that ends there
        while len(self._runs) > 1 and self._count - len(self._runs) < last:
            self._runs.popleft()
        if last < 0 or not self._runs:
            return 0.0
        return self._runs[0] * self.block_seconds
