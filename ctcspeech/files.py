"""Writing files whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_write"]


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
