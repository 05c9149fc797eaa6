"""Where a stream's emissions come from: one interface for models with a state and for windows.

    source = open_source(emitter)
    stream = source.open()
    stream.push(samples)
    (log_probs,) = source.compute([stream])            # (T, C), what these samples complete
    stream.end()
    (log_probs,) = source.compute([stream])            # the rest

Any number of streams of one source are computed together; what a stream gives depends neither on
the others nor on how its samples were divided. A source belongs to one thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ctcspeech.emissions import Emitter

__all__ = ["Source", "SourceStream"]


class SourceStream(ABC):
    """One recording under way. Its samples are float32 (S,) at the source's rate."""

    def __init__(self) -> None:
        self.buffer: np.ndarray = np.zeros(0, np.float32)  # samples that are still needed
        self.ended = False

    def push(self, samples: np.ndarray) -> None:
        """The next samples; nothing is computed yet."""
        if self.ended:
            raise ValueError("push must not follow end; open another stream")
        self.buffer = np.concatenate([self.buffer, samples]) if len(self.buffer) else samples

    def end(self) -> None:
        """There are no more samples."""
        self.ended = True

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `compute` would give frames, or find that all have come out."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the stream has ended and all its frames have come out."""

    def close(self) -> None:
        """Gives back what the stream holds, at its end or before."""
        self.ended = True
        self.buffer = np.zeros(0, np.float32)


class Source(ABC):
    """Emissions of streams by one emitter.

    sample_rate: of the samples, in hertz. frame_seconds: from one frame to the next.
    lookahead_seconds: of audio after a frame that are needed before it comes out, at most.
    frame_heard: samples that were heard for a stream's first frame, from its beginning on, and so
        many after the beginning of each other one; None where that varies.
    """

    emitter: Emitter
    sample_rate: int
    frame_seconds: float
    lookahead_seconds: float
    frame_heard: int | None = None

    @abstractmethod
    def open(self) -> SourceStream:
        """A new stream."""

    @abstractmethod
    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        """The log-probabilities, float32 (T, C), that are ready of each stream.

        Of a stream with much to do a part is computed, so that others need not wait: it is `ready`
        still.
        """
