"""Augmentation: what a recording might have sounded like, drawn anew in each epoch.

    augmenter = Augmenter(AugmentConfig(speed_probability=0.5, gain_probability=1.0), 16000)
    samples = augmenter(samples, seed=0, epoch=3, utterance="reader-0017")

What is drawn follows from (seed, epoch, utterance) alone: not from the order in which utterances
come, nor from the process that reads them, nor from which other augmentations are on. The order is
that of the world: the voice (pitch, tempo, speed), where the recording begins and ends (silence,
jitter), the room, the noise in it, the microphone (filter, gain), the telephone line.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ctcspeech import audio
from ctcspeech.audio import g711
from ctcspeech.data.tempo import change_tempo
from ctcspeech.data.vocal_tract import warp_of_cepstra
from ctcspeech.errors import ConfigError

__all__ = ["AugmentConfig", "Augmenter"]

Range = tuple[float, float]

_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au"}


class AugmentConfig(BaseModel):
    """What is done to how many utterances (probabilities), and within which bounds.

    Of samples:

    - pitch: higher or lower by up to `pitch_semitones`, at the same tempo; formants move with it.
    - tempo: faster or slower by a factor of `tempo_range`, at the same pitch.
    - speed: resampling by a factor of `speed_range`, as a tape that runs faster (Ko et al. 2015).
    - silence: up to `silence_seconds` more before, and as much after, each drawn by itself: noise
      like that of the recording's own quiet stretches, or white and fainter, or digital silence,
      with equal probability.
    - jitter: moved left or right by up to `jitter_ms` (Hannun et al. 2014, section 2.1, half the
      step of the filter banks).
    - rir: convolved with a room impulse response from `rir_folder`; level and direct path stay in
      place.
    - noise: a stretch of a recording in `noise_folder`, at a ratio of mean powers within
      `noise_snr_db`.
    - filter: another microphone's frequency response: gains of up to `filter_db` up or down at
      `filter_bands` + 1 frequencies evenly spread on the mel scale, straight lines in dB between
      them (linear FilterAugment, Nam et al. 2022, on samples).
    - gain: by `gain_db`.
    - telephone: 300 to 3400 Hz and G.711 mu-law.

    Of features:

    - feature_speed: interpolated in time by a factor of `feature_speed_range` (precomputed ones).
    - cepstral_warp: precomputed cepstra as of another vocal tract, whose resonances are a factor of
      `cepstral_warp_range` higher; `cepstral_warp_hz` is the range of their mel filters (Sphinx's
      at 16 kHz; data/vocal_tract.py).
    - spec: SpecAugment (Park et al. 2019) without warping: up to `frequency_masks` bands of at
      most `frequency_mask_bins` features and `time_masks` stretches of at most `time_mask_frames`
      frames, and at most `time_mask_share` of the utterance, are replaced by their mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pitch_probability: float = Field(0.0, ge=0, le=1)
    pitch_semitones: float = Field(2.0, gt=0, le=12)
    tempo_probability: float = Field(0.0, ge=0, le=1)
    tempo_range: Range = (0.85, 1.15)
    speed_probability: float = Field(0.0, ge=0, le=1)
    speed_range: Range = (0.9, 1.1)
    silence_probability: float = Field(0.0, ge=0, le=1)
    silence_seconds: float = Field(1.0, gt=0, le=60)
    jitter_probability: float = Field(0.0, ge=0, le=1)
    jitter_ms: float = Field(5.0, gt=0, le=10_000)
    rir_probability: float = Field(0.0, ge=0, le=1)
    rir_folder: Path | None = None
    noise_probability: float = Field(0.0, ge=0, le=1)
    noise_folder: Path | None = None
    noise_snr_db: Range = (5.0, 30.0)
    filter_probability: float = Field(0.0, ge=0, le=1)
    filter_db: float = Field(6.0, gt=0, le=60)
    filter_bands: int = Field(5, ge=1, le=100)
    gain_probability: float = Field(0.0, ge=0, le=1)
    gain_db: Range = (-12.0, 6.0)
    telephone_probability: float = Field(0.0, ge=0, le=1)
    feature_speed_probability: float = Field(0.0, ge=0, le=1)
    feature_speed_range: Range = (0.85, 1.15)
    cepstral_warp_probability: float = Field(0.0, ge=0, le=1)
    cepstral_warp_range: Range = (0.85, 1.15)
    cepstral_warp_hz: Range = (133.3334, 6855.4976)
    spec_probability: float = Field(0.0, ge=0, le=1)
    frequency_masks: int = Field(2, ge=0, le=100_000)
    frequency_mask_bins: int = Field(15, ge=1, le=100_000)
    time_masks: int = Field(2, ge=0, le=100_000)
    time_mask_frames: int = Field(25, ge=1, le=100_000)
    time_mask_share: float = Field(0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> "AugmentConfig":
        for name in ("tempo_range", "speed_range", "feature_speed_range", "cepstral_warp_range"):
            low, high = getattr(self, name)
            if not 0.25 <= low <= high <= 4.0:
                raise ValueError(
                    f"{name} must be a lower and an upper factor within 0.25 and 4, "
                    f"got {low:g} and {high:g}"
                )
        low, high = self.cepstral_warp_hz
        if not 0 <= low < high:
            raise ValueError(
                f"cepstral_warp_hz must be a lower and a higher frequency, got {low:g} and {high:g}"
            )
        for name in ("noise_snr_db", "gain_db"):
            low, high = getattr(self, name)
            if not -120.0 <= low <= high <= 120.0:
                raise ValueError(
                    f"{name} must be a lower and an upper bound within -120 and 120 dB, "
                    f"got {low:g} and {high:g}"
                )
        for kind in ("noise", "rir"):
            if getattr(self, f"{kind}_probability") and getattr(self, f"{kind}_folder") is None:
                raise ValueError(f"{kind}_folder must be given for {kind}_probability above 0")
        return self


class Augmenter:
    """Applies an AugmentConfig to utterances at `sample_rate`.

    end_silence: samples of silence that every recording is followed by at least, for models that
    give no emissions for the end of what they hear (`model.hide_end`).

    Raises:
        ConfigError: if a folder of noises or room impulse responses that is used has none.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int, end_silence: int = 0) -> None:
        self.config = config
        self.sample_rate = sample_rate
        self.end_silence = end_silence
        self._noises = self._rooms = None
        if config.noise_probability:
            self._noises = _Clips(config.noise_folder, sample_rate, "noise_folder")
        if config.rir_probability:
            self._rooms = _Clips(config.rir_folder, sample_rate, "rir_folder")

    def __call__(self, samples: np.ndarray, seed: int, epoch: int, utterance: str) -> np.ndarray:
        """Samples (S,) as they might have been, float32 (S',); `samples` stays as it is.

        Raises:
            AudioError: if a noise or an impulse response cannot be read.
        """
        config = self.config
        if not len(samples):
            return samples

        def draw(kind: str) -> "_Draw | None":
            probability = getattr(config, f"{kind}_probability")
            return _Draw.maybe(probability, kind, seed, epoch, utterance)

        samples = np.asarray(samples, dtype=np.float32)
        if drawn := draw("pitch"):
            # Resampling raises the pitch and shortens; the tempo brings the length back.
            factor = 2 ** (config.pitch_semitones * drawn.between((-1, 1)) / 12)
            samples = change_tempo(_resampled(samples, factor), 1 / factor, self.sample_rate)
        if drawn := draw("tempo"):
            samples = change_tempo(samples, drawn.between(config.tempo_range), self.sample_rate)
        if drawn := draw("speed"):
            samples = _resampled(samples, drawn.between(config.speed_range))
        if (drawn := draw("silence")) or self.end_silence:
            before = after = 0
            if drawn:
                longest = self.config.silence_seconds * self.sample_rate
                before, after = (round(longest * drawn.between((0, 1))) for _ in range(2))
            drawn = drawn or _Draw("end silence", seed, epoch, utterance)
            quiet = _Quiet(samples, self.sample_rate)
            after += self.end_silence
            parts = quiet.drawn(drawn, before), samples, quiet.drawn(drawn, after)
            samples = np.concatenate(parts)
        if drawn := draw("jitter"):
            reach = config.jitter_ms * self.sample_rate / 1000
            samples = _shifted(samples, round(reach * drawn.between((-1, 1))))
        if (drawn := draw("rir")) and self._rooms is not None:
            samples = _in_room(samples, self._rooms.get(drawn.below(len(self._rooms))))
        if (drawn := draw("noise")) and self._noises is not None:
            samples = self._noisy(samples, self._noises, drawn)
        if drawn := draw("filter"):
            bounds = (-config.filter_db, config.filter_db)
            gains = [drawn.between(bounds) for _ in range(config.filter_bands + 1)]
            samples = _filtered(samples, gains, self.sample_rate)
        if drawn := draw("gain"):
            samples = samples * np.float32(10 ** (drawn.between(config.gain_db) / 20))
        if draw("telephone"):
            samples = _telephoned(samples, self.sample_rate)
        return samples

    def _noisy(self, samples: np.ndarray, noises: "_Clips", drawn: "_Draw") -> np.ndarray:
        clip = noises.get(drawn.below(len(noises)))
        start = drawn.below(len(clip))
        snr_db = drawn.between(self.config.noise_snr_db)
        repeats = -(-(start + len(samples)) // len(clip))
        noise = np.tile(clip, repeats)[start : start + len(samples)]
        power, noise_power = _power(samples), _power(noise)
        if not power or not noise_power:
            return samples  # a ratio to silence has no meaning
        return samples + noise * np.float32(math.sqrt(power / noise_power * 10 ** (-snr_db / 10)))

    def features(self, features: np.ndarray, seed: int, epoch: int, utterance: str) -> np.ndarray:
        """Precomputed features (T, F) of one utterance: speed, vocal tract, masks; float32 (T', F).

        What is masked becomes the utterance's mean, so that this may come before normalisation.
        """
        features = np.asarray(features, dtype=np.float32)
        if not len(features):
            return features
        config = self.config
        drawn = _Draw.maybe(
            config.feature_speed_probability, "feature_speed", seed, epoch, utterance
        )
        if drawn:
            features = _interpolated(features, drawn.between(config.feature_speed_range))
        drawn = _Draw.maybe(
            config.cepstral_warp_probability, "cepstral_warp", seed, epoch, utterance
        )
        if drawn:
            factor = drawn.between(config.cepstral_warp_range)
            matrix = warp_of_cepstra(factor, features.shape[1], *config.cepstral_warp_hz)
            features = features @ matrix.T
        masks = self._masks(len(features), features.shape[1], seed, epoch, utterance)
        if masks is not None:
            features, mean = features.copy(), features.mean(0)
            for start, end in masks[0]:
                features[start:end] = mean
            for low, high in masks[1]:
                features[:, low:high] = mean[low:high]
        return features

    def mask_batch(
        self, features: Tensor, lengths: Tensor, seed: int, epoch: int, utterances: Sequence[str]
    ) -> Tensor:
        """SpecAugment on a batch of normalised features, on its own device.

        Args:
            features: (N, T, F), of mean 0: what is masked becomes 0.
            lengths: (N,) frames.
            utterances: their ids, N.

        Returns:
            (N, T, F), the same tensor where nothing is masked.
        """
        if not self.config.spec_probability:
            return features
        times, bands = [], []  # rows of (utterance, start, end)
        for i, (length, utterance) in enumerate(zip(lengths.tolist(), utterances, strict=True)):
            masks = self._masks(length, features.shape[2], seed, epoch, utterance)
            if masks is not None:
                times += [(i, *mask) for mask in masks[0]]
                bands += [(i, *mask) for mask in masks[1]]
        count, frames, bins = features.shape
        masked = _marked(times, count, frames, features.device)[:, :, None]  # (N, T, 1)
        masked = masked | _marked(bands, count, bins, features.device)[:, None]  # (N, T, F)
        return features.masked_fill(masked, 0.0)

    def _masks(
        self, frames: int, bins: int, seed: int, epoch: int, utterance: str
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
        """Where time and frequency masks begin and end."""
        config = self.config
        drawn = _Draw.maybe(config.spec_probability, "spec", seed, epoch, utterance)
        if drawn is None:
            return None
        longest = min(config.time_mask_frames, int(config.time_mask_share * frames))
        times = [drawn.stretch(longest, frames) for _ in range(config.time_masks)]
        widest = min(config.frequency_mask_bins, bins)
        bands = [drawn.stretch(widest, bins) for _ in range(config.frequency_masks)]
        return times, bands


class _Draw:
    """Random numbers that follow from (kind, seed, epoch, utterance), on any machine."""

    def __init__(self, kind: str, seed: int, epoch: int, utterance: str) -> None:
        key = f"{kind}\0{seed}\0{epoch}\0{utterance}".encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        self._random = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))

    @classmethod
    def maybe(
        cls, probability: float, kind: str, seed: int, epoch: int, utterance: str
    ) -> "_Draw | None":
        """With this probability the numbers, else None."""
        if not probability:
            return None
        drawn = cls(kind, seed, epoch, utterance)
        return drawn if drawn._random.random() < probability else None

    def between(self, bounds: tuple[float, float]) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * self._random.random()

    def noise(self, count: int) -> np.ndarray:
        """White noise (count,) of power 1, float32."""
        return self._random.standard_normal(count, dtype=np.float32)

    def below(self, count: int) -> int:
        """0 .. count - 1."""
        return min(count - 1, int(count * self._random.random()))

    def stretch(self, longest: int, whole: int) -> tuple[int, int]:
        """Begin and end within 0 .. whole, of 0 to `longest`."""
        length = self.below(longest + 1)
        start = self.below(whole - length + 1)
        return start, start + length


class _Clips:
    """The recordings in a folder at one rate, in clips of at most half a minute, cached.

    A clip is always read by itself, so that its samples do not depend on what is cached.
    """

    clip_seconds = 30.0
    cache_bytes = 256 << 20

    def __init__(self, folder: Path | None, sample_rate: int, option: str) -> None:
        assert folder is not None  # the configuration has checked it
        if not folder.is_dir():
            raise ConfigError(f"augment.{option}: {folder} is no folder; correct the path")
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise ConfigError(
                f"augment.{option}: {folder} has no recordings ({', '.join(sorted(_SUFFIXES))})"
            )
        self.sample_rate = sample_rate
        self._paths = paths
        self._places: list[tuple[Path, float]] | None = None
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    def _catalogue(self) -> list[tuple[Path, float]]:
        if self._places is None:
            self._places = [
                (path, i * self.clip_seconds)
                for path in self._paths
                for i in range(max(1, round(audio.info(path).duration / self.clip_seconds)))
            ]
        return self._places

    def __len__(self) -> int:
        return len(self._catalogue())

    def get(self, index: int) -> np.ndarray:
        """float32 (S,); not to be written to."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        path, offset = self._catalogue()[index]
        clip, _ = audio.load(path, self.sample_rate, offset, self.clip_seconds)
        self._cache[index] = clip
        self._cached_bytes += clip.nbytes
        while self._cached_bytes > self.cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return clip


class _Quiet:
    """What a recording's quiet stretches are like: the tenth of its 10 ms with the least power.

    level: the root of their mean power, 40 dB under that of the whole at most, as a recording that
    is cut closely has none that is quiet. spectrum: their mean power at each frequency.
    """

    faintest_db = -40.0  # under the level

    def __init__(self, samples: np.ndarray, sample_rate: int) -> None:
        step = max(1, sample_rate // 100)
        count = len(samples) // step
        self.level = 0.01 * math.sqrt(_power(samples))
        self.spectrum = np.ones(step // 2 + 1)
        if count:
            stretches = samples[: count * step].reshape(count, step)
            powers = np.square(stretches, dtype=np.float64).mean(1)
            bound = np.quantile(powers, 0.1)
            self.level = min(math.sqrt(bound), self.level)
            spectra = np.fft.rfft(stretches[powers <= bound] * np.hanning(step))
            self.spectrum = np.square(np.abs(spectra)).mean(0)

    def drawn(self, drawn: "_Draw", count: int) -> np.ndarray:
        """So many samples of silence, float32 (count,)."""
        kind, below = drawn.below(3), drawn.between((self.faintest_db, 0))
        noise = drawn.noise(count)
        if kind == 0 or not count:
            return np.zeros(count, np.float32)
        if kind == 1:
            return np.float32(self.level * 10 ** (below / 20)) * noise
        return np.float32(self.level) * _shaped(noise, self.spectrum)


def _shaped(noise: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """White noise (S,) with powers `spectrum` at frequencies evenly spread, of power 1 again."""
    size = _fast_length(len(noise))
    places = np.linspace(0, len(spectrum) - 1, size // 2 + 1)
    gains = np.sqrt(np.interp(places, np.arange(len(spectrum)), spectrum))
    shaped = np.fft.irfft(np.fft.rfft(noise, size) * gains, size)[: len(noise)].astype(np.float32)
    power = _power(shaped)
    return shaped / np.float32(math.sqrt(power)) if power else noise


def _power(samples: np.ndarray) -> float:
    return float(np.dot(samples, samples)) / len(samples)


def _resampled(samples: np.ndarray, factor: float) -> np.ndarray:
    """1 / factor as long, every frequency times factor."""
    result = soxr.resample(samples, factor, 1.0)
    return result if len(result) else samples


def _shifted(samples: np.ndarray, by: int) -> np.ndarray:
    """Later by `by` samples, earlier where negative; of the same length, zeros moved in."""
    result = np.zeros_like(samples)
    if by >= 0:
        result[by:] = samples[: max(0, len(samples) - by)]
    else:
        result[:by] = samples[-by:]
    return result


def _in_room(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolved with the response from its highest peak on, the direct path; of the same power."""
    response = response[np.argmax(np.abs(response)) :]
    size = _fast_length(len(samples) + len(response) - 1)
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    result = np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)
    power = _power(result)
    return result * np.float32(math.sqrt(_power(samples) / power)) if power else samples


def _filtered(samples: np.ndarray, gains: Sequence[float], sample_rate: int) -> np.ndarray:
    """Through a filter of no delay: gains in dB from 0 Hz to half the rate, evenly in mel."""
    size = _fast_length(len(samples) + sample_rate // 50)  # 20 ms of silence, for its tails
    mel = np.log1p(np.fft.rfftfreq(size, 1 / sample_rate) / 700)
    decibels = np.interp(mel, np.linspace(0, mel[-1], len(gains)), gains)
    response = np.float32(10) ** np.float32(decibels / 20)
    return np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)].astype(
        np.float32
    )


def _telephoned(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Through a telephone line: 8 kHz, 300 to 3400 Hz, mu-law."""
    narrow = soxr.resample(samples, sample_rate, 8000)
    size = _fast_length(len(narrow) + 400)  # 50 ms of silence, for the filter's tail
    frequency = np.fft.rfftfreq(size, 1 / 8000)
    rise = np.clip((frequency - 200) / 100, 0, 1)
    fall = np.clip((3800 - frequency) / 400, 0, 1)
    response = np.sin(0.5 * np.pi * rise) ** 2 * np.sin(0.5 * np.pi * fall) ** 2
    band = np.fft.irfft(np.fft.rfft(narrow, size) * response, size)[: len(narrow)]
    line = g711.through_mulaw(band.astype(np.float32))
    wide = soxr.resample(line, 8000, sample_rate)[: len(samples)]
    return np.pad(wide, (0, len(samples) - len(wide)))


def _fast_length(count: int) -> int:
    """The smallest 2^a 3^b 5^c from `count` up, whose Fourier transform is fast."""
    best = 1 << max(0, count - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max(0, -(-count // three) - 1).bit_length()
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def _interpolated(features: np.ndarray, factor: float) -> np.ndarray:
    """(T, F) to (round(T / factor), F), linear between frames, the ends in place."""
    frames = len(features)
    position = np.linspace(0.0, frames - 1, max(1, round(frames / factor)))
    left = np.minimum(position.astype(np.int64), max(0, frames - 2))
    weight = (position - left).astype(np.float32)[:, None]
    return features[left] * (1 - weight) + features[np.minimum(left + 1, frames - 1)] * weight


def _marked(
    rows: list[tuple[int, int, int]], count: int, size: int, device: torch.device
) -> Tensor:
    """(count, size), true where a row (index, start, end) says so."""
    marks = np.zeros((count, size), dtype=bool)
    for index, start, end in rows:
        marks[index, start:end] = True
    return torch.from_numpy(marks).to(device)
