"""Writing files whole or not at all; reading files that may be compressed."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["DECOMPRESSION_ERRORS", "atomic_write", "decompressed", "open_compressed"]

# The first bytes of a compressed file, and what opens it.
_COMPRESSIONS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)

# What reading a damaged compressed file raises.
DECOMPRESSION_ERRORS = (EOFError, OSError, lzma.LZMAError)


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
