"""Synthetic spoken digits: all that the recipe needs where no data is at hand.

What is said by whom follows from a seed: utterance k of a set is drawn from (seed, k), whatever
process makes it. (espeak-ng's voices flutter, so that the samples differ a little from run to run.)
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from strings import join_with_pauses, trim
from voices import DIGITS, ENGLISH, FOREIGN, TEST_VARIANTS, VARIANTS, spelling

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from espeak import Espeak  # noqa: E402
from flite import FLITE_VOICES, Flite, flite_library  # noqa: E402

SAMPLE_RATE = 8000
FLITE_SHARE = 0.5  # of the training utterances, where flite is installed
Said = tuple[np.ndarray, int]  # samples (S,) and their rate


@dataclass(frozen=True)
class Spoken:
    """One synthetic utterance: the samples (S,) at SAMPLE_RATE and what was said, by whom."""

    samples: np.ndarray
    digits: tuple[int, ...]
    speaker: str

    @property
    def text(self) -> str:
        return " ".join(DIGITS[digit] for digit in self.digits)


class Speaker:
    """The synthesisers of a process: espeak-ng, and flite where `flite_voices` are given."""

    def __init__(self, flite_voices: Sequence[str] = ()) -> None:
        self.espeak = Espeak()
        self.flite = Flite()
        self.flite_voices = list(flite_voices)

    def voice_of_flite(self, rng: np.random.Generator) -> tuple[str, Callable[[str], Said]]:
        """A voice made from a real reader's recordings: its name, and what says a text with it."""
        voice = str(rng.choice(self.flite_voices))
        stretch = float(np.exp(rng.uniform(-0.45, 0.25)))  # its own pace is slow
        return f"flite:{voice}", lambda text: self.flite.say(text, voice=voice, stretch=stretch)

    def voice_of_espeak(
        self, rng: np.random.Generator, voice: str
    ) -> tuple[str, Callable[[str], Said]]:
        manner = {
            "voice": voice,
            "rate": int(rng.integers(110, 300)),
            "pitch": int(rng.integers(5, 95)),
            "range": int(rng.integers(10, 95)),
        }
        return voice, lambda text: (self.espeak.say(text, **manner), self.espeak.sample_rate)


def speak(speaker: Speaker, rng: np.random.Generator, test: bool = False) -> Spoken:
    """Draws digits, a voice, a rate and a pitch, and says them: one digit, or a string of 2 to 7.

    Strings are said in one breath, with commas, or put together from digits said singly.
    """
    by_flite = not test and speaker.flite_voices and rng.random() < FLITE_SHARE
    variants = TEST_VARIANTS if test else [v for v in VARIANTS if v not in TEST_VARIANTS]
    foreign = not test and rng.random() < 0.4
    accent = str(rng.choice(list(FOREIGN) if foreign else ENGLISH))
    voice = f"{accent}+{rng.choice(variants)}"
    count = 1 if rng.random() < 0.25 else int(rng.integers(2, 8))
    digits = tuple(int(digit) for digit in rng.integers(0, 10, count))
    if by_flite:
        voice, synthesise = speaker.voice_of_flite(rng)
        words = [DIGITS[digit] for digit in digits]
    else:
        voice, synthesise = speaker.voice_of_espeak(rng, voice)
        words = [spelling(digit, accent) for digit in digits]

    def say(text: str) -> np.ndarray:
        # Two ways down in rate: the synthesiser's own, and another vocal tract by resampling.
        samples, rate = synthesise(text)
        return soxr.resample(samples, rate * stretch, SAMPLE_RATE)

    stretch = float(rng.uniform(0.82, 1.18) if by_flite else rng.uniform(0.88, 1.15))
    if count == 1 or rng.random() < 0.4:
        samples = join_with_pauses([trim(say(word), SAMPLE_RATE) for word in words], rng)
    else:
        comma = rng.random(count) < rng.choice([0.0, 0.3, 1.0])
        text = " ".join(word + "," * int(pause) for word, pause in zip(words, comma, strict=True))
        samples = join_with_pauses([trim(say(text), SAMPLE_RATE)], rng)
    level = 10 ** (rng.uniform(-25, -5) / 20)
    return Spoken(samples * np.float32(level / max(np.abs(samples).max(), 1e-3)), digits, voice)


_speaker: Speaker | None = None  # one in each process


def installed_flite_voices() -> list[str]:
    return [name for name in FLITE_VOICES if flite_library(name)]


def _write(task: tuple[str, int, int, bool]) -> dict:
    """Makes utterance `index` of a set, writes it, and returns its line of the manifest."""
    global _speaker
    folder, seed, index, test = task
    _speaker = _speaker or Speaker(installed_flite_voices())
    spoken = speak(_speaker, np.random.default_rng([seed, index, int(test)]), test)
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
    # spawn: the synthesisers' state must not be shared between processes
    with multiprocessing.get_context("spawn").Pool(jobs or os.cpu_count()) as pool:
        yield from pool.imap(_write, tasks, chunksize=32)
