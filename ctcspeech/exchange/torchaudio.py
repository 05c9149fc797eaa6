"""Pipelines of torchaudio: torchaudio:WAV2VEC2_ASR_BASE_960H and its like."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import Emitter, from_torchaudio
from ctcspeech.errors import ModelError
from ctcspeech.exchange.labels import alphabet_of
from ctcspeech.exchange.onnx_model import log_softmax
from ctcspeech.extras import require

__all__ = ["TorchaudioEmitter"]


class TorchaudioEmitter(Emitter):
    """A bundle and its model. Each recording is computed alone."""

    padding_changes_output = True
    longest_input = 30.0

    def __init__(self, bundle: Any, model: Any) -> None:
        self.bundle, self.model = bundle, model.eval()
        labels = [" " if label == "|" else label for label in bundle.get_labels()]
        self.alphabet = alphabet_of(labels, labels.index("-"))
        self.sample_rate = int(bundle.sample_rate)
        strides = [layer.stride for layer in model.feature_extractor.conv_layers]
        self.frame_inputs = int(np.prod(strides))

    @classmethod
    def load(cls, name: str) -> "TorchaudioEmitter":
        """By the name of the pipeline, whose weights torchaudio fetches where it has them not."""
        pipelines = require("torchaudio.pipelines", "a torchaudio pipeline")
        bundle: Any = getattr(pipelines, name, None)
        if not hasattr(bundle, "get_labels"):
            known = [k for k in dir(pipelines) if hasattr(getattr(pipelines, k), "get_labels")]
            raise ModelError(f"torchaudio has no CTC pipeline {name!r}; it has {', '.join(known)}")
        try:
            return cls(bundle, bundle.get_model())
        except OSError as error:
            raise ModelError(f"torchaudio cannot fetch {name}: {error}") from error

    def compute(self, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = []
        for item in inputs:
            if len(item) < 2 * self.frame_inputs:
                results.append(np.zeros((0, len(self.alphabet)), np.float32))
                continue
            (emissions,) = from_torchaudio(self.bundle, self.model, [item])
            results.append(log_softmax(emissions.scores.astype(np.float32)))
        return results
