"""Noises and rooms for augmentation, synthesised, for recipes without recordings of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 8000


def write_noises(
    folder: Path, seconds: float = 20.0, seed: int = 0, sample_rate: int = SAMPLE_RATE
) -> None:
    """Noises for augmentation: spectra falling with 0 to 2 powers of frequency, and mains hum."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 1])
    count = int(seconds * sample_rate)

    def write(name: str, samples: np.ndarray) -> None:
        samples = 0.3 * samples / np.abs(samples).max()
        soundfile.write(folder / name, samples, sample_rate, subtype="PCM_16")

    frequencies = np.fft.rfftfreq(count, 1 / sample_rate)
    for power in (0.0, 0.5, 1.0, 1.5, 2.0):
        spectrum = np.fft.rfft(rng.standard_normal(count))
        spectrum *= np.maximum(frequencies, 20.0) ** (-power / 2)
        # A slow swell, as of traffic or a crowd
        swell = np.interp(np.arange(count), np.linspace(0, count, 40), rng.uniform(0.3, 1.0, 40))
        write(f"power{power:.1f}.wav", np.fft.irfft(spectrum, count) * swell)
    time = np.arange(count) / sample_rate
    for mains in (50, 60):
        hum = sum(np.sin(2 * np.pi * mains * k * time + k) / k for k in range(1, 12))
        write(f"hum{mains}.wav", hum + 0.3 * rng.standard_normal(count))


def write_rooms(
    folder: Path, count: int = 24, seed: int = 0, sample_rate: int = SAMPLE_RATE
) -> None:
    """Room impulse responses: a direct path, then noise that decays by 60 dB in 0.1 to 0.6 s."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 2])
    for index in range(count):
        reverberation = rng.uniform(0.1, 0.6)
        time = np.arange(int(reverberation * sample_rate)) / sample_rate
        tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / reverberation)
        tail[: int(rng.uniform(0.001, 0.01) * sample_rate)] = 0  # before the first reflection
        direct_to_tail = 10 ** (rng.uniform(0, 15) / 20)
        tail *= 1 / (direct_to_tail * np.sqrt(np.sum(tail**2)))
        tail[0] = 1.0
        soundfile.write(folder / f"room{index:02d}.wav", 0.5 * tail, sample_rate, subtype="FLOAT")
