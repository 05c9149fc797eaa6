"""Cutting long recordings into pieces that a model takes, without harm to any word.

    for segment in cut(audio.stream("talk.flac", 16000), 16000, max_seconds=20):
        ...

A cut goes into the middle of a silence. Where there is none within `max_seconds` it goes to the
quietest place, and the segments on both sides hear `context` seconds past it: what the model says
about the overlap is joined afterwards where both sides agree (`transcribe.join_emissions`).
Memory is that of one segment, whatever the length of the recording.

Ours, because detectors of speech tell where it is, and drop the rest: here every sample reaches the
model, and a cut must come within `max_seconds` though nobody pauses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Segment", "cut"]

_FRAMES_PER_SECOND = 100  # of the energies
_HISTORY_FRAMES = 60 * _FRAMES_PER_SECOND  # that the levels of noise and speech are taken from
_DYNAMIC_RANGE = 60.0  # dB below the level of speech at which everything is silence
_MIN_CONTRAST = 6.0  # dB between noise and speech below which silence cannot be told
_QUIET_SHARE = 0.25  # of the way from the noise to the speech that counts as silence
_LONG_SILENCE = 0.8  # seconds from which one silence is as good as any longer one


@dataclass
class Segment:
    """A piece of a recording: its own samples and, after a cut in sound, context on either side."""

    samples: np.ndarray  # (S,) float32: head context, own samples, tail context
    offset: int  # of samples[0] in the recording, in samples
    sample_rate: float  # a second of samples; of frames, where features take their place
    head: int = 0  # samples of context that belong to the segment before
    tail: int = 0  # samples of context that belong to the segment after

    @property
    def start(self) -> float:
        """Seconds from the start of the recording to the segment's own first sample."""
        return (self.offset + self.head) / self.sample_rate

    @property
    def end(self) -> float:
        """Seconds from the start of the recording to the end of the segment's own samples."""
        return (self.offset + len(self.samples) - self.tail) / self.sample_rate

    @property
    def own(self) -> np.ndarray:
        """The samples without the context. Those of all segments make up the recording."""
        return self.samples[self.head : len(self.samples) - self.tail]


def cut(
    chunks: Iterable[np.ndarray],
    sample_rate: int,
    max_seconds: float = 20.0,
    min_silence: float = 0.2,
    context: float = 1.5,
    grain: int = 1,
    pause: float = 0.4,
) -> Iterator[Segment]:
    """Cuts a stream of samples into segments of at most `max_seconds`.

    Args:
        chunks: float samples (S,) in any sizes; the sizes do not change the result.
        sample_rate: of the samples, in hertz.
        max_seconds: length of a segment, its context included. A recording that is not longer comes
            out as one segment.
        min_silence: seconds of quiet in which a cut may be made.
        context: seconds that two segments overlap on either side of a cut in sound.
        grain: every cut is at a multiple of so many samples (the model's frame shift, so that the
            frames of overlapping segments coincide).
        pause: a recording that has to be cut is cut at every quiet of so many seconds, if both
            sides get a second. Models are trained on utterances: within one they may have learnt
            of no pause, and would write the words around it as one.

    Silence is told from the energy of 10 ms frames, against levels of noise (10th percentile) and
    speech (95th) that follow the last minute. Where there is no such pause, the longest quiet of
    the later two thirds of a segment is taken, or else of its first third.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, but is {sample_rate}")
    if grain < 1:
        raise ValueError(f"grain must be at least 1 sample, but is {grain}")
    largest = int(max_seconds * sample_rate) // grain * grain
    overlap = -(-int(context * sample_rate) // grain) * grain
    if overlap < 0 or largest < max(4 * overlap, 4 * grain):
        raise ValueError(
            f"max_seconds must be at least four times the context ({context} s) and the frame "
            f"shift ({grain / sample_rate:.3f} s), but is {max_seconds}"
        )

    search = _Search(sample_rate, min_silence, pause, grain)
    waiting: list[np.ndarray] = []  # chunks not yet in `buffer`
    buffer: np.ndarray = np.zeros(0, dtype=np.float32)
    size = 0  # samples in buffer and waiting
    offset = head = 0
    for chunk in chunks:
        waiting.append(np.asarray(chunk, dtype=np.float32))
        size += len(chunk)
        if size < largest:
            continue
        buffer = np.concatenate([buffer, *waiting])
        waiting = []
        while len(buffer) >= largest:
            window = buffer[:largest]
            energies = _energies(window, sample_rate)
            search.learn(energies, offset)
            place = search.pause_in(energies, head) or search.quiet_in(energies, head)
            if place is not None:
                end, tail = place, 0
            else:
                place = _quietest_place(energies, sample_rate, largest, overlap, grain)
                end, tail = place + overlap, overlap
            yield Segment(window[:end].copy(), offset, sample_rate, head, tail)
            step = end - 2 * tail  # the next segment begins its context here
            buffer = buffer[step:]
            offset += step
            head = tail
        size = len(buffer)
    buffer = np.concatenate([buffer, *waiting])
    while offset and (place := search.pause_in(_energies(buffer, sample_rate), head)):
        yield Segment(buffer[:place].copy(), offset, sample_rate, head, 0)
        buffer = buffer[place:]
        offset += place
        head = 0
    if len(buffer) > head:
        yield Segment(buffer, offset, sample_rate, head, 0)


def _energies(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Energy in dB of each whole 10 ms frame, smoothed over 30 ms."""
    frame = max(sample_rate // _FRAMES_PER_SECOND, 1)
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    power = np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / frame
    padded = np.pad(power, 1, mode="edge")
    power = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return 10 * np.log10(np.maximum(power, 1e-12))


class _Search:
    """Finds the quiet places of windows of a recording, by levels that follow the recording."""

    def __init__(self, sample_rate: int, min_silence: float, pause: float, grain: int) -> None:
        self.sample_rate, self.grain = sample_rate, grain
        self.frame = max(sample_rate // _FRAMES_PER_SECOND, 1)
        self.min_silence, self.pause = min_silence * sample_rate, pause * sample_rate
        self.history = np.zeros(0)
        self.learnt = 0  # samples of the recording up to which `history` goes

    def learn(self, energies: np.ndarray, offset: int) -> None:
        """The levels follow these energies, of a window that begins at sample `offset`."""
        known = max(self.learnt - offset, 0) // self.frame
        self.history = np.concatenate([self.history, energies[known:]])[-_HISTORY_FRAMES:]
        self.learnt = offset + len(energies) * self.frame

    def pause_in(self, energies: np.ndarray, head: int) -> int | None:
        """The sample in the middle of the first pause, with a second before and after it."""
        middles, lengths = self._quiet(energies)
        second = self.sample_rate
        last = len(energies) * self.frame - second
        fits = (lengths >= self.pause) & (middles >= head + second) & (middles <= last)
        return int(middles[np.argmax(fits)]) if fits.any() else None

    def quiet_in(self, energies: np.ndarray, head: int) -> int | None:
        """The sample in the middle of the longest quiet. `head` samples must stay before it."""
        middles, lengths = self._quiet(energies)
        lengths = np.minimum(lengths, _LONG_SILENCE * self.sample_rate)
        usable = (lengths >= self.min_silence) & (middles > head)
        late = usable & (middles >= len(energies) * self.frame // 3)
        for group in (late, usable):
            if group.any():
                chosen = np.flatnonzero(group)
                longest = chosen[lengths[chosen] == lengths[chosen].max()]
                return int(middles[longest[-1]])
        return None

    def _quiet(self, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Middles and lengths of all runs of silent frames, in samples."""
        nothing = np.zeros(0, dtype=np.int64)
        if not len(energies) or not len(self.history):
            return nothing, nothing
        speech = np.percentile(self.history, 95)
        noise = max(float(np.percentile(self.history, 10)), speech - _DYNAMIC_RANGE)
        if speech - noise < _MIN_CONTRAST:
            return nothing, nothing
        quiet = energies <= noise + _QUIET_SHARE * (speech - noise)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
        starts, ends = edges[::2] * self.frame, edges[1::2] * self.frame
        return (starts + ends) // 2 // self.grain * self.grain, ends - starts


def _quietest_place(
    energies: np.ndarray, sample_rate: int, largest: int, overlap: int, grain: int
) -> int:
    """The sample around which 100 ms have the least energy, in the second half less the overlap."""
    frame = max(sample_rate // _FRAMES_PER_SECOND, 1)
    power = np.concatenate([[0.0], np.cumsum(10 ** (energies / 10))])
    width = min(10, len(energies))
    sums = power[width:] - power[:-width]  # of the `width` frames from each
    places = (np.arange(len(sums)) * frame + width * frame // 2) // grain * grain
    allowed = np.flatnonzero((places >= largest // 2) & (places <= largest - overlap))
    if not len(allowed):  # a frame shift too long for the search: the middle will do
        return largest // 2 // grain * grain
    return int(places[allowed[np.argmin(sums[allowed])]])
