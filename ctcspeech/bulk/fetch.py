"""Recordings in a bucket brought to the local disk, some ahead of their turn."""

import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ctcspeech.bulk.storage import is_expired, is_url, open_filesystem, storage_errors
from ctcspeech.bulk.work import Item
from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import AudioError, CtcSpeechError, StorageError
from ctcspeech.recognize.recordings import Recording

__all__ = ["fetch"]

_AHEAD = 4  # recordings that are brought while one is read
_TRIES, _FIRST_PAUSE = 4, 1.0  # seconds, doubled each time


def fetch(
    items: Sequence[Item], refuse: Callable[[Item, CtcSpeechError], None]
) -> Iterator[tuple[Item, Recording]]:
    """The items as recordings, in their order; a copy in a temporary folder is deleted when the
    next one is asked for.

    `refuse` is told of those that cannot be brought because of themselves (they are not there, or
    must not be read). Raises StorageError when it is the storage that fails, after some tries.
    """
    if not any(is_url(item.uri) for item in items):
        yield from ((item, _recording(item, Path(item.uri))) for item in items)
        return
    with (
        tempfile.TemporaryDirectory(prefix="ctcspeech-") as folder,
        ThreadPoolExecutor(_AHEAD, thread_name_prefix="ctcspeech-fetch") as pool,
    ):
        waiting: deque[tuple[Item, Future[Path]]] = deque()
        rest = iter(enumerate(items))
        try:
            while True:
                for number, item in rest:
                    place = Path(folder, f"{number}{PurePosixPath(item.uri).suffix}")
                    waiting.append((item, pool.submit(_bring, item.uri, place)))
                    if len(waiting) > _AHEAD:
                        break
                if not waiting:
                    return
                item, future = waiting.popleft()
                try:
                    path = future.result()
                except AudioError as error:
                    refuse(item, error)
                    continue
                yield item, _recording(item, path)
                if is_url(item.uri):
                    path.unlink(missing_ok=True)
        finally:
            for _, future in waiting:
                future.cancel()


def _bring(uri: str, place: Path) -> Path:
    if not is_url(uri):
        return Path(uri)
    for attempt in range(_TRIES):
        try:
            return _copy(uri, place)
        except StorageError as error:
            if attempt == _TRIES - 1 or is_expired(error):
                raise
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError


def _copy(uri: str, place: Path) -> Path:
    try:
        with storage_errors(f"cannot read {uri}"):
            filesystem, path = open_filesystem(uri)
            try:
                filesystem.get_file(path, str(place))
            except PermissionError as error:
                if is_expired(error):
                    raise
                raise AudioError(f"{uri}: access is refused ({error})") from error
    except FileNotFoundError:
        raise AudioError(f"{uri}: no such file; check the path") from None
    return place


def _recording(item: Item, path: Path) -> Recording:
    """As `transcribe` makes it of a file or a manifest's line, under the name that the item has."""
    if item.fields is None:
        return Recording(item.uri, path)
    fields = item.fields
    features = fields.get("features")
    utterance = Utterance(
        audio_filepath=None if features == item.uri else path,
        duration=fields.get("duration", math.nan),
        offset=fields.get("offset", 0.0),
        id=fields["id"],
        features_filepath=Path(features) if features else None,
    )
    recording = Recording.of(utterance)
    recording.name = item.uri
    return recording
