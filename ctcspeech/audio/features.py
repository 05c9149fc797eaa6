"""Features by torch: of batches on any device, with gradients, of streams; and their statistics.

What they are, step by step, stands in `audio.feature_config`; `audio.numpy_features` computes the
same without torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctcspeech.audio.feature_config import (
    DELTA_REACH,
    FeatureConfig,
    analysis_window,
    filter_weights,
    first_sample,
    num_frames,
    num_static,
)
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

_BLOCK = 1024  # frames at a time on a CPU: what they need stays in its caches


def filter_bank(config: FeatureConfig, fft_points: int) -> Tensor:
    """The triangular filters, float64 (fft_points // 2 + 1, num_bins)."""
    return torch.from_numpy(filter_weights(config, fft_points))


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
        self.num_static = num_static(config)
        if config.kind != "precomputed":
            self.fft_points = config.fft_points
            window = torch.from_numpy(analysis_window(config))
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
            samples, lengths = self._framed(samples, lengths)
            static = self._static(samples, lengths)
        return add_deltas(static, lengths, self.config.deltas), lengths

    def _framed(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (N, S') of which frame 0 is the first window, and the frames (N,) of each."""
        window, shift = self.config.window, self.config.shift
        if self.config.padding == "none":
            return samples, torch.clamp((lengths - window) // shift + 1, min=0)
        frames = torch.where(lengths > 0, (lengths + shift // 2) // shift, 0)
        first = first_sample(self.config)
        count = (samples.shape[1] + shift // 2) // shift
        if not count:
            return samples[:, :0], frames
        index = torch.arange(first, first + (count - 1) * shift + window, device=samples.device)
        whole = lengths.clamp(min=1)[:, None]
        index = index[None] % (2 * whole)  # (N, S'): inside, then mirrored
        return samples.gather(1, torch.minimum(index, 2 * whole - 1 - index)), frames

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
        config = self.config
        if config.sample_scale != 1.0:
            frames = frames * config.sample_scale
        prepared = frames
        if config.remove_mean:
            prepared = prepared - prepared.mean(-1, keepdim=True)
        if config.pre_emphasis:
            before = torch.cat([prepared[..., :1], prepared[..., :-1]], -1)
            prepared = prepared - config.pre_emphasis * before
        spectrum = torch.fft.rfft(prepared * self.window, self.fft_points)
        squares = torch.view_as_real(spectrum).square()
        powers = squares[..., 0] + squares[..., 1]  # (..., T, D/2 + 1)
        parts = [powers]
        if config.kind != "spectrogram" and torch.compiler.is_compiling():
            # Of products of parts torch.export would ask that there are two recordings.
            parts = [powers @ self.filters]
        elif config.kind != "spectrogram":
            parts = [powers[..., k] @ self.filters[k, b] for k, b in self._bands]
        if config.energy:
            parts.append(frames.square().sum(-1, keepdim=True))
        values = torch.cat(parts, -1)
        return values.clamp(min=config.floor) if config.clamp_floor else values + config.floor


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
    for reach in range(1, DELTA_REACH + 1):
        after = torch.minimum(here + reach, last)  # (N, T)
        before = torch.minimum((here - reach).clamp(min=0), last)
        total = total + reach * (_rows(features, after) - _rows(features, before))
    return total / (2 * sum(n * n for n in range(1, DELTA_REACH + 1)))


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
        if config.padding != "none":
            raise ValueError(
                f"extractor must not have padding '{config.padding}', which needs the samples on "
                "either side of the recording's ends"
            )
        if config.normalization == "utterance":
            raise ValueError(
                "extractor must not have normalization 'utterance', which needs the whole "
                "recording; use 'corpus'"
            )
        if config.normalization == "corpus" and extractor.statistics is None:
            raise ValueError("extractor must have statistics for normalization 'corpus'")
        self.extractor = extractor
        self._delay = DELTA_REACH * config.deltas
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
