"""Emissions of streams by a model with a state: nothing is computed twice.

The states of all streams lie in one table, a row each; a step takes the rows of those streams that
have enough samples for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctcspeech.audio.features import (
    FeatureConfig,
    FeatureExtractor,
    StreamingFeatures,
    num_frames,
)
from ctcspeech.exchange.streaming import StreamingOnnx
from ctcspeech.live.source import Source, SourceStream
from ctcspeech.model.streaming import StreamingModel, streams_by_state
from ctcspeech.recognize.checkpoint import CheckpointEmitter

__all__ = ["OnnxSource", "StateSource", "has_state"]

_MOST_STEPS = 25  # of one stream in a computation, so that a hasty one does not hold up the others


def has_state(emitter: object) -> bool:
    """Whether `StateSource` serves: a forward-only checkpoint whose features need no whole."""
    return (
        isinstance(emitter, CheckpointEmitter)
        and streams_by_state(emitter.model)
        and emitter.features.config.kind != "precomputed"
        and emitter.features.config.normalization != "utterance"
    )


class StateStream(SourceStream):
    """One stream: its samples from the next frame's first on, and its row in the table."""

    def __init__(self, source: "StateSource", row: int) -> None:
        super().__init__()
        self.source, self.row = source, row
        self.frames_taken = 0  # of features, zeros after the end included
        self.frames_out = -source.model.delay  # of emissions, those before the beginning included
        self.length: int | None = None  # frames of features in all, once that is known
        self.features: StreamingFeatures | None = None  # with deltas, which look ahead
        self.waiting = torch.zeros(0, source.extractor.num_features)
        if source.extractor.config.deltas:
            self.features = StreamingFeatures(source.extractor)

    def push(self, samples: np.ndarray) -> None:
        if self.features is None:
            super().push(samples)
        elif self.ended:
            raise ValueError("push must not follow end; open another stream")
        else:
            self.waiting = torch.cat([self.waiting, self.features.accept(samples)])

    def end(self) -> None:
        if self.ended:
            return
        if self.features is not None:
            self.waiting = torch.cat([self.waiting, self.features.finish()])
        super().end()
        self.length = self.frames_taken + self.frames_waiting
        if self.length:
            self.source.table[1][self.row] = self.length

    @property
    def frames_waiting(self) -> int:
        if self.features is not None:
            return len(self.waiting)
        return num_frames(len(self.buffer), self.source.extractor.config)

    @property
    def steps(self) -> int:
        """Steps (of `subsampling` frames each) that can be computed now."""
        stride, grain = self.source.model.subsampling, self.source.grain
        if self.length is None:
            return self.frames_waiting // stride // grain * grain
        if not self.length:
            return 0
        return -(-self.length // stride) - self.frames_out

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
    """Streams of a forward-only Deep Speech 2 (`CheckpointEmitter`), computed by torch."""

    grain = 1  # steps that are computed at once, or a multiple of it

    def __init__(self, emitter: CheckpointEmitter) -> None:
        self.emitter = emitter
        self.extractor: FeatureExtractor = emitter.features
        self.model = StreamingModel(emitter.model)
        self.sample_rate = emitter.sample_rate
        self.frame_seconds = emitter.frame_shift_ms / 1000
        config = self.extractor.config
        ahead = (emitter.model.lookahead or 0) * config.shift + config.window
        deltas = 2 * config.deltas * config.shift
        self.lookahead_seconds = (ahead + deltas) / self.sample_rate + self.frame_seconds
        self.table = self.model.states(4)
        self.free = list(range(4))[::-1]

    @property
    def state_bytes(self) -> int:
        """Of the model's state of one stream."""
        return sum(part[0].numel() * part.element_size() for part in self.table)

    def open(self) -> StateStream:
        if not self.free:
            rows = len(self.table[0])
            more = self.model.states(rows)
            self.table = [torch.cat(pair) for pair in zip(self.table, more, strict=True)]
            self.free = list(range(rows, 2 * rows))[::-1]
        row = self.free.pop()
        for part, fresh in zip(self.table, self.model.states(1), strict=True):
            part[row] = fresh[0]
        return StateStream(self, row)

    @torch.inference_mode()
    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        mine = [stream for stream in streams if isinstance(stream, StateStream)]
        assert len(mine) == len(streams)
        parts: list[list[np.ndarray]] = [[] for _ in mine]
        left = {i: min(stream.steps, _MOST_STEPS) for i, stream in enumerate(mine)}
        while left := {i: steps for i, steps in left.items() if steps > 0}:
            steps = min(left.values())
            chosen = list(left)
            for i, log_probs in zip(
                chosen, self._step([mine[i] for i in chosen], steps), strict=True
            ):
                parts[i].append(log_probs)
                left[i] -= steps
        empty = np.zeros((0, len(self.emitter.alphabet)), np.float32)
        return [np.concatenate(part) if part else empty for part in parts]

    def _step(self, streams: list[StateStream], steps: int) -> list[np.ndarray]:
        frames = steps * self.model.subsampling
        rows = torch.tensor([stream.row for stream in streams])
        states = [part[rows] for part in self.table]
        settled = all(
            stream.length is None and stream.frames_taken >= self.model.settled
            for stream in streams
        )
        logits, states = self.model(self._features(streams, frames), states, settled)
        for part, new in zip(self.table, states, strict=True):
            part[rows] = new
        log_probs = logits.log_softmax(-1).numpy()
        results = []
        for stream, item in zip(streams, log_probs, strict=True):
            first = max(0, -stream.frames_out)
            stream.frames_taken += frames
            stream.frames_out += steps
            results.append(item[first:])
        return results

    def _features(self, streams: list[StateStream], frames: int) -> Tensor:
        """The next frames (N, T, F) of the streams, zeros after their ends."""
        if self.extractor.config.deltas:
            batch = torch.zeros(len(streams), frames, self.extractor.num_features)
            for i, stream in enumerate(streams):
                taken = stream.waiting[:frames]
                batch[i, : len(taken)] = taken
                stream.waiting = stream.waiting[frames:]
            return batch
        config = self.extractor.config
        needed = (frames - 1) * config.shift + config.window
        samples = np.zeros((len(streams), needed), np.float32)
        true = []
        for row, stream in zip(samples, streams, strict=True):
            part = stream.buffer[:needed]
            row[: len(part)] = part
            true.append(min(frames, stream.frames_waiting))
            stream.buffer = stream.buffer[frames * config.shift :]
        features = self.extractor.static_frames(torch.from_numpy(samples))
        if config.normalization == "corpus":
            features = (features - self.extractor.mean) * self.extractor.scale
        for i, count in enumerate(true):
            if count < frames:
                features[i, count:] = 0.0
        return features


class OnnxSource(StateSource):
    """Streams of a model exported for them (`StreamingOnnx`), computed by onnxruntime."""

    def __init__(self, emitter: StreamingOnnx) -> None:
        self.emitter = self.model = emitter  # type: ignore[assignment]
        self.extractor = _Features(emitter.config)  # type: ignore[assignment]
        self.grain = emitter.steps
        self.sample_rate = emitter.sample_rate
        self.frame_seconds = emitter.frame_shift_ms / 1000
        ahead = emitter.lookahead * emitter.config.shift + emitter.config.window
        self.lookahead_seconds = ahead / self.sample_rate + self.grain * self.frame_seconds
        self.table = emitter.states(4)  # type: ignore[assignment]
        self.free = list(range(4))[::-1]

    def open(self) -> StateStream:
        onnx: Any = self.model
        if not self.free:
            rows = len(self.table[0])
            pairs = zip(self.table, onnx.states(rows), strict=True)
            self.table = [np.concatenate(pair) for pair in pairs]
            self.free = list(range(rows, 2 * rows))[::-1]
        row = self.free.pop()
        for part, fresh in zip(self.table, onnx.states(1), strict=True):
            part[row] = fresh[0]
        return StateStream(self, row)

    @property
    def state_bytes(self) -> int:
        return sum(int(part[0].nbytes) for part in self.table)

    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        mine = [stream for stream in streams if isinstance(stream, StateStream)]
        parts: list[list[np.ndarray]] = [[] for _ in mine]
        left = {i: min(stream.steps, _MOST_STEPS) for i, stream in enumerate(mine)}
        while left := {i: steps for i, steps in left.items() if steps > 0}:
            chosen = [mine[i] for i in left]
            for i, log_probs in zip(left, self._run(chosen), strict=True):
                parts[i].append(log_probs)
                left[i] -= self.grain
        empty = np.zeros((0, len(self.emitter.alphabet)), np.float32)
        return [np.concatenate(part) if part else empty for part in parts]

    def _run(self, streams: list[StateStream]) -> list[np.ndarray]:
        onnx: Any = self.model
        config, frames = onnx.config, self.grain * onnx.subsampling
        needed = (frames - 1) * config.shift + config.window
        samples = np.zeros((len(streams), needed), np.float32)
        for row, stream in zip(samples, streams, strict=True):
            part = stream.buffer[:needed]
            row[: len(part)] = part
            stream.buffer = stream.buffer[frames * config.shift :]
        rows = np.array([stream.row for stream in streams])
        log_probs, states = onnx.step(samples, [part[rows] for part in self.table])
        for kept, new in zip(self.table, states, strict=True):
            kept[rows] = new
        results = []
        for stream, item in zip(streams, log_probs, strict=True):
            first, last = max(0, -stream.frames_out), self.grain
            if stream.length is not None:
                last = min(last, -(-stream.length // onnx.subsampling) - stream.frames_out)
            stream.frames_taken += frames
            stream.frames_out += min(self.grain, last)
            results.append(item[first:last])
        return results


@dataclass
class _Features:
    """What a stream asks of its features, where the graph computes them."""

    config: FeatureConfig
    num_features: int = 0
