"""Where checkpoints lie, and folders that are written whole or not at all. Needs no torch."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ctcspeech.errors import CheckpointError
from ctcspeech.files import ChecksumError, parse_json, seal, verify

__all__ = [
    "aside",
    "find_checkpoint",
    "new_folder",
    "read_bytes",
    "read_checkpoint",
    "read_json",
    "recover",
]

ATTEMPTS = 20  # at reading a checkpoint that is being replaced
Read = TypeVar("Read")


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint, given itself or the folder of a run. Nothing is written: while a
    checkpoint is being replaced, the old one is found where `new_folder` has put it."""
    path = Path(path)
    for _ in range(ATTEMPTS):
        for folder in (path, path / "model", path / "checkpoints" / "last"):
            for place in (folder, aside(folder)):
                if (place / "config.json").is_file():
                    return place
        if not aside(path).exists():
            break
        time.sleep(0.01)  # between two renames of the process that writes it
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}: no such file or folder")
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder with config.json")
    raise CheckpointError(
        f"{path} is no checkpoint: it has no config.json, and no folder model of a run"
    )


def read_checkpoint(path: str | os.PathLike[str], read: Callable[[Path], Read]) -> Read:
    """What `read` makes of the folder of a checkpoint; again, should another checkpoint have taken
    its place meanwhile (a training goes on, say)."""
    for attempt in range(ATTEMPTS):
        folder = find_checkpoint(path)
        identity = _identity(folder)
        try:
            result = read(folder)
        except CheckpointError:
            if attempt + 1 == ATTEMPTS or _identity(folder) == identity == _identity_at(path):
                raise
            continue
        if _identity(folder) == identity:
            break
    return result


def _identity_at(path: str | os.PathLike[str]) -> int | None:
    try:
        return _identity(find_checkpoint(path))
    except CheckpointError:
        return None


def _identity(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def read_bytes(file: Path) -> bytes:
    """A file of a checkpoint, which must be what the folder's checksums tell of."""
    try:
        data = file.read_bytes()
        verify(file, data)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except ChecksumError as error:
        raise CheckpointError(str(error)) from error
    return data


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file of a checkpoint holds."""
    try:
        values = parse_json(read_bytes(file))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is damaged: it must hold a JSON object")
    return values


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends well, with the
    checksums of its files.

    A folder cannot replace another in one step: the old one is moved aside first, where readers
    find it, and `recover` moves it back should the process end just then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        seal(temporary)
        for file in temporary.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if folder.exists():
            shutil.rmtree(aside(folder), ignore_errors=True)
            folder.rename(aside(folder))
        temporary.rename(folder)
        shutil.rmtree(aside(folder), ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists() and aside(folder).is_dir():
            aside(folder).rename(folder)
        raise


def aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def recover(folder: Path) -> None:
    """Mends what a process left that was ended while it wrote this checkpoint: for the process that
    will write it next, never for readers."""
    if not folder.exists() and aside(folder).is_dir():
        aside(folder).rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(aside(folder), ignore_errors=True)
