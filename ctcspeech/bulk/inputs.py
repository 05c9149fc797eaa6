"""Recordings to transcribe, streamed: from manifests (JSON lines, Parquet), folders and buckets.

Nothing here holds more than a few thousand recordings at a time, however many there are.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ctcspeech.bulk.storage import is_url, join, open_filesystem, storage_errors
from ctcspeech.bulk.work import Item
from ctcspeech.data.manifest import parse_values
from ctcspeech.errors import AudioError, ManifestError
from ctcspeech.recognize.recordings import SUFFIXES, Recording

__all__ = ["read_items"]

_ERRORS_SHOWN = 10
_COLUMNS = ("audio_filepath", "features_filepath", "id", "offset", "duration")
_VERSIONS = ("size", "etag", "sha256", "md5", "checksum")  # columns that tell a changed recording


def read_items(inputs: Iterable[str]) -> Iterator[Item]:
    """The recordings that inputs name: manifests (`.jsonl`, `.json`, `.parquet`), single
    recordings, and folders or prefixes, searched with all below them for the endings of SUFFIXES.

    Local recordings, and those found by listing, are told apart by size and time (or ETag) too,
    so that one that was replaced is done again; those that a manifest names in a bucket are not
    looked up, and count as changed when their `size`, `etag`, `sha256`, `md5` or `checksum` in
    the manifest does.

    Raises ManifestError for wrong lines (the first ten are named), AudioError where there is no
    recording, StorageError when storage refuses.
    """
    for name in inputs:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in (".jsonl", ".json"):
            yield from _of_rows(name, _json_rows(name))
        elif suffix == ".parquet":
            yield from _of_rows(name, _parquet_rows(name))
        else:
            yield from _found(name)


def _json_rows(name: str) -> Iterator[tuple[int, Any]]:
    filesystem, path = open_filesystem(name)
    try:
        with (
            storage_errors(f"cannot read the manifest {name}"),
            filesystem.open(path, "rb", block_size=4 << 20) as file,
        ):
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        yield number, ManifestError(f"not JSON: {error}")
    except (FileNotFoundError, IsADirectoryError):
        raise ManifestError(f"cannot read the manifest {name}: no such file") from None


def _parquet_rows(name: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    filesystem, path = open_filesystem(name)
    try:
        with (
            storage_errors(f"cannot read the manifest {name}"),
            filesystem.open(path, "rb") as file,
        ):
            table = pyarrow.parquet.ParquetFile(file)
            known = [c for c in table.schema_arrow.names if c in (*_COLUMNS, *_VERSIONS)]
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=known):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: value for key, value in row.items() if value is not None}
    except FileNotFoundError:
        raise ManifestError(f"cannot read the manifest {name}: no such file") from None
    except pyarrow.ArrowException as error:
        raise ManifestError(f"the manifest {name} is not Parquet, or damaged: {error}") from error


def _of_rows(name: str, rows: Iterator[tuple[int, Any]]) -> Iterator[Item]:
    base = name.rpartition("/")[0] if is_url(name) else os.path.dirname(os.path.abspath(name))
    errors: list[str] = []
    wrong = 0
    for number, row in rows:
        try:
            if isinstance(row, ManifestError):
                raise row
            if not isinstance(row, dict):
                raise ManifestError("a line must be a JSON object: {...}")
            item = _of_row(row, base)
        except ManifestError as error:
            wrong += 1
            if wrong <= _ERRORS_SHOWN:
                errors.append(f"{name}:{number}: {error}")
            continue
        if not wrong:
            yield item
    if wrong > _ERRORS_SHOWN:
        errors.append(f"and {wrong - _ERRORS_SHOWN} more wrong lines")
    if wrong:
        raise ManifestError("\n".join(errors))


def _of_row(row: dict[str, Any], base: str) -> Item:
    """A manifest's row as an item. What offset and duration mean, `Recording.of` knows."""
    utterance = parse_values(row, Path("/"), need_duration=False)
    recording = Recording.of(utterance)
    fields: dict[str, Any] = {"id": utterance.id}
    if recording.offset:
        fields["offset"] = recording.offset
    if recording.duration is not None:
        fields["duration"] = recording.duration
    audio, features = row.get("audio_filepath"), row.get("features_filepath")
    uri = join(base, str(audio or features))
    if features:
        fields["features"] = join(base, features)
    known = {key: row[key] for key in _VERSIONS if row.get(key) is not None}
    version = json.dumps(known, sort_keys=True, default=str) if known else _local_version(uri)
    return Item.of(uri, version, fields, recording.duration)


def _local_version(uri: str) -> str:
    """Size and time of a local file; nothing for one in a bucket, or that is not there."""
    if is_url(uri):
        return ""
    try:
        found = os.stat(uri)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _found(name: str) -> Iterator[Item]:
    """A recording, or those in a folder or below a prefix."""
    filesystem, root = open_filesystem(name)
    if not is_url(name) and os.path.isfile(name):
        yield Item.of(name, _local_version(name))
        return
    if not is_url(name):
        count = 0
        for folder, folders, files in os.walk(name):
            folders.sort()
            for file in sorted(files):
                if PurePosixPath(file).suffix.lower() in SUFFIXES:
                    count += 1
                    path = os.path.join(folder, file)
                    yield Item.of(path, _local_version(path))
        if count:
            return
    else:
        count = 0
        with storage_errors(f"cannot list {name}"):
            for info in _listed(filesystem, root):
                if PurePosixPath(info["name"]).suffix.lower() in SUFFIXES:
                    count += 1
                    below = info["name"][len(root.rstrip("/")) :]
                    yield Item.of(name.rstrip("/") + below, _version(info))
        if count:
            return
    raise AudioError(
        f"{name}: no recordings here (looked for {', '.join(sorted(SUFFIXES))}; manifests end in "
        ".jsonl or .parquet)"
    )


def _listed(filesystem: Any, root: str) -> Iterator[dict[str, Any]]:
    """The files below a prefix, a folder at a time; or the one file that it names."""
    try:
        for _, _, files in filesystem.walk(root, detail=True, on_error="raise"):
            filesystem.invalidate_cache()  # else each listing would be kept
            yield from (files[file] for file in sorted(files))
    except FileNotFoundError:
        return


def _version(info: dict[str, Any]) -> str:
    """What a listing tells of an object's version."""
    for key in ("ETag", "etag", "md5Hash", "generation", "mtime", "created"):
        if info.get(key):
            return f"{info.get('size')} {info[key]}"
    return str(info.get("size"))
