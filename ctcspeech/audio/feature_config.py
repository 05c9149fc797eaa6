"""How features are computed: the settings, and what follows from them (window, filters, lengths).

The front end of Deep Speech (Hannun et al. 2014, section 5) is the default: 80 linearly spaced log
filter banks and an energy term over windows of 20 ms, one every 10 ms. Exactly:

1. Frame t is the W = window samples from t * shift on. Nothing is padded or mirrored at the ends,
   so S samples have 1 + floor((S - W) / shift) frames, none if S < W, and frame t is known as soon
   as its last sample is. With padding "mirror" (Kaldi without `snip-edges`) the middle of frame t
   is sample t * shift + shift / 2, there are floor((S + shift / 2) / shift) frames, and samples
   outside of the recording are those as far from its end on the inside.
2. Power spectrum: P[k] = |sum_n w[n] x[n] exp(-2 pi i k n / D)|^2 for k = 0 .. D/2 with the
   periodic Hann window w[n] = 0.5 - 0.5 cos(2 pi n / W). D is W itself, 160 or 320 points at 8 or
   16 kHz, which costs less than the next power of two, or, where some filter would then fall
   between two frequencies, the smallest 2^i W for which none does. Other windows: symmetric Hann
   (W - 1 in place of W) and its power 0.85 ("povey"). Before it, if wanted, the frame's mean is
   taken off and x[n] becomes x[n] - pre_emphasis x[n - 1] (x[0] stands before x[0]).
3. B triangular filters between the B + 2 points that divide low_frequency .. high_frequency evenly,
   in Hz or in mel (2595 log10(1 + f / 700)): filter b rises from 0 at point b to 1 at point b + 1
   and falls to 0 at point b + 2, so each reaches over half of both neighbours. It is applied to
   the power. kind "spectrogram" has no filters. Triangles may be straight in mel, not in Hz
   ("kaldi"), or divide the mel scale of Slaney and have area 1 ("slaney", as librosa's).
4. Natural logarithm, ln(value + floor). The default floor, 1e-7, is about what white noise of one
   16-bit step puts into a frequency: digital silence looks like a very quiet room. With
   `clamp_floor` ln(max(value, floor)).
5. Energy, the last feature: ln(sum_n x[n]^2 + floor) over the frame without its window.
6. Deltas and accelerations, if wanted, by regression over two frames on either side (the formula
   of the HTK book: sum_n n (c[t+n] - c[t-n]) / 10, n = 1, 2), end frames repeated.
7. Normalisation to mean 0 and deviation 1 of each feature: by the statistics of a corpus (nothing
   of the recording itself enters, so that a stream has the same features), or of the utterance.
8. What is recognised, not what is trained on, is followed by `tail_ms` of digital silence, if it
   has a frame at all: models that give no emissions for the end of what they hear
   (`model.hide_end`) hear the last word out in it.

Presets name the front ends of other runtimes: "nemo" (NeMo's, as sherpa-onnx 2.0 computes it) and
"kaldi" (icefall's, k2's and WeNet's filter banks).
"""

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "DELTA_REACH",
    "PRESETS",
    "FeatureConfig",
    "analysis_window",
    "filter_weights",
    "first_sample",
    "num_features",
    "num_frames",
    "num_static",
]

DELTA_REACH = 2
"""Frames on either side of a delta."""

PRESETS: dict[str, dict[str, Any]] = {
    "nemo": {
        "kind": "mel",
        "num_bins": 80,
        "energy": False,
        "window_ms": 25.0,
        "pre_emphasis": 0.97,
        "padding": "mirror",
        "fft_size": 512,
        "filters": "slaney",
        "floor": 2.0**-24,
        "normalization": "utterance",
    },
    "kaldi": {
        "kind": "mel",
        "num_bins": 80,
        "energy": False,
        "window_ms": 25.0,
        "window_shape": "povey",
        "remove_mean": True,
        "pre_emphasis": 0.97,
        "padding": "mirror",
        "fft_size": 512,
        "filters": "kaldi",
        "low_frequency": 20.0,
        "high_frequency": 7600.0,
        "floor": 1.1920929e-07,
        "clamp_floor": True,
        "normalization": "none",
    },
}


class FeatureConfig(BaseModel):
    """How features are computed. See the head of `ctcspeech.audio.feature_config` for each step.

    `num_features` is for precomputed features alone: the width of a frame in the file, without
    deltas. `high_frequency` None is half the sample rate, `fft_size` None chooses as step 2 says.
    `preset` gives what is not given otherwise. `sample_scale`: what full scale is multiplied by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["filterbank", "mel", "spectrogram", "precomputed"] = "filterbank"
    preset: Literal["nemo", "kaldi"] | None = None
    sample_rate: int = Field(16000, ge=1000, le=384_000)
    num_bins: int = Field(80, ge=1, le=1024)
    energy: bool = True
    window_ms: float = Field(20.0, gt=0, le=1000)
    shift_ms: float = Field(10.0, gt=0, le=1000)
    window_shape: Literal["hann", "hann_symmetric", "povey"] = "hann"
    sample_scale: float = Field(1.0, gt=0)
    remove_mean: bool = False
    pre_emphasis: float = Field(0.0, ge=0, lt=1)
    padding: Literal["none", "mirror"] = "none"
    filters: Literal["plain", "kaldi", "slaney"] = "plain"
    low_frequency: float = Field(0.0, ge=0)
    high_frequency: float | None = None
    fft_size: int | None = Field(None, ge=1, le=1 << 20)
    floor: float = Field(1e-7, gt=0)
    clamp_floor: bool = False
    deltas: Literal[0, 1, 2] = 0
    normalization: Literal["corpus", "utterance", "none"] = "corpus"
    num_features: int | None = Field(None, ge=1, le=65_536)
    tail_ms: float = Field(0.0, ge=0, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in PRESETS:
            return {**PRESETS[values["preset"]], **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureConfig":
        if self.kind == "precomputed":
            if self.num_features is None:
                raise ValueError("num_features must be given for precomputed features")
            return self
        if self.num_features is not None:
            raise ValueError("num_features is for precomputed features; give num_bins instead")
        if not 1 <= self.shift <= self.window:
            raise ValueError(
                "shift_ms must hold at least one sample and not exceed window_ms, got "
                f"{self.shift_ms:g} of {self.window_ms:g} ms"
            )
        if self.fft_size is not None and self.fft_size < self.window:
            raise ValueError(
                f"fft_size must be at least the window of {self.window} samples, "
                f"got {self.fft_size}"
            )
        if not self.low_frequency < self.top_frequency <= self.sample_rate / 2:
            raise ValueError(
                "low_frequency must be below high_frequency, and that at most half the sample "
                f"rate ({self.sample_rate / 2:g} Hz); got {self.low_frequency:g} and "
                f"{self.top_frequency:g}"
            )
        if self.filters != "plain" and self.kind != "mel":
            raise ValueError(f'filters "{self.filters}" are of kind "mel", got "{self.kind}"')
        if self.tail_ms and (self.deltas or not self.of_streams):
            raise ValueError(
                "tail_ms is for audio without padding and deltas, not normalised by the utterance"
            )
        self.fft_points  # noqa: B018  (raises where a filter would be empty)
        return self

    @property
    def of_streams(self) -> bool:
        """Whether a frame of samples needs no more of the recording than what is around it."""
        whole = self.normalization == "utterance" or self.padding != "none"
        return self.kind != "precomputed" and not whole

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return round(self.shift_ms * self.sample_rate / 1000)

    def with_tail(self, num_samples: int) -> int:
        """Samples of a recording as it is recognised, those of the tail included."""
        if not self.tail_ms or num_samples < self.window:
            return num_samples
        return num_samples + self.tail

    @property
    def tail(self) -> int:
        """Zero samples that follow what is recognised."""
        return round(self.tail_ms * self.sample_rate / 1000)

    @property
    def top_frequency(self) -> float:
        """The upper end of the filters, Hz."""
        return self.sample_rate / 2 if self.high_frequency is None else self.high_frequency

    @property
    def fft_points(self) -> int:
        """D of the discrete Fourier transform."""
        if self.kind == "spectrogram":
            return self.fft_size or self.window
        if self.fft_size is not None:
            if not _every_filter_counts(self, self.fft_size):
                raise ValueError(
                    f"fft_size = {self.fft_size} leaves filters without a frequency; "
                    "give a larger fft_size or a smaller num_bins"
                )
            return self.fft_size
        for doublings in range(6):
            if _every_filter_counts(self, self.window << doublings):
                return self.window << doublings
        raise ValueError(
            f"num_bins = {self.num_bins} is too many for a window of {self.window} samples"
        )


def num_frames(num_samples: int, config: FeatureConfig) -> int:
    """Frames of a recording of `num_samples` samples at `config.sample_rate`.

    Raises:
        ValueError: for precomputed features, which have no samples.
    """
    if config.kind == "precomputed":
        raise ValueError("config must not be of kind 'precomputed', which has no samples")
    if config.padding == "mirror":
        return (num_samples + config.shift // 2) // config.shift if num_samples else 0
    return max(0, (num_samples - config.window) // config.shift + 1)


def first_sample(config: FeatureConfig) -> int:
    """Where frame 0 begins: 0, or, with padding, so many samples before the recording."""
    return config.shift // 2 - config.window // 2 if config.padding == "mirror" else 0


def num_static(config: FeatureConfig) -> int:
    """Features of a frame without deltas."""
    if config.kind == "precomputed":
        assert config.num_features is not None  # the configuration has checked it
        return config.num_features
    bins = config.fft_points // 2 + 1 if config.kind == "spectrogram" else config.num_bins
    return bins + config.energy


def num_features(config: FeatureConfig) -> int:
    """F, deltas included."""
    return num_static(config) * (1 + config.deltas)


def analysis_window(config: FeatureConfig) -> np.ndarray:
    """w[n] of step 2, float64 (W,)."""
    period = config.window if config.window_shape == "hann" else config.window - 1
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / period)
    return hann**0.85 if config.window_shape == "povey" else hann


def filter_weights(config: FeatureConfig, fft_points: int) -> np.ndarray:
    """The triangular filters of step 3, float64 (fft_points // 2 + 1, num_bins)."""
    slaney = config.filters == "slaney"
    low, high = (
        _slaney_mel(frequency) if slaney else _scale(frequency, config.kind)
        for frequency in (config.low_frequency, config.top_frequency)
    )
    points = np.linspace(low, high, config.num_bins + 2)
    frequencies = np.arange(fft_points // 2 + 1)[:, None] * (config.sample_rate / fft_points)
    if config.filters == "kaldi":
        frequencies = 2595.0 * np.log10(1.0 + frequencies / 700.0)
    elif slaney:
        points = _slaney_hertz(points)
    elif config.kind == "mel":
        points = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    rising = (frequencies - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - frequencies) / (points[2:] - points[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    return weights * (2.0 / (points[2:] - points[:-2])) if slaney else weights


def _scale(frequency: float, kind: str) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0) if kind == "mel" else frequency


# The mel scale of Slaney's Auditory Toolbox (1998): straight up to 1 kHz, then logarithmic.
_KNEE, _STEP = 1000.0, math.log(6.4) / 27.0


def _slaney_mel(frequency: float) -> float:
    if frequency < _KNEE:
        return 3.0 * frequency / 200.0
    return 15.0 + math.log(frequency / _KNEE) / _STEP


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, 200.0 * mel / 3.0, _KNEE * np.exp(_STEP * (mel - 15.0)))


def _every_filter_counts(config: FeatureConfig, fft_points: int) -> bool:
    weights = filter_weights(config, fft_points)
    return bool((weights.sum(0) > 1e-3 * weights.max()).all())
