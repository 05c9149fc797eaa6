"""Handwriting made from single-line (Hershey) fonts: every hand writes in its own way.

A hand is a font's strokes with a slant, proportions, the habit of joining strokes, and distortions;
each piece that it writes differs a little: smooth noise bends the lines, letters shift, corners are
rounded off. Everything follows from the hand's number and the piece's.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from HersheyFonts import HersheyFonts

from ctcspeech.pen import Ink

FONTS = ("futural", "futuram", "rowmans", "rowmand", "scripts", "scriptc", "timesr")
HELD_OUT_FONTS = ("cursive", "timesi")  # of the hands that training never sees


@dataclass(frozen=True)
class Hand:
    name: str
    font: str
    slant: float  # x moves by so much per unit of height
    width: float  # of letters, against their height
    spacing: float  # between letters, in units of the font
    rotation: float  # radians
    wobble: float  # of the lines, against the letters' height
    rounding: int  # points over which corners are smoothed

    @classmethod
    def of(cls, number: int, held_out: bool = False) -> "Hand":
        """The hand of a number. Held-out hands have fonts and seeds of their own."""
        random = np.random.default_rng([number, held_out, 7])
        fonts = HELD_OUT_FONTS if held_out else FONTS
        return cls(
            name=f"{'test' if held_out else 'hand'}{number:03}",
            font=fonts[number % len(fonts)],
            slant=random.normal(0.1, 0.2),
            width=random.uniform(0.7, 1.3),
            spacing=random.uniform(-1.0, 3.0),
            rotation=random.normal(0, 0.04),
            wobble=random.uniform(0.01, 0.05),
            rounding=int(random.integers(1, 6)),
        )


@cache
def glyph(font: str, letter: str) -> tuple[list[np.ndarray], float]:
    """The strokes of a letter, (P, 2) with y downward, and how far to the right it reaches."""
    fonts = HersheyFonts()
    fonts.load_default_font(font)
    strokes = [np.array(list(stroke), float) for stroke in fonts.strokes_for_text(letter)]
    strokes = [_joined(s) for s in strokes if len(s)]
    right = max((s[:, 0].max() for s in strokes), default=8.0)
    return strokes, float(right)


def _joined(stroke: np.ndarray) -> np.ndarray:
    keep = np.concatenate([[True], np.any(np.diff(stroke, axis=0) != 0, axis=1)])
    return stroke[keep]


def write(text: str, hand: Hand, seed: int) -> Ink:
    """A text as the hand writes it this time; the same for the same seed."""
    random = np.random.default_rng([seed, *hand.name.encode()])
    strokes: list[np.ndarray] = []
    x = 0.0
    for letter in text:
        if letter == " ":
            x += 14.0 + random.normal(0, 1.5)
            continue
        shapes, right = glyph(hand.font, letter)
        size = 1 + random.normal(0, 0.06)
        shift = np.array([x, random.normal(0, 0.6)])
        strokes += [_dense(shape) * [size, size] + shift for shape in shapes]
        x += right * size + hand.spacing + random.normal(0, 0.6)
    strokes = _bend(strokes, hand.wobble * 21.0, random)
    strokes = [_smooth(stroke, hand.rounding) for stroke in strokes]
    slant = hand.slant + random.normal(0, 0.04)
    angle = hand.rotation + random.normal(0, 0.02)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = turn @ np.array([[hand.width, -slant], [0.0, 1.0]])
    return Ink([stroke @ affine.T for stroke in strokes], text, hand.name)


def _dense(stroke: np.ndarray, step: float = 0.7) -> np.ndarray:
    """Points about `step` apart, as a tablet would give them."""
    if len(stroke) == 1:
        return stroke
    place = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
    wanted = np.linspace(0, place[-1], max(2, int(place[-1] / step) + 1))
    return np.stack([np.interp(wanted, place, stroke[:, i]) for i in (0, 1)], axis=1)


def _bend(strokes: list[np.ndarray], size: float, random: np.random.Generator) -> list[np.ndarray]:
    """Elastic distortion (Simard et al. 2003): a smooth random field moves the points."""
    if not strokes:
        return strokes
    waves = [(random.normal(0, 0.12, 2), random.uniform(0, 2 * np.pi, 2)) for _ in range(6)]
    amounts = random.normal(0, size / np.sqrt(3), (6, 2))

    def moved(stroke: np.ndarray) -> np.ndarray:
        offset = np.zeros_like(stroke)
        for (frequency, phase), amount in zip(waves, amounts, strict=True):
            offset += amount * np.sin((stroke @ frequency)[:, None] * 2 + phase)
        return stroke + offset

    return [moved(stroke) for stroke in strokes]


def _smooth(stroke: np.ndarray, reach: int) -> np.ndarray:
    """A moving mean over 2 reach + 1 points; the ends stay."""
    if len(stroke) <= 2 * reach:
        return stroke
    padded = np.pad(stroke, ((reach, reach), (0, 0)), "edge")
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    smooth = np.stack([np.convolve(padded[:, i], kernel, "valid") for i in (0, 1)], axis=1)
    smooth[0], smooth[-1] = stroke[0], stroke[-1]
    return smooth
