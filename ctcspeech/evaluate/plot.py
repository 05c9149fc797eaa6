"""Pictures of what a recogniser heard, and of how a model was trained.

    figure = plot_recording(samples, 16000, emissions, words, trellis=trellis(emissions, aligned))
    figure.savefig("heard.png")
    plot_training("runs/english").savefig("curves.svg")

Figures are matplotlib's, made without pyplot: nothing global, no display. Whatever the length of
the recording, no panel holds more columns than can be seen; a time range shows more.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctcspeech.align.known_text import AlignedText
from ctcspeech.decode.hypothesis import Word
from ctcspeech.emissions import Emissions
from ctcspeech.errors import TrainingError

__all__ = ["AttentionMap", "Trellis", "plot_recording", "plot_training", "trellis"]

_COLUMNS = 3000  # of a panel, at most
_MOST_LABELS = 48  # rows of the emissions; where there are more labels, the most probable
_LARGEST_TRELLIS = 4_000_000  # frames times states
_DECIBELS = 80.0  # range of the spectrogram
_INK, _WORD, _PATH = "#22304a", "#c2410c", "#e11d48"


@dataclass
class Trellis:
    """The lattice of a known text in a stretch of a recording: what the textbooks draw."""

    occupation: np.ndarray  # (T, S) probability of each state at each frame, S = 2 L + 1
    path: np.ndarray  # (T,) state of the best path
    names: list[str]  # (S,) of the states, the blank's "∅"
    times: tuple[float, float]  # seconds: start of the first frame, end of the last


@dataclass
class AttentionMap:
    """Where an attention decoder looked for each label of a text and for its end."""

    weights: np.ndarray  # (L + 1, T)
    names: list[str]  # (L + 1,) of the labels, the end's "⏎"
    times: tuple[float, float]  # seconds: start of the first frame, end of the last


def trellis(
    emissions: Emissions, aligned: AlignedText, start: float = 0.0, end: float = math.inf
) -> Trellis:
    """Occupation (alpha beta, normalised) and best path of the text between two times (seconds).

    The stretch is cut out of the alignment: of the text only what was aligned within it. Raises
    ValueError where that is still too large to be seen, TypeError for wildcards (`skip`).
    """
    from ctcspeech.ctc import posteriors

    alignment = aligned.alignment
    first, last = _frame_range(emissions, start, end)
    chosen = np.flatnonzero((alignment.ends > first) & (alignment.starts < last))
    labels = alignment.labels[chosen]
    if (labels < 0).any():
        raise TypeError("a trellis cannot be drawn for words that the alphabet cannot write")
    frames, states = last - first, 2 * len(labels) + 1
    if frames * states > _LARGEST_TRELLIS:
        raise ValueError(
            f"the trellis has {frames} frames of {states} states: too many to be seen; choose a "
            "shorter range of time"
        )
    scores = np.asarray(emissions.scores[first:last], np.float64)
    gamma = posteriors(scores, labels, [frames], [len(labels)], blank=emissions.blank)
    path = np.zeros(frames, np.int64)
    for k, label in enumerate(chosen):
        begin, stop = alignment.starts[label] - first, alignment.ends[label] - first
        path[max(begin, 0) : max(stop, 0)] = 2 * k + 1
        path[max(stop, 0) :] = 2 * k + 2
    names = ["∅"] * states
    names[1::2] = [_shown(emissions.labels[label]) for label in labels]
    times = emissions.seconds([first, last])
    return Trellis(gamma, path, names, (float(times[0]), float(times[1])))


def plot_recording(
    samples: np.ndarray,
    sample_rate: int,
    emissions: Emissions,
    words: Sequence[Word] = (),
    *,
    offset: float = 0.0,
    trellis: Trellis | None = None,
    attention: AttentionMap | None = None,
    title: str = "",
) -> Figure:
    """Waveform, log spectrogram, emissions over the alphabet, and words with their boundaries.

    Args:
        samples: (S,) the part of the recording that is shown; it begins `offset` seconds from the
            recording's start, from where the times of emissions and words count.
        trellis, attention: drawn each in a panel of its own.

    Raises ValueError if there are no samples.
    """
    if not len(samples):
        raise ValueError("there is nothing to draw: the range of time has no samples")
    end = offset + len(samples) / sample_rate
    rows = _label_rows(emissions, offset, end)
    heights = [1.0, 2.0, max(1.5, 0.17 * len(rows))]  # inches
    if trellis is not None:
        heights.append(min(max(2.0, 0.12 * len(trellis.names)), 12.0))
    if attention is not None:
        heights.append(min(max(2.0, 0.17 * len(attention.names)), 12.0))
    width = min(max(9.0, 1.8 * (end - offset)), 24.0)
    figure = Figure(figsize=(width, sum(heights) + 1.2), dpi=110, layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _waveform(panels[0], samples, sample_rate, offset)
    _spectrogram(panels[1], samples, sample_rate, offset)
    _emissions(panels[2], emissions, rows, (offset, end), heights[2])
    if trellis is not None:
        _trellis(panels[3], trellis, heights[3])
    if attention is not None:
        draw_attention(panels[-1], attention, heights[-1])
    shown = [word for word in words if word.end > offset and word.start < end]
    _words(panels, shown, offset, end, width)
    panels[-1].set_xlabel("time (s)")
    panels[-1].set_xlim(offset, end)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _waveform(panel: Axes, samples: np.ndarray, rate: int, offset: float) -> None:
    """Lowest and highest sample of each column."""
    count = min(len(samples), _COLUMNS)
    edges = np.linspace(0, len(samples), count + 1).astype(int)
    low = np.minimum.reduceat(samples, edges[:-1])
    high = np.maximum.reduceat(samples, edges[:-1])
    times = offset + edges[:-1] / rate
    if count == len(samples):
        panel.plot(times, samples, color=_INK, linewidth=0.6)
    else:
        panel.fill_between(times, low, high, color=_INK, linewidth=0.3)
    largest = max(float(np.abs(samples).max()), 1e-6) * 1.05
    panel.set_ylim(-largest, largest)
    panel.set_ylabel("amplitude")


def _spectrogram(panel: Axes, samples: np.ndarray, rate: int, offset: float) -> None:
    """Power of 20 ms windows in dB below the loudest."""
    size = max(int(0.02 * rate), 2)
    padded = np.pad(samples, size // 2)  # a window's middle is its time
    hop = max(int(0.005 * rate), len(samples) // _COLUMNS + 1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (W, size)
    points = 1 << (2 * size - 1).bit_length()
    power = np.abs(np.fft.rfft(windows * np.hanning(size), points)) ** 2  # (W, points / 2 + 1)
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    decibels -= decibels.max()
    start = offset - hop / 2 / rate
    extent = (start, start + len(windows) * hop / rate, 0.0, rate / 2000)
    panel.imshow(
        decibels.T, origin="lower", aspect="auto", extent=extent, cmap="magma",
        vmin=-_DECIBELS, vmax=0.0, interpolation="nearest",
    )  # fmt: skip
    panel.set_ylabel("frequency (kHz)")


def _frame_range(emissions: Emissions, start: float, end: float) -> tuple[int, int]:
    """Frames that are at least partly between two times."""
    shift = emissions.frame_shift_ms / 1000
    first = max(0, math.floor((start - emissions.start) / shift + 1e-6))
    last = len(emissions)
    if math.isfinite(end):
        last = min(last, math.ceil((end - emissions.start) / shift - 1e-6))
    return min(first, last), last


def _label_rows(emissions: Emissions, start: float, end: float) -> np.ndarray:
    """The labels that are drawn, in their order, the blank first."""
    labels: np.ndarray = np.arange(len(emissions.labels))
    if len(labels) > _MOST_LABELS:
        first, last = _frame_range(emissions, start, end)
        part = emissions.scores[first:last]
        part = part - part.max(axis=1, keepdims=True, initial=-np.inf)
        best = part.max(axis=0, initial=-np.inf)
        best[emissions.blank] = np.inf
        labels = np.sort(np.argsort(-best, kind="stable")[:_MOST_LABELS])
    others = labels[labels != emissions.blank]
    return np.concatenate([[emissions.blank], others])


def _emissions(
    panel: Axes,
    emissions: Emissions,
    rows: np.ndarray,
    shown_times: tuple[float, float],
    inches: float,
) -> None:
    first, last = _frame_range(emissions, *shown_times)
    part = Emissions(
        emissions.scores[first:last], emissions.labels, emissions.blank, emissions.frame_shift_ms
    )
    shown = _fewer(np.exp(part.log_probs())[:, rows], axis=0)
    times = emissions.seconds([first, last])
    names = [_shown(emissions.labels[row]) for row in rows]
    names[0] = "∅"
    _heat_map(panel, shown.T, (float(times[0]), float(times[1])), "Blues")
    _name_rows(panel, names, inches)
    panel.set_ylabel("label (probability)")


def _trellis(panel: Axes, trellis: Trellis, inches: float) -> None:
    begin, stop = trellis.times
    _heat_map(panel, _fewer(trellis.occupation, axis=0).T, trellis.times, "Greens")
    times = np.linspace(begin, stop, len(trellis.path) + 1)
    panel.step(
        times, np.append(trellis.path, trellis.path[-1:]), where="post", color=_PATH,
        linewidth=1.0, label="best path",
    )  # fmt: skip
    panel.invert_yaxis()
    _name_rows(panel, trellis.names, inches, first=1)  # the blanks between need no name
    panel.set_ylabel("state (occupation)")
    panel.legend(loc="upper right", fontsize="small", framealpha=0.9)


def draw_attention(panel: Axes, attention: AttentionMap, inches: float) -> None:
    """The weights, a row a label from above, in a panel so high."""
    _heat_map(panel, _fewer(attention.weights, axis=1), attention.times, "Purples")
    panel.invert_yaxis()
    _name_rows(panel, [_shown(name) for name in attention.names], inches)
    panel.set_ylabel("label (attention)")


def _heat_map(panel: Axes, values: np.ndarray, times: tuple[float, float], colors: str) -> None:
    """values (rows, columns) in [0, 1]; small ones are made visible by their square roots."""
    if not values.shape[1]:
        return
    panel.imshow(
        values, origin="lower", aspect="auto", cmap=colors, norm=PowerNorm(0.5, 0.0, 1.0),
        extent=(*times, -0.5, len(values) - 0.5), interpolation="nearest",
    )  # fmt: skip


def _name_rows(panel: Axes, names: list[str], inches: float, first: int = 0) -> None:
    """Each row's name, or of every so many, so that they can be read; `first` and on are named."""
    step = 1 + first
    while len(names) / step * 0.085 > inches:
        step += 1 + first
    panel.set_yticks(range(first, len(names), step), names[first::step])
    panel.tick_params(axis="y", labelsize=min(9.0, max(5.5, 62 * inches * step / len(names))))


def _fewer(values: np.ndarray, axis: int) -> np.ndarray:
    """The largest of neighbouring values, where there are more than can be seen."""
    count = values.shape[axis]
    if count <= _COLUMNS:
        return values
    edges = np.arange(0, count, -(-count // _COLUMNS))
    return np.maximum.reduceat(values, edges, axis=axis)


def _words(
    panels: Sequence[Axes], words: Sequence[Word], start: float, end: float, width: float
) -> None:
    """Boundaries over all panels, names above the first, as far as there is room for them."""
    inches = width * 0.9 / (end - start)  # a second
    if len(words) > 60 * width:  # nothing but lines would be seen
        return
    for panel in panels:
        for word in words:
            for time in (word.start, word.end):
                panel.axvline(time, color=_WORD, linewidth=0.6, alpha=0.55)
    top = panels[0]
    for word in words:
        top.axvspan(word.start, word.end, color=_WORD, alpha=0.10, linewidth=0)
    if not words:
        return
    # Names stand upright where one of them has no room to lie.
    room = [inches * (following - word.start) for word, following in _with_next(words, end)]
    upright = any(
        0.085 * (len(word.text) + 1) > space for word, space in zip(words, room, strict=True)
    )
    free = -math.inf
    for word in words:
        middle = (max(word.start, start) + min(word.end, end)) / 2
        if (middle - free) * inches < (0.13 if upright else 0):
            continue  # left out: it would be written over the one before
        free = middle
        top.text(
            middle, 1.03, word.text, transform=top.get_xaxis_transform(), ha="center", va="bottom",
            rotation=90 if upright else 0, fontsize=8 if upright else 9, color=_WORD,
        )  # fmt: skip


def _with_next(words: Sequence[Word], end: float) -> list[tuple[Word, float]]:
    """Each word with the start of the next one."""
    starts = [word.start for word in words[1:]] + [max(end, words[-1].end)]
    return list(zip(words, starts, strict=True))


def _shown(label: str) -> str:
    """A label as it can be seen, and as no markup of matplotlib's."""
    return {" ": "␣", "$": r"\$"}.get(label, label.replace("$", r"\$"))


# -- training ---------------------------------------------------------------------------------


def plot_training(run: str | os.PathLike[str]) -> Figure:
    """The curves of a run's `metrics.jsonl`: loss, error rates, learning rate and gradient.

    Raises TrainingError if the folder has no metrics or they cannot be read.
    """
    steps, epochs = _metrics(Path(run) / "metrics.jsonl")
    figure = Figure(figsize=(10, 9), dpi=110, layout="constrained")
    losses, errors, rates = figure.subplots(3, 1, sharex=True)
    _curve(losses, steps, "loss", "training, steps", color="#9db4d6", linewidth=0.7)
    _curve(losses, epochs, "loss", "training, epochs", color=_INK, marker=".")
    _curve(losses, epochs, "validation_loss", "validation", color=_WORD, marker=".")
    positive = [row["loss"] for row in steps + epochs if row.get("loss", 0) > 0]
    if positive and max(positive) > 20 * min(positive):
        losses.set_yscale("log")
    losses.set_ylabel("CTC loss")
    _curve(errors, epochs, "validation_wer", "WER", 100, color=_INK, marker=".")
    _curve(errors, epochs, "validation_cer", "CER", 100, color=_WORD, marker=".")
    errors.set_ylabel("validation error (%)")
    errors.set_ylim(bottom=0)
    _curve(rates, steps, "learning_rate", "learning rate", color=_INK)
    rates.set_ylabel("learning rate")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    gradients = rates.twinx()
    _curve(gradients, steps, "gradient_norm", "gradient norm", color="#c08f76", linewidth=0.7)
    gradients.set_ylabel("gradient norm", color="#a8735a")
    gradients.set_yscale("log")
    for panel in (losses, errors, rates):
        panel.grid(alpha=0.25)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small", loc="upper right")
    rates.set_xlabel("step")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(str(run), fontsize="medium")
    return figure


def _metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of steps and of epochs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}; is this a run?") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "kind": str(row["kind"])})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a run that goes on may be writing it
                continue
            raise TrainingError(f"{path}:{number}: no line of metrics: {error!r}") from error
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    if not steps and not epochs:
        raise TrainingError(f"{path} has no metrics yet")
    return steps, epochs


def _curve(
    panel: Axes, rows: list[dict[str, Any]], key: str, label: str, factor: float = 1, **style: Any
) -> None:
    points = [(row["step"], factor * row[key]) for row in rows if key in row]
    if points:
        x, y = zip(*points, strict=True)
        panel.plot(x, y, label=label, **style)
