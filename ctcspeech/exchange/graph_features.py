"""Features as nodes of an ONNX graph: step by step those of `audio.feature_config`."""

import numpy as np

from ctcspeech.audio.feature_config import (
    DELTA_REACH,
    FeatureConfig,
    analysis_window,
    filter_weights,
    first_sample,
    num_features,
)
from ctcspeech.exchange.graph import Graph

__all__ = ["add_features", "add_normalization"]


def add_features(
    graph: Graph, config: FeatureConfig, samples: str, lengths: str
) -> tuple[str, str]:
    """Samples (N, S) with lengths (N,) to features (N, T, F) before normalisation, and lengths."""
    if config.sample_scale != 1:
        samples = graph.op("Mul", samples, graph.constant(np.float32(config.sample_scale)))
    samples, frames = _framed(graph, config, samples, lengths)
    rows = graph.op("Unsqueeze", samples, graph.integers(1))  # (N, 1, S')
    strides = [config.shift]
    spectrum = graph.op("Conv", rows, _fourier(graph, config), strides=strides)
    count = config.fft_points // 2 + 1
    parts = graph.op("Mul", spectrum, spectrum)
    real, imaginary = graph.ops("Split", parts, graph.integers(count, count), outputs=2, axis=1)
    powers = graph.op("Add", real, imaginary)  # (N, K, T)
    if config.kind != "spectrogram":
        filters = filter_weights(config, config.fft_points).T.astype(np.float32)
        powers = graph.op("MatMul", graph.constant(filters), powers)  # (N, B, T)
    if config.energy:
        ones = graph.constant(np.ones((1, 1, config.window), np.float32))
        energy = graph.op("Conv", graph.op("Mul", rows, rows), ones, strides=strides)
        powers = graph.op("Concat", powers, energy, axis=1)
    floor = graph.constant(np.float32(config.floor))
    powers = graph.op("Max" if config.clamp_floor else "Add", powers, floor)
    features = graph.op("Transpose", graph.op("Log", powers), perm=[0, 2, 1])
    return features, frames


def _fourier(graph: Graph, config: FeatureConfig) -> str:
    """Real and imaginary parts of step 2 as filters, (2 K, 1, W): all of it is linear.

    The file holds one period of the cosine and of the sine; the filters follow from constants, so
    that runtimes work them out once, when they load it.
    """
    points, width = config.fft_points, config.window
    angles = 2 * np.pi * np.arange(points) / points
    periods = graph.constant(np.concatenate([np.cos(angles), -np.sin(angles)]), double=True)
    frequencies = graph.constant(np.arange(points // 2 + 1)[:, None])
    steps = graph.op("Mul", frequencies, graph.constant(np.arange(width)))  # (K, W)
    steps = graph.op("Mod", steps, graph.constant(np.int64(points)))
    later = graph.op("Add", steps, graph.constant(np.int64(points)))
    places = graph.op("Concat", steps, later, axis=0)  # (2 K, W)
    rows = graph.op("Gather", periods, places)
    rows = graph.op("Mul", rows, graph.constant(analysis_window(config), double=True))
    if config.pre_emphasis:  # x[n] counts for y[n] and, less, for y[n + 1]; x[0] for y[0] twice
        own = np.ones(width)
        own[0] -= config.pre_emphasis
        end = graph.integers(np.iinfo(np.int64).max)
        after = graph.op("Slice", rows, graph.integers(1), end, graph.integers(1))
        after = graph.op("Pad", after, graph.integers(0, 0, 0, 1))
        after = graph.op("Mul", after, graph.constant(np.float64(config.pre_emphasis), double=True))
        rows = graph.op("Sub", graph.op("Mul", rows, graph.constant(own, double=True)), after)
    if config.remove_mean:
        rows = graph.op("Sub", rows, graph.op("ReduceMean", rows, axes=[1], keepdims=1))
    return graph.op("Unsqueeze", graph.op("Cast", rows, to=1), graph.integers(1))


def _framed(graph: Graph, config: FeatureConfig, samples: str, lengths: str) -> tuple[str, str]:
    """Samples (N, S') of which frame 0 is the first window, at least one, and frames (N,)."""

    def integer(value: int) -> str:
        return graph.constant(np.int64(value))

    window, shift = config.window, config.shift
    if config.tail:  # zeros in place of whatever follows the end
        column = graph.op("Unsqueeze", lengths, graph.integers(1))
        true = graph.op("Less", graph.range(graph.size(samples, 1)), column)
        samples = graph.op("Where", true, samples, graph.constant(np.float32(0)))
        samples = graph.op("Pad", samples, graph.integers(0, 0, 0, config.tail))
        some = graph.op("Cast", graph.op("GreaterOrEqual", lengths, integer(window)), to=7)
        lengths = graph.op("Add", lengths, graph.op("Mul", some, integer(config.tail)))
    if config.padding == "none":
        more = graph.op("Add", lengths, integer(shift - window))
        frames = graph.op("Div", graph.op("Max", more, integer(0)), integer(shift))
        lacking = graph.op(
            "Max", graph.op("Sub", integer(window), graph.size(samples, 1)), integer(0)
        )
        pads = graph.op(
            "Concat",
            graph.integers(0, 0, 0),
            graph.op("Unsqueeze", lacking, graph.integers(0)),
            axis=0,
        )
        return graph.op("Pad", samples, pads), frames
    half = graph.op("Add", lengths, integer(shift // 2))
    some = graph.op("Min", graph.op("Max", lengths, integer(0)), integer(1))
    frames = graph.op("Mul", graph.op("Div", half, integer(shift)), some)
    count = graph.op("Add", graph.size(samples, 1), integer(shift // 2))
    count = graph.op("Max", graph.op("Div", count, integer(shift)), integer(1))
    last = graph.op("Mul", graph.op("Sub", count, integer(1)), integer(shift))
    places = graph.range(graph.op("Add", last, integer(window)))  # (S',)
    whole = graph.op("Unsqueeze", graph.op("Max", lengths, integer(1)), graph.integers(1))  # (N, 1)
    period = graph.op("Mul", whole, integer(2))
    shifted = graph.op("Add", places, integer(first_sample(config)))
    index = graph.op("Mod", shifted, period)  # (N, S'), not negative: inside, then mirrored
    mirrored = graph.op("Sub", graph.op("Sub", period, integer(1)), index)
    return graph.op("GatherElements", samples, graph.op("Min", index, mirrored), axis=1), frames


def add_normalization(
    graph: Graph,
    config: FeatureConfig,
    features: str,
    frames: str,
    mean: np.ndarray | None,
    scale: np.ndarray | None,
) -> str:
    """Deltas and normalisation of features (N, T, F0), frames (N,); zero after each end."""
    for _ in range(config.deltas):
        static = num_features(config.model_copy(update={"deltas": 0}))
        features = _with_deltas(graph, features, frames, static)
    mask = graph.op("Unsqueeze", graph.mask(frames, features, 1), graph.integers(2))  # (N, T, 1)
    if config.normalization == "corpus":
        assert mean is not None and scale is not None
        features = graph.op("Sub", features, graph.constant(mean.astype(np.float32)))
        features = graph.op("Mul", features, graph.constant(scale.astype(np.float32)))
    elif config.normalization == "utterance":
        features = _normalized(graph, features, frames, mask)
    return graph.op("Mul", features, mask)


def _normalized(graph: Graph, features: str, frames: str, mask: str) -> str:
    count = graph.op("Max", graph.op("Cast", frames, to=1), graph.constant(np.float32(1)))
    count = graph.op("Unsqueeze", count, graph.integers(1, 2))  # (N, 1, 1)

    def averaged(value: str) -> str:
        total = graph.op("ReduceSum", graph.op("Mul", value, mask), graph.integers(1), keepdims=1)
        return graph.op("Div", total, count)

    mean = averaged(features)
    centred = graph.op("Sub", features, mean)
    variance = averaged(graph.op("Mul", centred, centred))
    one, small = graph.constant(np.float32(1)), graph.constant(np.float32(1e-5))
    least = graph.op("Mul", graph.op("Add", graph.op("Abs", mean), one), small)
    constant = graph.op("LessOrEqual", variance, graph.op("Mul", least, least))
    deviation = graph.op("Sqrt", graph.op("Where", constant, one, variance))
    return graph.op("Div", centred, deviation)


def _with_deltas(graph: Graph, features: str, frames: str, static: int) -> str:
    """Appends the deltas of the last `static` features."""
    end = graph.integers(np.iinfo(np.int64).max)
    last = graph.op("Slice", features, graph.integers(-static), end, graph.integers(2))
    here = graph.range(graph.size(features, 1))  # (T,)
    zero = graph.constant(np.int64(0))
    final = graph.op("Sub", frames, graph.constant(np.int64(1)))
    final = graph.op("Unsqueeze", graph.op("Max", final, zero), graph.integers(1))  # (N, 1)
    shape = graph.op("Shape", last)

    def rows(step: int) -> str:
        index = graph.op("Add", here, graph.constant(np.int64(step)))
        index = graph.op("Min", graph.op("Max", index, zero), final)  # (N, T)
        index = graph.op("Expand", graph.op("Unsqueeze", index, graph.integers(2)), shape)
        return graph.op("GatherElements", last, index, axis=1)

    total = ""
    for reach in range(1, DELTA_REACH + 1):
        apart = graph.op("Sub", rows(reach), rows(-reach))
        apart = graph.op("Mul", apart, graph.constant(np.float32(reach)))
        total = graph.op("Add", total, apart) if total else apart
    divisor = np.float32(2 * sum(n * n for n in range(1, DELTA_REACH + 1)))
    return graph.op("Concat", features, graph.op("Div", total, graph.constant(divisor)), axis=2)
