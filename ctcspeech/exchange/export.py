"""A trained model as an ONNX file, and the folder in which it travels.

    export("runs/english", "english/", int8=True)        # model.onnx, tokens.txt, config.json, ...

Two layouts. "waveform": samples in, features inside the graph; any length, any batch.

    audio float (N, S), lengths int64 (N,) -> log_probs float (N, T', C), log_prob_lengths (N,)

"nemo": the front end outside, as sherpa-onnx (`from_nemo_ctc`) and onnx-asr (`nemo-conformer-ctc`)
compute it; the model must have been trained on features of that preset.

    audio_signal float (N, F, T), length int64 (N,) -> logprobs, log_probs float (N, T', C)

There sherpa-onnx reads floor(T / subsampling) frames, of ceil(T / subsampling): the last one, with
the end of a word in it, would be lost. `logprobs` therefore leaves out a blank frame where they
differ (`_for_floored_lengths`), and `log_probs` is what the model says; ctcspeech reads the latter.

A model that was trained on precomputed features takes these: features (N, T, F), lengths.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ctcspeech import __version__
from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.errors import ModelError
from ctcspeech.exchange.graph import Graph
from ctcspeech.exchange.graph_features import add_features, add_normalization
from ctcspeech.exchange.graph_model import add_model
from ctcspeech.exchange.labels import write_tokens
from ctcspeech.exchange.onnx_family import KEY, VERSION
from ctcspeech.exchange.onnx_model import OnnxEmitter
from ctcspeech.files import atomic_write
from ctcspeech.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint

__all__ = ["LAYOUTS", "Exported", "beside", "check_export", "export", "onnx_model"]

LAYOUTS = ("waveform", "nemo")
BESIDE = ("decoder.json", "confidence.json", "lm.bin")
TOLERANCE = 1e-4
"""Log-probabilities that differ from torch's by less do so by rounding alone."""

REFUSED = 1e-2
"""A graph that differs by more is wrong. Between the two are models that magnify rounding: a unit
that hardly varied in training is multiplied by up to 316 in batch norm (1 / sqrt(1e-5))."""


@dataclass
class Exported:
    """What was written. `difference`: the largest of a log-probability from torch's, by file."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    difference: dict[str, float] = field(default_factory=dict)


def onnx_model(
    checkpoint: Checkpoint, layout: str = "waveform", *, int8: bool = False
) -> onnx.ModelProto:
    """The model with its features. Raises ModelError where it cannot have this layout."""
    config, model = checkpoint.features.config, checkpoint.model
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if config.kind == "precomputed":
        layout = "features"
    graph = Graph(int8)
    classes = len(checkpoint.alphabet)
    if layout == "waveform":
        inputs: list[Any] = [("audio", np.float32, ["N", "S"]), ("lengths", np.int64, ["N"])]
        features, lengths = add_features(graph, config, "audio", "lengths")
        features = _normalized(graph, checkpoint, features, lengths)
    elif layout == "features":
        width = config.num_features
        inputs = [("features", np.float32, ["N", "T", width]), ("lengths", np.int64, ["N"])]
        features, lengths = _normalized(graph, checkpoint, "features", "lengths"), "lengths"
    else:
        _check_nemo(config)
        width = model.num_features
        inputs = [("audio_signal", np.float32, ["N", width, "T"]), ("length", np.int64, ["N"])]
        rows = graph.op("Transpose", "audio_signal", perm=[0, 2, 1])
        mask = graph.op("Unsqueeze", graph.mask("length", rows, 1), graph.integers(2))
        features, lengths = graph.op("Mul", rows, mask), "length"
    scores, counts = add_model(graph, model, features, lengths)
    graph.rename(scores, "log_probs")
    outputs: list[Any] = [("log_probs", np.float32, ["N", "T_out", classes])]
    if layout == "nemo":
        blank = checkpoint.alphabet.blank
        shifted = _for_floored_lengths(graph, scores, "length", counts, model.subsampling, blank)
        graph.rename(shifted, "logprobs")
        outputs.insert(0, ("logprobs", np.float32, ["N", "T_out", classes]))
    else:
        graph.rename(counts, "log_prob_lengths")
        outputs.append(("log_prob_lengths", np.int64, ["N"]))
    return graph.model(inputs, outputs, _metadata(checkpoint, layout))


def _normalized(graph: Graph, checkpoint: Checkpoint, features: str, lengths: str) -> str:
    extractor = checkpoint.features
    mean, scale = (x.detach().cpu().double().numpy() for x in (extractor.mean, extractor.scale))
    return add_normalization(graph, extractor.config, features, lengths, mean, scale)


def _check_nemo(config: FeatureConfig) -> None:
    wanted = FeatureConfig(preset="nemo", num_bins=config.num_bins)
    if config.model_copy(update={"preset": "nemo"}) != wanted:
        raise ModelError(
            "the layout nemo is for models that were trained on NeMo's features at 16 kHz: train "
            'with features.preset = "nemo" (recipes/grid/portable.toml), or export with the '
            "layout waveform"
        )


def _for_floored_lengths(
    graph: Graph, scores: str, lengths: str, counts: str, subsampling: int, blank: int
) -> str:
    """Log-probabilities (N, T', C) of which a reader of floor(T / subsampling) frames misses none.

    Where that is one less than ceil(T / subsampling), one frame is left out and the last one stands
    there twice. Greedy decoding stays as it was where the frame left out has the label of the next,
    or is a blank and its neighbours are unlike; of such frames the surest blank is taken.
    """

    def apart(value: str, steps: int) -> str:
        """(N, T') of `value` at frame t + steps, -1 where there is none."""
        sides = (0, 0, 0, 1) if steps > 0 else (0, 1, 0, 0)
        padded = graph.op("Pad", value, graph.integers(*sides), graph.constant(np.int64(-1)))
        ends = (np.iinfo(np.int64).max,) if steps > 0 else (-1,)
        start = graph.integers(max(steps, 0))
        return graph.op("Slice", padded, start, graph.integers(*ends), graph.integers(1))

    one, zero = graph.constant(np.int64(1)), graph.constant(np.int64(0))
    rest = graph.op("Mod", lengths, graph.constant(np.int64(subsampling)))
    step = graph.op("Unsqueeze", graph.op("Min", rest, one), graph.integers(1))  # (N, 1)
    last = graph.op("Max", graph.op("Sub", counts, one), zero)
    last = graph.op("Unsqueeze", last, graph.integers(1))
    frames = graph.range(graph.size(scores, 1))  # (T',)
    within = graph.op("LessOrEqual", frames, last)  # (N, T')
    outside = graph.constant(np.int64(-1))
    path = graph.op("Where", within, graph.op("ArgMax", scores, axis=2, keepdims=0), outside)
    before, after = apart(path, -1), apart(path, 1)
    unlike = graph.op("Not", graph.op("Equal", before, after))
    silent = graph.op("And", graph.op("Equal", path, graph.constant(np.int64(blank))), unlike)
    spare = graph.op("Or", graph.op("Equal", path, after), silent)
    blanks = graph.op("Gather", scores, graph.constant(np.int64(blank)), axis=2)  # (N, T')
    worse = graph.op("Add", blanks, graph.constant(np.float32(-1e9)))
    choice = graph.op("Where", spare, blanks, worse)
    choice = graph.op("Where", within, choice, graph.constant(np.float32(-2e9)))
    left_out = graph.op("ArgMax", choice, axis=1, keepdims=1)
    later = graph.op("Cast", graph.op("GreaterOrEqual", frames, left_out), to=7)  # int64
    index = graph.op("Add", frames, graph.op("Mul", later, step))
    index = graph.op("Unsqueeze", graph.op("Min", index, last), graph.integers(2))
    shape = graph.op("Shape", scores)
    return graph.op("GatherElements", scores, graph.op("Expand", index, shape), axis=1)


def _metadata(checkpoint: Checkpoint, layout: str) -> dict[str, str]:
    config, subsampling = checkpoint.features.config, checkpoint.model.subsampling
    values: dict[str, Any] = {
        "version": VERSION,
        "ctcspeech": __version__,
        "layout": layout,
        "sample_rate": config.sample_rate,
        "shift_ms": config.shift_ms,
        "subsampling": subsampling,
        "alphabet": checkpoint.alphabet.to_dict(),
        "normalizer": (checkpoint.config.get("data") or {}).get("normalizer"),
    }
    if layout == "features":
        values["num_features"] = config.num_features
    metadata = {"model_author": "ctcspeech", "comment": "CTC model trained with ctcspeech"}
    if layout == "nemo":
        values["features"] = config.model_dump(mode="json")
        metadata.update(
            model_type="EncDecCTCModelBPE",
            vocab_size=str(len(checkpoint.alphabet) - 1),
            subsampling_factor=str(subsampling),
            normalize_type="per_feature",
        )
    return {KEY: json.dumps(values, ensure_ascii=False), **metadata}


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: str = "waveform",
    int8: bool = False,
    samples: list[np.ndarray] | None = None,
) -> Exported:
    """Writes the folder: model.onnx, model.int8.onnx (int8), tokens.txt, vocab.txt, config.json,
    and the language model, decoder settings and calibration of the checkpoint if it has them.

    samples: recordings (or features) on which the files are compared with torch, one by one and in
        a padded batch; by default noise of many lengths.

    Raises ModelError where the float model differs by REFUSED or more; nothing is kept then.
    """
    folder, out = find_checkpoint(model), Path(out)
    checkpoint = load_checkpoint(model)
    if checkpoint.features.config.kind == "precomputed":
        layout = "features"
    if samples is None:
        samples = _noise(checkpoint)
    exported = Exported(out)
    for name, small in (("model.onnx", False), ("model.int8.onnx", True))[: 1 + int8]:
        graph = onnx_model(checkpoint, "waveform" if layout == "features" else layout, int8=small)
        file = out / name
        with atomic_write(file, "wb") as opened:
            opened.write(graph.SerializeToString())
        difference = check_export(checkpoint, file, samples)
        if not small and not difference < REFUSED:
            file.unlink()
            raise ModelError(
                f"the exported model differs from torch by {difference:.2g} in a log-probability, "
                f"allowed is {REFUSED:g}: please report this with the model's config.json"
            )
        exported.files.append(file)
        exported.difference[name] = difference
    tokens = write_tokens(checkpoint.alphabet)
    config = _config(checkpoint, layout)
    texts = {"tokens.txt": tokens, "vocab.txt": tokens, "config.json": config}
    for name, text in texts.items():
        with atomic_write(out / name) as opened:
            opened.write(text)
        exported.files.append(out / name)
    for file in beside(folder):
        shutil.copyfile(file, out / file.name)
        exported.files.append(out / file.name)
    return exported


def beside(folder: Path) -> list[Path]:
    """Decoder settings, calibration and language model that lie with the checkpoint."""
    from ctcspeech.decode.settings import DecoderSettings

    settings = DecoderSettings.find(folder)
    if settings is not None and settings.lm is not None and settings.lm.parent != folder:
        raise ModelError(
            f"the language model {settings.lm} does not lie with the checkpoint; run ctcspeech "
            "tune without --reference-lm, so that it can go along"
        )
    names = {*BESIDE, settings.lm.name if settings is not None and settings.lm else "lm.bin"}
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def _config(checkpoint: Checkpoint, layout: str) -> str:
    """config.json: what onnx-asr reads of it, and for people what the model is."""
    values: dict[str, Any] = {}
    if layout == "nemo":
        values["model_type"] = "nemo-conformer-ctc"
        values["features_size"] = checkpoint.model.num_features
        values["subsampling_factor"] = checkpoint.model.subsampling
    values["ctcspeech"] = {
        "layout": layout,
        "sample_rate": checkpoint.features.config.sample_rate,
        "frame_shift_ms": checkpoint.frame_shift_ms,
        "labels": len(checkpoint.alphabet),
        "blank": checkpoint.alphabet.blank,
        "model": checkpoint.model.config.model_dump(
            mode="json", exclude_none=True, exclude={"attention"}
        ),
        "features": checkpoint.features.config.model_dump(mode="json"),
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _noise(checkpoint: Checkpoint) -> list[np.ndarray]:
    """Bursts of noise, tilted and swelling as speech, of many lengths, some too short for a frame.

    Normalised by themselves, a few frames that are nearly alike would show their rounding, large:
    then there is half a second at least.
    """
    generator = np.random.default_rng(0)
    config = checkpoint.features.config
    shape: tuple[int, ...] = ()
    rate = float(config.sample_rate)
    if config.kind == "precomputed":
        assert config.num_features is not None
        shape, rate = (config.num_features,), 1000 / config.shift_ms
    shortest = 0.5 if config.normalization == "utterance" else 0.05
    lengths = [1, *(generator.uniform(shortest, 4.0, 15) * rate).astype(int)]
    loudness = generator.uniform(0.003, 0.3, len(lengths))
    signals = []
    for length, scale in zip(lengths, loudness, strict=True):
        noise = generator.standard_normal((length, *shape))
        noise[1:] += 0.9 * noise[:-1]
        swell = 0.05 + np.sin(2 * np.pi * 3 * np.arange(length) / rate) ** 2
        signals.append((scale * noise * swell.reshape(-1, *[1] * len(shape))).astype(np.float32))
    return signals


def check_export(checkpoint: Checkpoint, file: Path, samples: list[np.ndarray]) -> float:
    """The largest difference of a log-probability between a file and torch, alone and in batches.

    Raises ModelError where the numbers of frames differ.
    """
    emitter = OnnxEmitter.load(file)
    largest = 0.0
    for first in range(0, len(samples), 8):
        part = samples[first : first + 8]
        wanted = _by_torch(checkpoint, part, emitter)
        together = emitter.compute(part)
        alone = [emitter.compute([item])[0] for item in part]
        for found in (together, alone):
            for got, want in zip(found, wanted, strict=True):
                if got.shape != want.shape:
                    raise ModelError(f"the export gives {got.shape}, torch gives {want.shape}")
                if got.size:
                    largest = max(largest, float(np.abs(got - want).max()))
    return largest


@torch.inference_mode()
def _by_torch(
    checkpoint: Checkpoint, samples: list[np.ndarray], emitter: OnnxEmitter
) -> list[np.ndarray]:
    """One by one; of the same features where these are not in the graph."""
    config, results = checkpoint.features.config, []
    for item in samples:
        batch = torch.from_numpy(np.ascontiguousarray(item, np.float32))[None]
        if emitter.contract.layout == "NFT":
            features = torch.from_numpy(emitter.contract.prepare(item))[None]
            lengths = torch.tensor([features.shape[1]])
        else:
            count = config.with_tail(len(item))
            batch = torch.nn.functional.pad(batch, (0, count - len(item)))
            features, lengths = checkpoint.features(batch, torch.tensor([count]))
        if not int(lengths[0]):
            results.append(np.zeros((0, len(checkpoint.alphabet)), np.float32))
            continue
        logits, _ = checkpoint.model(features, lengths)
        results.append(logits[0].log_softmax(-1).numpy())
    return results
