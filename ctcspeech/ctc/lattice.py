"""Alpha, beta and occupation of a text, state by state: the recursions as the papers write them.

    lattice = forward_backward(log_probs, [3, 1, 20])
    lattice.occupation          # (T, S)

For teaching and for pictures. The operator (`ctcspeech.ctc_loss`) computes the same by fast kernels
and keeps none of these tables; `csrc/ctc/reference.cpp` is the same in C++.

Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006, section
4.1. T frames, C classes with the blank, L labels, S = 2 L + 1 states: a blank before, between and
after the labels. State s is the blank where s is even, label (s - 1) / 2 where it is odd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Lattice", "forward_backward"]


@dataclass
class Lattice:
    """The tables of the forward-backward recursions; natural logarithms."""

    states: np.ndarray  # (S,) the class of each state
    alpha: np.ndarray  # (T, S) ln P of the frames up to t, their paths ending in state s
    beta: np.ndarray  # (T, S) ln P of the frames after t, their paths beginning in state s
    log_prob: float  # ln P(labels | frames)

    @property
    def occupation(self) -> np.ndarray:
        """gamma (T, S): the probability that a path is in state s at frame t; rows sum to 1.

        Graves et al. 2006, equation 14, normalised. (Their beta holds the probability of frame t
        too, so that they divide by it once more.) All 0 where the labels are impossible.
        """
        if self.log_prob == -np.inf:
            return np.zeros_like(self.alpha)
        return np.exp(self.alpha + self.beta - self.log_prob)


def forward_backward(
    log_probs: npt.ArrayLike, labels: Sequence[int] | npt.ArrayLike, blank: int = 0
) -> Lattice:
    """The tables of a text.

    log_probs: (T, C) natural logarithms of the classes' probabilities at each frame, T at least 1.
    labels: (L,) integers without the blank; L may be 0.

    Raises ValueError for another shape, and for a label that is the blank or no class.
    """
    y = np.asarray(log_probs, np.float64)
    targets: npt.NDArray[Any] = np.asarray(labels, np.int64).reshape(-1)
    if y.ndim != 2 or not len(y):
        raise ValueError(f"log_probs must be (T, C) with T at least 1, got {y.shape}")
    wrong = (targets < 0) | (targets >= y.shape[1]) | (targets == blank)
    if not 0 <= blank < y.shape[1] or wrong.any():
        raise ValueError(
            f"blank and labels must be different classes of [0, {y.shape[1]}), got {blank} and "
            f"{targets.tolist()}"
        )
    states = np.full(2 * len(targets) + 1, blank)
    states[1::2] = targets
    # From s - 2 a path may come where s is a label, and another one than at s - 2: only then may
    # the blank between them be passed over.
    jump = np.zeros(len(states), bool)
    jump[3::2] = targets[1:] != targets[:-1]
    alpha = _alpha(y[:, states], jump)
    beta = _beta(y[:, states], jump)
    log_prob = float(np.logaddexp.reduce(alpha[-1, -2:]))  # equation 8: in one of the last two
    return Lattice(states, alpha, beta, log_prob)


def _alpha(y: np.ndarray, jump: np.ndarray) -> np.ndarray:
    """Equations 5 to 7. y (T, S): each state's log-probability at each frame."""
    alpha = np.full(y.shape, -np.inf)
    alpha[0, :2] = y[0, :2]
    for t in range(1, len(y)):
        stay, before, jumped = alpha[t - 1], _right(alpha[t - 1], 1), _right(alpha[t - 1], 2)
        jumped = np.where(jump, jumped, -np.inf)
        alpha[t] = y[t] + np.logaddexp(np.logaddexp(stay, before), jumped)
    return alpha


def _beta(y: np.ndarray, jump: np.ndarray) -> np.ndarray:
    """Equations 9 to 11, without the probability of frame t itself."""
    beta = np.full(y.shape, -np.inf)
    beta[-1, -2:] = 0.0
    for t in range(len(y) - 2, -1, -1):
        after = y[t + 1] + beta[t + 1]  # through each state of the next frame
        jumped = _left(np.where(jump, after, -np.inf), 2)
        beta[t] = np.logaddexp(np.logaddexp(after, _left(after, 1)), jumped)
    return beta


def _right(row: np.ndarray, places: int) -> np.ndarray:
    """row[s - places] at s; -inf comes in."""
    return np.concatenate([np.full(places, -np.inf), row])[: len(row)]


def _left(row: np.ndarray, places: int) -> np.ndarray:
    """row[s + places] at s; -inf comes in."""
    return np.concatenate([row, np.full(places, -np.inf)])[places:]
