"""Synthetic spoken digits, noises and rooms: all that the recipe needs where no data is at hand.

What is said by whom follows from a seed: utterance k of a set is drawn from (seed, k), whatever
process makes it. (espeak-ng's voices flutter, so that the samples differ a little from run to run.)
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from espeak import Espeak
from strings import join_with_pauses, trim
from voices import DIGITS, ENGLISH, FOREIGN, TEST_VARIANTS, VARIANTS, spelling

SAMPLE_RATE = 8000


@dataclass(frozen=True)
class Spoken:
    """One synthetic utterance: the samples (S,) at SAMPLE_RATE and what was said, by whom."""

    samples: np.ndarray
    digits: tuple[int, ...]
    speaker: str

    @property
    def text(self) -> str:
        return " ".join(DIGITS[digit] for digit in self.digits)


def speak(espeak: Espeak, rng: np.random.Generator, test: bool = False) -> Spoken:
    """Draws digits, a voice, a rate and a pitch, and says them: one digit, or a string of 2 to 7.

    Strings are said in one breath, with commas, or put together from digits said singly.
    """
    variants = TEST_VARIANTS if test else [v for v in VARIANTS if v not in TEST_VARIANTS]
    foreign = not test and rng.random() < 0.4
    accent = str(rng.choice(list(FOREIGN) if foreign else ENGLISH))
    voice = f"{accent}+{rng.choice(variants)}"
    count = 1 if rng.random() < 0.25 else int(rng.integers(2, 8))
    digits = tuple(int(digit) for digit in rng.integers(0, 10, count))
    manner = {
        "voice": voice,
        "rate": int(rng.integers(110, 300)),
        "pitch": int(rng.integers(5, 95)),
        "range": int(rng.integers(10, 95)),
    }
    words = [spelling(digit, accent) for digit in digits]

    def say(text: str) -> np.ndarray:
        # Two ways down in rate: espeak-ng's own, and another vocal tract by resampling.
        samples = espeak.say(text, **manner)
        return soxr.resample(samples, espeak.sample_rate * stretch, SAMPLE_RATE)

    stretch = float(rng.uniform(0.88, 1.15))
    if count == 1 or rng.random() < 0.4:
        samples = join_with_pauses([trim(say(word), SAMPLE_RATE) for word in words], rng)
    else:
        comma = rng.random(count) < rng.choice([0.0, 0.3, 1.0])
        text = " ".join(word + "," * int(pause) for word, pause in zip(words, comma, strict=True))
        samples = join_with_pauses([trim(say(text), SAMPLE_RATE)], rng)
    level = 10 ** (rng.uniform(-25, -5) / 20)
    return Spoken(samples * np.float32(level / max(np.abs(samples).max(), 1e-3)), digits, voice)


_espeak: Espeak | None = None  # one in each process


def _write(task: tuple[str, int, int, bool]) -> dict:
    """Makes utterance `index` of a set, writes it, and returns its line of the manifest."""
    global _espeak
    folder, seed, index, test = task
    _espeak = _espeak or Espeak()
    spoken = speak(_espeak, np.random.default_rng([seed, index, int(test)]), test)
    path = Path(folder) / f"{index:05d}.wav"
    soundfile.write(path, spoken.samples, SAMPLE_RATE, subtype="PCM_16")
    return {
        "audio_filepath": path,
        "duration": len(spoken.samples) / SAMPLE_RATE,
        "text": spoken.text,
        "speaker": spoken.speaker,
    }


def synthesize(folder: Path, count: int, seed: int, jobs: int | None = None, test: bool = False):
    """Writes `count` utterances as wav files into `folder`; yields a dict of each, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(str(folder), seed, index, test) for index in range(count)]
    # spawn: espeak-ng's state must not be shared between processes
    with multiprocessing.get_context("spawn").Pool(jobs or os.cpu_count()) as pool:
        yield from pool.imap(_write, tasks, chunksize=32)


def write_noises(folder: Path, seconds: float = 20.0, seed: int = 0) -> None:
    """Noises for augmentation: spectra falling with 0 to 2 powers of frequency, and mains hum."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 1])
    count = int(seconds * SAMPLE_RATE)
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    for power in (0.0, 0.5, 1.0, 1.5, 2.0):
        spectrum = np.fft.rfft(rng.standard_normal(count))
        spectrum *= np.maximum(frequencies, 20.0) ** (-power / 2)
        # A slow swell, as of traffic or a crowd
        swell = np.interp(np.arange(count), np.linspace(0, count, 40), rng.uniform(0.3, 1.0, 40))
        _write_noise(folder / f"power{power:.1f}.wav", np.fft.irfft(spectrum, count) * swell)
    time = np.arange(count) / SAMPLE_RATE
    for mains in (50, 60):
        hum = sum(np.sin(2 * np.pi * mains * k * time + k) / k for k in range(1, 12))
        _write_noise(folder / f"hum{mains}.wav", hum + 0.3 * rng.standard_normal(count))


def _write_noise(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, 0.3 * samples / np.abs(samples).max(), SAMPLE_RATE, subtype="PCM_16")


def write_rooms(folder: Path, count: int = 24, seed: int = 0) -> None:
    """Room impulse responses: a direct path, then noise that decays by 60 dB in 0.1 to 0.6 s."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 2])
    for index in range(count):
        reverberation = rng.uniform(0.1, 0.6)
        time = np.arange(int(reverberation * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / reverberation)
        tail[: int(rng.uniform(0.001, 0.01) * SAMPLE_RATE)] = 0  # before the first reflection
        direct_to_tail = 10 ** (rng.uniform(0, 15) / 20)
        tail *= 1 / (direct_to_tail * np.sqrt(np.sum(tail**2)))
        tail[0] = 1.0
        soundfile.write(folder / f"room{index:02d}.wav", 0.5 * tail, SAMPLE_RATE, subtype="FLOAT")
