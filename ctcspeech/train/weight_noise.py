"""Gaussian noise on the weights while a gradient is computed (Graves 2013, arXiv 1303.5778).

    with noisy(model, 0.01):
        loss(model).backward()     # the gradient at w + noise
    optimizer.step()               # of w

Weights that fit only exactly are no use to such a training, so it finds flat minima; the noise is
drawn once a step, where Graves drew it once a sequence.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["noisy"]


@contextmanager
def noisy(model: nn.Module, deviation: float) -> Iterator[None]:
    """Within, the weights that learn (matrices and filters; no biases, no batch norm) have noise of
    this standard deviation, from torch's generator; afterwards they are what they were, bit by bit.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1 and deviation]
    kept = [p.detach().clone() for p in weights]
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn_like(weight), alpha=deviation)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
