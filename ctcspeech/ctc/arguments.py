"""From the caller's arguments to a `Problem`: options, shapes, arrays of NumPy and DLPack."""

import sys
from typing import Any

import numpy as np

from ctcspeech.ctc.problem import REDUCTIONS, TYPES, Options, Problem

__all__ = ["as_numpy", "check_options", "check_shapes", "numpy_integers", "numpy_problem"]


def check_options(blank: Any, reduction: Any, wildcard_penalty: Any, delay_penalty: Any) -> None:
    if type(blank) is not int and (
        isinstance(blank, bool) or not isinstance(blank, (int, np.integer))
    ):
        raise TypeError(f"blank must be an int, got {type(blank).__name__}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if wildcard_penalty is not None and not 0 <= wildcard_penalty < float("inf"):
        raise ValueError(
            f"wildcard_penalty must be None or a finite number >= 0, got {wildcard_penalty!r}"
        )
    if not abs(delay_penalty) < float("inf"):
        raise ValueError(f"delay_penalty must be finite, got {delay_penalty!r}")


def check_shapes(logits: Any, targets: Any, lengths: dict[str, Any], batch_first: bool) -> None:
    shape = tuple(logits.shape)
    batch = shape[0 if batch_first else 1]
    if shape[2] < 1:
        raise ValueError(f"logits must have at least one class, got shape {shape}")
    if targets.ndim not in (1, 2):
        raise ValueError(
            f"targets must be (N, L) padded or 1-D concatenated, got {targets.ndim} dimensions"
        )
    if targets.ndim == 2 and targets.shape[0] != batch:
        raise ValueError(
            f"targets must have a row for each of the {batch} utterances of logits {shape}, "
            f"got shape {tuple(targets.shape)}"
        )
    for name, value in lengths.items():
        if tuple(value.shape) != (batch,):
            raise ValueError(
                f"{name} must be one length for each of the {batch} utterances of logits {shape}, "
                f"got shape {tuple(value.shape)}"
            )


def as_numpy(name: str, value: Any) -> np.ndarray:
    """A NumPy view of anything on the CPU: an array, a DLPack producer, a list, an int."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise TypeError(f"{name} must be on the CPU, got {value.device}: pass {name}.cpu()")
        value = value.detach()
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{name} cannot be read as a CPU array: {error}") from None
    return np.asarray(value)


def numpy_integers(name: str, value: Any) -> np.ndarray:
    array = as_numpy(name, value)
    if array.size == 0 and array.dtype == np.float64:  # an empty list
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise TypeError(f"{name} must be integers of up to 64 bits, got {array.dtype}")
    return np.ascontiguousarray(array, np.int64).reshape(array.shape)


def numpy_problem(logits: Any, targets: Any, input_lengths: Any, target_lengths: Any,
                   batch_first: bool, options: Options) -> Problem:  # fmt: skip
    x = as_numpy("logits", logits)
    if TYPES.get(x.dtype, 9) > 3:
        raise TypeError(f"logits must be float32, float64 or float16, got {x.dtype}")
    if x.ndim == 2:
        x, batch_first = x[:, None], False
    elif x.ndim != 3:
        raise ValueError(
            f"logits must be (T, N, C), (N, T, C) with batch_first, or (T, C); "
            f"got {x.ndim} dimensions"
        )
    if x.strides[2] != x.itemsize or any(s % x.itemsize for s in x.strides) or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    batch = x.shape[0 if batch_first else 1]
    lengths = {}
    for name, value in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        array = numpy_integers(name, value)
        whole = isinstance(value, int) or (array.ndim == 0 and batch == 1)
        lengths[name] = np.full(batch, array, np.int64) if whole else array
    labels = numpy_integers("targets", targets)
    check_shapes(x, labels, lengths, batch_first)
    frames, counts = lengths["input_lengths"], lengths["target_lengths"]
    return Problem(x, labels, frames, counts, batch_first, options)
