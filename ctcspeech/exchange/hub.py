"""Models of a hub: hf:owner/name or hf:owner/name@revision.

    folder = fetch("hf:facebook/wav2vec2-base-960h")

Fetched by huggingface_hub into its cache (HF_HOME), with its token (HF_TOKEN) where the model asks
for one; HF_HUB_OFFLINE=1 uses the cache alone. Only data is fetched: ONNX, safetensors, JSON and
text; never a pickle, never code. What is to be fetched is first written down in the cache, so that
without the hub a model of which a download was cut is told from a whole one.
"""

import json
from fnmatch import fnmatchcase
from pathlib import Path

from ctcspeech.errors import ModelError
from ctcspeech.extras import require
from ctcspeech.files import atomic_write

__all__ = ["PREFIX", "fetch"]

PREFIX = "hf:"
_TEXTS = ("*.json", "*.txt", "*.model", "*.md")


def fetch(name: str, language: str | None = None) -> Path:
    """The folder with the model's files. Raises ModelError saying why they cannot be had.

    language: whose adapter to fetch with it (MMS); adapters of others are left out.
    """
    repository, revision = _parse(name)
    hub = require("huggingface_hub", "fetching a model")
    errors = require("huggingface_hub.errors", "fetching a model")
    try:
        info = hub.HfApi().model_info(repository, revision=revision)
        files = _wanted(repository, [item.rfilename for item in info.siblings], language)
        _note(repository, info.sha, language, files)
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=files))
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
    except Exception as error:
        away = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        if isinstance(error, away) or _of_network(error):
            return _cached(name, language, error)
        if isinstance(error, errors.HfHubHTTPError):
            raise ModelError(f"{name}: the hub answered: {_first_line(error)}") from error
        if isinstance(error, OSError):  # a full disk
            raise ModelError(f"{name} cannot be fetched: {_first_line(error)}") from error
        raise


def _parse(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts) or any(c.isspace() for c in name):
        raise ModelError(f"a model of the hub is hf:owner/name or hf:owner/name@revision: {name!r}")
    return repository, revision or None


def _wanted(repository: str, files: list[str], language: str | None) -> list[str]:
    """What to fetch: weights as safetensors, else one ONNX model with its data, and all texts."""
    top = [file for file in files if "/" not in file]
    chosen = [file for file in top if _matches(file, _TEXTS)]
    whole = [file for file in top if file.endswith(".safetensors")]
    adapters = [file for file in whole if file.startswith("adapter.")]
    if whole and "config.json" in top:
        chosen += [file for file in whole if file not in adapters]
        if language is None:
            return chosen
        adapter = f"adapter.{language}.safetensors"
        if adapter in adapters:
            return [*chosen, adapter]
        there = ", ".join(file.split(".")[1] for file in adapters[:20]) or "none"
        raise ModelError(
            f"hf:{repository} has no adapter for the language {language!r}; it has {there}"
            + ", ..." * (len(adapters) > 20)
        )
    onnx = [file for file in top if file.endswith(".onnx")]
    if "model.onnx" in onnx:
        data = ("model.onnx_data", "model.onnx.data", "*.weights", "lm.bin")
        return [*chosen, "model.onnx", *(file for file in top if _matches(file, data))]
    if onnx:
        data = ("*.onnx_data", "*.data", "*.weights", "lm.bin")
        return [*chosen, *onnx, *(file for file in top if _matches(file, data))]
    if any(file.endswith((".bin", ".pt", ".pth", ".ckpt", ".nemo")) for file in top):
        raise ModelError(
            f"hf:{repository} has its weights in pickles only, which can run any code and are "
            "never loaded; look for a revision with safetensors, or convert it elsewhere"
        )
    raise ModelError(f"hf:{repository} has neither safetensors nor an ONNX model")


def _matches(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)


def _storage(repository: str) -> Path:
    """Where huggingface_hub keeps a model: refs, snapshots, blobs."""
    constants = require("huggingface_hub.constants", "fetching a model")
    return Path(constants.HF_HUB_CACHE) / "--".join(["models", *repository.split("/")])


def _notes(repository: str, commit: str, language: str | None) -> Path:
    name = f"{commit}.{language}.json" if language else f"{commit}.json"
    return _storage(repository) / "ctcspeech" / name


def _note(repository: str, commit: str, language: str | None, files: list[str]) -> None:
    """Writes down what belongs to a model, before it is fetched."""
    with atomic_write(_notes(repository, commit, language)) as file:
        json.dump(files, file)


def _cached(name: str, language: str | None, error: Exception) -> Path:
    """What an earlier call has fetched, if it is whole."""
    repository, revision = _parse(name)
    why = f"{name}: the hub cannot be reached ({_first_line(error)})"
    reference = _storage(repository) / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = _storage(repository) / "snapshots" / (commit or "none")
    if commit is None or not folder.is_dir():
        raise ModelError(f"{why} and the model is not in the cache") from error
    notes = _notes(repository, commit, language)
    if not notes.is_file():  # put there by another program
        return folder
    files = json.loads(notes.read_text(encoding="utf-8"))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ModelError(
            f"{why}, and a download was cut before: {', '.join(missing[:5])} not in the cache; "
            "call again when the hub can be reached, what is there is not fetched anew"
        ) from error
    return folder


def _of_network(error: Exception) -> bool:
    """Whether the hub could not be reached, by whichever HTTP library huggingface_hub uses."""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
