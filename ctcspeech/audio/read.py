"""Recordings: from a file, a part of a file, or a stream, to mono float32 samples at a wanted rate.

wav (8, 16, 24, 32 bits, float, mu-law, A-law), flac, ogg (Vorbis, Opus), mp3 and what else
libsndfile reads; any rate and number of channels. Full scale is 1. Channels are averaged. A wav
from a pipe goes to `ctcspeech.audio.pcm`, because libsndfile must seek in what it reads.
"""

import contextlib
import io
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ctcspeech.audio import mp3_length as mp3
from ctcspeech.audio import pcm
from ctcspeech.audio.pcm import PcmFormat
from ctcspeech.errors import AudioError

__all__ = ["AudioInfo", "PcmFormat", "info", "load", "resample", "stream"]

Source = str | os.PathLike[str] | BinaryIO

# What libsndfile's log says of a header that promises more bytes than the file has.
_MISSING_BYTES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_UNKNOWN_SIZE = 0x7FFF0000  # from here up, a size that its writer did not know (a pipe)
_SLACK_SECONDS = 0.02  # a recording shorter than its header says by less than this is whole
# What is decoded before a range of an mp3 begins, for the frames that it leans on: those reach back
# by at most 511 bytes, half a second at the lowest bit rate.
_MP3_RUN_UP_SECONDS = 1.0
_MP3_SLACK_SAMPLES = 3 * 1152  # what encoder and decoder add at the ends, in frames of an mp3


@dataclass(frozen=True)
class AudioInfo:
    """What a recording is, from its header: `sample_rate` in Hz, `num_frames` samples a channel."""

    sample_rate: int
    num_frames: int
    channels: int
    format: str = ""
    encoding: str = ""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.sample_rate


def info(source: Source) -> AudioInfo:
    """What a recording is, from its header; the samples are not read.

    Raises:
        AudioError: if the file is missing, empty, not audio, without samples, or its header shows
            that it is truncated.
    """
    with _open(source, _name(source)) as file:
        return AudioInfo(file.samplerate, file.whole, file.channels, file.format, file.subtype)


def load(
    source: Source,
    sample_rate: int | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> tuple[np.ndarray, int]:
    """A recording, or a time range of it.

    Args:
        source: a path, or a binary file that can seek.
        sample_rate: the rate wanted in Hz; None keeps that of the file.
        offset: where to begin, in seconds.
        duration: how much, in seconds; less comes back where the recording ends before. None
            reads to the end.

    Returns:
        The samples, float32 (S,), channels averaged, and their rate.

    Raises:
        AudioError: if the file is missing, empty, truncated, not audio, holds NaN or infinite
            samples, or has nothing at `offset`.
        ValueError: for arguments out of range.
    """
    _check_rate(sample_rate)
    _check_times(offset, duration)
    name = _name(source)
    with _open(source, name) as file:
        rate = int(file.samplerate)
        start, count = _range_of(file, offset, duration, name)
        samples = _mono(_read_range(file, start, count, name))
    _check_finite(samples, name)
    if sample_rate is None:
        return samples, rate
    return resample(samples, rate, sample_rate), sample_rate


def resample(samples: np.ndarray, from_rate: float, to_rate: float) -> np.ndarray:
    """`samples` (S,) at another rate, float32, band-limited (soxr, high quality)."""
    if from_rate == to_rate or not len(samples):
        return samples
    import soxr  # here, as recordings at the model's rate need none of it

    return soxr.resample(samples, from_rate, to_rate)


def stream(
    source: Source,
    sample_rate: int,
    chunk_seconds: float = 10.0,
    *,
    raw: PcmFormat | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> Iterator[np.ndarray]:
    """A recording of any length, or a time range of it, in chunks, in constant memory.

    Args:
        source: a path, or a binary file. A pipe will do: wav and raw samples are read from it as
            they come; other formats need seeking and go through a temporary file first.
        sample_rate: the rate wanted in Hz.
        chunk_seconds: about the length of a chunk; the last is shorter.
        raw: how the samples are stored if the source is raw PCM. A source that begins with a wav
            header is read as wav all the same.
        offset, duration: the range in seconds, as `load` takes it; of a file that is not raw.

    Yields:
        float32 (S,), never empty. Joined, the chunks are what `load` gives, to rounding.

    Raises:
        AudioError: as `load` does, at the latest when the faulty place is reached.
        ValueError: for arguments out of range.
    """
    _check_rate(sample_rate)
    if not chunk_seconds > 0.0:
        raise ValueError(f"chunk_seconds must be above 0, got {chunk_seconds}")
    _check_times(offset, duration)
    is_path = isinstance(source, (str, os.PathLike))
    if (offset or duration is not None) and (raw is not None or not is_path):
        raise ValueError("offset and duration are for files; cut a pipe or raw samples beforehand")
    if isinstance(source, (str, os.PathLike)):
        if raw is None:
            name = _name(source)
            blocks = _file_blocks(source, chunk_seconds, name, offset, duration)
            return _resampled(blocks, sample_rate, name)
        return _stream_raw_path(source, sample_rate, chunk_seconds, raw)
    return _resampled(_pipe_blocks(source, chunk_seconds, raw), sample_rate, _name(source))


def _stream_raw_path(
    path: str | os.PathLike[str], sample_rate: int, chunk_seconds: float, raw: PcmFormat
) -> Iterator[np.ndarray]:
    _check_path(Path(path))
    with open(path, "rb") as file:
        yield from _resampled(_pipe_blocks(file, chunk_seconds, raw), sample_rate, _name(path))


# --- reading by libsndfile


class _SequentialFile(soundfile.SoundFile):
    """A SoundFile that does not seek after every read, as the base class does where it can.

    Seeking loses up to half a second of an mp3, whose frames lean on the bits of earlier ones.
    """

    whole = 0  # samples a channel: `frames`, which libsndfile may only have guessed, put right

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open(source: Source, name: str) -> Iterator[_SequentialFile]:
    """The opened recording; errors of libsndfile, here and in the block, become AudioError."""
    if isinstance(source, (str, os.PathLike)):
        _check_path(Path(source))
        source = os.fspath(source)
    try:
        with _SequentialFile(source) as file:
            file.whole = file.frames
            if file.format == "MP3":
                _measure_mp3(file, source, name)
            _check_whole(file, source, name)
            yield file
    except MemoryError as error:  # a damaged header may promise any number of samples
        raise AudioError(
            f"{name}: its header promises more samples than fit in memory; the file is damaged, or "
            "too long to be read at once: stream it"
        ) from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise AudioError(
            f"{name}: cannot be read as audio ({reason}); the file is damaged, truncated, or of a "
            "format that libsndfile does not know: copy it again, or convert it to wav or flac"
        ) from error


def _name(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "audio stream"


def _check_path(path: Path) -> None:
    if not path.exists():
        raise AudioError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, not a recording; name the files in it")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); copy it again or remove it")


def _check_whole(file: _SequentialFile, source: str | BinaryIO, name: str) -> None:
    if file.format == "OGG" and isinstance(source, str) and not _ogg_is_whole(source):
        raise AudioError(
            f"{name}: truncated, the ogg stream has no end; copy it again or cut it anew"
        )
    missing = _MISSING_BYTES.search(file.extra_info)
    if missing:
        promised, present = int(missing[1]), int(missing[2])
        seconds = file.frames / file.samplerate
        if present < promised < _UNKNOWN_SIZE and present > 0:
            lost = (promised - present) / present * seconds
        else:
            lost = 0.0
        if lost > _SLACK_SECONDS:
            raise AudioError(
                f"{name}: truncated, the header promises {promised} bytes of samples and the file "
                f"has {present} ({seconds:.2f} s of {seconds + lost:.2f} s); copy it again"
            )
    if file.frames <= 0:
        raise AudioError(f"{name}: the recording has no samples; record it again or remove it")


def _measure_mp3(file: _SequentialFile, source: str | BinaryIO, name: str) -> None:
    if isinstance(source, str):
        with open(source, "rb") as data:
            counted = mp3.count_samples(data)
    else:
        try:
            counted = mp3.count_samples(source)
        except io.UnsupportedOperation:  # in memory
            return
    if counted is None:
        return
    if counted > file.frames + _MP3_SLACK_SAMPLES:
        raise AudioError(
            f"{name}: an mp3 of variable bit rate that does not say its length cannot be read to "
            f"its end ({counted / file.samplerate:.2f} s); convert it to wav or flac"
        )
    file.whole = min(counted, file.frames)


def _ogg_is_whole(path: str) -> bool:
    """Whether the last page of an ogg file is complete and marked as the last (RFC 3533, 6)."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 65536 - 512))  # a page has at most 65307 bytes
        tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return False
    lengths = tail[at + 27 : at + 27 + tail[at + 26]]
    whole = len(tail) >= at + 27 + tail[at + 26] + sum(lengths)
    return whole and bool(tail[at + 5] & 4)


def _read_range(file: _SequentialFile, start: int, count: int, name: str) -> np.ndarray:
    """float32 (count,) or (count, channels)."""
    run_up = _seek(file, start)
    samples = file.read(run_up + count, dtype="float32")[run_up:]
    _check_count(file, count - len(samples), count, name)
    return samples


def _range_of(
    file: _SequentialFile, offset: float, duration: float | None, name: str
) -> tuple[int, int]:
    """The first sample of a range in seconds, and how many there are."""
    rate = int(file.samplerate)
    start = round(min(offset * rate, 2.0**62))
    if start >= file.whole:
        raise AudioError(
            f"{name}: nothing at offset {offset:g} s, the recording ends at "
            f"{file.whole / rate:.3f} s; correct the offset"
        )
    count = file.whole - start
    if duration is not None:
        count = min(count, max(1, round(min(duration * rate, 2.0**62))))
    return start, count


def _seek(file: _SequentialFile, start: int) -> int:
    """Goes to `start`, or as many samples before it as are returned."""
    run_up = 0
    if start:
        if file.format == "MP3":
            run_up = min(start, round(_MP3_RUN_UP_SECONDS * file.samplerate))
        file.seek(start - run_up)
    return run_up


def _check_count(file: _SequentialFile, lost: int, promised: int, name: str) -> None:
    slack = _SLACK_SECONDS * file.samplerate
    if file.format == "MP3":
        slack += _MP3_SLACK_SAMPLES
    if lost > slack or lost == promised:
        raise AudioError(
            f"{name}: truncated, it ends {lost / file.samplerate:.2f} s before the end that its "
            "header promises; copy it again"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 1:
        return samples
    if samples.shape[1] == 1:
        return samples[:, 0]
    channels = samples.shape[1]
    return samples @ np.full(channels, 1 / channels, np.float32)  # 5 times as fast as mean(1)


def _check_finite(samples: np.ndarray, name: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.sum(samples, dtype=np.float64)
    if np.isfinite(total):
        return
    bad = np.count_nonzero(~np.isfinite(samples))
    if bad == len(samples):
        what = "every sample is NaN or infinite"
    else:
        what = f"{bad} of {len(samples)} samples are NaN or infinite"
    raise AudioError(f"{name}: {what}; make the recording anew from its source or remove it")


def _check_times(offset: float, duration: float | None) -> None:
    if not 0.0 <= offset < math.inf:
        raise ValueError(f"offset must be at least 0 s and finite, got {offset}")
    if duration is not None and not 0.0 < duration < math.inf:
        raise ValueError(f"duration must be above 0 s and finite, got {duration}")


def _check_rate(sample_rate: int | None) -> None:
    if sample_rate is not None and not sample_rate >= 1:
        raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")


# --- streams: blocks of (rate, mono samples), then resampling

_Blocks = Iterator[tuple[int, np.ndarray]]


def _file_blocks(
    source: Source,
    chunk_seconds: float,
    name: str,
    offset: float = 0.0,
    duration: float | None = None,
) -> _Blocks:
    with _open(source, name) as file:
        start, promised = _range_of(file, offset, duration, name)
        run_up = _seek(file, start)
        size = max(1, round(chunk_seconds * file.samplerate))
        got = 0
        while duration is None or got < promised:
            wanted = size if duration is None else min(size, promised - got)
            block = file.read(run_up + wanted, dtype="float32")[run_up:]
            run_up = 0
            got += len(block)
            if len(block):
                yield file.samplerate, _mono(block)
            if len(block) < wanted:
                break
        _check_count(file, promised - got, promised, name)


def _pipe_blocks(file: BinaryIO, chunk_seconds: float, raw: PcmFormat | None) -> _Blocks:
    name = _name(file)
    head = _read_exactly(file, 12)
    if not head:
        raise AudioError(f"{name}: empty, no bytes came; check what writes into it")
    size: int | None = None
    format = raw
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        try:
            head, format, size = pcm.read_wav_header(head, lambda n: _read_exactly(file, n))
        except ValueError as error:
            raise AudioError(f"{name}: {error}; copy it again") from error
        if format is not None:
            head = b""
    if format is not None:
        yield from _pcm_blocks(file, head, format, size, chunk_seconds, name)
        return
    with tempfile.TemporaryFile() as copy:  # seekable, as libsndfile needs it
        copy.write(head)
        while data := file.read(1 << 20):
            copy.write(data)
        copy.seek(0)
        yield from _file_blocks(copy, chunk_seconds, name)


def _pcm_blocks(
    file: BinaryIO,
    head: bytes,
    format: PcmFormat,
    size: int | None,
    chunk_seconds: float,
    name: str,
) -> _Blocks:
    """Decodes `size` bytes (None: up to the end), `head` and what follows it in `file`."""
    step = max(1, round(chunk_seconds * format.sample_rate)) * format.frame_bytes
    left = size
    got = 0
    while left is None or left > 0:
        want = step if left is None else min(step, left)
        data = head[:want] + _read_exactly(file, max(0, want - len(head)))
        head = head[want:]
        got += len(data)
        if left is not None:
            left -= len(data)
        whole = len(data) - len(data) % format.frame_bytes
        if whole:
            yield format.sample_rate, _mono(pcm.decode(data[:whole], format))
        if len(data) < want:
            break
    per_second = format.frame_bytes * format.sample_rate
    if left and left > _SLACK_SECONDS * per_second:
        raise AudioError(
            f"{name}: truncated, it ends {left / per_second:.2f} s before the end that its header "
            "promises; copy it again"
        )
    if got < format.frame_bytes:
        raise AudioError(f"{name}: the recording has no samples; check what writes into it")


def _read_exactly(file: BinaryIO, count: int) -> bytes:
    """The next `count` bytes, fewer only at the end; a pipe may give them in pieces."""
    data = file.read(count)
    if len(data) == count or not data:
        return data
    parts = [data]
    missing = count - len(data)
    while missing and (data := file.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _resampled(blocks: _Blocks, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    resampler: Callable[..., np.ndarray] | None = None
    for rate, samples in blocks:
        _check_finite(samples, name)
        if rate != sample_rate:
            if resampler is None:
                import soxr

                resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32").resample_chunk
            samples = resampler(np.ascontiguousarray(samples))
        if len(samples):
            yield samples
    if resampler is not None:
        rest = resampler(np.zeros(0, np.float32), last=True)
        if len(rest):
            yield rest
