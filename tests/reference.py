"""The slow, obvious versions that the tests trust: enumeration, and recursions in plain NumPy."""

import itertools

import numpy as np

WILDCARD = -1


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = np.asarray(logits, np.float64)
    high = x.max(-1, keepdims=True)
    high = np.where(np.isfinite(high), high, 0)
    with np.errstate(divide="ignore"):
        log_sum = high + np.log(np.exp(x - high).sum(-1, keepdims=True))
    return np.where(np.isneginf(log_sum), -np.inf, x - log_sum)


def extended(labels, blank):
    """Blanks between, before and after the labels: S = 2 L + 1 states."""
    states = [blank]
    for label in labels:
        states += [label, blank]
    return states


def ctc_paths(labels, frames, blank):
    """Every path of extended states, one a frame, from the start to the end: lists of s."""
    z = extended(labels, blank)
    for path in itertools.product(range(len(z)), repeat=frames):
        if path[0] > 1 or path[-1] < len(z) - 2:
            continue
        legal = True
        for a, b in zip(path, path[1:], strict=False):
            skip = b == a + 2 and b % 2 == 1 and (z[a] != z[b] or z[b] == WILDCARD)
            legal &= b == a or b == a + 1 or skip
        if legal:
            yield path


def ctc_enumerate(logits, labels, blank=0, delay_penalty=0.0, wildcard_penalty=0.0):
    """(loss, gamma (T, S)) of logits (T, C), by adding up every path, one by one."""
    log_probs = log_softmax(logits)
    frames = len(log_probs)
    z = extended(labels, blank)
    total, gamma = 0.0, np.zeros((frames, len(z)))
    if frames == 0:
        return (0.0 if not labels else np.inf), gamma
    for path in ctc_paths(labels, frames, blank):
        weight = 1.0
        for t, s in enumerate(path):
            p = -wildcard_penalty if z[s] == WILDCARD else log_probs[t, z[s]]
            entered = s % 2 == 1 and (t == 0 or path[t - 1] != s)
            delay = delay_penalty * ((frames - 1) / 2 - t) if entered else 0.0
            weight *= np.exp(p + delay)
        total += weight
        for t, s in enumerate(path):
            gamma[t, s] += weight
    if total == 0:
        return np.inf, gamma
    return -np.log(total), gamma / total


def ctc_by_collapsing(logits, labels, blank=0):
    """The loss by Graves's definition alone: the sum over every sequence of classes that gives the
    labels once repeats are merged and blanks dropped. Knows nothing of states."""
    log_probs = log_softmax(logits)
    frames, classes = log_probs.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=frames):
        merged = [k for k, _ in itertools.groupby(path)]
        if [k for k in merged if k != blank] == list(labels):
            total += np.exp(sum(log_probs[t, k] for t, k in enumerate(path)))
    return -np.log(total) if total > 0 else np.inf


def ctc_loss(logits, labels, blank=0):
    """(loss, gradient (T, C)) of logits (T, C) for one utterance: Graves et al. 2006, in
    logarithms, state by state. (inf, 0) if impossible."""
    y = log_softmax(logits)
    frames, classes = y.shape
    z = extended(labels, blank)
    states = len(z)
    if frames == 0:
        return (0.0 if not labels else np.inf), np.zeros((frames, classes))

    def sources(s):
        yield s
        if s >= 1:
            yield s - 1
        if s >= 2 and s % 2 == 1 and z[s] != z[s - 2]:
            yield s - 2

    alpha = np.full((frames, states), -np.inf)
    alpha[0, :2] = y[0, z[:2]]
    beta = np.full((frames, states), -np.inf)
    beta[-1, -2:] = 0
    with np.errstate(invalid="ignore"):
        for t in range(1, frames):
            for s in range(states):
                before = [alpha[t - 1, r] for r in sources(s)]
                alpha[t, s] = y[t, z[s]] + np.logaddexp.reduce(before)
        for t in range(frames - 2, -1, -1):
            for s in range(states):
                for r in sources(s):
                    through = y[t + 1, z[s]] + beta[t + 1, s]
                    beta[t, r] = np.logaddexp(beta[t, r], through)
        loss = -np.logaddexp.reduce(alpha[-1, -2:])
    if not np.isfinite(loss):
        return loss, np.zeros((frames, classes))
    gradient = np.exp(y)
    for s in range(states):
        gradient[:, z[s]] -= np.exp(alpha[:, s] + beta[:, s] + loss)
    return loss, gradient


def finite_difference(function, x, step=1e-5):
    """The gradient of a scalar function of an array, by central differences."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient
