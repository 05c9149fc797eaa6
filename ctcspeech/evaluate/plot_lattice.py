"""Alpha, beta and occupation as pictures, with every state named: what the textbooks draw.

figure = plot_lattice(forward_backward(log_probs, labels), names, log_probs)
figure = plot_lattice(*example("cat"))
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctcspeech.ctc.lattice import Lattice, forward_backward

__all__ = ["example", "plot_lattice"]

LARGEST = 4000  # circles that can still be told apart
_INK, _PATH = "#22304a", "#e11d48"
_FLOOR = 12.0  # alpha and beta are drawn down to e^-12 of the largest of their frame


def example(text: str, frames: int | None = None) -> tuple[Lattice, list[str], np.ndarray]:
    """A small made-up utterance of a text: its lattice, the names of the classes, log_probs (T, C).

    Each letter is probable around its place, its neighbours a little, the blank between; so there
    is something to see, and nothing is random. `frames`: by default two a letter and three more.

    Raises ValueError where the text is empty or does not fit into the frames.
    """
    letters = sorted(set(text))
    if not letters:
        raise ValueError("the text is empty: give at least one letter")
    repeats = sum(a == b for a, b in zip(text, text[1:], strict=False))
    frames = 2 * len(text) + 3 if frames is None else frames
    if frames < len(text) + repeats:
        raise ValueError(
            f"{text!r} needs at least {len(text) + repeats} frames ({len(text)} letters + "
            f"{repeats} repeats), got {frames}"
        )
    labels = [1 + letters.index(letter) for letter in text]
    places = (np.arange(len(text)) + 0.5) * frames / len(text) - 0.5
    scores = np.zeros((frames, 1 + len(letters)))
    scores[:, 0] = 1.2
    for place, label in zip(places, labels, strict=True):
        scores[:, label] += 3.0 * np.exp(-0.5 * (np.arange(frames) - place) ** 2)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return forward_backward(log_probs, labels), ["∅", *letters], log_probs


def plot_lattice(lattice: Lattice, names: Sequence[str], log_probs: np.ndarray) -> Figure:
    """Emissions, alpha, beta and occupation; a circle a state and frame, its area the value.

    names: of the C classes. log_probs (T, C): what the lattice was made of. alpha and beta are
    shown relative to the largest value of their frame, in logarithms; occupation as it is.

    Raises ValueError where there are too many states and frames to be told apart.
    """
    frames, states = lattice.alpha.shape
    if frames * states > LARGEST:
        raise ValueError(
            f"{frames} frames of {states} states are too many to tell apart (at most {LARGEST}): "
            "choose a shorter range of time, or a shorter text"
        )
    height = max(1.6, 0.28 * states)
    heights = [max(1.2, 0.22 * len(names)), height, height, height]
    width = min(max(6.0, 0.42 * frames + 2.0), 24.0)
    figure = Figure(figsize=(width, sum(heights) + 1.6), dpi=110, layout="constrained")
    panels = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    panels[0].imshow(np.exp(log_probs).T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_title("emissions: the probability of each class", fontsize="medium", loc="left")
    state_names = [names[state] for state in lattice.states]
    titles = ("α: all ways into a state", "β: all ways out of it", "γ = α β / P: its occupation")
    values = (_relative(lattice.alpha), _relative(lattice.beta), lattice.occupation)
    for panel, title, value in zip(panels[1:], titles, values, strict=True):
        _circles(panel, value, state_names)
        panel.set_title(title, fontsize="medium", loc="left")
    best = lattice.occupation.argmax(axis=1)
    panels[3].plot(best, color=_PATH, linewidth=0.8, alpha=0.7, zorder=0)
    panels[-1].set_xlabel("frame t")
    panels[-1].set_xticks(range(0, frames, max(1, frames // 20)))
    text = "".join(state_names[1::2])
    figure.suptitle(f"ln P({text}) = {lattice.log_prob:.3f}", fontsize="medium")
    return figure


def _relative(logs: np.ndarray) -> np.ndarray:
    """(T, S) logarithms to [0, 1] within each frame: 1 the largest, 0 at e^-_FLOOR of it."""
    largest = logs.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.clip(1 + np.nan_to_num(logs - largest, nan=-np.inf) / _FLOOR, 0, 1)


def _circles(panel: Axes, values: np.ndarray, names: list[str]) -> None:
    frames, states = values.shape
    t, s = np.meshgrid(np.arange(frames), np.arange(states), indexing="ij")
    label = s % 2 == 1
    faces = np.where(label.reshape(-1, 1), "#2f6f4f", "#b9b4a7").reshape(-1)
    panel.scatter(
        t.ravel(), s.ravel(), s=170, facecolors="none", edgecolors="#d8d8d8", linewidths=0.5
    )
    panel.scatter(t.ravel(), s.ravel(), s=170 * values.ravel(), c=faces, linewidths=0)
    panel.set_yticks(range(states), names)
    panel.set_ylim(states - 0.4, -0.6)
    panel.set_ylabel("state s")
    panel.tick_params(axis="y", labelcolor=_INK)
