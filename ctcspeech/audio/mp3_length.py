"""How long an mp3 is.

Most have a first frame that says so (the Xing or Info tag, or VBRI). Where there is none,
libsndfile guesses from the first bit rate, may be far off, and reads no further than its guess;
then the frames have to be counted.
"""

import mmap
from typing import BinaryIO

__all__ = ["count_samples"]

_BIT_RATES = {  # kbit/s of Layer III by the index in the header; MPEG-1, and MPEG-2 and 2.5
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {
    3: (44100, 48000, 32000),  # MPEG-1
    2: (22050, 24000, 16000),  # MPEG-2
    0: (11025, 12000, 8000),  # MPEG-2.5
}
_LAYER_III = 1


def count_samples(file: BinaryIO) -> int | None:
    """Samples a channel of an mp3 that does not say its length; None where it says, or is odd.

    `file` must be a file of the operating system.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = _after_id3(data)
        first = _frame(data, at)
        if first is None:
            return None
        if any(tag in data[at : at + first[0]] for tag in (b"Xing", b"Info", b"VBRI")):
            return None
        samples = 0
        while at + 4 <= len(data):
            frame = _frame(data, at)
            if frame is None:  # something between frames: look for the next
                at = data.find(b"\xff", at + 1)
                if at < 0:
                    break
                continue
            at += frame[0]
            samples += frame[1]
        return samples


def _after_id3(data: mmap.mmap) -> int:
    """Where the first frame may be: behind an ID3v2 tag, whose size has 7 bits a byte."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 127
    footer = 10 if data[5] & 16 else 0
    return 10 + size + footer


def _frame(data: mmap.mmap, at: int) -> tuple[int, int] | None:
    """Bytes and samples of the frame whose header is at `at`; None if none is."""
    header = data[at : at + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, sample_rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer != _LAYER_III or bit_rate in (0, 15) or sample_rate == 3:
        return None
    bits = _BIT_RATES[3 if version == 3 else 2][bit_rate] * 1000
    samples = 1152 if version == 3 else 576
    return samples // 8 * bits // _SAMPLE_RATES[version][sample_rate] + padding, samples
