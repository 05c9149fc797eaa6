"""Emissions of streams by a model with a state: nothing is computed twice.

The states of all streams lie in one table, a row each; a step takes the rows of those streams that
have enough samples for it. Models of torch: `live.torch_state`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ctcspeech.audio.feature_config import FeatureConfig, num_frames
from ctcspeech.exchange.streaming import StreamingOnnx, emission_frames
from ctcspeech.live.source import Source, SourceStream

__all__ = ["OnnxSource", "StateSource", "StateStream"]

_MOST_STEPS = 25  # of one stream in a computation, so that a hasty one does not hold up the others


class StateStream(SourceStream):
    """One stream: its samples from the next frame's first on, and its row in the table."""

    def __init__(self, source: "StateSource", row: int) -> None:
        super().__init__()
        self.source, self.row = source, row
        self.frames_taken = 0  # of features, zeros after the end included
        self.frames_out = -source.delay  # of emissions, those before the beginning included
        self.length: int | None = None  # frames of features in all, once that is known

    def end(self) -> None:
        if self.ended:
            return
        tail = self.source.config.tail
        if tail and self.frames_taken + self.frames_waiting:
            self.push(np.zeros(tail, np.float32))
        super().end()
        self.length = self.frames_taken + self.frames_waiting
        if self.length:
            self.source.table[1][self.row] = self.length

    @property
    def frames_waiting(self) -> int:
        return num_frames(len(self.buffer), self.source.config)

    @property
    def steps(self) -> int:
        """Steps (of `subsampling` frames each) that can be computed now."""
        stride, grain = self.source.subsampling, self.source.grain
        if self.length is None:
            return self.frames_waiting // stride // grain * grain
        return max(0, self.source.emissions_of(self.length) - self.frames_out)

    @property
    def ready(self) -> bool:
        return self.steps > 0

    @property
    def finished(self) -> bool:
        return self.length is not None and self.steps == 0

    def close(self) -> None:
        super().close()
        if self.row >= 0:
            self.source.free.append(self.row)
            self.row = -1


class StateSource(Source):
    """Streams of a model with a state.

    config: of the features. subsampling: frames of these for one of emissions. delay: frames of
    emissions that come out before a stream's first one. hidden_end: frames of features at the end
    that are only looked ahead to. grain: steps that are computed at once, or a multiple of it.
    table: the states of streams, arrays (rows, ...): in the first one the frames taken, in the
    second one the length.
    """

    Stream: ClassVar[type[StateStream]] = StateStream
    config: FeatureConfig
    subsampling: int
    delay: int
    hidden_end: int
    grain = 1
    table: list[Any]

    def __init__(self) -> None:
        self.table = self.states(4)
        self.free = list(range(4))[::-1]

    def emissions_of(self, frames: int) -> int:
        """Frames of emissions for so many frames of features."""
        return emission_frames(frames, self.subsampling, self.hidden_end)

    @abstractmethod
    def states(self, count: int) -> list[Any]:
        """Of `count` streams at their beginnings."""

    @abstractmethod
    def _joined(self, parts: Sequence[Any]) -> Any:
        """Parts of a table, one after the other."""

    @abstractmethod
    def _step(self, streams: list[Any], steps: int) -> list[np.ndarray]:
        """The next `steps` frames of emissions of each, those before its beginning left out."""

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Of the model's state of one stream."""

    def open(self) -> StateStream:
        if not self.free:
            rows = len(self.table[0])
            more = self.states(rows)
            self.table = [self._joined(pair) for pair in zip(self.table, more, strict=True)]
            self.free = list(range(rows, 2 * rows))[::-1]
        row = self.free.pop()
        for part, fresh in zip(self.table, self.states(1), strict=True):
            part[row] = fresh[0]
        return self.Stream(self, row)

    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        mine = [stream for stream in streams if isinstance(stream, StateStream)]
        assert len(mine) == len(streams)
        parts: list[list[np.ndarray]] = [[] for _ in mine]
        left = {i: min(stream.steps, _MOST_STEPS) for i, stream in enumerate(mine)}
        while left := {i: steps for i, steps in left.items() if steps > 0}:
            steps = max(self.grain, min(left.values()) // self.grain * self.grain)
            chosen = list(left)
            for i, log_probs in zip(
                chosen, self._step([mine[i] for i in chosen], steps), strict=True
            ):
                parts[i].append(log_probs)
                left[i] -= steps
        empty = np.zeros((0, len(self.emitter.alphabet)), np.float32)
        return [np.concatenate(part) if part else empty for part in parts]

    def _taken(self, streams: list[StateStream], frames: int) -> np.ndarray:
        """The samples (N, S) of the next frames, zeros after the streams' ends."""
        config = self.config
        needed = (frames - 1) * config.shift + config.window
        samples = np.zeros((len(streams), needed), np.float32)
        for row, stream in zip(samples, streams, strict=True):
            part = stream.buffer[:needed]
            row[: len(part)] = part
            stream.buffer = stream.buffer[frames * config.shift :]
        return samples


class OnnxSource(StateSource):
    """Streams of a model exported for them (`StreamingOnnx`), computed by onnxruntime."""

    def __init__(self, emitter: StreamingOnnx) -> None:
        self.emitter = self.onnx = emitter
        self.config, self.subsampling = emitter.config, emitter.subsampling
        self.delay, self.grain = emitter.delay, emitter.steps
        self.hidden_end = emitter.hidden_end
        self.sample_rate = emitter.sample_rate
        self.frame_seconds = emitter.frame_shift_ms / 1000
        ahead = emitter.lookahead * emitter.config.shift + emitter.config.window
        self.frame_heard = ahead
        self.lookahead_seconds = ahead / self.sample_rate + self.grain * self.frame_seconds
        super().__init__()

    def states(self, count: int) -> list[np.ndarray]:
        return self.onnx.states(count)

    def _joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    @property
    def state_bytes(self) -> int:
        return sum(int(part[0].nbytes) for part in self.table)

    def _step(self, streams: list[StateStream], steps: int) -> list[np.ndarray]:
        found: list[list[np.ndarray]] = [[] for _ in streams]
        for _ in range(steps // self.grain):
            for parts, log_probs in zip(found, self._run(streams), strict=True):
                parts.append(log_probs)
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in found]

    def _run(self, streams: list[StateStream]) -> list[np.ndarray]:
        frames = self.grain * self.subsampling
        rows = np.array([stream.row for stream in streams])
        states = [part[rows] for part in self.table]
        log_probs, states = self.onnx.step(self._taken(streams, frames), states)
        for kept, new in zip(self.table, states, strict=True):
            kept[rows] = new
        results = []
        for stream, item in zip(streams, log_probs, strict=True):
            first, last = max(0, -stream.frames_out), self.grain
            if stream.length is not None:
                last = min(last, self.emissions_of(stream.length) - stream.frames_out)
            stream.frames_taken += frames
            stream.frames_out += min(self.grain, last)
            results.append(item[first:last])
        return results
