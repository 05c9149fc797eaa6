"""Emissions of streams by a model that needs what comes after: overlapping windows.

Each window is a chunk with context on both sides. Of two windows that overlap the frames around the
end of the first one's chunk are joined where both say the same with the most certainty, as long
recordings are (`recognize.stitch`), so that no label is lost or doubled at a seam.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctcspeech.emissions import Emitter
from ctcspeech.errors import DecoderError
from ctcspeech.live.source import Source, SourceStream
from ctcspeech.recognize.stitch import join_emissions

__all__ = ["WindowSource", "Windows"]


@dataclass(frozen=True)
class Windows:
    """Seconds of a window: what it adds, and the context before and after that.

    The delay is the chunk and one and a half times `after`. More of each costs time, less accuracy.
    """

    before: float = 3.0
    chunk: float = 0.5
    after: float = 0.8

    def __post_init__(self) -> None:
        if not (self.chunk > 0 and self.before >= 0 and self.after >= 0):
            raise ValueError(f"chunk must be above 0, before and after at least 0, got {self}")


class WindowStream(SourceStream):
    """One stream. Frames are counted from its beginning."""

    def __init__(self, source: "WindowSource") -> None:
        super().__init__()
        self.source = source
        self.first = 0  # frame at which the buffer begins
        self.chunk = 0  # frame at which the next window's chunk begins
        self.kept: np.ndarray = np.zeros(
            (0, len(source.emitter.alphabet)), np.float32
        )  # not yet given out
        self.done = False

    @property
    def ready(self) -> bool:
        if self.done:
            return False
        last = self.chunk + self.source.chunk + self.source.after
        return self.ended or len(self.buffer) >= (last - self.first) * self.source.grain

    @property
    def finished(self) -> bool:
        return self.done

    def close(self) -> None:
        super().close()
        self.done = True


class WindowSource(Source):
    """Streams of any emitter that takes samples."""

    def __init__(self, emitter: Emitter, windows: Windows | None = None) -> None:
        """Raises DecoderError for an emitter of precomputed features, or one whose longest input is
        shorter than a window."""
        windows = windows or Windows()
        if emitter.num_features is not None:
            raise DecoderError(
                "this model takes precomputed features; live recognition needs one that hears audio"
            )
        length = windows.before + windows.chunk + windows.after
        if emitter.longest_input is not None and length > emitter.longest_input:
            raise DecoderError(
                f"windows of {length:g} s are longer than the {emitter.longest_input:g} s that the "
                "model takes; give less context or a shorter chunk"
            )
        self.emitter = emitter
        self.sample_rate = emitter.sample_rate
        self.grain = emitter.frame_inputs  # samples to a frame
        self.frame_seconds = emitter.frame_shift_ms / 1000

        def frames(seconds: float) -> int:
            return math.ceil(seconds / self.frame_seconds - 1e-9)

        self.before, self.after = frames(windows.before), frames(windows.after)
        self.chunk = max(1, frames(windows.chunk))
        self.reach = self.after // 2  # frames on either side of a chunk's end in which the seam is
        if self.before < self.reach:
            raise DecoderError("a window's context before must be at least half of that after it")
        self.lookahead_seconds = (self.after + self.reach + self.chunk) * self.frame_seconds

    def open(self) -> WindowStream:
        return WindowStream(self)

    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        mine = [stream for stream in streams if isinstance(stream, WindowStream)]
        assert len(mine) == len(streams)
        classes = len(self.emitter.alphabet)
        results = [np.zeros((0, classes), np.float32) for _ in mine]
        chosen = [i for i, stream in enumerate(mine) if stream.ready]
        inputs = [self._window(mine[i]) for i in chosen]
        if self.emitter.padding_changes_output:
            outputs = [self.emitter.compute([item])[0] for item in inputs]
        else:
            outputs = self.emitter.compute(inputs) if inputs else []
        for i, output in zip(chosen, outputs, strict=True):
            results[i] = self._join(mine[i], output)
        return results

    def _last(self, stream: WindowStream) -> bool:
        """Whether the stream's next window is its last one."""
        frames = (stream.chunk + self.chunk + self.after - stream.first) * self.grain
        return stream.ended and len(stream.buffer) <= frames

    def _window(self, stream: WindowStream) -> np.ndarray:
        if self._last(stream):
            return stream.buffer
        return stream.buffer[: (stream.chunk + self.chunk + self.after - stream.first) * self.grain]

    def _join(self, stream: WindowStream, output: np.ndarray) -> np.ndarray:
        """What is given out now that the stream's next window says `output`."""
        last, end = self._last(stream), stream.chunk + self.chunk
        if not last and len(output) < end + self.reach - stream.first:
            raise DecoderError(
                f"a window gave {len(output)} frames of the {end + self.reach - stream.first} "
                "wanted: this model needs a longer context after the chunk"
            )
        begin = max(stream.first, stream.chunk - self.reach)
        new = output[begin - stream.first :]
        if not last:
            new = new[: end + self.reach - begin]
        overlap = min(len(stream.kept), stream.chunk + self.reach - begin, len(new))
        joined = join_emissions(stream.kept, new, overlap) if stream.chunk else new
        if last:
            stream.done = True
            stream.kept = joined[:0]
            stream.buffer = stream.buffer[:0]
            return joined
        ready = len(joined) - 2 * self.reach
        stream.kept = joined[max(ready, 0) :].copy()
        stream.chunk = end
        drop = max(0, end - self.before - stream.first)
        stream.buffer = stream.buffer[drop * self.grain :]
        stream.first += drop
        return joined[: max(ready, 0)]
