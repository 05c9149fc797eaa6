"""Samples as bytes: PCM encodings, and the header of a wav stream.

Files are read by libsndfile (see `ctcspeech.audio`); this module serves what libsndfile cannot
read: raw samples, and wav from a pipe, which cannot be rewound.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ctcspeech.audio.g711 import alaw_to_linear, mulaw_to_linear

__all__ = [
    "ENCODINGS",
    "PcmFormat",
    "decode",
    "read_wav_header",
]

# Encoding: (numpy type of one stored sample, what full scale is). 24-bit samples and the
# companded ones are unpacked by functions of their own.
_PLAIN = {
    "s8": ("i1", 128.0),
    "u8": ("u1", 128.0),
    "s16le": ("<i2", 32768.0),
    "s16be": (">i2", 32768.0),
    "s32le": ("<i4", 2147483648.0),
    "s32be": (">i4", 2147483648.0),
    "f32le": ("<f4", 1.0),
    "f32be": (">f4", 1.0),
    "f64le": ("<f8", 1.0),
    "f64be": (">f8", 1.0),
}
_WIDTH = {name: np.dtype(kind).itemsize for name, (kind, _) in _PLAIN.items()}
_WIDTH |= {"s24le": 3, "s24be": 3, "mulaw": 1, "alaw": 1}

ENCODINGS = tuple(_WIDTH)
"""The names of the encodings, as ffmpeg and sox have them: type, bits, byte order."""

# wav format tag and bits a sample -> encoding
_WAV = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
_EXTENSIBLE = 0xFFFE
_LONGEST_HEADER = 1 << 20  # bytes before the samples: tags and pictures, not a recording


@dataclass(frozen=True)
class PcmFormat:
    """How raw samples are stored: `sample_rate` in Hz, an encoding of `ENCODINGS`, `channels`.

    Raises:
        ValueError: if one of them is out of range.
    """

    sample_rate: int
    encoding: str = "s16le"
    channels: int = 1

    def __post_init__(self) -> None:
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {self.sample_rate}")
        if self.encoding not in _WIDTH:
            raise ValueError(
                f"encoding must be one of {', '.join(ENCODINGS)}, got {self.encoding!r}"
            )
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return _WIDTH[self.encoding] * self.channels


def decode(data: bytes, format: PcmFormat) -> np.ndarray:
    """The samples in `data`, float32 (frames, channels), full scale 1.

    Raises:
        ValueError: if `data` is not a whole number of frames.
    """
    if len(data) % format.frame_bytes:
        raise ValueError(f"data must be whole frames of {format.frame_bytes} B, got {len(data)} B")
    name = format.encoding
    if name in ("mulaw", "alaw"):
        table = mulaw_to_linear() if name == "mulaw" else alaw_to_linear()
        samples = table[np.frombuffer(data, np.uint8)]
    elif name in ("s24le", "s24be"):
        samples = _decode_24_bit(data, little=name == "s24le")
    else:
        kind, full_scale = _PLAIN[name]
        samples = np.frombuffer(data, kind).astype(np.float32)
        if name == "u8":
            samples -= 128.0
        if full_scale != 1.0:
            samples /= np.float32(full_scale)
    return samples.reshape(-1, format.channels)


def _decode_24_bit(data: bytes, little: bool) -> np.ndarray:
    wide = np.zeros((len(data) // 3, 4), np.uint8)  # 32 bits whose lowest byte is 0
    triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
    if little:
        wide[:, 1:] = triples
    else:
        wide[:, 1:] = triples[:, ::-1]
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2147483648.0)


def read_wav_header(
    head: bytes, read: Callable[[int], bytes]
) -> tuple[bytes, PcmFormat | None, int | None]:
    """Reads the header of a wav stream up to its first sample.

    Args:
        head: the first 12 bytes, already read: `RIFF`, a size, `WAVE`.
        read: gives the next n bytes, fewer only at the end of the stream.

    Returns:
        All bytes read so far; the format, or None for an encoding other than PCM, float, mu-law
        and A-law; and the size of the samples in bytes, or None where the writer did not know it
        (a wav written into a pipe).

    Raises:
        ValueError: if the header is damaged or ends early.
    """
    consumed = bytearray(head)
    format = None
    found_format = False
    while len(consumed) < _LONGEST_HEADER:
        chunk = read(8)
        consumed += chunk
        if len(chunk) < 8:
            raise ValueError("the wav header ends before the samples")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            if not found_format:
                raise ValueError("the wav header has no format before the samples")
            # A writer that cannot seek back leaves 0, all ones, or the largest number it had.
            return bytes(consumed), format, None if size == 0 or size >= 0x7FFF0000 else size
        if len(consumed) + size > _LONGEST_HEADER:
            break
        body = read(size + size % 2)
        consumed += body
        if name == b"fmt ":
            format, found_format = _wav_format(body), True
    raise ValueError("the wav header has no samples in its first MiB")


def _wav_format(body: bytes) -> PcmFormat | None:
    if len(body) < 16:
        raise ValueError(f"the wav format must have at least 16 bytes, it has {len(body)}")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE and len(body) >= 26:
        (tag,) = struct.unpack_from("<H", body, 24)
    if (tag, bits) not in _WAV:
        return None
    return PcmFormat(rate, _WAV[tag, bits], channels)
