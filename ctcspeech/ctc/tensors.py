"""From the caller's tensors to a `Problem`: checks, devices, layouts."""

from typing import Any, NamedTuple

import numpy as np
import torch

from ctcspeech.ctc.arguments import check_shapes
from ctcspeech.ctc.problem import FLOATS, INTEGERS, TYPES, Options, Problem

__all__ = ["TORCH_FLOATS", "Kept", "integers", "lengths_of", "loss_dtype", "own", "prepare"]

TYPES.update((getattr(torch, name), code) for name, code in (FLOATS | INTEGERS).items())
NARROW_INTEGERS = (torch.int8, torch.int16, torch.uint8)  # read as int32
TORCH_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def integers(name: str, value: Any) -> torch.Tensor:
    """Labels or lengths as an int32 or int64 tensor."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be integers: a tensor, list or int ({error})") from None
        if value.numel() == 0 and value.dtype == torch.float32:  # an empty list
            value = value.to(torch.int64)
    if value.dtype in NARROW_INTEGERS:
        return value.to(torch.int32)
    if value.dtype is not torch.int64 and value.dtype is not torch.int32:
        raise TypeError(f"{name} must be integers of up to 64 bits, got {value.dtype}")
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
    if not _as_usual(input_lengths, batch):
        input_lengths = lengths_of("input_lengths", input_lengths, batch)
    if not _as_usual(target_lengths, batch):
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


def _as_usual(lengths: Any, batch: int) -> bool:
    return (
        type(lengths) is torch.Tensor
        and lengths.shape == (batch,)
        and (lengths.dtype is torch.int64 or lengths.dtype is torch.int32)
    )


def lengths_on_device(logits: torch.Tensor, frames: int, batch: int, targets: Any,
                      input_lengths: Any, target_lengths: Any) -> tuple[Any, Any, int]:  # fmt: skip
    """Lengths for logits that are not on the CPU, and the longest target if it is known."""
    if logits.device.type != "cuda":
        raise ValueError(f"logits must be on the CPU or a CUDA device, got {logits.device}")
    from ctcspeech.ctc import cuda

    cuda.check_built(logits)
    longest, device = 0, logits.device
    if type(input_lengths) is int:
        input_lengths = cuda.int_length("input_lengths", input_lengths, frames, batch, device)
    if type(target_lengths) is int:
        longest = max(1, target_lengths)
        most = integers("targets", targets).shape[-1]
        target_lengths = cuda.int_length("target_lengths", target_lengths, most, batch, device)
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
        from ctcspeech.ctc import cuda

        if logits.stride(2) != 1 and logits.shape[2] != 1:
            logits = logits.contiguous()
        return cuda.on_device(problem._replace(logits=logits), copy)
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
