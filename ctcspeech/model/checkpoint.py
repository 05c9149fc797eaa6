"""Checkpoints: a trained model as a folder that is enough alone to transcribe.

Format version 1. A checkpoint MUST hold

    config.json         {"format": "ctcspeech checkpoint", "version": 1, "model": ..., "features":
                        ..., "info": ..., "config": ...}: the sections of the configuration that
                        shape the model and its features, what is known of the training (epoch,
                        step, validation error rates), and the whole configuration of the run
    alphabet.json       the alphabet
    model.safetensors   the weights

and MAY hold

    statistics.safetensors  mean, std, frames of the features, when they are normalised by them
    training.pt             what resuming needs (optimizer, position); never needed to transcribe
    checksums.json          SHA-256 of each of these files; a file listed there MUST be that one

It is written to a temporary folder that is renamed. Another version is refused.
"""

import io
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from ctcspeech import __version__
from ctcspeech.audio.features import FeatureConfig, FeatureExtractor, FeatureStatistics
from ctcspeech.errors import AlphabetError, CheckpointError, ConfigError, FeatureError
from ctcspeech.model.deepspeech import AcousticModel, ModelConfig, build_model
from ctcspeech.model.folder import (
    find_checkpoint,
    new_folder,
    read_bytes,
    read_checkpoint,
    read_json,
    recover,
)
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.normalize import Normalizer

__all__ = [
    "Checkpoint",
    "find_checkpoint",
    "load_checkpoint",
    "load_training",
    "recover",
    "remove_checkpoint",
    "save_checkpoint",
]

FORMAT, VERSION = "ctcspeech checkpoint", 1


@dataclass
class Checkpoint:
    """A model with all that goes with it. `info`: epoch, step, validation wer, cer and loss, ...

    `config` is the configuration of the run that made it (sections as dictionaries).
    """

    model: AcousticModel
    features: FeatureExtractor
    alphabet: Alphabet
    config: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def frame_shift_ms(self) -> float:
        """Time from one frame of emissions to the next."""
        return self.features.config.shift_ms * self.model.subsampling


def save_checkpoint(
    folder: str | os.PathLike[str],
    checkpoint: Checkpoint,
    training: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint whole or not at all; one that stood there before is replaced.

    `training` (tensors, numbers, strings, lists, dictionaries) is what resuming needs.
    """
    folder = Path(folder)
    model, features = checkpoint.model, checkpoint.features
    values = {
        "format": FORMAT,
        "version": VERSION,
        "ctcspeech": __version__,
        "model": model.config.model_dump(mode="json", exclude_none=True),
        "features": features.config.model_dump(mode="json"),
        "info": checkpoint.info,
        "config": checkpoint.config,
    }
    with new_folder(folder) as temporary:
        text = json.dumps(values, indent=1, ensure_ascii=False)
        (temporary / "config.json").write_text(text + "\n", encoding="utf-8")
        checkpoint.alphabet.save(temporary / "alphabet.json")
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        if features.statistics is not None:
            save_file(features.statistics.to_dict(), temporary / "statistics.safetensors")
        if training is not None:
            torch.save(training, temporary / "training.pt")


def load_checkpoint(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Checkpoint:
    """Reads a checkpoint: its folder, or a run's, of which the final (or best) model is taken.

    The model is in evaluation mode. Raises CheckpointError saying what is missing, damaged, or of
    a version that this release does not read.
    """
    return read_checkpoint(path, lambda folder: _load(folder, device))


def _load(folder: Path, device: str | torch.device) -> Checkpoint:
    values = read_json(folder / "config.json")
    if values.get("format") != FORMAT:
        raise CheckpointError(f'{folder} is no checkpoint: config.json lacks "format": "{FORMAT}"')
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{folder} has format version {values.get('version')!r}, this release "
            f"({__version__}) reads version {VERSION}; read it with a newer ctcspeech"
        )
    run, info = values.get("config", {}), values.get("info", {})
    try:
        model_config: Any = TypeAdapter(ModelConfig).validate_python(values["model"])
        feature_config = FeatureConfig.model_validate(values["features"])
        _check_normalizer(run)
        if not isinstance(info, dict):
            raise ValueError("info must be an object")
        read_bytes(folder / "alphabet.json")
        alphabet = Alphabet.load(folder / "alphabet.json")
        features = FeatureExtractor(feature_config, read_statistics(folder))
    except (AlphabetError, FeatureError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    except (KeyError, ValidationError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged: config.json: {error}") from error
    if feature_config.normalization == "corpus" and features.statistics is None:
        raise CheckpointError(f"{folder} is damaged: statistics.safetensors is missing")
    try:
        model = build_model(model_config, features.num_features, len(alphabet))
    except ConfigError as error:
        raise CheckpointError(f"{folder} is damaged: config.json: {error}") from error
    load_weights(model, folder / "model.safetensors")
    model.to(device).eval()
    features.to(device).eval()
    return Checkpoint(model, features, alphabet, run, info)


def _check_normalizer(run: Any) -> None:
    """The one part of the run's configuration that recognising needs."""
    data = run.get("data") if isinstance(run, dict) else run
    if not isinstance(run, dict) or not isinstance(data, dict | None):
        raise ValueError("config must be an object, and its data too")
    if data and data.get("normalizer") is not None:
        Normalizer.model_validate(data["normalizer"])


def load_training(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` was given as `training`."""

    def read(folder: Path) -> dict[str, Any]:
        file = folder / "training.pt"
        if not file.exists():
            raise CheckpointError(f"{file} is missing: this checkpoint cannot be resumed")
        data = read_bytes(file)
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever a damaged file provokes
            raise CheckpointError(f"{file} is damaged: {error}") from error

    return read_checkpoint(path, read)


def remove_checkpoint(folder: Path) -> None:
    """Deletes a checkpoint that is no longer kept."""
    shutil.rmtree(folder, ignore_errors=True)


def load_weights(model: AcousticModel, file: Path) -> None:
    """Fills `model` with the tensors of a file; names and shapes must be exactly its own."""
    weights = read_tensors(file)
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    more = sorted(weights.keys() - expected.keys())
    if missing or more:
        raise CheckpointError(
            f"{file} does not fit its config.json: missing {missing or 'nothing'}, "
            f"unknown {more or 'nothing'}"
        )
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{file}: {name} must have shape {tuple(tensor.shape)}, got "
                f"{tuple(weights[name].shape)}"
            )
    model.load_state_dict(weights)


def read_statistics(folder: Path) -> FeatureStatistics | None:
    file = folder / "statistics.safetensors"
    return FeatureStatistics.from_dict(read_tensors(file)) if file.exists() else None


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    data = read_bytes(file)
    try:
        return load_tensors(data)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
