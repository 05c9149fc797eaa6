"""ONNX graphs written node by node.

    graph = Graph()
    doubled = graph.op("Mul", "x", graph.constant(np.float32(2)))
    model = graph.model([("x", np.float32, ["N"])], [(doubled, "y", np.float32, ["N"])])

Tracing a model would freeze what depends on a length (the exporters of torch do that to recurrent
layers, or leave packed sequences out); here every dimension is free. Operator set 17, which
onnxruntime has read since release 1.12.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ctcspeech import __version__

__all__ = ["OPSET", "Graph"]

OPSET, _IR_VERSION = 17, 8
_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
}
Value = tuple[str, type, Sequence[str | int | None]]
"""An input or output: its name, element type and shape (a name where a dimension is free)."""


class Graph:
    """Nodes and constants under construction. Names are made up; values are their names.

    int8: `weight` stores matrices as 8-bit integers, one scale a row of output. prefix: of names.
    """

    def __init__(self, int8: bool = False, prefix: str = "") -> None:
        self.int8, self.prefix = int8, prefix
        self._inner = 0
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        self._count += 1
        return f"{self.prefix}{hint.lower()}_{self._count}"

    def constant(self, value: Any, double: bool = False) -> str:
        """A tensor; equal ones are kept once. Floating point is float32 unless `double`."""
        array = np.ascontiguousarray(value)
        if array.dtype == np.float64 and not double:
            array = array.astype(np.float32)
        key = (array.dtype.str, np.shape(value), array.tobytes())
        if key not in self._known:
            name = self.name("constant")
            self._constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
            self._known[key] = name
        return self._known[key]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, array: np.ndarray, axis: int = 0) -> str:
        """A matrix of the model; `axis` counts the outputs, each of which has its own scale.

        As int8 it is stored in a quarter of the bytes and becomes float32 again when it is used, so
        that the activations stay as they were.
        """
        array = np.ascontiguousarray(array, np.float32)
        if not self.int8 or array.ndim < 2:
            return self.constant(array)
        others = tuple(k for k in range(array.ndim) if k != axis)
        largest = np.abs(array).max(axis=others)
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        shape = [-1 if k == axis else 1 for k in range(array.ndim)]
        rounded = np.rint(array / scale.reshape(shape)).clip(-127, 127).astype(np.int8)
        zeros = np.zeros(len(scale), np.int8)
        inputs = [self.constant(rounded), self.constant(scale), self.constant(zeros)]
        return self.op("DequantizeLinear", *inputs, axis=axis)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        names = [self.name(kind) for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def rename(self, value: str, name: str) -> None:
        """Gives an output of the model its name."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    # -- what models need ---------------------------------------------------------------------

    def size(self, value: str, axis: int) -> str:
        """Of a dimension, int64 ()."""
        shape = self.op("Shape", value)
        return self.op("Gather", shape, self.constant(np.int64(axis)), axis=0)

    def range(self, stop: str) -> str:
        """0 .. stop - 1, int64."""
        zero, one = self.constant(np.int64(0)), self.constant(np.int64(1))
        return self.op("Range", zero, stop, one)

    def mask(self, lengths: str, value: str, axis: int) -> str:
        """(N, T) float32: 1 within each length, T of `value`."""
        frames = self.range(self.size(value, axis))
        column = self.op("Unsqueeze", lengths, self.integers(1))
        return self.op("Cast", self.op("Less", frames, column), to=TensorProto.FLOAT)

    def ceil_div(self, value: str, divisor: int) -> str:
        """ceil(value / divisor) of integers that are not negative."""
        if divisor == 1:
            return value
        more = self.op("Add", value, self.constant(np.int64(divisor - 1)))
        return self.op("Div", more, self.constant(np.int64(divisor)))

    def clip(self, value: str, low: float, high: float) -> str:
        return self.op(
            "Clip", value, self.constant(np.float32(low)), self.constant(np.float32(high))
        )

    # -- the whole ----------------------------------------------------------------------------

    def inner(self) -> "Graph":
        """A graph for the `body` of a node of this one, whose names are others."""
        self._inner += 1
        return Graph(self.int8, f"{self.prefix}body_{self._inner}_")

    def body(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.GraphProto:
        """What a Scan does at each step, or a model as a whole."""

        def infos(values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
            return [
                helper.make_tensor_value_info(name, _TYPES[np.dtype(kind)], list(shape))
                for name, kind, shape in values
            ]

        name = self.prefix or "ctcspeech"
        return helper.make_graph(self._nodes, name, infos(inputs), infos(outputs), self._constants)

    def model(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        metadata: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The model, checked by onnx."""
        graph = self.body(inputs, outputs)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="ctcspeech",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model)
        return model
