"""Pipelines of torchaudio: torchaudio:WAV2VEC2_ASR_BASE_960H and its like."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import from_torchaudio, torchaudio_labels, torchaudio_stride
from ctcspeech.errors import ModelError
from ctcspeech.exchange.labels import alphabet_of
from ctcspeech.exchange.torch_emitter import TorchEmitter
from ctcspeech.extras import require

__all__ = ["TorchaudioEmitter"]


class TorchaudioEmitter(TorchEmitter):
    """A bundle and its model."""

    def __init__(self, bundle: Any, model: Any) -> None:
        self.bundle, self.model = bundle, model.eval()
        labels = torchaudio_labels(bundle)
        self.alphabet = alphabet_of(labels, labels.index("-"))
        self.sample_rate = int(bundle.sample_rate)
        self.frame_inputs = torchaudio_stride(model)

    @classmethod
    def load(cls, name: str) -> "TorchaudioEmitter":
        """By the name of the pipeline, whose weights torchaudio fetches where it has them not.

        That for forced alignment (MMS_FA) is without its star, likelier than all else.
        """
        pipelines = require("torchaudio.pipelines", "a torchaudio pipeline")
        known = {
            key: value
            for key, value in vars(pipelines).items()
            if hasattr(value, "get_labels") and not isinstance(value, type)
        }
        if name not in known:
            raise ModelError(
                f"torchaudio has no CTC pipeline {name!r}; it has {', '.join(sorted(known))}"
            )
        bundle: Any = known[name]
        starred = isinstance(bundle, pipelines.Wav2Vec2FABundle)
        try:
            model = bundle.get_model(with_star=False) if starred else bundle.get_model()
        except OSError as error:
            raise ModelError(f"torchaudio cannot fetch {name}: {error}") from error
        return cls(bundle, model)

    def scores(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        return from_torchaudio(self.bundle, self.model, [samples])[0].scores
