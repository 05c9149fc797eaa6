"""Pen strokes coloured by the label that the network emits at each point.

figure = plot_ink(read_inkml("word.inkml"), emissions)
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctcspeech.emissions import Emissions
from ctcspeech.pen import SPACING, Ink

__all__ = ["emitted_labels", "plot_ink"]

_BLANK = "#c9c9c9"


def emitted_labels(emissions: Emissions, points: int) -> np.ndarray:
    """(P,) the label with the highest score at each of P points, an index into `labels`.

    A frame of emissions stands for as many points as the network takes for it.
    """
    if not len(emissions) or not points:
        return np.full(points, emissions.blank)
    frames = np.minimum(np.arange(points) * len(emissions) // points, len(emissions) - 1)
    return emissions.scores.argmax(axis=1)[frames]


def plot_ink(ink: Ink, emissions: Emissions, title: str = "") -> Figure:
    """The strokes, every point in the colour of its label, grey for the blank; below them the
    probability of each label along the line.

    emissions: of the features of this ink, `ctcspeech.pen.ink_features`.
    """
    drawn = ink.normalized().resampled(SPACING)
    labels = emitted_labels(emissions, len(drawn))
    written = [k for k in dict.fromkeys(labels.tolist()) if k != emissions.blank]
    palette = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colors = {k: palette[i % len(palette)] for i, k in enumerate(written)}
    points = np.concatenate(drawn.strokes)
    width = min(max(7.0, 0.9 * float(np.ptp(points[:, 0]))), 24.0)
    figure = Figure(figsize=(width, 6.0), dpi=110, layout="constrained")
    page, below = figure.subplots(2, 1, height_ratios=[3, 2])
    _strokes(page, drawn, labels, colors)
    spikes = [i for i in range(len(labels)) if _begins(labels, i, emissions.blank)]
    for i in spikes:
        page.annotate(
            _name(emissions, int(labels[i])), points[i], xytext=(0, 9), textcoords="offset points",
            ha="center", fontsize=9, color=colors[int(labels[i])],
        )  # fmt: skip
    page.set_title(title, fontsize="medium")
    probabilities = np.exp(emissions.log_probs())
    for k in written:
        below.plot(probabilities[:, k], color=colors[k], linewidth=1.1, label=_name(emissions, k))
    below.plot(probabilities[:, emissions.blank], color=_BLANK, linewidth=0.8, label="∅")
    below.set_xlabel("frame of emissions, along the line")
    below.set_ylabel("probability")
    below.legend(ncols=12, fontsize="x-small", loc="upper right")
    return figure


def _strokes(panel: Axes, ink: Ink, labels: np.ndarray, colors: dict) -> None:
    begin = 0
    for stroke in ink.strokes:
        panel.plot(stroke[:, 0], stroke[:, 1], color="#e3e3e3", linewidth=1.0, zorder=0)
        marks = [colors.get(int(k), _BLANK) for k in labels[begin : begin + len(stroke)]]
        panel.scatter(stroke[:, 0], stroke[:, 1], c=marks, s=13, linewidths=0)
        begin += len(stroke)
    panel.set_aspect("equal")
    panel.invert_yaxis()
    panel.set_axis_off()


def _begins(labels: np.ndarray, i: int, blank: int) -> bool:
    """Whether a run of one label begins at a point: there the network writes it."""
    return labels[i] != blank and (i == 0 or labels[i] != labels[i - 1])


def _name(emissions: Emissions, label: int) -> str:
    return {" ": "␣", "$": r"\$"}.get(emissions.labels[label], emissions.labels[label])
