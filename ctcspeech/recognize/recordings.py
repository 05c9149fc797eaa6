"""What is to be transcribed: files, folders, patterns, manifests, standard input."""

import glob
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ctcspeech import audio
from ctcspeech.audio.read import PcmFormat
from ctcspeech.data.inputs import audio_chunks, read_features
from ctcspeech.data.manifest import Utterance, read_manifest
from ctcspeech.errors import AudioError

__all__ = ["SUFFIXES", "Recording", "find_recordings"]

SUFFIXES = frozenset(
    ".aif .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .sph .w64 .wav .wave".split()
)
"""The endings by which recordings are found in a folder."""

RAW_SUFFIXES = frozenset([".raw", ".pcm", ".ulaw", ".alaw"])

_CHUNK_SECONDS = 10.0


@dataclass
class Recording:
    """A recording, or a part of one, and the name by which it is reported."""

    name: str
    source: Path | BinaryIO
    offset: float = 0.0  # seconds
    duration: float | None = None  # seconds from the offset, None: to the end
    raw: PcmFormat | None = None  # the source is samples without a header
    folder: Path | None = None  # the folder argument in which it was found
    utterance: Utterance | None = None  # the line of the manifest that it comes from

    @classmethod
    def of(cls, source: "str | os.PathLike[str] | Utterance | Recording") -> "Recording":
        """A path or a line of a manifest as a recording."""
        if isinstance(source, Recording):
            return source
        if not isinstance(source, Utterance):
            return cls(os.fspath(source), Path(source))
        duration = None if math.isnan(source.duration) else source.duration
        return cls(str(source.path), source.path, source.offset, duration, utterance=source)

    def chunks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """The samples, float32 (S,) each, at `sample_rate`. Raises AudioError."""
        if self.utterance is not None:
            yield from audio_chunks(self.utterance, sample_rate, _CHUNK_SECONDS)
            return
        yield from audio.stream(
            self.source,
            sample_rate,
            _CHUNK_SECONDS,
            raw=self.raw,
            offset=self.offset,
            duration=self.duration,
        )

    def features(self, shift_ms: float, num_features: int) -> np.ndarray:
        """Precomputed features, float32 (T, F), of a file or a manifest's line. FeatureError."""
        utterance = self.utterance
        if utterance is None:
            path, duration = Path(self.name), math.nan if self.duration is None else self.duration
            utterance = Utterance(None, duration, offset=self.offset, features_filepath=path)
        return read_features(utterance, shift_ms, num_features)

    def seconds(self) -> float | None:
        """The length if it can be told without reading the samples."""
        if self.duration is not None:
            return self.duration
        if self.raw is not None or not isinstance(self.source, Path):
            return None
        if self.source.suffix == ".inkml":
            return None
        try:
            return audio.info(self.source).duration
        except AudioError:
            return None  # reported when it is read


def find_recordings(
    arguments: Iterable[str], raw: PcmFormat | None = None, stdin: BinaryIO | None = None
) -> list[Recording]:
    """The recordings that the arguments of a command line name, in their order.

    A file; a folder, searched with all its subfolders for files with one of SUFFIXES; a pattern
    (`*`, `?`, `[...]`, `**`), for shells that leave it alone; a manifest (`.jsonl`); `-` for
    standard input. `raw` says how samples without a header are stored: on standard input and in
    files that end in .raw or .pcm. A file that does not exist is passed on, to be reported when it
    is read. Raises AudioError when a folder has no recording or a pattern no match, ManifestError
    for a wrong manifest.
    """
    found: list[Recording] = []
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            # Not sys.stdin.buffer: its lock, held by a thread that waits for input, would keep
            # Python from ending.
            opened = stdin or open(0, "rb", buffering=0, closefd=False)
            found.append(Recording("-", opened, raw=raw))
        elif path.is_dir():
            found.extend(_in_folder(path, raw))
        elif path.suffix == ".jsonl":
            found.extend(Recording.of(utterance) for utterance in read_manifest(path))
        elif path.exists() or not glob.has_magic(argument):
            found.append(_file(path, raw))
        else:
            matches = sorted(glob.glob(argument, recursive=True))
            files = [Path(match) for match in matches if os.path.isfile(match)]
            if not files:
                raise AudioError(f"no file matches {argument}")
            found.extend(_file(file, raw) for file in files)
    return found


def _file(path: Path, raw: PcmFormat | None) -> Recording:
    is_raw = path.suffix.lower() in RAW_SUFFIXES
    return Recording(str(path), path, raw=raw if is_raw else None)


def _in_folder(folder: Path, raw: PcmFormat | None) -> list[Recording]:
    wanted = SUFFIXES | RAW_SUFFIXES if raw is not None else SUFFIXES
    recordings = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in wanted and path.is_file():
            recording = _file(path, raw)
            recording.folder = folder
            recordings.append(recording)
    if not recordings:
        raise AudioError(
            f"{folder}: no recordings in this folder (looked for {', '.join(sorted(SUFFIXES))})"
        )
    return recordings
