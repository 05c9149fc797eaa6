"""What an acoustic model says of one recording, in a form that decoder and aligner share, and who
says it.

    emissions = Emissions.load("call.npz")
    emissions.save("call.npz")

An `Emitter` is any model that turns recordings into emissions: a checkpoint, an ONNX file, a model
of transformers. Recognition, evaluation, tuning, alignment and live recognition know no other.

Models of other toolkits give emissions through `from_transformers` (a Hugging Face
`AutoModelForCTC` and its processor) and `from_torchaudio` (a pipeline bundle); neither package is
needed for the rest.
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.errors import CtcSpeechError, FeatureError
from ctcspeech.files import NUMPY_ERRORS, atomic_write, parse_json
from ctcspeech.text.alphabet import Alphabet

__all__ = ["Emissions", "Emitter", "EmitterStream", "from_torchaudio", "from_transformers"]

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
                header = parse_json(str(stored["header"]))
                if header.get("format") != _FORMAT:
                    raise FeatureError(f"{path}: not a file of emissions")
                if header["version"] != _VERSION:
                    raise FeatureError(
                        f"{path}: emissions of version {header['version']}; this release reads "
                        f"version {_VERSION}: update ctcspeech, or write them anew"
                    )
                if not all(isinstance(label, str) for label in header["labels"]):
                    raise ValueError("labels must be a list of strings")
                return cls(
                    stored["scores"],
                    header["labels"],
                    header["blank"],
                    header["frame_shift_ms"],
                    header["start"],
                )
        except FileNotFoundError:
            raise
        except NUMPY_ERRORS as error:
            raise FeatureError(f"{path}: not a file of emissions, or damaged: {error}") from error


class Emitter(ABC):
    """A model that turns recordings into emissions.

    alphabet: its labels, the blank among them.
    sample_rate: of the samples that it takes, in hertz.
    frame_inputs: samples (or precomputed frames) from one frame of emissions to the next.
    num_features: None for a model that hears samples; F of one that takes features (T, F) which
        were computed elsewhere.
    input_rate: samples, or precomputed frames, a second.
    padding_changes_output: then every recording is computed alone, never in a padded batch.
    longest_input: seconds that it takes at once, None where any length is well.
    lookahead_ms: future audio that a frame of emissions needs; None when it needs the whole
        recording, and there is no `stream`.

    `compute` may be called by several threads at once.
    """

    alphabet: Alphabet
    sample_rate: int
    frame_inputs: int
    num_features: int | None = None
    padding_changes_output: bool = False
    longest_input: float | None = None
    lookahead_ms: float | None = None

    @property
    def labels(self) -> list[str]:
        return self.alphabet.labels

    @property
    def blank(self) -> int:
        return self.alphabet.blank

    @property
    def input_rate(self) -> float:
        return float(self.sample_rate)

    @property
    def frame_shift_ms(self) -> float:
        """Milliseconds from one frame of emissions to the next."""
        return 1000 * self.frame_inputs / self.input_rate

    @abstractmethod
    def compute(self, inputs: list[npt.NDArray[np.floating[Any]]]) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities (T', C) of each of a batch of samples (S,), or of features (T, F).

        Too few samples for a frame give none.
        """

    def stream(self) -> "EmitterStream":
        """A new stream: emissions of a recording that comes in pieces.

        Raises CtcSpeechError where the model needs the whole recording.
        """
        raise CtcSpeechError(
            "this model cannot hear a recording as it comes: it needs the whole of it"
        )

    @property
    def attention(self) -> Any:
        """The model's attention decoder (`ctcspeech.decode.attention.AttentionHead`), None where it
        has none."""
        return None

    def with_states(self) -> "Emitter":
        """The same model for decoders that look at the encoder's states: rows (T', C + H), the
        states beside the log-probabilities.

        Raises CtcSpeechError where the model has no attention decoder.
        """
        raise CtcSpeechError(
            "this model has no attention decoder: only a checkpoint that was trained with a "
            "section [model.attention] has one; decode it by CTC"
        )

    def emissions(self, samples: npt.NDArray[np.floating[Any]]) -> Emissions:
        """Those of one recording, computed whole."""
        (scores,) = self.compute([samples])
        return Emissions(scores, self.labels, self.blank, self.frame_shift_ms)

    @property
    def default_threads(self) -> int:
        """Batches computed at the same time, unless the user says otherwise."""
        if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
            return max(1, int(os.environ["OMP_NUM_THREADS"]))
        usable = getattr(os, "sched_getaffinity", None)  # not on macOS
        return len(usable(0)) if usable else os.cpu_count() or 1

    def prepare_threads(self, in_each: Callable[[Callable[[], None]], None]) -> None:
        """Called before several threads call `compute`, each of which should use one processor.

        in_each(f) calls f in each of them.
        """
        return None


class EmitterStream(ABC):
    """The state of one recording under way. Its frames are, in the end, those of the whole."""

    @abstractmethod
    def accept(self, samples: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """The next samples (S,): log-probabilities (T, C) of the frames that they complete."""

    @abstractmethod
    def finish(self) -> npt.NDArray[np.float32]:
        """The recording has ended: the frames (T, C) that were held back."""


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

    labels, blank = transformers_labels(model, processor)
    rate = processor.feature_extractor.sampling_rate
    shift = _frame_shift_ms(model.config, rate)
    result = []
    for samples in recordings:
        inputs = processor(samples, sampling_rate=rate, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model.eval()(**inputs).logits[0]
        scores = logits.float().cpu().numpy()
        result.append(Emissions(scores, labels, blank, shift))
    return result


def transformers_labels(model: Any, processor: Any) -> tuple[list[str], int]:
    """The labels of a Hugging Face CTC model, words apart by " ", and the index of the blank."""
    tokenizer = processor.tokenizer
    ids = list(range(model.config.vocab_size))
    separator = getattr(tokenizer, "word_delimiter_token", None)
    labels = _with_spaces(tokenizer.convert_ids_to_tokens(ids), separator)
    return labels, int(tokenizer.pad_token_id)


def _with_spaces(labels: Sequence[Any], separator: str | None) -> list[str]:
    return [" " if label == separator else str(label) for label in labels]


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

    labels = torchaudio_labels(bundle)
    blank = labels.index("-")
    shift = 1000.0 * torchaudio_stride(model) / bundle.sample_rate
    result = []
    for samples in recordings:
        waveform = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
        with torch.inference_mode():
            scores, _ = model.eval()(waveform)
        scores = scores[0, :, : len(labels)].cpu().numpy()  # without the star
        result.append(Emissions(scores, labels, blank, shift))
    return result


def torchaudio_labels(bundle: Any) -> list[str]:
    """Those of a bundle, words apart by " ", without the star of those for alignment."""
    labels = bundle.get_labels()
    starred = hasattr(bundle, "get_dict")
    return _with_spaces(labels[:-1] if starred and labels[-1] == "*" else labels, "|")


def torchaudio_stride(model: Any) -> int:
    """Samples from one frame to the next. Models that normalise their input wrap another."""
    layers = getattr(model, "model", model).feature_extractor.conv_layers
    return math.prod(int(layer.stride) for layer in layers)
