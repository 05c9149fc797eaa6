"""The GPU's kernels, run on the host thread by thread (csrc/ctc_serial.cpp), for the tests."""

import numpy as np

from ctcspeech import _core
from ctcspeech._ctc_arguments import Options, numpy_problem

ROOMY = 200_000  # bytes of shared memory for a block, as the large GPUs have


def serial_loss(x, y, input_lengths, target_lengths, blank=0, *, batch_first=False, wildcard=None,
                delay=0.0, reduction=0, zero_infinity=False, gradient=True, order=0,
                shared=ROOMY, longest=0):  # fmt: skip
    """Losses (N,), their reduction, the gradient or None, and the bytes of workspace."""
    options = Options(blank, wildcard, delay)
    problem = numpy_problem(x, y, input_lengths, target_lengths, batch_first, options)
    real = np.float64 if x.dtype == np.float64 else np.float32
    losses, reduced = np.empty(problem.batch, real), np.empty((), real)
    slope = np.full_like(problem.logits, np.nan) if gradient else None
    n, t = (0, 1) if batch_first else (1, 0)
    strides = [s // slope.itemsize for s in slope.strides] if gradient else [0, 0, 0]
    output = (losses.ctypes.data, reduced.ctypes.data, slope.ctypes.data if gradient else 0,
              strides[t], strides[n], reduction, zero_infinity)  # fmt: skip
    taken = _core.ctc_serial_loss(problem.arguments(), output, longest, order, shared)
    return losses, reduced, slope, taken
