"""The probability that CTC gives to a text's beginning, label by label: CTC as a guide of a search
that goes from label to label rather than from frame to frame.

    scorer = CtcPrefixScorer(log_probs, blank=0)
    state = scorer.start()
    scores, following = scorer.extend(state, labels)    # ln P(prefix + label ... | x)

Watanabe et al. 2017 ("Hybrid CTC/attention architecture", IEEE JSTSP 11(8), algorithm 2), after
Graves 2008 (dissertation, section 7.5). For a prefix g, with r_n and r_b the probabilities of all
paths of g up to frame t that end in its last label and in a blank:

    phi_t(g, c) = r_b(t-1, g) + (r_n(t-1, g) unless c is g's last label)
    r_n(t, g c) = p_t(c) (phi_t(g, c) + r_n(t-1, g c))
    r_b(t, g c) = p_t(blank) (r_b(t-1, g c) + r_n(t-1, g c))
    P(g c ...)  = sum over t of p_t(c) phi_t(g, c)           any text that begins so
    P(g)        = r_n(T, g) + r_b(T, g)                      the text itself

all in natural logarithms.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CtcPrefixScorer", "PrefixState"]

_LEAST = -1000.0  # ln p of a label that a frame excludes: sums of it must not swamp the others

Floats = npt.NDArray[np.floating[Any]]


@dataclass
class PrefixState:
    """Of B prefixes: (B, T + 1) r_n and r_b, time 0 being before the first frame; (B,) each one's
    last label, -1 for the empty one."""

    of_label: Floats
    of_blank: Floats
    last: npt.NDArray[np.int64]

    def select(self, rows: npt.NDArray[np.int64]) -> "PrefixState":
        return PrefixState(self.of_label[rows], self.of_blank[rows], self.last[rows])

    @property
    def complete(self) -> Floats:
        """ln P(g) of each prefix as the whole text: (B,)."""
        return np.logaddexp(self.of_label[:, -1], self.of_blank[:, -1])


class CtcPrefixScorer:
    """Prefix probabilities of one utterance's emissions."""

    def __init__(self, log_probs: Floats, blank: int) -> None:
        """log_probs (T, C): natural logarithms, at least e^-1000 each."""
        self.log_probs = np.maximum(np.asarray(log_probs, np.float64), _LEAST)
        self.blank = blank
        # Sums up to and with each frame, 0 before the first: (T + 1, C). A recursion
        # r_t = p_t (r_{t-1} + x_t) is, divided by the product of p up to t, a mere sum.
        begin = np.zeros((1, self.log_probs.shape[1]))
        self._sums = np.concatenate([begin, np.cumsum(self.log_probs, axis=0)])

    def start(self) -> PrefixState:
        """The empty prefix."""
        of_blank = self._sums[None, :, self.blank]
        return PrefixState(np.full(of_blank.shape, -np.inf), of_blank, np.array([-1]))

    def extend(
        self, state: PrefixState, labels: npt.NDArray[np.int64]
    ) -> tuple[Floats, PrefixState]:
        """Each prefix with each of its labels (B, K), none of them the blank.

        Returns ln P(g c ...) (B, K), and the state of the B K prefixes, row by row.
        """
        count, width = labels.shape
        own = labels == state.last[:, None]  # (B, K)
        any_end = np.logaddexp(state.of_label, state.of_blank)[:, None]
        phi = np.where(own[:, :, None], state.of_blank[:, None], any_end)[:, :, :-1]  # (B, K, T)
        sums = self._sums.T[labels]  # (B, K, T + 1)
        # x_t stands before p_t is multiplied in: it is divided by the product up to t - 1.
        of_label = _sums_of(phi - sums[:, :, :-1]) + sums[:, :, 1:]
        of_label = _after_nothing(of_label)  # (B, K, T + 1)
        blanks = self._sums[:, self.blank]
        of_blank = _sums_of(of_label[:, :, :-1] - blanks[:-1]) + blanks[1:]
        of_blank = _after_nothing(of_blank)
        reached = phi + self.log_probs.T[labels]
        scores = np.logaddexp.reduce(reached, axis=2, initial=-np.inf)
        rows = count * width
        following = PrefixState(
            of_label.reshape(rows, -1), of_blank.reshape(rows, -1), labels.reshape(rows)
        )
        return scores, following


def _sums_of(values: Floats) -> Floats:
    """Logarithms of the sums up to each frame, (B, K, T)."""
    return np.logaddexp.accumulate(values, axis=2) if values.shape[2] else values


def _after_nothing(values: Floats) -> Floats:
    """(B, K, T) with the time before the first frame, at which nothing has been said."""
    return np.concatenate([np.full((*values.shape[:2], 1), -np.inf), values], axis=2)
