"""A model trained here, computed by torch."""

import os
from collections.abc import Callable

import numpy as np
import torch

from ctcspeech.audio.features import FeatureExtractor
from ctcspeech.emissions import Emitter
from ctcspeech.exchange.torch_emitter import one_thread_each
from ctcspeech.model.attention import AttentionDecoder
from ctcspeech.model.checkpoint import load_checkpoint
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["CheckpointEmitter"]


class CheckpointEmitter(Emitter):
    """A model with its features and alphabet. On a CPU each call uses one thread of torch's.

    What it says of a recording depends neither on padding nor on the others of a batch.
    """

    def __init__(
        self,
        model: AcousticModel,
        features: FeatureExtractor,
        alphabet: Alphabet,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.features = features.to(self.device).eval()
        self.alphabet = alphabet
        config = features.config
        self.sample_rate = config.sample_rate
        self._shift_ms = config.shift_ms
        self.frame_inputs = model.subsampling
        if config.kind == "precomputed":
            self.num_features = config.num_features
        else:
            self.frame_inputs *= config.shift

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> "CheckpointEmitter":
        """Of a run (its best checkpoint) or of a checkpoint folder. Raises CheckpointError."""
        checkpoint = load_checkpoint(path)
        return cls(checkpoint.model, checkpoint.features, checkpoint.alphabet, device)

    @property
    def input_rate(self) -> float:
        if self.num_features is not None:
            return 1000 / self._shift_ms
        return float(self.sample_rate)

    @property
    def width(self) -> int:
        """Of a row of what `compute` gives."""
        return len(self.alphabet)

    @property
    def default_threads(self) -> int:
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def prepare_threads(self, in_each: Callable[[Callable[[], None]], None]) -> None:
        if self.device.type == "cpu":
            one_thread_each(in_each)

    @property
    def attention(self) -> AttentionDecoder | None:
        return self.model.attention

    def with_states(self) -> Emitter:
        if self.model.attention is None:
            return super().with_states()  # which says why not
        return _WithStates(self.model, self.features, self.alphabet, self.device)

    def rows(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is given out for each frame, (N, T', C), and the frames of each."""
        logits, frames = self.model(features, frames)
        return logits.float().log_softmax(-1), frames

    @torch.inference_mode()
    def compute(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        lengths = torch.tensor([self.features.config.with_tail(len(item)) for item in inputs])
        padded = torch.zeros(len(inputs), int(lengths.max()), *inputs[0].shape[1:])
        for i, item in enumerate(inputs):
            padded[i, : len(item)] = torch.from_numpy(np.ascontiguousarray(item, np.float32))
        features, frames = self.features(padded.to(self.device), lengths.to(self.device))
        results = [np.zeros((0, self.width), dtype=np.float32) for _ in inputs]
        filled = torch.nonzero(frames > 0)[:, 0]
        if not len(filled):
            return results
        rows, frames = self.rows(features[filled], frames[filled])
        for i, item, count in zip(
            filled.tolist(), rows.cpu().numpy(), frames.tolist(), strict=True
        ):
            results[i] = item[:count].copy()
        return results


class _WithStates(CheckpointEmitter):
    """Rows (T', C + H): log-probabilities with the encoder's states beside them."""

    @property
    def width(self) -> int:
        return len(self.alphabet) + self.model.output.in_features

    def rows(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, states, frames = self.model.states(features, frames)
        return torch.cat([logits.float().log_softmax(-1), states.float()], dim=2), frames
