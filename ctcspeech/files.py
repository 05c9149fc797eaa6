"""Writing files whole or not at all; reading files that may be compressed; JSON that may be
anything; checksums of a folder's files.

A folder's `checksums.json` holds {"format": "ctcspeech checksums", "version": 1, "files": {NAME:
{"bytes": ..., "sha256": ...}}}. A file that is listed there must have that content; others are not
looked at. `sha256sum` computes the same.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

__all__ = [
    "CHECKSUMS",
    "DECOMPRESSION_ERRORS",
    "NUMPY_ERRORS",
    "ChecksumError",
    "atomic_write",
    "decompressed",
    "open_compressed",
    "parse_json",
    "seal",
    "verify",
]

CHECKSUMS = "checksums.json"
_FORMAT, _VERSION = "ctcspeech checksums", 1

# The first bytes of a compressed file, and what opens it.
_COMPRESSIONS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)

# What reading a damaged compressed file raises.
DECOMPRESSION_ERRORS = (EOFError, OSError, lzma.LZMAError)

# What NumPy raises at damaged `.npy` and `.npz` files.
NUMPY_ERRORS = (
    *(ValueError, KeyError, TypeError, EOFError, OSError, OverflowError, MemoryError),
    *(SyntaxError, tokenize.TokenError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


class ChecksumError(ValueError):
    """A file is not the one that its folder's checksums tell of."""


def decompressed(file: Any) -> IO[bytes]:
    """The contents of an open binary file, decompressed if they are gzip, bzip2 or xz.

    That is told by the first bytes, not by the name, and nothing is sought: pipes are read as well.
    """
    if not hasattr(file, "peek"):
        file = io.BufferedReader(file)
    head = file.peek(8)
    for magic, opener in _COMPRESSIONS:
        if head.startswith(magic):
            return opener(file, "rb")
    return file


@contextlib.contextmanager
def open_compressed(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file for reading bytes, decompressed if it is gzip, bzip2 or xz.

    Raises OSError where it cannot be opened; reading raises one of DECOMPRESSION_ERRORS where it is
    damaged.
    """
    with open(path, "rb") as file:
        yield decompressed(file)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "w", **open_arguments: Any
) -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends well.

    If the block raises, `path` is left as it was and the temporary file is removed. Parent folders
    are created. Text is UTF-8 unless `encoding` says otherwise.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if "b" not in mode:
        open_arguments.setdefault("encoding", "utf-8")
    try:
        with open(temporary, mode, **open_arguments) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError for whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Enters files of a folder (None: all of it) into its checksums, which may exist already."""
    index = folder / CHECKSUMS
    files = _read(index) if names is not None and index.exists() else {}
    if names is None:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for name in names:
        if name != CHECKSUMS:
            files[name] = _entry((folder / name).read_bytes())
    _write(index, files)


def verify(path: Path, data: bytes | None = None) -> None:
    """Compares a file (or the `data` that were read from it) with its folder's checksums, if it is
    listed there. Raises ChecksumError naming the file."""
    index = path.parent / CHECKSUMS
    entry = _read(index).get(path.name) if index.exists() else None
    if entry is None:
        return
    if data is None:
        data = path.read_bytes()
    if _entry(data) != entry:
        raise ChecksumError(
            f"{path} is damaged: it is not what {CHECKSUMS} beside it tells ({len(data)} bytes for "
            f"{entry['bytes']}, another SHA-256); copy the folder again. If you have changed the "
            f"file yourself, take its entry out of {CHECKSUMS}"
        )


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read(index: Path) -> dict[str, dict[str, Any]]:
    try:
        values = parse_json(index.read_bytes())
        if values["format"] != _FORMAT or values["version"] != _VERSION:
            raise ValueError("it has another format or version; read it with a newer ctcspeech")
        for entry in values["files"].values():
            if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
                raise ValueError("an entry must have bytes and sha256")
        return values["files"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError(f"{index} is damaged: {error}") from error


def _write(index: Path, files: dict[str, dict[str, Any]]) -> None:
    values = {"format": _FORMAT, "version": _VERSION, "files": dict(sorted(files.items()))}
    with atomic_write(index) as file:
        file.write(json.dumps(values, indent=1) + "\n")
