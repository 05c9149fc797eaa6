"""The one reader of what a manifest's line names: audio or precomputed features.

Training, validation, recognition, `data check` and `data import` read through this module, so that
a line means the same to all of them. It means what it does in NeMo:

    offset      seconds into the file where the utterance begins; none is 0
    duration    seconds of the utterance from there. It always counts, whether there is an offset
                or not, and for features as for audio; what the file has beyond it is not read. A
                file that ends sooner gives what it has. NaN (no duration): to the file's end.

Durations are rounded where manifests are written: `GRACE_SECONDS` more are read, so that rounding
to milliseconds loses no sample.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ctcspeech.audio.feature_files import load_features
from ctcspeech.audio.read import info, load, stream
from ctcspeech.data.manifest import Utterance, location, split_archive
from ctcspeech.errors import AudioError, FeatureError

__all__ = [
    "GRACE_SECONDS",
    "Extent",
    "audio_chunks",
    "extent_of_audio",
    "extent_of_features",
    "open_archive",
    "read_audio",
    "read_features",
    "wanted_seconds",
]

GRACE_SECONDS = 0.0005
_GRACE_FRAMES = 1e-3  # of a frame of features, for the same rounding


@dataclass(frozen=True)
class Extent:
    """Seconds of an utterance: `available` in its file from its offset on, `told` by its line (NaN
    where it has no duration)."""

    available: float
    told: float

    @property
    def seconds(self) -> float:
        """What is read."""
        return self.available if math.isnan(self.told) else min(self.available, self.told)


def read_audio(
    utterance: Utterance, sample_rate: int | None = None, data: bytes | None = None
) -> tuple[np.ndarray, int]:
    """The samples of an utterance, float32 (S,), and their rate: `sample_rate`, or the file's own.

    data: the bytes of its file, where somebody has read them already. Raises AudioError when the
    line names no audio, or the file or that part of it cannot be read.
    """
    with _opened(utterance, data) as source:
        return load(source, sample_rate, utterance.offset, wanted_seconds(utterance))


def audio_chunks(
    utterance: Utterance, sample_rate: int, chunk_seconds: float = 10.0
) -> Iterator[np.ndarray]:
    """The same samples in chunks of about `chunk_seconds`, in constant memory."""
    path = _audio_path(utterance)
    if isinstance(path, Path) and split_archive(path)[1] is not None:  # in memory as it is
        yield read_audio(utterance, sample_rate)[0]
        return
    yield from stream(
        path,
        sample_rate,
        chunk_seconds,
        offset=utterance.offset,
        duration=wanted_seconds(utterance),
    )


def read_features(
    utterance: Utterance, shift_ms: float, num_features: int | None = None
) -> np.ndarray:
    """The precomputed features of an utterance, float32 (T, F), `shift_ms` from frame to frame.

    num_features: F by the configuration; None takes what the file has (13 for a Sphinx file, which
    does not tell). Raises FeatureError when the line names no features, the file cannot be read or
    is of another width, or it has nothing at the offset.
    """
    features = load_features(_features_path(utterance), num_features)
    start = _first_frame(utterance, shift_ms, len(features))
    if math.isnan(utterance.duration):
        return features[start:]
    count = math.ceil(utterance.duration * 1000 / shift_ms - _GRACE_FRAMES)
    return features[start : start + max(1, count)]


def extent_of_audio(utterance: Utterance) -> Extent:
    """By the file's header, without reading the samples. Raises AudioError."""
    path = _audio_path(utterance)
    with _opened(utterance) as source:
        length = info(source).duration
    if utterance.offset >= length:
        raise AudioError(
            f"{path}: nothing at offset {utterance.offset:g} s, the recording ends at "
            f"{length:.3f} s; correct the offset"
        )
    return Extent(length - utterance.offset, utterance.duration)


def extent_of_features(
    utterance: Utterance, shift_ms: float, num_features: int | None = None
) -> Extent:
    """Of precomputed features, `shift_ms` from frame to frame. Raises FeatureError."""
    frames = len(load_features(_features_path(utterance), num_features))
    start = _first_frame(utterance, shift_ms, frames)
    return Extent((frames - start) * shift_ms / 1000, utterance.duration)


def wanted_seconds(utterance: Utterance) -> float | None:
    """How much is read from the offset on; None: to the end of the file."""
    return None if math.isnan(utterance.duration) else utterance.duration + GRACE_SECONDS


@contextlib.contextmanager
def _opened(utterance: Utterance, data: bytes | None = None) -> Iterator[Path | BinaryIO]:
    """The file, or the bytes of a member of a tar file, here or where fsspec finds it."""
    path = _audio_path(utterance)
    if data is not None:
        yield _Member(data, location(path))
        return
    file, place = split_archive(path)
    if place is None:
        yield path
        return
    start, count = map(int, place.split(":"))
    name = location(path)
    try:
        with open_archive(location(file)) as archive:
            archive.seek(start)
            data = archive.read(count)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(data) < count:
        raise AudioError(f"{name}: the tar file ends before this member does; copy it again")
    yield _Member(data, name)


def open_archive(name: str) -> Any:
    """A file here, or at a URL that fsspec reads, for reading bytes from any place of it.

    Raises AudioError without fsspec, OSError when it cannot be opened.
    """
    if "://" not in name:
        return open(name, "rb")
    try:
        import fsspec
    except ImportError as error:
        raise AudioError(
            f"{name}: reading from there needs fsspec: pip install 'ctcspeech[bulk]'"
        ) from error
    return fsspec.open(name, "rb").open()


class _Member(io.BytesIO):
    """Bytes with the name by which errors tell of them."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _audio_path(utterance: Utterance) -> Path:
    if utterance.audio_filepath is None:
        raise AudioError(
            f"{utterance.id}: the manifest has features only, but recordings are wanted; set the "
            'features\' kind to "precomputed" in training, or give audio_filepath'
        )
    return utterance.audio_filepath


def _features_path(utterance: Utterance) -> Path:
    if utterance.features_filepath is None:
        raise FeatureError(
            f'{utterance.id}: the features\' kind is "precomputed", but the manifest has no '
            "features_filepath for it"
        )
    return utterance.features_filepath


def _first_frame(utterance: Utterance, shift_ms: float, frames: int) -> int:
    start = round(utterance.offset * 1000 / shift_ms)
    if start >= frames:
        raise FeatureError(
            f"{utterance.features_filepath}: nothing at offset {utterance.offset:g} s, there are "
            f"{frames} frames of {shift_ms:g} ms"
        )
    return start
