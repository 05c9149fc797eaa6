"""Packages that only some of the work needs: importing them, or saying what to install."""

import importlib
from typing import Any, NamedTuple

from ctcspeech.errors import MissingPackageError

__all__ = ["EXTRAS", "Extra", "missing", "require"]


class Extra(NamedTuple):
    packages: tuple[str, ...]
    """As they are imported."""
    purpose: str


EXTRAS = {
    "train": Extra(
        ("torch", "safetensors", "tensorboard", "onnx", "tomli_w"),
        "training; models of our own by torch; exporting them",
    ),
    "plot": Extra(("matplotlib",), "pictures"),
    "tune": Extra(("optuna",), "the search for the decoder's weights"),
    "sentencepiece": Extra(("sentencepiece",), "word pieces as labels"),
    "recipes": Extra(("espeakng_loader", "HersheyFonts"), "synthetic speech and handwriting"),
    "kaldi": Extra(("kaldiio",), "features in Kaldi archives"),
    "import": Extra(("datasets", "lhotse"), "corpora by their loaders"),
    "hub": Extra(("huggingface_hub",), "models by hf:owner/name"),
    "transformers": Extra(("transformers",), "models of transformers"),
    "torchaudio": Extra(("torchaudio",), "torchaudio's pretrained models"),
    "serve": Extra(
        ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client"),
        "the server",
    ),
    "listen": Extra(("sounddevice",), "the microphone"),
    "bulk": Extra(("ray", "fsspec", "pyarrow"), "bulk transcription"),
    "kenlm": Extra(("kenlm",), "KenLM as a witness"),
    "pyctcdecode": Extra(("pyctcdecode",), "pyctcdecode as a witness"),
}
"""What pyproject.toml offers, but for the extras of developers."""

_EXTRA_OF = {package: name for name, extra in EXTRAS.items() for package in extra.packages}


def require(package: str, purpose: str) -> Any:
    """The module. Raises MissingPackageError naming the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        found = missing(error, purpose)
        if found is None:
            raise
        raise found from error


def missing(error: ModuleNotFoundError, purpose: str = "this") -> MissingPackageError | None:
    """The error that says what to install, None for a package that no extra brings."""
    package = (error.name or "").split(".")[0]
    if package not in _EXTRA_OF:
        return None
    return MissingPackageError(
        f"{purpose} needs the package {package}: pip install 'ctcspeech[{_EXTRA_OF[package]}]'"
    )
