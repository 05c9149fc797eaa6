"""From the caller's arguments to the native core's: checks, layouts, errors in words."""

import os
from typing import Any, NamedTuple

import numpy as np
import torch

from ctcspeech import _core

__all__: list[str] = []

WILDCARD = -1

FLOATS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
INTEGERS = {"int32": 4, "int64": 5}
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
ISAS = {"baseline": 0, "avx2": 1, "avx512": 2, "neon": 3}
ARITHMETICS = {"float": 0, "double": 1, "extended": 2, "log": 3}

TYPES: dict[Any, int] = {}  # of torch and of NumPy
for _name, _code in (FLOATS | INTEGERS).items():
    TYPES[getattr(torch, _name)] = _code
    if _name != "bfloat16":
        TYPES[np.dtype(_name)] = _code
TORCH_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _forced(variable: str, choices: dict[str, int], default: int) -> int:
    name = os.environ.get(variable)
    if not name:
        return default
    if name not in choices:
        raise ValueError(f"{variable} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


_isa = -1
_arithmetic = 0


def read_environment() -> None:
    """For tests: CTCSPEECH_ISA forces an instruction set, CTCSPEECH_CTC_ARITHMETIC the first kind
    of number to try (each falls back to the next where its range ends). Read once at import."""
    global _isa, _arithmetic
    _isa = _forced("CTCSPEECH_ISA", ISAS, -1)
    _arithmetic = _forced("CTCSPEECH_CTC_ARITHMETIC", ARITHMETICS, 0)


read_environment()


def forced_isa() -> str | None:
    """The instruction set that CTCSPEECH_ISA asks for."""
    return next((name for name, code in ISAS.items() if code == _isa), None)


def _address(array: Any) -> int:
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data


def _strides(array: Any) -> tuple[int, ...]:
    """In elements."""
    if isinstance(array, torch.Tensor):
        return array.stride()
    return tuple(s // array.itemsize for s in array.strides)


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

    def arguments(self) -> tuple[Any, ...]:
        """The leading arguments of the core's functions."""
        x, targets = self.logits, self.targets
        n, t = (0, 1) if self.batch_first else (1, 0)
        shape, strides = x.shape, _strides(x)
        blank, wildcard_penalty, delay_penalty = self.options
        return (
            _address(x),
            TYPES[x.dtype],
            shape[t],
            shape[n],
            shape[2],
            strides[t],
            strides[n],
            _address(targets),
            _address(self.input_lengths),
            _address(self.target_lengths),
            TYPES[targets.dtype],
            targets.shape[1] if targets.ndim == 2 else -1,
            targets.shape[-1],
            blank,
            wildcard_penalty is not None,
            wildcard_penalty or 0.0,
            delay_penalty,
        )

    @property
    def batch(self) -> int:
        return self.logits.shape[0 if self.batch_first else 1]

    def of(self, logits: Any) -> "Problem":
        return self._replace(logits=logits)


def raise_error(problem: Problem, error: tuple[int, int, int]) -> None:
    """The core's status in words."""
    status, item, position = error
    p = problem
    frames = p.logits.shape[1 if p.batch_first else 0]
    classes = p.logits.shape[2]
    if status == 2:
        raise ValueError(f"blank must be in [0, {classes}), got {p.options.blank}")
    if status == 3:
        raise ValueError(
            f"input_lengths[{item}] must be between 0 and the {frames} frames of logits, "
            f"got {int(p.input_lengths[item])}"
        )
    length = int(p.target_lengths[item]) if status in (4, 5, 6, 7) else 0
    if status == 4:
        most = f" and the {p.targets.shape[1]} columns of targets" if p.targets.ndim == 2 else ""
        between = f"between 0{most}" if most else "at least 0"
        raise ValueError(f"target_lengths[{item}] must be {between}, got {length}")
    if status == 5:
        raise ValueError(
            f"concatenated targets have {p.targets.shape[0]} labels, but target_lengths ask for "
            f"more: they run out in utterance {item}, which has {length}"
        )
    if status in (6, 7):
        if p.targets.ndim == 2:
            label, place = int(p.targets[item, position]), f"targets[{item}, {position}]"
        else:
            first = int(p.target_lengths[:item].sum())
            label = int(p.targets[first + position])
            place = f"targets[{first + position}] (label {position} of utterance {item})"
        if status == 7:
            raise ValueError(f"{place} is {label}, which is the blank: leave blanks out of targets")
        hint = ""
        if label == WILDCARD and p.options.wildcard_penalty is None:
            hint = "; for a wildcard pass wildcard_penalty"
        raise ValueError(f"{place} must be in [0, {classes}), got {label}{hint}")
    if status == 9:
        name = os.environ.get("CTCSPEECH_ISA")
        raise ValueError(
            f"CTCSPEECH_ISA={name}: this machine or build has only "
            f"{', '.join(_core.available_isas())}"
        )
    raise RuntimeError(f"the CTC core failed with status {status}")


def compute(problem: Problem, losses: Any, reduced: Any, gradient: Any, reduction: int,
            zero_infinity: bool, arithmetic: Any = None,
            keep_labels: bool = False) -> Any:  # fmt: skip
    """Losses, their reduction, the gradient, and the kind of number that each utterance took
    (int32) into the given arrays (None: not wanted). With `keep_labels` returns a copy of labels
    and lengths as bytes (on the CPU)."""
    if isinstance(problem.logits, torch.Tensor) and problem.logits.is_cuda:
        from ctcspeech.ctc import cuda as _ctc_cuda

        return _ctc_cuda.compute(problem, losses, reduced, gradient, reduction, zero_infinity)
    n, t = (0, 1) if problem.batch_first else (1, 0)
    strides = (0, 0, 0) if gradient is None else _strides(gradient)
    answer = _core.ctc_loss(
        *problem.arguments(),
        _address(losses),
        _address(reduced),
        _address(gradient),
        strides[t],
        strides[n],
        reduction,
        zero_infinity,
        torch.get_num_threads(),
        _isa,
        _arithmetic,
        _address(arithmetic),
        keep_labels,
    )
    if type(answer) is tuple:
        raise_error(problem, answer)
    return answer


LARGE = 1 << 17  # bytes, from which on memory for gradients is kept and used again


def large_block(size: int) -> np.ndarray:
    """Bytes in pages that an earlier gradient has already been in."""
    block: np.ndarray = _core.large_block(size)
    return block


# ---- arguments -------------------------------------------------------------------------------


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


def integers(name: str, value: Any) -> torch.Tensor:
    """Labels or lengths as an int32 or int64 tensor."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be integers: a tensor, list or int ({error})") from None
        if value.numel() == 0 and value.dtype == torch.float32:  # an empty list
            value = value.to(torch.int64)
    if value.dtype is not torch.int64 and value.dtype is not torch.int32:
        raise TypeError(f"{name} must be int32 or int64, got {value.dtype}")
    return value


def lengths_of(name: str, value: Any, batch: int) -> torch.Tensor:
    if isinstance(value, int) and not isinstance(value, bool):
        return torch.full((batch,), value, dtype=torch.int64)
    value = integers(name, value)
    return value.reshape(1) if value.ndim == 0 and batch == 1 else value


def prepare(logits: Any, targets: Any, input_lengths: Any, target_lengths: Any,
             batch_first: bool, options: Options) -> Problem:  # fmt: skip
    """Checks everything but the values of lengths and labels, which the core looks at. What is as
    it should be passes with few looks: a short utterance's loss takes no longer than these."""
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
    if logits.dtype not in TORCH_FLOATS:
        raise TypeError(f"logits must be float32, float64, float16 or bfloat16, got {logits.dtype}")
    shape = logits.shape
    if len(shape) == 2:
        logits, batch_first = logits.unsqueeze(1), False
        shape = logits.shape
    elif len(shape) != 3:
        raise ValueError(
            f"logits must be (T, N, C), (N, T, C) with batch_first, or (T, C); "
            f"got {logits.ndim} dimensions"
        )
    batch, longest = shape[0 if batch_first else 1], 0
    if not logits.is_cpu:
        input_lengths, target_lengths, longest = lengths_on_device(
            logits, shape[1 if batch_first else 0], batch, targets, input_lengths, target_lengths
        )
    if type(targets) is not torch.Tensor or targets.dtype is not torch.int64:
        targets = integers("targets", targets)
    if type(input_lengths) is not torch.Tensor or input_lengths.shape != (batch,):
        input_lengths = lengths_of("input_lengths", input_lengths, batch)
    if type(target_lengths) is not torch.Tensor or target_lengths.shape != (batch,):
        target_lengths = lengths_of("target_lengths", target_lengths, batch)
    problem = Problem(logits, targets, input_lengths, target_lengths, batch_first, options, longest)
    as_usual = (
        targets.dtype is input_lengths.dtype is target_lengths.dtype
        and input_lengths.shape == target_lengths.shape == (batch,)
        and targets.ndim == 2
        and targets.shape[0] == batch
        and shape[2] > 0
        and logits.is_cpu
        and targets.is_cpu
        and input_lengths.is_cpu
        and target_lengths.is_cpu
    )
    if not as_usual:
        check_tensors(problem)
    return problem


def lengths_on_device(logits: torch.Tensor, frames: int, batch: int, targets: Any,
                      input_lengths: Any, target_lengths: Any) -> tuple[Any, Any, int]:  # fmt: skip
    """Lengths for logits that are not on the CPU, and the longest target if it is known."""
    if logits.device.type != "cuda":
        raise ValueError(f"logits must be on the CPU or a CUDA device, got {logits.device}")
    from ctcspeech.ctc import cuda as _ctc_cuda

    _ctc_cuda.check_built(logits)
    longest, device = 0, logits.device
    if type(input_lengths) is int:
        input_lengths = _ctc_cuda.int_length("input_lengths", input_lengths, frames, batch, device)
    if type(target_lengths) is int:
        longest = max(1, target_lengths)
        most = integers("targets", targets).shape[-1]
        target_lengths = _ctc_cuda.int_length("target_lengths", target_lengths, most, batch, device)
    return input_lengths, target_lengths, longest


def check_tensors(problem: Problem) -> None:
    """Types, devices and shapes, with a word for each that is wrong."""
    logits, targets, input_lengths, target_lengths, batch_first, _, _ = problem
    lengths = {"input_lengths": input_lengths, "target_lengths": target_lengths}
    for name, value in (("targets", targets), *lengths.items()):
        if value.device.type != "cpu" and value.device != logits.device:
            raise ValueError(f"{name} are on {value.device}, but logits on {logits.device}")
        integers(name, value)
    check_shapes(logits, targets, lengths, batch_first)


def own(problem: Problem, copy: bool) -> Problem:
    """As the core wants it: one contiguous integer type, classes contiguous. With `copy` the labels
    and lengths of CUDA tensors are ours, so that the caller may change theirs before the way back
    (those on the CPU are copied by the core)."""
    logits, targets, input_lengths, target_lengths, batch_first, options, _ = problem
    if logits.is_cuda:
        from ctcspeech.ctc import cuda as _ctc_cuda

        if logits.stride(2) != 1 and logits.shape[2] != 1:
            logits = logits.contiguous()
        return _ctc_cuda.on_device(problem._replace(logits=logits), copy)
    dtype = targets.dtype
    if input_lengths.dtype is not dtype or target_lengths.dtype is not dtype:
        dtype = torch.int64
        targets, input_lengths, target_lengths = (
            i.to(dtype) for i in (targets, input_lengths, target_lengths)
        )
    elif (
        (logits.stride(2) == 1 or logits.shape[2] == 1)
        and targets.is_contiguous()
        and input_lengths.is_contiguous()
        and target_lengths.is_contiguous()
    ):
        return problem
    if logits.stride(2) != 1 and logits.shape[2] != 1:
        logits = logits.contiguous()
    targets, input_lengths, target_lengths = (
        i.contiguous() for i in (targets, input_lengths, target_lengths)
    )
    return Problem(logits, targets, input_lengths, target_lengths, batch_first, options)


class Kept(NamedTuple):
    """What a way back may need of a problem besides its logits: a copy, since the caller may change
    labels and lengths meanwhile. (On CUDA that is a Problem with labels and lengths of its own.)"""

    integers: bytes
    dtype: torch.dtype
    targets_shape: tuple[int, ...]
    batch: int
    batch_first: bool
    options: Options

    def of(self, logits: Any) -> Problem:
        dtype = np.int32 if self.dtype == torch.int32 else np.int64
        flat = torch.from_numpy(np.frombuffer(self.integers, dtype).copy())
        labels = len(flat) - 2 * self.batch
        targets, input_lengths, target_lengths = flat.split([labels, self.batch, self.batch])
        targets = targets.view(self.targets_shape)
        return Problem(
            logits, targets, input_lengths, target_lengths, self.batch_first, self.options
        )


def loss_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


# ---- NumPy and DLPack ------------------------------------------------------------------------


def as_numpy(name: str, value: Any) -> np.ndarray:
    """A NumPy view of anything on the CPU: an array, a DLPack producer, a list, an int."""
    if isinstance(value, torch.Tensor):
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
    if array.dtype not in (np.int32, np.int64):
        raise TypeError(f"{name} must be int32 or int64, got {array.dtype}")
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
