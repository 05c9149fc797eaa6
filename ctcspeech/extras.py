"""Packages that only some of the work needs: importing them, or saying what to install."""

import importlib
from typing import Any

from ctcspeech.errors import MissingPackageError

__all__ = ["EXTRAS", "missing", "require"]

EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "onnx": "train",
    "tomli_w": "train",
    "kaldiio": "kaldi",
    "matplotlib": "plot",
    "optuna": "tune",
    "sentencepiece": "sentencepiece",
    "huggingface_hub": "hub",
    "transformers": "transformers",
    "torchaudio": "torchaudio",
    "datasets": "import",
    "lhotse": "import",
}
"""The extra of ctcspeech that brings a package."""


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
    if package not in EXTRAS:
        return None
    return MissingPackageError(
        f"{purpose} needs the package {package}: pip install 'ctcspeech[{EXTRAS[package]}]'"
    )
