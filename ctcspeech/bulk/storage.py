"""Where recordings come from and results go: local folders and buckets, by fsspec.

    storage = Storage("s3://bucket/transcripts")
    storage.write("results/a.jsonl", data)  # there whole, or not at all

Credentials and endpoints are found as the libraries find them: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
~/.aws, GOOGLE_APPLICATION_CREDENTIALS, or fsspec's own configuration (FSSPEC_S3_ENDPOINT_URL, ...).
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ctcspeech.errors import StorageError
from ctcspeech.files import atomic_write

__all__ = ["Storage", "is_url", "join", "open_filesystem", "storage_errors"]

# Where an object appears whole when its writing ends, so that no other name is needed before.
_WHOLE_OBJECTS = frozenset(["s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"])
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
_THREADS = 16  # requests to a bucket at the same time

# What the network layers below fsspec raise beside OSError, by the names of their classes, since
# only those of the storage in use are installed.
_NETWORK = frozenset(
    "ClientError NoCredentialsError PartialCredentialsError TokenRetrievalError BotoCoreError "
    "UnauthorizedSSOTokenError EndpointConnectionError HTTPClientError HttpError "
    "RefreshError TransportError DefaultCredentialsError AzureError".split()
)


def is_url(name: str) -> bool:
    """Whether a name is a URL of fsspec (s3://bucket/key), not a path."""
    return "://" in name


def join(base: str, name: str) -> str:
    """`name` seen from the folder `base`; a URL or an absolute path stands as it is."""
    if is_url(name) or (os.path.isabs(name) and not is_url(base)):
        return name
    if is_url(base):
        return f"{base.rstrip('/')}/{name}"
    return os.path.join(base, name)


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or path, and the path within it.

    Raises StorageError for a protocol that there is not, or whose package is not installed.
    """
    protocol = url.partition("://")[0] if is_url(url) else "file"
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        remedy = f"; pip install {package}" if package else ""
        raise StorageError(f"{url}: {error}{remedy}") from error
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from error


def _is_network(error: BaseException) -> bool:
    return any(kind.__name__ in _NETWORK for kind in type(error).__mro__)


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """What goes wrong with storage in the block becomes a StorageError that says what to do.

    FileNotFoundError passes: whether a missing file is wrong, the caller knows.
    """
    try:
        yield
    except (StorageError, FileNotFoundError):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not _is_network(error):
            raise
        raise StorageError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}: the disk is full; make room, then run the same command again"
    if is_expired(error):
        return f"{text}: the credentials have expired; renew them, then run the same command again"
    if isinstance(error, PermissionError) or "redential" in str(error):
        return f"{text}: access is refused; check credentials and rights"
    return f"{text}; when it can be reached again, run the same command again"


def is_expired(error: BaseException | None) -> bool:
    """Whether storage refuses because credentials have run out (or are no longer known)."""
    codes = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "InvalidToken")
    while error is not None:
        response = getattr(error, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        if code in codes or any(name in str(error) for name in (*codes, "token has expired")):
            return True
        error = error.__cause__
    return False


class Storage:
    """A folder, local or in a bucket. Names are relative to it, with `/` between their parts."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        url = os.fspath(url)
        self.url = url.rstrip("/") if is_url(url) else os.path.abspath(url)
        self.filesystem, self.root = open_filesystem(self.url)
        self.root = self.root.rstrip("/")
        self.local = isinstance(self.filesystem, LocalFileSystem)
        self.protocol = self.url.partition("://")[0] if is_url(self.url) else "file"

    def __reduce__(self) -> Any:
        return Storage, (self.url,)

    def sub(self, name: str) -> "Storage":
        """The folder of this name in it."""
        return Storage(join(self.url, name))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all; one that stood there is replaced."""
        with self._writing(name):
            if self.local:
                with atomic_write(self.path(name), "wb") as file:
                    file.write(data)
            elif self.protocol in _WHOLE_OBJECTS:
                self.filesystem.pipe_file(self.path(name), data)
            else:
                self.filesystem.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)
                temporary = f"{self.path(name)}.{os.urandom(4).hex()}.tmp"
                self.filesystem.pipe_file(temporary, data)
                self.filesystem.mv(temporary, self.path(name))

    def upload(self, file: Path, name: str) -> None:
        """Copies a local file of any size to here, whole or not at all."""
        with self._writing(name):
            if self.local:
                with atomic_write(self.path(name), "wb") as target, open(file, "rb") as source:
                    while block := source.read(1 << 20):
                        target.write(block)
            else:
                self.filesystem.put_file(str(file), self.path(name))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        what = f"cannot write {join(self.url, name)}"
        try:
            with storage_errors(what):
                yield
        except FileNotFoundError as error:
            raise StorageError(f"{what}: there is no such bucket or folder ({error})") from error

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`. Raises FileNotFoundError."""
        with storage_errors(f"cannot read {join(self.url, name)}"):
            return self.filesystem.cat_file(self.path(name), start, end)

    def read_or_none(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Files (None: there is none) in the order of their names given, several under way."""
        names = list(names)
        if self.local or len(names) < 2:
            yield from ((name, self.read_or_none(name)) for name in names)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(names), 16 * _THREADS):  # so that few are held
                some = names[first : first + 16 * _THREADS]
                yield from zip(some, pool.map(self.read_or_none, some), strict=True)

    def list(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted; none if there is no such folder."""
        try:
            with storage_errors(f"cannot list {join(self.url, folder)}"):
                self.filesystem.invalidate_cache(self.path(folder))
                found = self.filesystem.ls(self.path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)
        return [name for name in names if not name.startswith(".") and name]

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        with (
            contextlib.suppress(FileNotFoundError),
            storage_errors(f"cannot delete {join(self.url, name)}"),
        ):
            self.filesystem.rm_file(self.path(name))
