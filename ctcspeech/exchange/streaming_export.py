"""Writing forward-only models as ONNX files for streams; `exchange.streaming` tells the format.

export_streaming("runs/digits", "digits/", steps=2)  # streaming.onnx, and settings beside it
"""

import io
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.audio.features import FeatureExtractor
from ctcspeech.errors import CheckpointError
from ctcspeech.exchange.export import beside
from ctcspeech.exchange.streaming import KEY, VERSION, StreamingOnnx
from ctcspeech.files import atomic_write
from ctcspeech.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from ctcspeech.model.streaming import StreamingModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["export_streaming"]


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
        prepared = _prepared(self.config) * extractor.window.double()
        self.register_buffer("cosine", (prepared @ angle.cos()).float())
        self.register_buffer("sine", (prepared @ angle.sin()).float())
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
            parts.append((frames * config.sample_scale).square().sum(-1, keepdim=True))
        values = torch.cat(parts, -1)
        values = values.clamp(min=config.floor) if config.clamp_floor else values + config.floor
        features = torch.log(values)
        if config.normalization == "corpus":
            features = (features - self.mean) * self.scale
        here = place[:, None] + torch.arange(frames.shape[1])
        features = features * (here < length[:, None]).to(torch.float32)[..., None]
        logits, new = self.model(features, [place, length, *states])
        return (logits.log_softmax(-1), new[0], *new[2:])


def _prepared(config: FeatureConfig) -> Tensor:
    """What is done to the samples of a frame before its window, as a matrix (W, W) from the right:
    scale, mean and pre-emphasis are linear."""
    rows = config.sample_scale * torch.eye(config.window, dtype=torch.float64)
    if config.remove_mean:
        rows = rows - rows.mean(1, keepdim=True)
    if config.pre_emphasis:
        before = torch.cat([rows[:, :1], rows[:, :-1]], 1)
        rows = rows - config.pre_emphasis * before
    return rows


def export_streaming(
    model: str | os.PathLike[str], out: str | os.PathLike[str], steps: int = 2
) -> float:
    """Writes the file; `steps` frames of emissions come out of each run of the graph.

    Decoder settings, calibration and language model that lie with the checkpoint go along, into the
    folder of the file, where `Recognizer.load` finds them.

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
    if not config.of_streams or config.deltas:
        raise CheckpointError(
            f"{model} cannot be exported for streams: its features must be of audio, without "
            "deltas, padding, and normalization by the utterance"
        )
    step = _Step(streaming, checkpoint.features).eval()
    size = (steps * streaming.subsampling - 1) * config.shift + config.window
    state_names = [f"state_{i}" for i in range(len(streaming.state_shapes()))]
    names = ["samples", "place", "length", *state_names]
    outputs = ["log_probs", "next_place", *(f"next_{name}" for name in state_names)]
    about = {
        "version": VERSION,
        "alphabet": json.loads(_alphabet_json(checkpoint.alphabet)),
        "features": config.model_dump(mode="json"),
        "steps": steps,
        "subsampling": streaming.subsampling,
        "delay": streaming.delay,
        "lookahead": checkpoint.model.lookahead,
        "hidden_end": checkpoint.model.hidden_end,
        "normalizer": (checkpoint.config.get("data") or {}).get("normalizer"),
    }
    with atomic_write(out, "wb") as file:
        _write(step, (torch.zeros(2, size), *streaming.states(2)), names, outputs, about, file)
    for kept in beside(find_checkpoint(model)):
        if kept.parent.resolve() != Path(out).parent.resolve():
            shutil.copyfile(kept, Path(out).parent / kept.name)
    return _difference(checkpoint, StreamingOnnx(out))


def _write(
    step: nn.Module, inputs: Any, names: list[str], outputs: list[str], about: Any, file: Any
) -> None:
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
    entry.key, entry.value = KEY, json.dumps(about, ensure_ascii=False)
    file.write(model.SerializeToString())


def _alphabet_json(alphabet: Alphabet) -> str:
    with tempfile.TemporaryDirectory() as folder:
        alphabet.save(Path(folder) / "alphabet.json")
        return (Path(folder) / "alphabet.json").read_text(encoding="utf-8")


def _difference(checkpoint: Checkpoint, emitter: StreamingOnnx) -> float:
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for seconds in (0.3, 1.0, 2.7):
        samples = 0.1 * torch.randn(1, int(seconds * emitter.sample_rate), generator=generator)
        with torch.inference_mode():
            wanted = checkpoint.features.config.with_tail(samples.shape[1])
            padded = torch.nn.functional.pad(samples, (0, wanted - samples.shape[1]))
            features, lengths = checkpoint.features(padded, torch.tensor([wanted]))
            logits, _ = checkpoint.model(features, lengths)
        (found,) = emitter.compute([samples[0].numpy()])
        difference = np.abs(found - logits[0].log_softmax(-1).numpy())
        largest = max(largest, float(difference.max(initial=0.0)))
    return largest
