"""The checked arguments of a loss, as the native core takes them, and the core's errors in words.

Knows arrays by what they answer to, so that torch is not needed for arrays of NumPy.
"""

import os
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ctcspeech import _core
from ctcspeech._core import CtcStatus

__all__ = [
    "FLOATS",
    "INTEGERS",
    "REDUCTIONS",
    "TYPES",
    "WILDCARD",
    "Options",
    "Problem",
    "address",
    "raise_error",
    "strides",
]

WILDCARD = -1

FLOATS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
INTEGERS = {"int32": 4, "int64": 5}
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}

# The core's number of each type of array; tensors.py adds torch's types.
TYPES: dict[Any, int] = {
    np.dtype(name): code for name, code in (FLOATS | INTEGERS).items() if name != "bfloat16"
}


def address(array: Any) -> int:
    if array is None:
        return 0
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()


def strides(array: Any) -> tuple[int, ...]:
    """In elements."""
    if isinstance(array, np.ndarray):
        return tuple(s // array.itemsize for s in array.strides)
    return array.stride()


class Options(NamedTuple):
    """What else enters the recursion."""

    blank: int
    wildcard_penalty: float | None
    delay_penalty: float


class Problem(NamedTuple):
    """Checked arguments. The arrays are torch tensors or NumPy arrays, all of one kind."""

    logits: Any  # (T, N, C), or (N, T, C) with batch_first; never (T, C)
    targets: Any  # (N, L) or concatenated; like the lengths contiguous and of one integer type
    input_lengths: Any  # (N,)
    target_lengths: Any  # (N,)
    batch_first: bool
    options: Options
    longest: int = 0  # no target is longer; 0: not known. Spares workspace on the GPU

    def input(self) -> _core.CtcInput:
        """As the core takes it. By position, which is quicker than by name."""
        x, targets = self.logits, self.targets
        n, t = (0, 1) if self.batch_first else (1, 0)
        shape, steps = x.shape, strides(x)
        blank, wildcard_penalty, delay_penalty = self.options
        return _core.CtcInput(
            address(x),
            TYPES[x.dtype],
            shape[t],
            shape[n],
            shape[2],
            steps[t],
            steps[n],
            address(targets),
            address(self.input_lengths),
            address(self.target_lengths),
            TYPES[targets.dtype],
            targets.shape[1] if targets.ndim == 2 else -1,  # target_stride: concatenated
            targets.shape[-1],
            blank,
            wildcard_penalty is not None,
            wildcard_penalty or 0.0,
            delay_penalty,
        )

    def output(self, losses: Any, reduced: Any, gradient: Any, reduction: int,
               zero_infinity: bool, arithmetic: Any = None) -> _core.CtcOutput:  # fmt: skip
        """Where the core is to write: arrays of this one's kind, None for what is not wanted."""
        n, t = (0, 1) if self.batch_first else (1, 0)
        steps = (0, 0, 0) if gradient is None else strides(gradient)
        return _core.CtcOutput(
            address(losses),
            address(reduced),
            address(gradient),
            steps[t],
            steps[n],
            reduction,
            zero_infinity,
            address(arithmetic),
        )

    @property
    def batch(self) -> int:
        return self.logits.shape[0 if self.batch_first else 1]

    def of(self, logits: Any) -> "Problem":
        return self._replace(logits=logits)


def raise_error(problem: Problem, error: tuple[CtcStatus, int, int]) -> NoReturn:
    """The core's status in words."""
    status, item, position = error
    p = problem
    frames = p.logits.shape[1 if p.batch_first else 0]
    classes = p.logits.shape[2]
    if status is CtcStatus.BAD_BLANK:
        raise ValueError(f"blank must be in [0, {classes}), got {p.options.blank}")
    if status is CtcStatus.BAD_INPUT_LENGTH:
        raise ValueError(
            f"input_lengths[{item}] must be between 0 and the {frames} frames of logits, "
            f"got {int(p.input_lengths[item])}"
        )
    of_target = status.name in (
        "BAD_TARGET_LENGTH", "BAD_TARGET_SUM", "BAD_LABEL", "LABEL_IS_BLANK"
    )  # fmt: skip
    length = int(p.target_lengths[item]) if of_target else 0
    if status is CtcStatus.BAD_TARGET_LENGTH:
        most = f" and the {p.targets.shape[1]} columns of targets" if p.targets.ndim == 2 else ""
        between = f"between 0{most}" if most else "at least 0"
        raise ValueError(f"target_lengths[{item}] must be {between}, got {length}")
    if status is CtcStatus.BAD_TARGET_SUM:
        raise ValueError(
            f"concatenated targets have {p.targets.shape[0]} labels, but target_lengths ask for "
            f"more: they run out in utterance {item}, which has {length}"
        )
    if status in (CtcStatus.BAD_LABEL, CtcStatus.LABEL_IS_BLANK):
        if p.targets.ndim == 2:
            label, place = int(p.targets[item, position]), f"targets[{item}, {position}]"
        else:
            first = int(p.target_lengths[:item].sum())
            label = int(p.targets[first + position])
            place = f"targets[{first + position}] (label {position} of utterance {item})"
        if status is CtcStatus.LABEL_IS_BLANK:
            raise ValueError(f"{place} is {label}, which is the blank: leave blanks out of targets")
        hint = ""
        if label == WILDCARD and p.options.wildcard_penalty is None:
            hint = "; for a wildcard pass wildcard_penalty"
        raise ValueError(f"{place} must be in [0, {classes}), got {label}{hint}")
    if status is CtcStatus.NO_ISA:
        name = os.environ.get("CTCSPEECH_ISA")
        raise ValueError(
            f"CTCSPEECH_ISA={name}: this machine or build has only "
            f"{', '.join(_core.available_isas())}"
        )
    raise RuntimeError(f"the CTC core failed with status {status.name}")
