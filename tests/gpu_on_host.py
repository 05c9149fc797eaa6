"""The GPU's kernels, run thread by thread on the host (csrc/ctc/cuda/on_host.cpp)."""

from types import SimpleNamespace

import numpy as np
import torch

from ctcspeech import _core
from ctcspeech.ctc import arrays, loss, tensors
from ctcspeech.ctc import autograd as _ctc_autograd
from ctcspeech.ctc import cuda as _ctc_cuda
from ctcspeech.ctc.arguments import numpy_problem
from ctcspeech.ctc.problem import Options, raise_error

ROOMY = 200_000  # bytes of shared memory for a block, as large GPUs have
TIGHT = 2_000  # less than most problems need: their rows stand in the workspace


class HostCore:
    """The native core as ctcspeech/ctc/cuda.py sees it, its device being the host."""

    def __getattr__(self, name):
        return getattr(_core, name)

    def ctc_cuda_workspace(self, arguments, output, device, longest):
        return 1

    def ctc_cuda_loss(self, arguments, output, device, longest, stream, workspace, size):
        assert size == 1 and workspace != 0 and stream == 7
        _core.ctc_on_host_loss(arguments, output, longest, 0, ROOMY)

    def ctc_cuda_scale(self, arguments, output, factors, single, device, stream):
        assert stream == 7
        _core.ctc_on_host_scale(arguments, output, factors, single, 0)


def pretend_to_be_a_device(monkeypatch):
    """From here on the operator takes CPU tensors by the way of CUDA tensors, with the kernels on
    the host."""
    plain_own = tensors.own

    def own(problem, copy):
        contiguous = plain_own(problem, copy=False).logits
        return _ctc_cuda.on_device(problem._replace(logits=contiguous), copy)

    def either(problem, losses, reduced, gradient, reduction, zero_infinity, *rest):
        torchs = isinstance(problem.logits, torch.Tensor)
        run = _ctc_cuda.compute if torchs else compute
        run(problem, losses, reduced, gradient, reduction, zero_infinity)

    monkeypatch.setattr(_ctc_cuda, "_core", HostCore())
    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for module in (_ctc_autograd, loss):
        monkeypatch.setattr(module, "own", own)
    for module in (_ctc_autograd, arrays):
        monkeypatch.setattr(module, "compute", either)
    monkeypatch.setattr(_ctc_autograd, "scaled", _ctc_cuda.scaled)


def compute(problem, losses, reduced, gradient, reduction, zero_infinity, arithmetic=None, *,
            order=0, shared=ROOMY, longest=0, check=True):  # fmt: skip
    """In place of ctcspeech.ctc.core.compute. Returns the bytes of workspace taken."""
    if check:
        error = _core.ctc_check(problem.input())
        if error is not None:
            raise_error(problem, error)
    output = problem.output(losses, reduced, gradient, reduction, zero_infinity)
    return _core.ctc_on_host_loss(problem.input(), output, longest, order, shared)


def loss_and_gradient(x, y, input_lengths, target_lengths, blank=0, *, gradient=True, wildcard=None,
                      delay=0.0, **options):  # fmt: skip
    """Losses (N,), the gradient of their sum (None without) and the bytes of workspace, of NumPy
    logits (T, N, C)."""
    problem = numpy_problem(
        x, y, input_lengths, target_lengths, False, Options(blank, wildcard, delay)
    )
    real = np.float64 if x.dtype == np.float64 else np.float32
    losses = np.full(problem.batch, np.nan, real)
    slope = np.full_like(problem.logits, np.nan) if gradient else None
    taken = compute(problem, losses, None, slope, 0, False, **options)
    return losses, slope, taken
