"""Acoustic models as nodes of an ONNX graph, layer by layer those of `model.deepspeech`.

Batch norm is folded into the layer after it (but in 8 bits), or the convolution before it. What a
recording's frames become depends neither on its padding nor on the others of a batch, as in torch.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ctcspeech.errors import ModelError
from ctcspeech.exchange.graph import Graph
from ctcspeech.exchange.graph_gru import SMALLEST, add_quantized_gru
from ctcspeech.model.deepspeech import AcousticModel, ConvolutionLayer, DeepSpeech1, DeepSpeech2
from ctcspeech.model.recurrent import RecurrentLayer

__all__ = ["add_model", "recurrent_weights"]

# Gates in ONNX's order, as indices into torch's: LSTM iofc of ifco, GRU zrh of rzn.
_GATES = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn": [0]}

_LARGE_SCALE = 32.0  # of batch norm: a unit with a deviation of 0.03


def add_model(graph: Graph, model: AcousticModel, features: str, lengths: str) -> tuple[str, str]:
    """Features (N, T, F), zero after lengths (N,), to log-probabilities (N, T', C) and lengths."""
    inputs = lengths
    if isinstance(model, DeepSpeech1):
        hidden, lengths, norm = _deepspeech1(graph, model, features, lengths)
    elif isinstance(model, DeepSpeech2):
        hidden, lengths, norm = _deepspeech2(graph, model, features, lengths)
    else:
        raise TypeError(f"model must be a DeepSpeech1 or DeepSpeech2, got {type(model).__name__}")
    if model.hidden_end:
        true = graph.op("Sub", inputs, graph.constant(np.int64(model.hidden_end)))
        true = graph.op("Max", true, graph.constant(np.int64(0)))
        lengths = graph.ceil_div(true, model.subsampling)
    logits = _linear(graph, model.output, hidden, norm)  # (T', N, C)
    scores = graph.op("LogSoftmax", graph.op("Transpose", logits, perm=[1, 0, 2]), axis=-1)
    longest = graph.op("ReduceMax", lengths, keepdims=1)
    return graph.op("Slice", scores, graph.integers(0), longest, graph.integers(1)), lengths


@dataclass
class Affine:
    """y = scale (x - mean) + bias, each (H,): batch norm in evaluation."""

    scale: np.ndarray
    mean: np.ndarray
    bias: np.ndarray

    @property
    def shift(self) -> np.ndarray:
        """y = scale x + shift."""
        return self.bias - self.mean * self.scale

    @classmethod
    def plain(cls, size: int) -> "Affine":
        """y = x."""
        return cls(np.ones(size), np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, norm: nn.Module, size: int) -> "Affine":
        if not isinstance(norm, nn.BatchNorm1d):
            return cls.plain(size)
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = _array(norm.running_mean), _array(norm.running_var)
        scale = _array(norm.weight) / np.sqrt(variance + norm.eps)
        return cls(scale, mean, _array(norm.bias))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _deepspeech1(
    graph: Graph, model: DeepSpeech1, features: str, lengths: str
) -> tuple[str, str, Affine]:
    clip, size = model.config.clip, model.config.hidden
    hidden = graph.op("Transpose", features, perm=[0, 2, 1])
    window, context = model.window, model.config.context
    hidden = graph.op(
        "Conv",
        hidden,
        graph.weight(_array(window.weight)),
        graph.constant(_array(window.bias)),  # type: ignore[arg-type]
        strides=[model.config.stride],
        pads=[context, context],
    )
    lengths = graph.ceil_div(lengths, model.config.stride)
    hidden = graph.clip(graph.op("Transpose", hidden, perm=[2, 0, 1]), 0, clip)  # (T', N, H)
    plain = Affine.plain(size)
    for layer in model.dense:
        assert isinstance(layer, nn.Linear)
        hidden = graph.clip(_linear(graph, layer, hidden, plain), 0, clip)
    hidden = add_recurrent(graph, model.recurrent, hidden, lengths, plain)
    return graph.clip(_linear(graph, model.last, hidden, plain), 0, clip), lengths, plain


def _deepspeech2(
    graph: Graph, model: DeepSpeech2, features: str, lengths: str
) -> tuple[str, str, Affine]:
    if model.symbols is not None:
        raise ModelError("a model of symbols (model.symbols) cannot be exported: it hears no sound")
    planes = model.config.convolution == "2d"
    hidden = graph.op("Transpose", features, perm=[0, 2, 1])
    if planes:
        hidden = graph.op("Unsqueeze", features, graph.integers(1))  # (N, 1, T, F)
    for layer in model.convolutions:
        assert isinstance(layer, ConvolutionLayer)
        hidden, lengths = _convolution(graph, layer, hidden, lengths, planes)
    if planes:  # (N, C, T, F) to (T, N, C F)
        hidden = graph.op("Transpose", hidden, perm=[2, 0, 1, 3])
        hidden = graph.op("Reshape", hidden, graph.integers(0, 0, -1))
    else:
        hidden = graph.op("Transpose", hidden, perm=[2, 0, 1])
    for norm, recurrent in zip(model.norms, model.recurrent, strict=True):
        assert isinstance(recurrent, RecurrentLayer)
        affine = Affine.of(norm, recurrent.cell.input_size)
        hidden = add_recurrent(graph, recurrent, hidden, lengths, affine)
    size = model.output.in_features
    if model.row is not None:
        hidden = _row_convolution(graph, model, hidden, lengths)
    return hidden, lengths, Affine.of(model.last_norm, size)


def _convolution(
    graph: Graph, layer: ConvolutionLayer, inputs: str, lengths: str, planes: bool
) -> tuple[str, str]:
    """Convolution with its batch norm, clipped ReLU, zeros in place of padding."""
    inner = layer.convolution
    assert isinstance(inner, (nn.Conv1d, nn.Conv2d))
    affine = Affine.of(layer.norm, inner.out_channels)
    weight = _array(inner.weight)
    weight = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = affine.shift
    if inner.bias is not None:
        bias = bias + affine.scale * _array(inner.bias)
    sides = [int(k) for k in inner.padding]
    hidden = graph.op(
        "Conv",
        inputs,
        graph.weight(weight),
        graph.constant(bias),
        strides=[int(k) for k in inner.stride],
        pads=sides + sides,
    )
    lengths = graph.ceil_div(lengths, layer.stride)
    mask = graph.op("Unsqueeze", graph.mask(lengths, hidden, 2), graph.integers(1, *[3] * planes))
    return graph.op("Mul", graph.clip(hidden, 0, layer.clip), mask), lengths


def _apart(graph: Graph, inputs: str, affine: Affine) -> tuple[str, Affine]:
    """The inputs themselves after `affine`, where it should not go into the matrix after them.

    In 8 bits the scale of one unit that hardly varied in training would leave the others no bits.
    In float32 what such a unit differs from its mean by would be lost in large products: then the
    mean is taken off first.
    """
    size = len(affine.scale)
    if (affine.scale == 1).all() and not affine.shift.any():
        return inputs, affine
    if not graph.int8 and np.abs(affine.scale).max() < _LARGE_SCALE:
        return inputs, affine
    mean = affine.mean.astype(np.float32)  # what is lost here goes into the bias
    centred = graph.op("Sub", inputs, graph.constant(mean))
    scaled = graph.op("Mul", centred, graph.constant(affine.scale))
    bias = affine.shift + affine.scale * mean
    return graph.op("Add", scaled, graph.constant(bias)), Affine.plain(size)


def _linear(graph: Graph, layer: nn.Linear, inputs: str, affine: Affine) -> str:
    """(..., I) to (..., O), of the inputs after `affine`."""
    inputs, affine = _apart(graph, inputs, affine)
    weight = _array(layer.weight)
    bias = _array(layer.bias) + weight @ affine.shift
    matrix = graph.weight((weight * affine.scale).T, axis=1)
    return graph.op("Add", graph.op("MatMul", inputs, matrix), graph.constant(bias))


def recurrent_weights(
    layer: RecurrentLayer, affine: Affine
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W (D, G H, I), R (D, G H, H) and B (D, 2 G H) as ONNX has them, of inputs after `affine`."""
    order, size = _GATES[layer.kind], layer.hidden
    rows = np.concatenate([np.arange(gate * size, (gate + 1) * size) for gate in order])
    columns = []
    for suffix in ("", "_reverse")[: 1 + layer.bidirectional]:
        parts = [
            _array(getattr(layer.cell, f"{name}_l0{suffix}"))[rows]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        bias = np.concatenate([parts[2] + parts[0] @ affine.shift, parts[3]])
        columns.append((parts[0] * affine.scale, parts[1], bias))
    weight, recurrent, bias = (np.stack(column) for column in zip(*columns, strict=True))
    return weight, recurrent, bias


def add_recurrent(
    graph: Graph, layer: RecurrentLayer, inputs: str, lengths: str, affine: Affine
) -> str:
    """(T, N, I) to (T, N, O)."""
    inputs, affine = _apart(graph, inputs, affine)
    weight, recurrent, bias = recurrent_weights(layer, affine)
    if graph.int8 and layer.kind == "gru" and layer.hidden >= SMALLEST:
        mask = graph.op("Transpose", graph.mask(lengths, inputs, 0), perm=[1, 0])
        mask = graph.op("Unsqueeze", mask, graph.integers(2))  # (T, N, 1)
        directions = add_quantized_gru(graph, inputs, mask, weight, recurrent, bias)
        if len(directions) == 1:
            return directions[0]
        if layer.merge == "sum":
            return graph.op("Add", *directions)
        return graph.op("Concat", *directions, axis=2)
    one = graph.constant(np.int64(1))
    sequence = graph.op("Cast", graph.op("Max", lengths, one), to=6)  # int32
    options: dict[str, object] = {"hidden_size": layer.hidden}
    options["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if layer.kind == "gru":
        options["linear_before_reset"] = 1  # as torch: r multiplies U h + b, not h
    if layer.kind == "rnn":
        options.update(activations=["Relu"] * (1 + layer.bidirectional), clip=layer.clip)
    (hidden,) = graph.ops(
        layer.kind.upper(),
        inputs,
        graph.weight(weight, axis=1),
        graph.weight(recurrent, axis=1),
        graph.constant(bias),
        sequence,
        outputs=1,
        **options,
    )  # (T, D, N, H)
    if not layer.bidirectional:
        return graph.op("Squeeze", hidden, graph.integers(1))
    if layer.merge == "sum":
        return graph.op("ReduceSum", hidden, graph.integers(1), keepdims=0)
    hidden = graph.op("Transpose", hidden, perm=[0, 2, 1, 3])
    return graph.op("Reshape", hidden, graph.integers(0, 0, -1))


def _row_convolution(graph: Graph, model: DeepSpeech2, inputs: str, lengths: str) -> str:
    """(T, N, H) to (T, N, H)."""
    assert model.row is not None
    hidden = graph.op("Transpose", inputs, perm=[1, 2, 0])  # (N, H, T)
    mask = graph.op("Unsqueeze", graph.mask(lengths, hidden, 2), graph.integers(1))
    hidden = graph.op(
        "Conv",
        graph.op("Mul", hidden, mask),
        graph.constant(_array(model.row.convolution.weight)),
        group=model.row.convolution.groups,
        pads=[0, model.row.lookahead],
    )
    return graph.op("Transpose", graph.clip(hidden, 0, model.row.clip), perm=[2, 0, 1])
