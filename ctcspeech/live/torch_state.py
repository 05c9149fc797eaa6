"""Emissions of streams by a forward-only Deep Speech 2, computed by torch."""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from ctcspeech.audio.features import FeatureExtractor, StreamingFeatures
from ctcspeech.live.source import SourceStream
from ctcspeech.live.state import StateSource, StateStream
from ctcspeech.model.streaming import StreamingModel, streams_by_state
from ctcspeech.recognize.checkpoint import CheckpointEmitter

__all__ = ["TorchSource", "has_state"]


def has_state(emitter: object) -> TypeGuard[CheckpointEmitter]:
    """Whether `TorchSource` serves: a forward-only checkpoint whose features need no whole."""
    return (
        isinstance(emitter, CheckpointEmitter)
        and streams_by_state(emitter.model)
        and emitter.features.config.of_streams
    )


class TorchStream(StateStream):
    """One stream; of features with deltas, which look ahead, the frames are kept, not samples."""

    source: "TorchSource"

    def __init__(self, source: "TorchSource", row: int) -> None:
        super().__init__(source, row)
        self.features: StreamingFeatures | None = None
        self.waiting = torch.zeros(0, source.extractor.num_features)
        if source.config.deltas:
            self.features = StreamingFeatures(source.extractor)

    def push(self, samples: np.ndarray) -> None:
        if self.features is None:
            super().push(samples)
        elif self.ended:
            raise ValueError("push must not follow end; open another stream")
        else:
            self.waiting = torch.cat([self.waiting, self.features.accept(samples)])

    def end(self) -> None:
        if self.features is not None and not self.ended:
            self.waiting = torch.cat([self.waiting, self.features.finish()])
        super().end()

    @property
    def frames_waiting(self) -> int:
        return super().frames_waiting if self.features is None else len(self.waiting)


class TorchSource(StateSource):
    """Streams of a forward-only Deep Speech 2 (`CheckpointEmitter`)."""

    Stream = TorchStream

    def __init__(self, emitter: CheckpointEmitter) -> None:
        self.emitter = emitter
        self.extractor: FeatureExtractor = emitter.features
        self.model = StreamingModel(emitter.model)
        self.config = config = self.extractor.config
        self.subsampling, self.delay = self.model.subsampling, self.model.delay
        self.hidden_end = emitter.model.hidden_end
        self.sample_rate = emitter.sample_rate
        self.frame_seconds = emitter.frame_shift_ms / 1000
        ahead = (emitter.model.lookahead or 0) * config.shift + config.window
        deltas = 2 * config.deltas * config.shift
        self.frame_heard = ahead + deltas
        self.lookahead_seconds = (ahead + deltas) / self.sample_rate + self.frame_seconds
        super().__init__()

    def states(self, count: int) -> list[Tensor]:
        return self.model.states(count)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    @property
    def state_bytes(self) -> int:
        return sum(part[0].numel() * part.element_size() for part in self.table)

    @torch.inference_mode()
    def compute(self, streams: Sequence[SourceStream]) -> list[np.ndarray]:
        return super().compute(streams)

    def _step(self, streams: list[TorchStream], steps: int) -> list[np.ndarray]:
        frames = steps * self.subsampling
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

    def _features(self, streams: list[TorchStream], frames: int) -> Tensor:
        """The next frames (N, T, F) of the streams, zeros after their ends."""
        if self.config.deltas:
            batch = torch.zeros(len(streams), frames, self.extractor.num_features)
            for i, stream in enumerate(streams):
                taken = stream.waiting[:frames]
                batch[i, : len(taken)] = taken
                stream.waiting = stream.waiting[frames:]
            return batch
        true = [min(frames, stream.frames_waiting) for stream in streams]
        samples = self._taken(list(streams), frames)
        features = self.extractor.static_frames(torch.from_numpy(samples))
        if self.config.normalization == "corpus":
            features = (features - self.extractor.mean) * self.extractor.scale
        for i, count in enumerate(true):
            if count < frames:
                features[i, count:] = 0.0
        return features
