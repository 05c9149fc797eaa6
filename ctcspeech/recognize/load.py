"""MODEL, as every verb takes it: what a user names becomes an emitter and what belongs to it.

| MODEL | is |
|---|---|
| runs/english, runs/english/model | a run, or a checkpoint folder, computed by torch |
| exported/, exported/model.onnx | an ONNX model of this or another toolkit, or its folder |
| exported/streaming.onnx | an ONNX model with the state of streams, or its folder |
| a folder with config.json of transformers | as `save_pretrained` writes it |
| hf:owner/name, hf:owner/name@revision | the same of a hub, fetched when first used |
| folder#fra, hf:facebook/mms-1b-all#fra | such a model with the adapter of a language (MMS) |
| torchaudio:WAV2VEC2_ASR_BASE_960H | a pipeline of torchaudio |
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctcspeech.emissions import Emitter
from ctcspeech.errors import ModelError

__all__ = ["Loaded", "load_emitter", "model_folder"]

TORCHAUDIO = "torchaudio:"


@dataclass
class Loaded:
    """An emitter. folder: where decoder settings and calibrations lie, None for none. normalizer:
    rules by which its texts were written, as `Normalizer` takes them, None where not known. own:
    trained here."""

    emitter: Emitter
    folder: Path | None
    normalizer: dict[str, Any] | None = None
    own: bool = True


def load_emitter(model: str | os.PathLike[str], device: str = "cpu") -> Loaded:
    """Raises ModelError, CheckpointError or MissingPackageError saying what is wrong."""
    name = os.fspath(model)
    if name.startswith(TORCHAUDIO):
        from ctcspeech.exchange.torchaudio import TorchaudioEmitter

        _only_cpu(name, device)
        return Loaded(TorchaudioEmitter.load(name.removeprefix(TORCHAUDIO)), None, own=False)
    path, language = _path(name)
    if path.is_dir() and _is_pretrained(path) and not _is_onnx(path):
        from ctcspeech.exchange.transformers import TransformersEmitter

        return Loaded(TransformersEmitter.load(path, device, language), path, own=False)
    if language is not None:
        raise ModelError(f"{name}: only models of transformers have adapters of languages")
    if _is_onnx(path):
        return _onnx(path, device)
    return _checkpoint(path, device)


def model_folder(model: str | os.PathLike[str]) -> Path:
    """Where decoder settings and calibrations of a model are kept. ModelError if nowhere."""
    name = os.fspath(model)
    if name.startswith(TORCHAUDIO):
        raise ModelError(f"nothing can be kept with {name}: it has no folder")
    path, _ = _path(name)
    if _is_onnx(path):
        return path if path.is_dir() else path.parent
    if path.is_dir() and _is_pretrained(path):
        return path
    from ctcspeech.model.folder import find_checkpoint

    return find_checkpoint(path)


def _path(name: str) -> tuple[Path, str | None]:
    """The file or folder, and the language after its "#"."""
    stem, mark, language = name.rpartition("#")
    if not mark or os.path.exists(name):
        stem, language = name, ""
    if stem.startswith("hf:"):
        from ctcspeech.exchange.hub import fetch

        return fetch(stem, language or None), language or None
    return Path(stem), language or None


def _is_onnx(path: Path) -> bool:
    if path.suffix == ".onnx":
        return True
    if not path.is_dir() or (path / "model.safetensors").exists():
        return False
    return (path / "model.onnx").is_file() or bool(list(path.glob("*.onnx")))


def _is_pretrained(folder: Path) -> bool:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values and "format" not in values


def _only_cpu(name: str, device: str) -> None:
    if device != "cpu":
        raise ModelError(f"{name} is computed on the CPU alone: --device {device} has no effect")


def _onnx(path: Path, device: str) -> Loaded:
    from ctcspeech.exchange.onnx_model import OnnxEmitter
    from ctcspeech.exchange.streaming import StreamingOnnx, streaming_file

    _only_cpu(str(path), device)
    folder = path if path.is_dir() else path.parent
    if (file := streaming_file(path)) is not None:
        streaming = StreamingOnnx(file)
        return Loaded(streaming, folder, streaming.normalizer)
    emitter = OnnxEmitter.load(path)
    contract = emitter.contract
    return Loaded(emitter, folder, contract.normalizer, own=contract.own)


def _checkpoint(path: Path, device: str) -> Loaded:
    from ctcspeech.model.folder import find_checkpoint, read_json

    folder = find_checkpoint(path)
    values = read_json(folder / "config.json")
    from ctcspeech.extras import require

    require("torch", f"{folder}, a checkpoint,")
    from ctcspeech.recognize.checkpoint import CheckpointEmitter

    config = values.get("config") or {}
    rules = (config.get("data") or {}).get("normalizer")
    return Loaded(CheckpointEmitter.load(path, device), folder, rules)
