"""Features by NumPy alone: those of `audio.features`, for recognition without torch.

front_end = FrontEnd(FeatureConfig(), mean, scale)
features = front_end(samples)                           # (T, F) float32
"""

import numpy as np
import numpy.typing as npt

from ctcspeech.audio.feature_config import (
    DELTA_REACH,
    FeatureConfig,
    analysis_window,
    filter_weights,
    first_sample,
    num_features,
    num_frames,
)
from ctcspeech.errors import FeatureError

__all__ = ["FrontEnd"]

_BLOCK = 512  # frames at a time: what they need stays in the processor's caches
_Array = npt.NDArray[np.float32]


class FrontEnd:
    """Samples of one recording to the features that a model sees.

    mean, scale: (F,) for normalization "corpus": (features - mean) * scale.
    Raises FeatureError where that is wanted and they are not given.
    """

    def __init__(
        self,
        config: FeatureConfig,
        mean: npt.ArrayLike | None = None,
        scale: npt.ArrayLike | None = None,
    ) -> None:
        if config.normalization == "corpus" and (mean is None or scale is None):
            raise FeatureError(
                "features have no corpus statistics to be normalised by; give mean and scale, or "
                "choose normalization 'utterance' or 'none'"
            )
        self.config = config
        self.mean = np.asarray(0.0 if mean is None else mean, np.float32)
        self.scale = np.asarray(1.0 if scale is None else scale, np.float32)
        if config.kind != "precomputed":
            self._window = analysis_window(config).astype(np.float32)
            self._points = config.fft_points
        if config.kind in ("filterbank", "mel"):
            self._filters = filter_weights(config, self._points).astype(np.float32)

    @property
    def num_features(self) -> int:
        """F, deltas included."""
        return num_features(self.config)

    def __call__(self, samples: npt.NDArray) -> _Array:
        """Normalised features (T, F) of samples (S,), full scale 1, or of static ones (T, F0)."""
        features = self.raw(samples)
        if not len(features):
            return features
        if self.config.normalization == "corpus":
            return (features - self.mean) * self.scale
        if self.config.normalization == "utterance":
            return _normalized(features)
        return features

    def raw(self, samples: npt.NDArray) -> _Array:
        """Before normalisation."""
        samples = np.asarray(samples, np.float32)
        parts = [samples if self.config.kind == "precomputed" else self._static(samples)]
        for _ in range(self.config.deltas):
            parts.append(_delta(parts[-1]))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _static(self, samples: _Array) -> _Array:
        config = self.config
        count = num_frames(len(samples), config)
        width = num_features(config.model_copy(update={"deltas": 0}))
        if not count:
            return np.zeros((0, width), np.float32)
        samples = samples * np.float32(config.sample_scale)
        if config.padding == "mirror":
            first = first_sample(config)
            index = np.arange(first, first + (count - 1) * config.shift + config.window)
            index %= 2 * len(samples)
            samples = samples[np.minimum(index, 2 * len(samples) - 1 - index)]
        windows = np.lib.stride_tricks.sliding_window_view(samples, config.window)
        frames = windows[:: config.shift][:count]  # (T, W), no copy
        blocks = [self._logs(frames[i : i + _BLOCK]) for i in range(0, count, _BLOCK)]
        return np.concatenate(blocks)

    def _logs(self, frames: _Array) -> _Array:
        """Frames (T, W) of samples to features without deltas."""
        config = self.config
        prepared = frames.astype(np.float64)  # where a frequency is silent, float32 errs by 1e-4
        if config.remove_mean:
            prepared = prepared - prepared.mean(axis=1, keepdims=True)
        if config.pre_emphasis:
            before = np.concatenate([prepared[:, :1], prepared[:, :-1]], axis=1)
            prepared = prepared - config.pre_emphasis * before
        spectrum = np.fft.rfft(prepared * self._window, self._points)
        values = spectrum.real**2 + spectrum.imag**2  # (T, D/2 + 1)
        if config.kind != "spectrogram":
            values = values @ self._filters
        if config.energy:
            energy = np.square(frames, dtype=np.float64).sum(axis=1, keepdims=True)
            values = np.concatenate([values, energy], axis=1)
        values = np.maximum(values, config.floor) if config.clamp_floor else values + config.floor
        return np.log(values).astype(np.float32)


def _delta(features: _Array) -> _Array:
    last = len(features) - 1
    if last < 0:
        return features
    here = np.arange(len(features))
    total = np.zeros_like(features)
    for reach in range(1, DELTA_REACH + 1):
        after, before = np.minimum(here + reach, last), np.maximum(here - reach, 0)
        total += np.float32(reach) * (features[after] - features[before])
    return total / np.float32(2 * sum(n * n for n in range(1, DELTA_REACH + 1)))


def _normalized(features: _Array) -> _Array:
    """By the utterance's own mean and deviation. What never varies is only centred."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = features - mean
    variance = np.square(centred).mean(axis=0, dtype=np.float64)
    constant = variance <= np.square(1e-5 * (1.0 + np.abs(mean)))
    return (centred / np.sqrt(np.where(constant, 1.0, variance))).astype(np.float32)
