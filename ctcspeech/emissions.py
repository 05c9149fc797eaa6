"""What an acoustic model says of one recording, in a form that decoder and aligner share.

    emissions = Emissions.load("call.npz")
    emissions.save("call.npz")

Models of other toolkits give emissions through `from_transformers` (a Hugging Face
`AutoModelForCTC` and its processor) and `from_torchaudio` (a pipeline bundle); neither package is
needed for the rest.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.errors import FeatureError
from ctcspeech.files import atomic_write

__all__ = ["Emissions", "from_torchaudio", "from_transformers"]

_FORMAT, _VERSION = "ctcspeech-emissions", 1


@dataclass
class Emissions:
    """Scores over the labels and the blank for each frame of a recording."""

    scores: npt.NDArray[np.floating[Any]]  # (T, C) logits or log-probabilities
    labels: list[str]  # (C,) the blank's too; " " (or "|", "▁...") marks where words end or begin
    blank: int
    frame_shift_ms: float
    start: float = 0.0  # seconds from the start of the recording to the first frame

    def __post_init__(self) -> None:
        self.scores = np.asarray(self.scores)
        self.labels = list(self.labels)
        if self.scores.ndim != 2 or self.scores.dtype.kind != "f":
            raise ValueError(
                "scores must be a floating-point array (T, C), got "
                f"{self.scores.dtype} {self.scores.shape}"
            )
        if self.scores.shape[1] != len(self.labels):
            raise ValueError(
                f"scores have {self.scores.shape[1]} classes for {len(self.labels)} labels"
            )
        if not 0 <= self.blank < len(self.labels):
            raise ValueError(f"blank must be in [0, {len(self.labels)}), got {self.blank}")
        if not self.frame_shift_ms > 0:
            raise ValueError(f"frame_shift_ms must be above 0, got {self.frame_shift_ms}")

    def __len__(self) -> int:
        """Frames."""
        return len(self.scores)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.scores) * self.frame_shift_ms / 1000

    def log_probs(self) -> npt.NDArray[np.float64]:
        """(T, C) natural logarithms of the softmax over the classes."""
        scores = self.scores.astype(np.float64)
        scores = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def seconds(self, frames: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Times at which frames begin, in seconds from the start of the recording."""
        return self.start + np.asarray(frames, np.float64) * (self.frame_shift_ms / 1000)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a compressed `.npz`: `scores`, and `header`, a JSON text with format, version,
        labels, blank, frame_shift_ms and start. Written whole or not at all."""
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "labels": self.labels,
            "blank": self.blank,
            "frame_shift_ms": self.frame_shift_ms,
            "start": self.start,
        }
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, scores=self.scores, header=json.dumps(header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Emissions":
        """Reads what `save` wrote. Raises FeatureError if that is damaged or something else."""
        path = Path(path)
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                if header.get("format") != _FORMAT:
                    raise FeatureError(f"{path}: not a file of emissions")
                if header["version"] != _VERSION:
                    raise FeatureError(
                        f"{path}: emissions of version {header['version']}; this release reads "
                        f"version {_VERSION}: update ctcspeech, or write them anew"
                    )
                return cls(
                    stored["scores"],
                    header["labels"],
                    header["blank"],
                    header["frame_shift_ms"],
                    header["start"],
                )
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise FeatureError(f"{path}: not a file of emissions, or damaged: {error}") from error


def from_transformers(
    model: Any, processor: Any, recordings: Sequence[npt.NDArray[np.floating[Any]]]
) -> list[Emissions]:
    """Emissions of a Hugging Face CTC model (wav2vec2, HuBERT, MMS, ... by `AutoModelForCTC`).

    processor: its `AutoProcessor`, or feature extractor and tokenizer in one object.
    recordings: mono samples (S,) at `processor.feature_extractor.sampling_rate`. Each is computed
        alone, since padding changes the output of many of these models.

    The word separator `|` becomes " "; the pad token is the blank, as in `Wav2Vec2CTCTokenizer`.
    """
    import torch

    tokenizer = processor.tokenizer
    size = model.config.vocab_size
    labels = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
    separator = getattr(tokenizer, "word_delimiter_token", None)
    labels = [" " if label == separator else label for label in labels]
    rate = processor.feature_extractor.sampling_rate
    shift = _frame_shift_ms(model.config, rate)
    result = []
    for samples in recordings:
        inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode():
            logits = model.eval()(**inputs).logits[0]
        scores = logits.float().cpu().numpy()
        result.append(Emissions(scores, labels, int(tokenizer.pad_token_id), shift))
    return result


def _frame_shift_ms(config: Any, sample_rate: int) -> float:
    ratio = getattr(config, "inputs_to_logits_ratio", None)
    if ratio is None:
        raise ValueError(
            "the model's configuration has no inputs_to_logits_ratio, so the length of a frame is "
            "unknown: build Emissions(scores, labels, blank, frame_shift_ms) yourself"
        )
    return 1000.0 * ratio / sample_rate


def from_torchaudio(
    bundle: Any, model: Any, recordings: Sequence[npt.NDArray[np.floating[Any]]]
) -> list[Emissions]:
    """Emissions of a torchaudio `Wav2Vec2ASRBundle` (such as WAV2VEC2_ASR_BASE_960H).

    model: `bundle.get_model()`. recordings: mono samples (S,) at `bundle.sample_rate`, each
    computed alone. The labels are the bundle's, `-` the blank and `|` (then " ") the separator.
    """
    import torch

    labels = list(bundle.get_labels())
    blank = labels.index("-")
    labels = [" " if label == "|" else label for label in labels]
    stride = 1
    for layer in model.feature_extractor.conv_layers:
        stride *= layer.stride
    shift = 1000.0 * stride / bundle.sample_rate
    result = []
    for samples in recordings:
        waveform = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
        with torch.inference_mode():
            scores, _ = model.eval()(waveform)
        result.append(Emissions(scores[0].cpu().numpy(), labels, blank, shift))
    return result
