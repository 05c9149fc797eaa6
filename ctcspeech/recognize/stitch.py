"""Joining what the model says about overlapping segments: emissions, never text.

Two segments that overlap are two opinions on the same frames. They are joined at the frame around
which both say the same thing with the most certainty, most often that there is a pause; so a label
stands on one side of the seam in both opinions, and is neither lost nor doubled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctcspeech.recognize.cut import Segment
from ctcspeech.text.alphabet import Alphabet

__all__ = ["Stitcher", "Stretch", "join_emissions"]

_REACH = 3  # frames on either side of a seam over which both must agree
_CENTRE_WEIGHT = 0.05  # what the edge of the overlap costs, in probability


@dataclass
class Stretch:
    """Emissions that can be decoded alone: from one pause of the recording to another."""

    start: float  # seconds in the recording
    end: float
    emissions: np.ndarray  # (T, C)


def join_emissions(
    before: np.ndarray, after: np.ndarray, overlap: int, classes: int | None = None
) -> np.ndarray:
    """One sequence of emissions from two of which the last and the first `overlap` frames coincide.

    before (T1, C) and after (T2, C) are logits or log-probabilities; the result is
    (T1 + T2 - overlap, C). The seam lies in the middle half of the overlap, where each side still
    has some context. classes: what stands beyond so many columns (the encoder's states, say) goes
    along and has no say.
    """
    if not 0 <= overlap <= min(len(before), len(after)):
        raise ValueError(
            f"overlap must be at least 0 and at most the {min(len(before), len(after))} frames of "
            f"the shorter side, got {overlap}"
        )
    seam = _seam(before[len(before) - overlap :, :classes], after[:overlap, :classes])
    return np.concatenate([before[: len(before) - overlap + seam], after[seam:]])


def _seam(before: np.ndarray, after: np.ndarray) -> int:
    """The frame of the overlap (V, C) from which on `after` is taken."""
    frames = len(before)
    if frames < 4:
        return frames // 2
    agreed = np.minimum(_softmax(before), _softmax(after))  # (V, C)
    first = max(frames // 4, 1)
    places = np.arange(first, frames - first + 1)
    # For each place, the label that both hold most certainly over the frames around it.
    certainty = np.full((len(places), agreed.shape[1]), np.inf, dtype=agreed.dtype)
    for step in range(-_REACH, _REACH):
        frame = np.clip(places + step, 0, frames - 1)
        np.minimum(certainty, agreed[frame], out=certainty)
    distance = np.abs(places - frames / 2) / (frames / 2)
    return int(places[np.argmax(certainty.max(axis=1) - _CENTRE_WEIGHT * distance)])


def _softmax(emissions: np.ndarray) -> np.ndarray:
    powers = np.exp(emissions - emissions.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class Stitcher:
    """Puts together the segments of one recording, in order, into stretches between pauses.

    Memory is bounded: what goes on without a pause for `max_frames` is divided where a word ends.
    """

    def __init__(self, alphabet: Alphabet, frame_samples: int, max_frames: int) -> None:
        """frame_samples: samples to a frame of emissions, the `grain` of the segments' cuts."""
        self.alphabet = alphabet
        self.frame_samples = frame_samples
        self.max_frames = max_frames
        self._first = 0  # frame of the recording at which _pending begins
        self._pending: np.ndarray | None = None

    def add(self, segment: Segment, emissions: np.ndarray) -> list[Stretch]:
        """The next segment with its emissions (T, C), context included: what is complete now.

        Columns beyond those of the alphabet's labels, the encoder's states, go along.
        """
        first = segment.offset // self.frame_samples
        if self._pending is None:
            self._first, pending = first, emissions
        else:
            overlap = self._first + len(self._pending) - first
            overlap = min(max(overlap, 0), len(self._pending), len(emissions))
            pending = join_emissions(self._pending, emissions, overlap, len(self.alphabet))
        stretches = []
        context = -(-2 * segment.tail // self.frame_samples)  # frames that will overlap the next
        seconds = self.frame_samples / segment.sample_rate
        if segment.tail and len(pending) - context > self.max_frames:
            scores = pending[: len(pending) - context, : len(self.alphabet)]
            place = word_end(scores, self.alphabet)
            middle = self._first + place
            part = pending[:place]
            stretches.append(Stretch(self._first * seconds, middle * seconds, part))
            self._first, pending = middle, pending[place:]
        if segment.tail:
            self._pending = pending.copy()  # not a view that keeps alive what was given out
        else:
            stretches.append(Stretch(self._first * seconds, segment.end, pending))
            self._pending = None
        return stretches


def word_end(emissions: np.ndarray, alphabet: Alphabet) -> int:
    """The last frame (T, C) has before which a word ends by the best path, in the second half.

    Where the path shows no end of a word there, the middle of its longest run of blanks.
    """
    path = emissions.argmax(axis=1)
    half = len(path) // 2
    if alphabet.space is not None:
        space = path == alphabet.space
        ends = np.flatnonzero(space[:-1] & ~space[1:]) + 1
    else:
        begins = np.array([label.startswith("▁") for label in alphabet.labels])
        begins[alphabet.blank] = False
        ends = np.flatnonzero(begins[path] & (np.diff(path, prepend=-1) != 0))
    ends = ends[ends >= max(half, 1)]
    if len(ends):
        return int(ends[-1])
    return _middle_of_longest_run(path[half:] == alphabet.blank) + half


def _middle_of_longest_run(flags: Sequence[bool] | np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    if not len(edges):
        return len(flags) // 2
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest] + ends[longest]) // 2
