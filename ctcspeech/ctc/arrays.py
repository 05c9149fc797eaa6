"""The CTC loss of arrays: NumPy's and whatever speaks DLPack, without autograd and without torch.

    loss, gradient = ctcspeech.ctc.loss_and_grad(logits, targets, input_lengths, target_lengths)

The same core and the same numbers as `ctc_loss` of tensors (loss.py).
"""

from typing import Any

import numpy as np

from ctcspeech import _core
from ctcspeech.ctc.arguments import as_numpy, check_options, numpy_problem
from ctcspeech.ctc.core import LARGE, compute, large_block, threads
from ctcspeech.ctc.problem import REDUCTIONS, Options, raise_error

__all__ = ["loss_and_grad", "posteriors"]


def loss_and_grad(
    logits: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    batch_first: bool = False,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and its gradient with respect to the logits, without autograd, as NumPy arrays.

    Takes NumPy arrays and anything on the CPU that speaks DLPack (torch, JAX). Arguments as for
    `ctc_loss`. Returns the loss, () or (N,) with reduction "none", and the gradient, of the logits'
    shape and type; with "none" that of the sum.
    """
    check_options(blank, reduction, wildcard_penalty, delay_penalty)
    options = Options(blank, wildcard_penalty, delay_penalty)
    problem = numpy_problem(logits, targets, input_lengths, target_lengths, batch_first, options)
    x = problem.logits
    code = REDUCTIONS[reduction]
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    result = np.empty(problem.batch if code == 0 else (), dtype)
    if x.nbytes < LARGE:
        gradient = np.empty(x.shape, x.dtype)
    else:
        gradient = large_block(x.nbytes).view(x.dtype).reshape(x.shape)
    losses, reduced = (result, None) if code == 0 else (None, result)
    compute(problem, losses, reduced, gradient, code, zero_infinity)
    if as_numpy("logits", logits).ndim == 2:
        gradient = gradient[:, 0]
        result = result.reshape(())
    return result, gradient


def posteriors(
    logits: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    *,
    batch_first: bool = False,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
) -> np.ndarray:
    """gamma[n, t, s]: the probability that state s of the extended labels is occupied at frame t.

    Arguments as for `ctc_loss`. Returns float64 (N, T, S), or (T, S) for (T, C) logits, S = 2 L + 1
    for the longest target; state s is the blank where s is even, label (s - 1) / 2 where odd. Each
    frame within its utterance sums to 1; beyond the lengths, and for an impossible utterance, gamma
    is 0. Graves et al. 2006, the product alpha beta of equation 14, normalised.
    """
    check_options(blank, "none", wildcard_penalty, delay_penalty)
    options = Options(blank, wildcard_penalty, delay_penalty)
    problem = numpy_problem(logits, targets, input_lengths, target_lengths, batch_first, options)
    longest = int(problem.target_lengths.max(initial=0))
    frames = problem.logits.shape[1 if problem.batch_first else 0]
    gamma = np.zeros((problem.batch, frames, 2 * max(longest, 0) + 1))
    error = _core.ctc_posteriors(
        problem.input(),
        gamma.ctypes.data,
        gamma.shape[1] * gamma.shape[2],
        gamma.shape[2],
        threads(),
    )
    if error is not None:
        raise_error(problem, error)
    return gamma[0] if as_numpy("logits", logits).ndim == 2 else gamma
