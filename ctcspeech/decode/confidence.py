"""Confidences that mean what they say: of the words with confidence 0.9, nine of ten are right.

    calibration = fit(confidences, correct)           # on words of a development set
    calibration(0.83)                                 # a probability
    calibration_error(confidences, correct)           # how far confidences are from the truth

A decoder's raw confidence is mapped through a logistic function of its log-odds (Platt 1999,
Probabilistic Outputs for Support Vector Machines; on the log-odds with slope 1 / temperature it is
the temperature scaling of Guo et al. 2017 with an offset). The fit is stored with the model, one
for each kind of decoder, in `confidence.json`:

    {"format": "ctcspeech confidence", "version": 1,
     "decoders": {"greedy": {"slope": 1.2, "intercept": -0.3, "words": 5210}}}
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import CheckpointError
from ctcspeech.files import atomic_write, parse_json
from ctcspeech.text.error_rates import align

__all__ = [
    "Calibration",
    "calibration_error",
    "correct_words",
    "fit",
    "load_calibrations",
    "save_calibration",
]

FILE = "confidence.json"
FORMAT, VERSION = "ctcspeech confidence", 1
_EDGE = 1e-6  # confidences are kept so far from 0 and 1, whose log-odds are infinite


@dataclass(frozen=True)
class Calibration:
    """p = 1 / (1 + exp(-(slope * log-odds(raw) + intercept)))."""

    slope: float
    intercept: float
    words: int = 0  # that it was fitted on

    def __call__(self, raw: float) -> float:
        """The calibrated confidence of a raw one, both in [0, 1]."""
        return float(_sigmoid(self.slope * _log_odds(np.array([raw])) + self.intercept)[0])

    def apply(self, hypothesis: Hypothesis) -> Hypothesis:
        """The hypothesis with the confidences of its words calibrated."""
        words = [
            word if word.confidence is None else replace(word, confidence=self(word.confidence))
            for word in hypothesis.words
        ]
        return replace(hypothesis, words=words)


def fit(confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """The calibration of most likelihood on words whose raw confidences (W,) are known to be right
    or wrong (W,).

    Platt's smoothed targets keep it finite where all words are right or the classes are separated;
    a slope below 0 is not taken: then only the share of right words is. Raises ValueError for
    nothing to fit on, different lengths, or values outside [0, 1].
    """
    raw, right = _checked(confidences, correct)
    positive, negative = right.sum(), (~right).sum()
    targets = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    x = _log_odds(raw)
    slope, intercept = _newton(x, targets)
    if not slope > 0:
        share = targets.mean()
        slope, intercept = 0.0, math.log(share / (1 - share))
    return Calibration(slope, intercept, len(raw))


def _newton(x: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Logistic regression of targets (W,) in [0, 1] on x (W,): Newton's method with halved steps.

    A ridge of 1e-6 a word keeps it defined where all x are the same.
    """
    design = np.stack([x, np.ones_like(x)], axis=1)  # (W, 2)
    ridge = 1e-6 * len(x)

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        return float((np.logaddexp(0, z) - targets * z).sum() + ridge / 2 * weights @ weights)

    weights = np.array([1.0, 0.0])
    current = loss(weights)
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - targets) + ridge * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (new := loss(weights - scale * step)) > current and scale > 1e-6:
            scale /= 2
        weights = weights - scale * step
        if current - new < 1e-10 * (1 + abs(current)):
            break
        current = new
    return float(weights[0]), float(weights[1])


def calibration_error(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = 15
) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): over `bins` equal parts of [0, 1],
    the mean of |share right - mean confidence|, each part weighted by its words."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, right = _checked(confidences, correct)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    difference = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(difference).sum() / len(confidence))


def correct_words(reference: str, words: Iterable[Word]) -> tuple[list[float], list[bool]]:
    """The confidences of recognised words and whether they are right, by the alignment of least
    errors with the reference. Words without a confidence are left out."""
    words = list(words)
    expected = reference.split()
    confidences, correct = [], []
    for r, h in align(expected, [word.text for word in words]):
        if h is None:
            continue
        confidence = words[h].confidence
        if confidence is not None:
            confidences.append(min(max(confidence, 0.0), 1.0))
            correct.append(r is not None and expected[r] == words[h].text)
    return confidences, correct


def save_calibration(folder: str | os.PathLike[str], decoder: str, value: Calibration) -> None:
    """Puts the calibration of a kind of decoder into a model's folder, beside those of others."""
    decoders = {**load_calibrations(folder), decoder: value}
    values = {
        "format": FORMAT,
        "version": VERSION,
        "decoders": {name: asdict(calibration) for name, calibration in decoders.items()},
    }
    with atomic_write(Path(folder) / FILE) as file:
        file.write(json.dumps(values, indent=1) + "\n")


def load_calibrations(folder: str | os.PathLike[str]) -> dict[str, Calibration]:
    """The calibrations in a model's folder by kind of decoder; none where it has no such file.

    Raises CheckpointError for a damaged file or an unknown version.
    """
    file = Path(folder) / FILE
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    try:
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise CheckpointError(
                f"{file} has format {values['format']!r}, version {values['version']!r}; this "
                f"release reads {FORMAT!r}, version {VERSION}: fit it anew with "
                "ctcspeech evaluate --calibrate"
            )
        return {
            name: Calibration(
                _finite(v["slope"]), _finite(v["intercept"]), int(_finite(v.get("words", 0)))
            )
            for name, v in values["decoders"].items()
        }
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error!r}") from error


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"slope, intercept and words must be finite numbers, got {value!r}")
    return float(value)


def _checked(
    confidences: Sequence[float], correct: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    raw = np.asarray(confidences, np.float64)
    right = np.asarray(correct, bool)
    if raw.ndim != 1 or raw.shape != right.shape or not len(raw):
        raise ValueError(
            "confidences and correct must be sequences of one length, at least 1; got shapes "
            f"{raw.shape} and {right.shape}"
        )
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError("confidences must be in [0, 1]")
    return raw, right


def _log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
