"""Models of a hub: hf:owner/name or hf:owner/name@revision.

    folder = fetch("hf:facebook/wav2vec2-base-960h")

Fetched by huggingface_hub into its cache (HF_HOME), with its token (HF_TOKEN) where the model asks
for one; HF_HUB_OFFLINE=1 uses the cache alone. Only data is fetched: ONNX, safetensors, JSON and
text; never a pickle, never code.
"""

from pathlib import Path
from typing import Any

from ctcspeech.errors import ModelError
from ctcspeech.extras import require

__all__ = ["PREFIX", "fetch"]

PREFIX = "hf:"
_TEXTS = ("*.json", "*.txt", "*.model", "*.md")


def fetch(name: str) -> Path:
    """The folder with the model's files. Raises ModelError saying why they cannot be had."""
    repository, revision = _parse(name)
    hub = require("huggingface_hub", "fetching a model")
    errors = require("huggingface_hub.errors", "fetching a model")
    try:
        patterns = _wanted(hub, repository, revision)
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name}: access must be asked for on its page; then log in with hf auth login, or set "
            "HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name}: there is no revision {revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name}: there is no such model, or it is private (set HF_TOKEN)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        found = _cached(hub, repository, revision)
        if found is not None:
            return found
        raise ModelError(
            f"{name}: the hub cannot be reached and the model is not in the cache"
        ) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(f"{name}: the hub answered: {_first_line(error)}") from error
    except OSError as error:  # a full disk, no network
        raise ModelError(f"{name} cannot be fetched: {_first_line(error)}") from error
    except Exception as error:
        if not _of_network(error):
            raise
        raise ModelError(f"{name}: the hub cannot be reached: {_first_line(error)}") from error


def _parse(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts) or any(c.isspace() for c in name):
        raise ModelError(f"a model of the hub is hf:owner/name or hf:owner/name@revision: {name!r}")
    return repository, revision or None


def _wanted(hub: Any, repository: str, revision: str | None) -> list[str]:
    """What to fetch: weights as safetensors, else one ONNX model with its data, and all texts."""
    if require("huggingface_hub.constants", "fetching a model").HF_HUB_OFFLINE:
        return [*_TEXTS, "*.safetensors", "*.onnx", "*.onnx_data", "*.data"]
    errors = require("huggingface_hub.errors", "fetching a model")
    try:
        files = hub.HfApi().list_repo_files(repository, revision=revision)
    except Exception as error:
        if isinstance(error, errors.HfHubHTTPError) or not _of_network(error):
            raise
        return [*_TEXTS, "*.safetensors", "*.onnx", "*.onnx_data", "*.data"]  # from the cache
    top = [file for file in files if "/" not in file]
    if any(file.endswith(".safetensors") for file in top) and "config.json" in top:
        return [*_TEXTS, "*.safetensors"]
    onnx = [file for file in top if file.endswith(".onnx")]
    if "model.onnx" in onnx:
        return [*_TEXTS, "model.onnx", "model.onnx_data", "model.onnx.data", "*.weights"]
    if onnx:
        return [*_TEXTS, *onnx, "*.onnx_data", "*.data", "*.weights"]
    if any(file.endswith((".bin", ".pt", ".pth", ".ckpt", ".nemo")) for file in top):
        raise ModelError(
            f"hf:{repository} has its weights in pickles only, which can run any code and are "
            "never loaded; look for a revision with safetensors, or convert it elsewhere"
        )
    raise ModelError(f"hf:{repository} has neither safetensors nor an ONNX model")


def _cached(hub: Any, repository: str, revision: str | None) -> Path | None:
    """What an earlier call has fetched."""
    for name in ("model.onnx", "config.json", "tokens.txt"):
        path = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _of_network(error: Exception) -> bool:
    """Whether the hub could not be reached, by whichever HTTP library huggingface_hub uses."""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
