"""Forward-only models as ONNX files for streams: state in, state out.

    export_streaming("runs/digits", "digits-streaming.onnx", steps=2)
    emitter = StreamingOnnx("digits-streaming.onnx")

Format, version 1. Inputs: `samples` float32 (N, S), the next samples of N streams; `place` int64
(N), frames of features that each has taken; `length` int64 (N), its frames in all, 2^40 until it
has ended; `state_0` and on, float32 (N, ...), zeros at the beginning. Outputs: `log_probs`
float32 (N, steps, C), `delay` frames late, and `next_place`, `next_state_0`, ... for the next
step. S is (steps * subsampling - 1) * shift + window samples; from a step to the next the samples
move on by steps * subsampling * shift. After a stream's end zeros take the place of samples. The
metadata `ctcspeech_streaming` is JSON with version, alphabet, features, steps, subsampling,
delay, lookahead.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.emissions import Emitter
from ctcspeech.errors import CheckpointError
from ctcspeech.files import atomic_write
from ctcspeech.model.checkpoint import load_checkpoint
from ctcspeech.model.streaming import UNKNOWN_LENGTH, StreamingModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["StreamingOnnx", "export_streaming", "is_streaming_file"]

_KEY, _VERSION = "ctcspeech_streaming", 1


class _Step(nn.Module):
    """Samples (N, S) and states to log-probabilities and states: what becomes the graph."""

    cosine: Tensor
    sine: Tensor
    filters: Tensor | None
    mean: Tensor
    scale: Tensor

    def __init__(self, model: StreamingModel, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.model, self.config = model, extractor.config
        points = extractor.fft_points
        # The transform as a product: exporters have none, and a frame is short.
        angle = torch.outer(
            torch.arange(self.config.window), torch.arange(points // 2 + 1)
        ).double()
        angle = angle * (2 * torch.pi / points)
        window = extractor.window.double()[:, None]
        self.register_buffer("cosine", (angle.cos() * window).float())
        self.register_buffer("sine", (angle.sin() * window).float())
        filters = getattr(extractor, "filters", None)
        self.register_buffer("filters", None if filters is None else filters.float())
        self.register_buffer("mean", extractor.mean.clone())
        self.register_buffer("scale", extractor.scale.clone())

    def forward(self, samples: Tensor, place: Tensor, length: Tensor, *states: Tensor) -> Any:
        config = self.config
        frames = samples.unfold(1, config.window, config.shift)  # (N, K, W)
        powers = (frames @ self.cosine).square() + (frames @ self.sine).square()
        parts = [powers if self.filters is None else powers @ self.filters]
        if config.energy:
            parts.append(frames.square().sum(-1, keepdim=True))
        features = torch.log(torch.cat(parts, -1) + config.floor)
        if config.normalization == "corpus":
            features = (features - self.mean) * self.scale
        here = place[:, None] + torch.arange(frames.shape[1])
        features = features * (here < length[:, None]).to(torch.float32)[..., None]
        logits, new = self.model(features, [place, length, *states])
        return (logits.log_softmax(-1), new[0], *new[2:])


def export_streaming(
    model: str | os.PathLike[str], out: str | os.PathLike[str], steps: int = 2
) -> float:
    """Writes the file; `steps` frames of emissions come out of each run of the graph.

    Returns the largest difference of a log-probability from torch's on noise of several lengths.
    Raises CheckpointError for a model that needs the whole utterance, or whose features do.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    checkpoint = load_checkpoint(model)
    config = checkpoint.features.config
    try:
        streaming = StreamingModel(checkpoint.model)
    except ValueError as error:
        raise CheckpointError(f"{model} cannot be exported for streams: {error}") from error
    if config.kind == "precomputed" or config.normalization == "utterance" or config.deltas:
        raise CheckpointError(
            f"{model} cannot be exported for streams: its features must be of audio, without "
            "deltas and without normalization by the utterance"
        )
    step = _Step(streaming, checkpoint.features).eval()
    size = (steps * streaming.subsampling - 1) * config.shift + config.window
    state_names = [f"state_{i}" for i in range(len(streaming.state_shapes()))]
    names = ["samples", "place", "length", *state_names]
    outputs = ["log_probs", "next_place", *(f"next_{name}" for name in state_names)]
    about = {
        "version": _VERSION,
        "alphabet": json.loads(_alphabet_json(checkpoint.alphabet)),
        "features": config.model_dump(mode="json"),
        "steps": steps,
        "subsampling": streaming.subsampling,
        "delay": streaming.delay,
        "lookahead": checkpoint.model.lookahead,
    }
    with atomic_write(out, "wb") as file:
        _write(step, (torch.zeros(2, size), *streaming.states(2)), names, outputs, about, file)
    return _difference(checkpoint, StreamingOnnx(out))


def is_streaming_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file that `StreamingOnnx` takes, told by its metadata."""
    path = Path(path)
    if path.suffix != ".onnx" or not path.is_file():
        return False
    return _KEY.encode() in path.read_bytes()[-(1 << 20) :]


def _write(
    step: nn.Module, inputs: Any, names: list[str], outputs: list[str], about: Any, file: Any
) -> None:
    import io

    import onnx

    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of its future and of constant shapes
        torch.onnx.export(
            step, inputs, buffer, input_names=names, output_names=outputs, opset_version=17,
            dynamic_axes={name: {0: "N"} for name in [*names, *outputs]}, dynamo=False,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    entry = model.metadata_props.add()
    entry.key, entry.value = _KEY, json.dumps(about, ensure_ascii=False)
    file.write(model.SerializeToString())


def _alphabet_json(alphabet: Alphabet) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        alphabet.save(Path(folder) / "alphabet.json")
        return (Path(folder) / "alphabet.json").read_text(encoding="utf-8")


def _read_alphabet(values: Any) -> Alphabet:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "alphabet.json"
        file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return Alphabet.load(file)


def _difference(checkpoint: Any, emitter: "StreamingOnnx") -> float:
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for seconds in (0.3, 1.0, 2.7):
        samples = 0.1 * torch.randn(1, int(seconds * emitter.sample_rate), generator=generator)
        with torch.inference_mode():
            features, lengths = checkpoint.features(samples, torch.tensor([samples.shape[1]]))
            logits, _ = checkpoint.model(features, lengths)
        (found,) = emitter.compute([samples[0].numpy()])
        largest = max(largest, float(np.abs(found - logits[0].log_softmax(-1).numpy()).max()))
    return largest


class StreamingOnnx(Emitter):
    """A file of `export_streaming`, run by onnxruntime.

    steps, subsampling, delay, config: as in the file. state_shapes: of one stream's state.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        """Raises CheckpointError for a file that is none of these, or of another version."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[_KEY])
            if about["version"] != _VERSION:
                raise CheckpointError(
                    f"{path} has format version {about['version']!r}, this release reads version "
                    f"{_VERSION}: export it anew"
                )
            self.alphabet = _read_alphabet(about["alphabet"])
            self.config = FeatureConfig.model_validate(about["features"])
            self.steps, self.delay = int(about["steps"]), int(about["delay"])
            self.subsampling, self.lookahead = int(about["subsampling"]), int(about["lookahead"])
        except CheckpointError:
            raise
        except Exception as error:  # onnxruntime has an exception for each kind of damage
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{path} is no model for streams, or damaged: {reason}"
            ) from error
        self.sample_rate = self.config.sample_rate
        self.frame_inputs = self.subsampling * self.config.shift
        self.lookahead_ms = self.lookahead * self.config.shift_ms
        self.state_shapes = [tuple(item.shape[1:]) for item in self.session.get_inputs()[3:]]
        self._outputs = [item.name for item in self.session.get_outputs()]

    def states(self, count: int) -> list[np.ndarray]:
        """Of `count` streams at their beginnings: place, length, and the model's."""
        return [
            np.zeros(count, np.int64),
            np.full(count, UNKNOWN_LENGTH, np.int64),
            *(np.zeros((count, *shape), np.float32) for shape in self.state_shapes),
        ]

    def step(
        self, samples: np.ndarray, states: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """samples (N, S) and states: log-probabilities (N, steps, C) and the new states."""
        names = ["samples", "place", "length", *(f"state_{i}" for i in range(len(states) - 2))]
        feed = dict(zip(names, [samples, *states], strict=True))
        log_probs, place, *new = self.session.run(self._outputs, feed)
        return log_probs, [place, states[1], *new]

    def compute(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [self._whole(np.asarray(item, np.float32)) for item in inputs]

    def _whole(self, samples: np.ndarray) -> np.ndarray:
        config = self.config
        frames = max(0, (len(samples) - config.window) // config.shift + 1)
        wanted = -(-frames // self.subsampling)
        if not wanted:
            return np.zeros((0, len(self.alphabet)), np.float32)
        stride = self.steps * self.frame_inputs
        size = (self.steps * self.subsampling - 1) * config.shift + config.window
        runs = -(-(wanted + self.delay) // self.steps)
        padded = np.zeros((runs - 1) * stride + size, np.float32)
        padded[: min(len(samples), len(padded))] = samples[: len(padded)]
        states = self.states(1)
        states[1][0] = frames
        parts = []
        for i in range(runs):
            log_probs, states = self.step(padded[None, i * stride : i * stride + size], states)
            parts.append(log_probs[0])
        return np.concatenate(parts)[self.delay : self.delay + wanted]
