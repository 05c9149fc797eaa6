"""Acoustic features: log filter banks and energy (Deep Speech), mel filter banks, log spectrogram.

The front end of Deep Speech (Hannun et al. 2014, section 5): 80 linearly spaced log filter banks
and an energy term over windows of 20 ms, one every 10 ms. Exactly:

1. Frame t is the W = window samples from t * shift on. Nothing is padded or mirrored at the ends,
   so S samples have 1 + floor((S - W) / shift) frames, none if S < W, and frame t is known as soon
   as its last sample is.
2. Power spectrum: P[k] = |sum_n w[n] x[n] exp(-2 pi i k n / D)|^2 for k = 0 .. D/2 with the
   periodic Hann window w[n] = 0.5 - 0.5 cos(2 pi n / W). D is W itself, 160 or 320 points at 8 or
   16 kHz, which costs less than the next power of two, or, where some filter would then fall
   between two frequencies, the smallest 2^i W for which none does.
3. B triangular filters between the B + 2 points that divide low_frequency .. high_frequency evenly,
   in Hz or in mel (2595 log10(1 + f / 700)): filter b rises from 0 at point b to 1 at point b + 1
   and falls to 0 at point b + 2, so each reaches over half of both neighbours. It is applied to
   the power. kind "spectrogram" has no filters.
4. Natural logarithm, ln(value + floor). The default floor, 1e-7, is about what white noise of one
   16-bit step puts into a frequency: digital silence looks like a very quiet room.
5. Energy, the last feature: ln(sum_n x[n]^2 + floor) over the frame without its window.
6. Deltas and accelerations, if wanted, by regression over two frames on either side (the formula
   of the HTK book: sum_n n (c[t+n] - c[t-n]) / 10, n = 1, 2), end frames repeated.
7. Normalisation to mean 0 and deviation 1 of each feature: by the statistics of a corpus (nothing
   of the recording itself enters, so that a stream has the same features), or of the utterance.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ctcspeech.audio.feature_files import load_features
from ctcspeech.errors import FeatureError

__all__ = [
    "FeatureConfig",
    "FeatureExtractor",
    "FeatureStatistics",
    "StreamingFeatures",
    "add_deltas",
    "filter_bank",
    "load_features",
    "num_frames",
]

_DELTA_REACH = 2  # frames on either side of a delta
_BLOCK = 1024  # frames at a time on a CPU: what they need stays in its caches


class FeatureConfig(BaseModel):
    """How features are computed. See the head of `ctcspeech.features` for each step exactly.

    `num_features` is for precomputed features alone: the width of a frame in the file, without
    deltas. `high_frequency` None is half the sample rate, `fft_size` None chooses as step 2 says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["filterbank", "mel", "spectrogram", "precomputed"] = "filterbank"
    sample_rate: int = Field(16000, ge=1000)
    num_bins: int = Field(80, ge=1, le=1024)
    energy: bool = True
    window_ms: float = Field(20.0, gt=0)
    shift_ms: float = Field(10.0, gt=0)
    low_frequency: float = Field(0.0, ge=0)
    high_frequency: float | None = None
    fft_size: int | None = None
    floor: float = Field(1e-7, gt=0)
    deltas: Literal[0, 1, 2] = 0
    normalization: Literal["corpus", "utterance", "none"] = "corpus"
    num_features: int | None = Field(None, ge=1)

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
        self.fft_points  # noqa: B018  (raises where a filter would be empty)
        return self

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return round(self.shift_ms * self.sample_rate / 1000)

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
    return max(0, (num_samples - config.window) // config.shift + 1)


def filter_bank(config: FeatureConfig, fft_points: int) -> Tensor:
    """The triangular filters of step 3, float64 (fft_points // 2 + 1, num_bins)."""
    points = np.linspace(
        _scale(config.low_frequency, config.kind),
        _scale(config.top_frequency, config.kind),
        config.num_bins + 2,
    )
    if config.kind == "mel":
        points = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    frequencies = np.arange(fft_points // 2 + 1)[:, None] * (config.sample_rate / fft_points)
    rising = (frequencies - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - frequencies) / (points[2:] - points[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling)))


def _scale(frequency: float, kind: str) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0) if kind == "mel" else frequency


def _every_filter_counts(config: FeatureConfig, fft_points: int) -> bool:
    return bool((filter_bank(config, fft_points).sum(0) > 1e-3).all())


def _bands(filters: Tensor) -> list[tuple[slice, slice]]:
    """(frequencies, filters) of blocks outside of which the filter matrix is 0.

    To multiply by these takes half the time of the whole matrix; smaller ones do not pay.
    """
    bands = []
    count = max(1, filters.shape[0] // 40)
    for columns in torch.arange(filters.shape[1]).tensor_split(count):
        if len(columns):
            block = slice(int(columns[0]), int(columns[-1]) + 1)
            rows = filters[:, block].sum(1).nonzero().flatten()
            bands.append((slice(int(rows[0]), int(rows[-1]) + 1), block))
    return bands


class FeatureStatistics:
    """Mean and standard deviation of each feature over a corpus, gathered in float64.

    `frames` counts the frames seen; `mean` and `std` are float64 (F,).
    """

    def __init__(self, num_features: int) -> None:
        self.frames = 0
        self.mean = torch.zeros(num_features, dtype=torch.float64)
        self._squares = torch.zeros(num_features, dtype=torch.float64)  # about the mean

    @property
    def std(self) -> Tensor:
        return (self._squares / max(1, self.frames)).sqrt()

    def accumulate(self, features: Tensor, lengths: Tensor | None = None) -> None:
        """Adds features (N, T, F), the first `lengths` (N,) frames of each, or (T, F).

        Raises:
            ValueError: for another number of features.
        """
        if features.ndim not in (2, 3) or features.shape[-1] != len(self.mean):
            raise ValueError(
                f"features must be (T, {len(self.mean)}) or (N, T, {len(self.mean)}), "
                f"got {tuple(features.shape)}"
            )
        if lengths is not None:
            valid = _valid(features.shape[-2], lengths.to(features.device))
            features = features[valid]
        rows = features.detach().reshape(-1, len(self.mean)).to("cpu", torch.float64)
        if not len(rows):
            return
        mean = rows.mean(0)
        self._add(len(rows), mean, (rows - mean).square().sum(0))

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds what `other` has seen."""
        if other.frames:
            self._add(other.frames, other.mean, other._squares)

    def _add(self, frames: int, mean: Tensor, squares: Tensor) -> None:
        # Chan, Golub and LeVeque 1979: joins two samples without loss of precision
        total = self.frames + frames
        apart = mean - self.mean
        self.mean = self.mean + apart * (frames / total)
        self._squares = self._squares + squares + apart.square() * (self.frames * frames / total)
        self.frames = total

    def to_dict(self) -> dict[str, Tensor]:
        """Tensors `mean`, `std` (F,) float64 and `frames` () int64, as a checkpoint stores them."""
        return {
            "mean": self.mean.clone(),
            "std": self.std,
            "frames": torch.tensor(self.frames, dtype=torch.int64),
        }

    @classmethod
    def from_dict(cls, tensors: Mapping[str, Tensor]) -> "FeatureStatistics":
        """The inverse of `to_dict`.

        Raises:
            FeatureError: if a tensor is missing, of a wrong shape, or not finite.
        """
        try:
            mean, std, frames = (tensors[key] for key in ("mean", "std", "frames"))
        except KeyError as error:
            raise FeatureError(f"feature statistics lack {error}; compute them anew") from error
        if mean.ndim != 1 or mean.shape != std.shape or frames.numel() != 1:
            raise FeatureError(
                "feature statistics must have mean and std of one shape (F,), got "
                f"{tuple(mean.shape)} and {tuple(std.shape)}; compute them anew"
            )
        if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
            raise FeatureError("feature statistics are not finite; compute them anew")
        statistics = cls(len(mean))
        statistics.frames = int(frames)
        statistics.mean = mean.detach().to("cpu", torch.float64).clone()
        deviation = std.detach().to("cpu", torch.float64)
        statistics._squares = deviation.square() * max(1, statistics.frames)
        return statistics


class FeatureExtractor(nn.Module):
    """Samples (or precomputed features) of a batch to the features that a model sees.

    Args:
        config: how.
        statistics: of the corpus, for normalization "corpus"; they can be given later by
            `set_statistics`. `raw` works without.
    """

    mean: Tensor
    scale: Tensor
    window: Tensor
    filters: Tensor
    num_static: int  # features of a frame without deltas

    def __init__(self, config: FeatureConfig, statistics: FeatureStatistics | None = None) -> None:
        super().__init__()
        self.config = config
        self.statistics: FeatureStatistics | None = None
        self.num_static = _num_static(config)
        if config.kind != "precomputed":
            self.fft_points = config.fft_points
            window = torch.hann_window(config.window, periodic=True, dtype=torch.float64)
            self.register_buffer("window", window.float(), persistent=False)
        if config.kind in ("filterbank", "mel"):
            filters = filter_bank(config, self.fft_points).float()
            self._bands = _bands(filters)
            self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("mean", torch.zeros(self.num_features), persistent=False)
        self.register_buffer("scale", torch.ones(self.num_features), persistent=False)
        if statistics is not None:
            self.set_statistics(statistics)

    @property
    def num_features(self) -> int:
        """F, deltas included."""
        return self.num_static * (1 + self.config.deltas)

    def set_statistics(self, statistics: FeatureStatistics) -> None:
        """Normalises by these from now on. A feature that never varied is only centred.

        Raises:
            ValueError: if they are of another number of features, or of no frame.
        """
        if len(statistics.mean) != self.num_features:
            raise ValueError(
                f"statistics must be of {self.num_features} features, got {len(statistics.mean)}"
            )
        if statistics.frames == 0:
            raise ValueError("statistics must be of at least one frame, got 0")
        self.statistics = statistics
        std, mean = statistics.std, statistics.mean
        constant = std <= 1e-5 * (1.0 + mean.abs())
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 1.0, 1.0 / std))

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features.

        Args:
            samples: (N, S) floating point, full scale 1; for precomputed features (N, T, F0).
            lengths: (N,) integers, samples (frames) of each; what follows them has no influence.

        Returns:
            Features (N, T, F), zero after the end of each, and their lengths (N,).

        Raises:
            FeatureError: if normalization is "corpus" and there are no statistics yet.
            ValueError: for a wrong shape.
        """
        if self.config.normalization == "corpus" and self.statistics is None:
            raise FeatureError(
                "features have no corpus statistics to be normalised by; pass statistics, or "
                "choose normalization 'utterance' or 'none'"
            )
        features, lengths = self.raw(samples, lengths)
        valid = _valid(features.shape[1], lengths).unsqueeze(-1)  # (N, T, 1)
        if features is samples:  # the caller's own, and from here on they are changed in place
            features = features.clone()
        if self.config.normalization == "corpus":
            features.sub_(self.mean).mul_(self.scale)
        elif self.config.normalization == "utterance":
            features = _normalize_utterances(features, lengths, valid)
        return features.masked_fill_(~valid, 0.0), lengths

    def raw(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features before normalisation: as `forward`, but what follows an end is undefined."""
        precomputed = self.config.kind == "precomputed"
        if precomputed:
            _check_shape("features", samples, ("N", "T", self.num_static))
        else:
            _check_shape("samples", samples, ("N", "S"))
        lengths = lengths.to(samples.device)
        if not torch.compiler.is_compiling():
            _check_lengths(lengths, samples)
        if precomputed:
            static = samples
        else:
            window, shift = self.config.window, self.config.shift
            lengths = torch.clamp((lengths - window) // shift + 1, min=0)
            static = self._static(samples, lengths)
        return add_deltas(static, lengths, self.config.deltas), lengths

    def _static(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """(N, S) to (N, T, F) without deltas; `lengths` (N,) in frames."""
        config = self.config
        if samples.shape[1] < config.window:
            return self.window.new_zeros(samples.shape[0], 0, self.num_static)
        samples = samples.to(self.window.dtype)
        frames = samples.unfold(-1, config.window, config.shift)  # (N, T, W), no copy
        # Half precision has too little range for powers; autocast must not bring it in.
        with torch.autocast(samples.device.type, enabled=False):
            whole = samples.device.type != "cpu" or samples.requires_grad
            if whole or torch.compiler.is_compiling():
                return torch.log(self._powers(frames))
            # On a CPU in pieces that stay in its caches, and none of the padding.
            result = frames.new_zeros(*frames.shape[:2], self.num_static)
            for i, count in enumerate(lengths.tolist()):
                for start in range(0, count, _BLOCK):
                    block = slice(start, min(start + _BLOCK, count))
                    torch.log(self._powers(frames[i, block]), out=result[i, block])
            return result

    def static_frames(self, samples: Tensor) -> Tensor:
        """(N, S) to all frames (N, T, F), without deltas, not normalised: batches of streams."""
        return torch.log(self._powers(samples.unfold(-1, self.config.window, self.config.shift)))

    def _powers(self, frames: Tensor) -> Tensor:
        """Frames (..., T, W) of samples to what the logarithm is taken of, (..., T, F)."""
        spectrum = torch.fft.rfft(frames * self.window, self.fft_points)
        squares = torch.view_as_real(spectrum).square()
        powers = squares[..., 0] + squares[..., 1]  # (..., T, D/2 + 1)
        parts = [powers]
        if self.config.kind != "spectrogram":
            parts = [powers[..., k] @ self.filters[k, b] for k, b in self._bands]
        if self.config.energy:
            parts.append(frames.square().sum(-1, keepdim=True))
        return torch.cat(parts, -1) + self.config.floor


def _num_static(config: FeatureConfig) -> int:
    """Features of a frame without deltas."""
    if config.kind == "precomputed":
        assert config.num_features is not None  # the configuration has checked it
        return config.num_features
    bins = config.fft_points // 2 + 1 if config.kind == "spectrogram" else config.num_bins
    return bins + config.energy


def add_deltas(features: Tensor, lengths: Tensor, order: int) -> Tensor:
    """Features (N, T, F) with their deltas (order 1) and accelerations (2), (N, T, F + order * F).

    The first and the last frame of each utterance (lengths (N,)) are repeated beyond its ends.
    """
    parts = [features]
    for _ in range(order):
        parts.append(_delta(parts[-1], lengths))
    return torch.cat(parts, -1) if order else features


def _delta(features: Tensor, lengths: Tensor) -> Tensor:
    if features.shape[1] == 0:
        return features
    last = (lengths - 1).clamp(min=0)[:, None]  # (N, 1)
    here = torch.arange(features.shape[1], device=features.device)[None]  # (1, T)
    total = torch.zeros_like(features)
    for reach in range(1, _DELTA_REACH + 1):
        after = torch.minimum(here + reach, last)  # (N, T)
        before = torch.minimum((here - reach).clamp(min=0), last)
        total = total + reach * (_rows(features, after) - _rows(features, before))
    return total / (2 * sum(n * n for n in range(1, _DELTA_REACH + 1)))


def _rows(features: Tensor, index: Tensor) -> Tensor:
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))


def _valid(frames: int, lengths: Tensor) -> Tensor:
    """(N, T), true within each utterance."""
    return torch.arange(frames, device=lengths.device)[None] < lengths[:, None]


def _normalize_utterances(features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
    count = lengths.clamp(min=1)[:, None, None]
    mean = features.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count  # (N, 1, F)
    centred = (features - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    constant = variance <= (1e-5 * (1.0 + mean.abs())).square()
    return centred / torch.where(constant, 1.0, variance).sqrt()


def _check_shape(name: str, tensor: Tensor, shape: tuple[Any, ...]) -> None:
    wrong = tensor.ndim != len(shape) or any(
        isinstance(want, int) and have != want
        for have, want in zip(tensor.shape, shape, strict=False)
    )
    if wrong or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating point ({', '.join(map(str, shape))}), "
            f"got {tuple(tensor.shape)} of {tensor.dtype}"
        )


def _check_lengths(lengths: Tensor, samples: Tensor) -> None:
    if lengths.shape != samples.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"lengths must be integers ({samples.shape[0]},), got {tuple(lengths.shape)} of "
            f"{lengths.dtype}"
        )
    if lengths.device.type == "cpu" and len(lengths):  # elsewhere looking would have to wait
        i = int(lengths.argmax())
        if lengths[i] > samples.shape[1]:
            raise ValueError(
                f"lengths[{i}] must be at most {samples.shape[1]}, the padded length, "
                f"got {int(lengths[i])}"
            )


class StreamingFeatures:
    """The frames of one recording that comes in pieces: the same as all at once gives.

    A frame comes out as soon as its last sample is in; with deltas, 2 frames (accelerations, 4)
    later.

        features = StreamingFeatures(extractor)
        for samples in chunks:
            use(features.accept(samples))  # (T, F), T may be 0
        use(features.finish())

    Raises:
        ValueError: if the extractor is of precomputed features, or normalises by the utterance,
            which is not known before its end.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        config = extractor.config
        if config.kind == "precomputed":
            raise ValueError("extractor must be of audio features, got kind 'precomputed'")
        if config.normalization == "utterance":
            raise ValueError(
                "extractor must not have normalization 'utterance', which needs the whole "
                "recording; use 'corpus'"
            )
        if config.normalization == "corpus" and extractor.statistics is None:
            raise ValueError("extractor must have statistics for normalization 'corpus'")
        self.extractor = extractor
        self._delay = _DELTA_REACH * config.deltas
        self.reset()

    def reset(self) -> None:
        """Begins a new recording; what was held back is dropped."""
        self._samples = self.extractor.window.new_zeros(0)
        self._static = self.extractor.window.new_zeros(0, self.extractor.num_static)
        self._before = 0  # frames at the head of _static that have come out already
        self._finished = False

    def accept(self, samples: Tensor | np.ndarray) -> Tensor:
        """The next samples (S,) of the recording; returns the frames (T, F) that they complete.

        Raises:
            ValueError: for samples of another shape or type, or after `finish`.
        """
        if self._finished:
            raise ValueError("accept must not follow finish; call reset to begin a new recording")
        samples = torch.as_tensor(samples)
        _check_shape("samples", samples, ("S",))
        config = self.extractor.config
        self._samples = torch.cat([self._samples, samples.to(self._samples)])
        count = torch.tensor([num_frames(len(self._samples), config)])
        new = self.extractor._static(self._samples[None], count)[0]
        self._samples = self._samples[len(new) * config.shift :]
        return self._emit(new, last=False)

    def finish(self) -> Tensor:
        """The recording has ended; returns the frames (T, F) that were held back."""
        self._finished = True
        return self._emit(self._static[:0], last=True)

    def _emit(self, new: Tensor, last: bool) -> Tensor:
        static = torch.cat([self._static, new])
        length = torch.tensor([len(static)], device=static.device)
        features = add_deltas(static[None], length, self.extractor.config.deltas)[0]
        end = len(static) if last else max(self._before, len(static) - self._delay)
        features = features[self._before : end]
        kept = max(0, end - self._delay)  # deltas of later frames look back at these
        self._static, self._before = static[kept:], end - kept
        if self.extractor.config.normalization == "corpus":
            features = (features - self.extractor.mean) * self.extractor.scale
        return features
