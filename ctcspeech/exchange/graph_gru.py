"""A GRU of 8-bit products as nodes of an ONNX graph.

onnxruntime computes the operator GRU in float32 alone. Here it is a Scan over MatMulInteger: the
inputs of all frames are multiplied at once, then U h frame by frame, both directions together. Each
row of W and U is stored with one scale. What they are multiplied by is rounded anew: an input to 7
bits with a scale for its frame, h, which lies within -1 and 1, by 1/63; the state itself stays
float32. With 7 bits no pair of products exceeds 16 bits, where processors without VNNI would cut
it. All scales are of one frame of one recording, so that neither padding nor the others of a batch
change what is computed.
"""

import numpy as np
from onnx import TensorProto

from ctcspeech.exchange.graph import Graph

__all__ = ["SMALLEST", "add_quantized_gru"]

SMALLEST = 160
"""Hidden states below which the steps of a Scan cost more than 8-bit products save. One recording
by itself takes 1.4 times as long as in float32 with 128 states, as long with 192, less than half as
long with 512 (benchmarks/results/exchange.md)."""

_LARGEST, _ZERO = 63, 64
"""Rounded values lie between _ZERO - _LARGEST and _ZERO + _LARGEST."""


def add_quantized_gru(
    graph: Graph,
    inputs: str,
    mask: str,
    weight: np.ndarray,
    recurrent: np.ndarray,
    bias: np.ndarray,
) -> list[str]:
    """Inputs (T, N, I) to the hidden states (T, N, H) of each direction, zero where mask is.

    mask (T, N, 1): 1 within a recording. weight (D, 3 H, I), recurrent (D, 3 H, H), bias (D, 6 H):
    as ONNX has them, z r h, with linear_before_reset = 1 (r multiplies U h + b); D is 2 for both
    directions, the second of which begins at the end.
    """
    size = recurrent.shape[2]
    gates = []
    for number, (matrix, values) in enumerate(zip(weight, bias, strict=True)):
        first, second = np.split(np.asarray(values, np.float64), 2)
        first = first + np.concatenate([second[: 2 * size], np.zeros(size)])
        found = graph.op("Add", _projected(graph, inputs, matrix), graph.constant(first))
        # Outside: z = r = 0 and a candidate of 0, so that h is 0 and the way back begins with it.
        away = graph.constant(np.concatenate([np.full(2 * size, -1e4), np.zeros(size)]))
        outside = graph.op("Sub", graph.constant(np.float32(1)), mask)
        found = graph.op("Mul", found, mask)
        found = graph.op("Add", found, graph.op("Mul", outside, away))
        found = _backwards(graph, found) if number else found
        gates.append(found)
    together = graph.op("Concat", *gates, axis=1)  # (T, D N, 3 H)
    both, candidate = graph.ops(
        "Split", together, graph.integers(2 * size, size), outputs=2, axis=2
    )
    zeros = graph.constant(np.zeros((1, size), np.float32))
    rows = graph.op("Unsqueeze", graph.size(together, 1), graph.integers(0))
    shape = graph.op("Concat", rows, graph.integers(1), axis=0)
    _, hidden = graph.ops(
        "Scan",
        graph.op("Expand", zeros, shape),
        both,
        candidate,
        outputs=2,
        body=_step(graph, recurrent, np.asarray(bias)[:, 5 * size :]),
        num_scan_inputs=2,
    )  # (T, D N, H)
    if len(gates) == 1:
        return [hidden]
    forward, backward = graph.ops("Split", hidden, outputs=2, axis=1)
    return [forward, _backwards(graph, backward)]


def _backwards(graph: Graph, value: str) -> str:
    """The first dimension the other way round."""
    first, last = graph.integers(-1), graph.integers(np.iinfo(np.int64).min + 1)
    return graph.op("Slice", value, first, last, graph.integers(0), graph.integers(-1))


def _projected(graph: Graph, inputs: str, weight: np.ndarray) -> str:
    """(..., I) to (..., 3 H), each frame rounded with a scale of its own."""
    matrix, scale = _rounded(weight)
    largest = graph.op("ReduceMax", graph.op("Abs", inputs), axes=[2], keepdims=1)
    step = graph.op("Mul", largest, graph.constant(np.float32(1 / _LARGEST)))
    step = graph.op("Max", step, graph.constant(np.float32(1e-20)))
    levels = graph.op("Round", graph.op("Div", inputs, step))
    levels = graph.op("Add", levels, graph.constant(np.float32(_ZERO)))
    levels = graph.op("Cast", levels, to=TensorProto.UINT8)
    zero = graph.constant(np.uint8(_ZERO))
    product = graph.op("MatMulInteger", levels, graph.constant(matrix), zero)
    product = graph.op("Cast", product, to=TensorProto.FLOAT)
    return graph.op("Mul", graph.op("Mul", product, graph.constant(scale)), step)


def _step(outer: Graph, recurrent: np.ndarray, candidate_bias: np.ndarray) -> object:
    """One frame: h (D N, H), W x + b for z and r (D N, 2 H) and the candidate, to h, twice."""
    count, _, size = recurrent.shape
    graph = outer.inner()
    state, gates, candidate = (graph.name(name) for name in ("h", "gates", "candidate"))
    zero = graph.constant(np.uint8(_ZERO))
    levels = graph.op("QuantizeLinear", state, graph.constant(np.float32(1 / _LARGEST)), zero)
    apart = [levels] if count == 1 else graph.ops("Split", levels, outputs=count, axis=0)
    products = []
    for number, rows in enumerate(apart):
        matrix, scale = _rounded(recurrent[number])
        product = graph.op("MatMulInteger", rows, graph.constant(matrix), zero)
        product = graph.op("Cast", product, to=TensorProto.FLOAT)
        product = graph.op("Mul", product, graph.constant((scale / _LARGEST).astype(np.float32)))
        bias = np.concatenate([np.zeros(2 * size), candidate_bias[number]])
        products.append(graph.op("Add", product, graph.constant(bias)))
    product = products[0] if count == 1 else graph.op("Concat", *products, axis=0)
    gate_product, own = graph.ops(
        "Split", product, graph.integers(2 * size, size), outputs=2, axis=1
    )
    both = graph.op("Sigmoid", graph.op("Add", gates, gate_product))
    update, reset = graph.ops("Split", both, graph.integers(size, size), outputs=2, axis=1)
    new = graph.op("Tanh", graph.op("Add", candidate, graph.op("Mul", reset, own)))
    kept = graph.op("Mul", update, graph.op("Sub", state, new))
    following = graph.op("Add", new, kept)
    output = graph.op("Identity", following)
    return graph.body(
        [(state, np.float32, ["D N", size]), (gates, np.float32, ["D N", 2 * size]),
         (candidate, np.float32, ["D N", size])],
        [(following, np.float32, ["D N", size]), (output, np.float32, ["D N", size])],
    )  # fmt: skip


def _rounded(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(O, I) to int8 (I, O) and the scale of each output, float32 (O,)."""
    largest = np.abs(matrix).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1.0)
    levels = np.rint(matrix / scale[:, None]).clip(-127, 127).astype(np.int8)
    return np.ascontiguousarray(levels.T), scale.astype(np.float32)
