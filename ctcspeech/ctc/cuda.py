"""The CTC loss of CUDA tensors: moving labels and lengths, workspace, stream.

Nothing here waits for the device when labels and lengths are on it (or lengths are ints): then
their values are looked at by the kernels, and a wrong one makes its utterance's loss and gradient
NaN. Labels and lengths on the host are checked there and raise ValueError.
"""

from typing import Any

import torch

from ctcspeech import _core
from ctcspeech._core import CtcStatus
from ctcspeech.ctc.problem import Problem, raise_error

__all__ = ["check_built", "check_host_values", "compute", "int_length", "on_device", "scaled"]


def check_built(logits: torch.Tensor) -> None:
    if not _core.cuda_built():
        raise ValueError(
            f"logits are on {logits.device}, but this build of ctcspeech holds no CUDA kernels: "
            "install it again where nvcc is found (CTCSPEECH_CUDA=1 pip install .), "
            "or pass logits.cpu()"
        )


def int_length(name: str, value: int, most: int, batch: int, device: torch.device) -> torch.Tensor:
    """One int for all utterances, as a tensor on the device."""
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be between 0 and {most}, got {value}")
    return torch.full((batch,), value, dtype=torch.int64, device=device)


def on_device(problem: Problem, copy: bool) -> Problem:
    """Labels and lengths beside the logits, contiguous and of one integer type. With `copy` they
    are ours, so that the caller may change theirs."""
    check_host_values(problem)
    device = problem.logits.device
    arrays = problem.targets, problem.input_lengths, problem.target_lengths
    longest = problem.longest
    if problem.target_lengths.device.type == "cpu" and problem.batch > 0:
        longest = max(1, int(problem.target_lengths.max()))
    dtypes = {a.dtype for a in arrays}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.int64
    moved = []
    for array in arrays:
        if array.device.type == "cpu":
            # A copy in pageable memory is read before the call returns, so nobody waits for the
            # device, and pinned memory of the caller's may change at once.
            new = array.to(dtype).clone(memory_format=torch.contiguous_format)
            moved.append(new.to(device, non_blocking=True))
        elif copy:
            moved.append(array.to(dtype).clone(memory_format=torch.contiguous_format))
        else:
            moved.append(array.to(dtype).contiguous())
    targets, input_lengths, target_lengths = moved
    return problem._replace(
        targets=targets,
        input_lengths=input_lengths,
        target_lengths=target_lengths,
        longest=longest,
    )


def check_host_values(problem: Problem) -> None:
    """Raises ValueError for a wrong value in what is on the host."""
    p = problem
    lengths_here = [a.device.type == "cpu" for a in (p.input_lengths, p.target_lengths)]
    if all(lengths_here) and p.targets.device.type == "cpu":
        whole = p._replace(
            targets=p.targets.long().contiguous(),
            input_lengths=p.input_lengths.long().contiguous(),
            target_lengths=p.target_lengths.long().contiguous(),
        )
        error = _core.ctc_check(whole.input())
        if error is not None:
            raise_error(p, error)
        return
    frames = p.logits.shape[1 if p.batch_first else 0]
    if lengths_here[0]:
        _check_range(p, p.input_lengths, frames, CtcStatus.BAD_INPUT_LENGTH)
    if lengths_here[1]:
        _check_range(p, p.target_lengths, p.targets.shape[-1], CtcStatus.BAD_TARGET_LENGTH)
        if p.targets.ndim == 1:
            over = p.target_lengths.cumsum(0) > p.targets.shape[0]
            if over.any():
                raise_error(p, (CtcStatus.BAD_TARGET_SUM, int(over.nonzero()[0]), 0))


def _check_range(problem: Problem, lengths: torch.Tensor, most: int, status: CtcStatus) -> None:
    wrong = (lengths < 0) | (lengths > most)
    if wrong.any():
        raise_error(problem, (status, int(wrong.nonzero()[0]), 0))


def compute(problem: Problem, losses: Any, reduced: Any, gradient: Any, reduction: int,
            zero_infinity: bool) -> None:  # fmt: skip
    """Losses, their reduction and the gradient into the given tensors, on the current stream."""
    device = problem.logits.device
    arguments = problem.input()
    output = problem.output(losses, reduced, gradient, reduction, zero_infinity)
    size = _core.ctc_cuda_workspace(arguments, output, device.index, problem.longest)
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream
    _core.ctc_cuda_loss(
        arguments, output, device.index, problem.longest, stream, workspace.data_ptr(), size
    )


def scaled(problem: Problem, gradient: torch.Tensor, grad_losses: torch.Tensor) -> torch.Tensor:
    """gradient times the incoming derivative, in place: (N,) or a single value. Reads and writes
    only what is to be multiplied by something other than 1, which the device decides."""
    factors = grad_losses.contiguous()
    device = gradient.device
    problem = problem._replace(logits=gradient)
    output = problem.output(None, None, gradient, 0, False)
    stream = torch.cuda.current_stream(device).cuda_stream
    _core.ctc_cuda_scale(
        problem.input(), output, factors.data_ptr(), factors.ndim == 0, device.index, stream
    )
    return gradient
