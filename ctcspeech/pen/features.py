"""Frames of features of pen strokes.

The usual ones of online handwriting (Graves et al. 2009, "A novel connectionist system for
unconstrained handwriting recognition", section 2, has 25; these are those that need no image and no
baseline): for each point of the normalised ink, `SPACING` apart along the line,

    0, 1  dx, dy: the step from the point before, over SPACING; at a stroke's first point the jump
          from the end of the stroke before, limited to +-LARGEST_JUMP
    2     1 at the first point of a stroke (the pen was up before), else 0
    3     y: the height above or below the middle of the ink
    4, 5  cosine and sine of the direction of writing, from the point before to the point after
    6, 7  cosine and sine of the turn at the point (curvature)

Frames are equally far apart along the line, not in time: how fast was written plays no part.
"""

import numpy as np

from ctcspeech.pen.strokes import Ink

__all__ = ["LARGEST_JUMP", "NUM_FEATURES", "SPACING", "ink_features"]

NUM_FEATURES = 8
SPACING = 0.1  # of the height of small letters, about
LARGEST_JUMP = 20.0  # steps


def ink_features(ink: Ink, spacing: float = SPACING) -> np.ndarray:
    """Float32 (T, 8), a frame a point of the normalised, resampled ink; T = 0 without strokes."""
    strokes = ink.normalized().resampled(spacing).strokes
    if not strokes:
        return np.zeros((0, NUM_FEATURES), np.float32)
    frames = np.zeros((sum(map(len, strokes)), NUM_FEATURES))
    begin, last = 0, strokes[0][0]
    for stroke in strokes:
        part = frames[begin : begin + len(stroke)]
        steps = np.diff(stroke, axis=0, prepend=last[None]) / spacing
        part[:, :2] = np.clip(steps, -LARGEST_JUMP, LARGEST_JUMP)
        part[0, 2] = 1.0
        part[:, 3] = stroke[:, 1]
        part[:, 4:6] = _unit(_chord(stroke))
        ahead, behind = _unit(np.diff(stroke, axis=0)), None
        if len(stroke) > 2:
            behind, ahead = ahead[:-1], ahead[1:]
            part[1:-1, 6] = (ahead * behind).sum(axis=1)
            part[1:-1, 7] = behind[:, 0] * ahead[:, 1] - behind[:, 1] * ahead[:, 0]
        part[[0, -1], 6] = 1.0  # no turn at a stroke's ends
        part[[0, -1], 7] = 0.0
        begin, last = begin + len(stroke), stroke[-1]
    return frames.astype(np.float32)


def _chord(stroke: np.ndarray) -> np.ndarray:
    """(P, 2) from the point before to the point after; at the ends from or to the point itself."""
    if len(stroke) == 1:
        return np.zeros((1, 2))
    padded = np.concatenate([stroke[:1], stroke, stroke[-1:]])
    return padded[2:] - padded[:-2]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1; a vector of length 0 stays."""
    length = np.hypot(vectors[:, 0], vectors[:, 1])[:, None]
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)
