"""Strings of digits put together from single ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAMPLE_RATE = 8000
Digits = dict[int, list[np.ndarray]]  # the recordings of each digit by one speaker


def trim(samples: np.ndarray, sample_rate: int, below_db: float = 40.0) -> np.ndarray:
    """Without what is more than `below_db` under the loudest 10 ms at both ends, less 20 ms."""
    step = sample_rate // 100
    blocks = len(samples) // step
    if not blocks:
        return samples
    power = np.square(samples[: blocks * step].reshape(blocks, step)).mean(1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below_db / 10))
    if not len(loud):
        return samples
    return samples[max(loud[0] - 2, 0) * step : (loud[-1] + 3) * step]


def join_with_pauses(
    parts: Sequence[np.ndarray], rng: np.random.Generator, longest: float = 0.4
) -> np.ndarray:
    """The parts one after the other, with a random pause between and, mostly, around them.

    Pauses hold faint noise, up to about 50 dB below the parts: digital silence is what recordings
    hardly ever have. Lengths are drawn so that short pauses are as likely as long ones.
    """
    floor = np.abs(np.concatenate(list(parts))).max() * 10 ** (rng.uniform(-75, -45) / 20)
    pieces = []
    for position in range(len(parts) + 1):
        inside = 0 < position < len(parts)
        if inside or rng.random() < 0.6:
            seconds = longest * rng.random() ** 2
            pieces.append(np.zeros(round(seconds * SAMPLE_RATE), np.float32))
        if position < len(parts):
            pieces.append(np.asarray(parts[position], np.float32))
    samples = np.concatenate(pieces)
    return samples + np.float32(floor) * rng.standard_normal(len(samples)).astype(np.float32)


def string_of(
    digits: Digits, rng: np.random.Generator, shortest: int = 3, longest: int = 7
) -> tuple[np.ndarray, tuple[int, ...]]:
    """A string of `shortest` to `longest` of one speaker's digits: samples (S,), and which."""
    if not 1 <= shortest <= longest:
        raise ValueError(f"shortest must be 1 to longest ({longest}), got {shortest}")
    chosen = tuple(int(d) for d in rng.choice(sorted(digits), rng.integers(shortest, longest + 1)))
    parts = [digits[digit][rng.integers(len(digits[digit]))] for digit in chosen]
    return join_with_pauses(parts, rng), chosen
