"""The telephone: the two companding laws of ITU-T G.711, and a line that carries mu-law."""

from functools import lru_cache

import numpy as np

__all__ = ["alaw_to_linear", "mulaw_to_linear", "through_mulaw"]


@lru_cache(maxsize=1)
def mulaw_to_linear() -> np.ndarray:
    """The 256 values of mu-law codes, float32 in (-1, 1) (ITU-T G.711, table 2a/2b)."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768.0).astype(np.float32)


@lru_cache(maxsize=1)
def alaw_to_linear() -> np.ndarray:
    """The 256 values of A-law codes, float32 in (-1, 1) (ITU-T G.711, table 1a/1b)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = np.where(
        exponent == 0,
        (mantissa << 4) + 8,
        ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0),
    )
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768.0).astype(np.float32)


@lru_cache(maxsize=1)
def _mulaw_rounding() -> np.ndarray:
    """For every 16-bit sample (from -32768 up), the mu-law value nearest to it."""
    levels = np.unique(mulaw_to_linear())
    every = np.arange(-32768, 32768, dtype=np.float32) / np.float32(32768.0)
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, every)]


def through_mulaw(samples: np.ndarray) -> np.ndarray:
    """`samples` as a telephone line with G.711 mu-law gives them back: clipped, 256 levels."""
    steps = np.rint(samples * np.float32(32768.0))
    return _mulaw_rounding()[np.clip(steps, -32768.0, 32767.0).astype(np.int32) + 32768]
