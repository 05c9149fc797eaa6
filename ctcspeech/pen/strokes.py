"""A piece of handwriting: its strokes, each the points between pen down and pen up.

x grows to the right, y grows downward, as tablets and InkML have it; the unit is the device's and
does not matter, since `normalized` takes position and size out.
"""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Ink"]


@dataclass
class Ink:
    """strokes: each float (P, 2), x and y of its points in the order of writing, P at least 1.

    Raises ValueError for a stroke of another shape, without points, or not finite.
    """

    strokes: list[np.ndarray]
    text: str = ""  # what is written
    writer: str | None = None
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strokes = [np.asarray(stroke, np.float64) for stroke in self.strokes]
        for number, stroke in enumerate(self.strokes):
            if stroke.ndim != 2 or stroke.shape[1] != 2 or not len(stroke):
                raise ValueError(
                    f"stroke {number} must be points (P, 2), P at least 1, got {stroke.shape}"
                )
            if not np.isfinite(stroke).all():
                raise ValueError(f"stroke {number} has a point that is not finite")

    def __len__(self) -> int:
        """Points."""
        return sum(map(len, self.strokes))

    def normalized(self) -> "Ink":
        """Moved and scaled: the mean height at 0, the mean distance of the ink from it 1 / 4.

        So small letters are about 1 high whatever the tablet's unit. The mean runs over the length
        of the line, not over the points: it does not depend on how fast was written. A single point
        or a level line keeps its size. x begins at 0.
        """
        if not self.strokes:
            return Ink([], self.text, self.writer, dict(self.extra))
        points = np.concatenate(self.strokes)
        begin = np.concatenate([stroke[:-1] for stroke in self.strokes])
        end = np.concatenate([stroke[1:] for stroke in self.strokes])
        weight = np.hypot(*(end - begin).T)  # length of each straight piece
        if weight.sum() > 0:
            middle = float(np.average((begin[:, 1] + end[:, 1]) / 2, weights=weight))
            distance = _mean_distance(begin[:, 1] - middle, end[:, 1] - middle)
            spread = float(np.average(distance, weights=weight))
        else:  # dots alone
            middle, spread = float(points[:, 1].mean()), 0.0
        level = spread <= 1e-3 * float(np.ptp(points[:, 0]))
        width = float(np.ptp(points[:, 0]))
        scale = 0.25 / spread if not level else (1.0 / width if width > 0 else 1.0)
        origin = np.array([points[:, 0].min(), middle])
        moved = [(stroke - origin) * scale for stroke in self.strokes]
        return Ink(moved, self.text, self.writer, dict(self.extra))

    def resampled(self, spacing: float) -> "Ink":
        """Points `spacing` apart along each stroke, by straight lines between those that there are.

        The first point of a stroke stays; a stroke shorter than the spacing keeps one point, or two
        where it is longer than half of it.
        """
        if not spacing > 0:
            raise ValueError(f"spacing must be above 0, got {spacing}")
        return Ink(
            [_resample(stroke, spacing) for stroke in self.strokes],
            self.text,
            self.writer,
            dict(self.extra),
        )


def _mean_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean of |y| over each straight piece from height a to height b."""
    crosses = a * b < 0
    rise = np.where(crosses, np.abs(b - a), 1.0)
    return np.where(crosses, (a * a + b * b) / (2 * rise), np.abs(a + b) / 2)


def _resample(stroke: np.ndarray, spacing: float) -> np.ndarray:
    place = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
    count = int(round(place[-1] / spacing))
    wanted = np.minimum(np.arange(count + 1) * spacing, place[-1])
    keep = np.concatenate([[True], np.diff(place) > 0])
    return np.stack([np.interp(wanted, place[keep], stroke[keep, i]) for i in (0, 1)], axis=1)
