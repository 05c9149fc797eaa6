"""Recordings of any length -> stretches of emissions between pauses.

    for portion in read_stretches(workers, ["call.wav", "talk.flac"]):
        for transcript, stretch in portion.stretches:
            ...                     # (T, C) log-probabilities, from stretch.start to stretch.end
        for transcript in portion.ended:
            ...                     # all stretches of this recording have come

Recordings are read as streams, cut at pauses (`cut`), and run through the model in batches of like
length, across files. What comes out does not depend on how it was batched, beyond rounding.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Semaphore, Thread

import numpy as np

from ctcspeech.data.manifest import Utterance
from ctcspeech.emissions import Emissions, Emitter
from ctcspeech.errors import AudioError, DecoderError, FeatureError
from ctcspeech.recognize.cut import Segment, cut
from ctcspeech.recognize.emitter import Batch, Workers, gather
from ctcspeech.recognize.recordings import Recording
from ctcspeech.recognize.stitch import Stitcher, Stretch
from ctcspeech.recognize.transcript import Transcript

__all__ = ["Portion", "Source", "read_stretches", "recording_emissions"]

Source = str | os.PathLike[str] | Utterance | Recording

_FIRST_WINDOW = 60.0  # seconds of audio read before the first batch, so that text comes soon
_LARGEST_WINDOW = 240.0  # seconds of audio read ahead and sorted by length
_LONGEST_STRETCH = 120.0  # seconds without a pause that are decoded at once


@dataclass
class Portion:
    """What has been computed: stretches of recordings under way, and the recordings that end.

    The transcripts have no text; those that could not be read have their `error` set.
    """

    stretches: list[tuple[Transcript, Stretch]]
    ended: list[Transcript]


def read_stretches(
    workers: Workers,
    sources: Iterable[Source],
    *,
    max_seconds: float = 30.0,
    advance: Callable[[float], None] | None = None,
) -> Generator[Portion, None, None]:
    """The stretches of all recordings, in their order.

    Args:
        sources: paths, utterances of a manifest, or Recordings; taken one by one as needed, in
            another thread.
        max_seconds: recordings that are longer, or longer than the model takes, are cut at pauses,
            so that no piece is. Features from files are never cut.
        advance: called with the seconds of audio that have been computed since the last call.
    """
    if workers.emitter.longest_input is not None:
        max_seconds = min(max_seconds, workers.emitter.longest_input)
    seams = _Seams(workers.emitter)
    reader = _Reader(_windows(workers.emitter, sources, max_seconds))
    running: deque[tuple[_Window, list[Batch]]] = deque()
    try:
        while running or not reader.finished:
            window = reader.wait()
            if window is not None:
                batches = workers.submit([segment.samples for _, segment in window.pieces])
                running.append((window, batches))
                for _, future in batches:
                    future.add_done_callback(reader.wake)
            while running and all(future.done() for _, future in running[0][1]):
                window, batches = running.popleft()
                reader.proceed()
                portion = seams.join(window, gather(batches, len(window.pieces)))
                if advance is not None and window.pieces:
                    advance(sum(segment.end - segment.start for _, segment in window.pieces))
                yield portion
    finally:
        reader.stop()
        for _, batches in running:
            for _, future in batches:
                future.cancel()


def _windows(
    emitter: Emitter, sources: Iterable[Source], max_seconds: float
) -> "Iterator[_Window]":
    """What is read, in portions that grow."""
    alphabet = emitter.alphabet
    separator = "" if alphabet.kind == "characters" and alphabet.space is None else " "
    window, read, limit = _Window(), 0.0, _FIRST_WINDOW
    for source in sources:
        recording = Recording.of(source)
        transcript = Transcript(recording.name, recording=recording, separator=separator)
        try:
            for segment in _segments(emitter, recording, max_seconds):
                window.pieces.append((transcript, segment))
                transcript.duration = segment.end
                read += len(segment.samples) / emitter.input_rate
                if read >= limit:
                    yield window
                    window, read, limit = _Window(), 0.0, min(2 * limit, _LARGEST_WINDOW)
        except (AudioError, FeatureError) as error:
            transcript.error = error
        except OSError as error:
            transcript.error = AudioError(f"{recording.name}: {error.strerror or error}")
        window.ended.append(transcript)
    yield window


def _segments(emitter: Emitter, recording: Recording, max_seconds: float) -> Iterator[Segment]:
    if emitter.num_features is None:
        yield from cut(
            recording.chunks(emitter.sample_rate),
            emitter.sample_rate,
            max_seconds,
            context=min(1.5, max_seconds / 8),
            grain=emitter.frame_inputs,
        )
        return
    features = recording.features(1000 / emitter.input_rate, emitter.num_features)
    yield Segment(features, 0, emitter.input_rate)


@dataclass
class _Window:
    """A portion of the work: pieces of recordings, and the recordings that end with them."""

    pieces: list[tuple[Transcript, Segment]] = field(default_factory=list)
    ended: list[Transcript] = field(default_factory=list)


class _Reader:
    """Reads windows in a thread of its own: the next one, while one is computed and decoded.

    The thread may wait for a pipe for ever, so nothing waits for it to end.
    """

    def __init__(self, windows: "Iterator[_Window]") -> None:
        self.finished = False  # all windows have come out
        self._windows = windows
        self._events: SimpleQueue[_Window | BaseException | str | None] = SimpleQueue()
        self._allowed = Semaphore(2)
        self._stopped = False
        Thread(target=self._read, name="ctcspeech-reader", daemon=True).start()

    def _read(self) -> None:
        try:
            while self._allowed.acquire() and not self._stopped:
                window = next(self._windows, None)
                self._events.put("finished" if window is None else window)
                if window is None:
                    return
        except BaseException as error:  # raised where the transcripts are asked for
            self._events.put(error)

    def wait(self) -> "_Window | None":
        """The next event: a window, or None when there is something else to look after."""
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, str):
            self.finished = True
            return None
        return event

    def wake(self, _: Future) -> None:
        """Ends the wait: a batch is done."""
        self._events.put(None)

    def proceed(self) -> None:
        """Another window may be read."""
        self._allowed.release()

    def stop(self) -> None:
        self._stopped = True
        self._allowed.release()


class _Seams:
    """The recordings under way, whose pieces are put together."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.stitchers: dict[int, Stitcher] = {}

    def join(self, window: _Window, emissions: list[np.ndarray]) -> Portion:
        """The stretches that a window's emissions complete."""
        stretches: list[tuple[Transcript, Stretch]] = []
        for (transcript, segment), item in zip(window.pieces, emissions, strict=True):
            if transcript.error is None and np.isnan(item).any():
                transcript.error = DecoderError(
                    f"{transcript.name}: the model's emissions are NaN; the model is damaged"
                )
            if transcript.error is None:
                stitcher = self._stitcher(transcript)
                if segment.tail:  # what the model heard after its end comes with the next one
                    item = item[: -(-len(segment.samples) // self.emitter.frame_inputs)]
                stretches.extend((transcript, part) for part in stitcher.add(segment, item))
        for transcript in window.ended:
            self.stitchers.pop(id(transcript), None)
        return Portion(stretches, window.ended)

    def _stitcher(self, transcript: Transcript) -> Stitcher:
        known = self.stitchers.get(id(transcript))
        if known is None:
            emitter = self.emitter
            frames = int(_LONGEST_STRETCH * 1000 / emitter.frame_shift_ms)
            known = Stitcher(emitter.alphabet, emitter.frame_inputs, frames)
            self.stitchers[id(transcript)] = known
        return known


# -- whole recordings -------------------------------------------------------------------------


def recording_emissions(
    workers: Workers,
    sources: Iterable[Source],
    *,
    max_seconds: float = 30.0,
    advance: Callable[[float], None] | None = None,
) -> Generator[tuple[Transcript, Emissions], None, None]:
    """The emissions of whole recordings, log-probabilities, in the order of the sources.

    The arguments are those of `read_stretches`. Yields a Transcript without text (name, duration,
    error) and Emissions, of no frames where the recording could not be read.
    """
    emitter = workers.emitter
    shift = emitter.frame_shift_ms
    parts: dict[int, list[tuple[int, np.ndarray]]] = {}
    for portion in read_stretches(workers, sources, max_seconds=max_seconds, advance=advance):
        for transcript, stretch in portion.stretches:
            first = round(stretch.start * 1000 / shift)
            parts.setdefault(id(transcript), []).append((first, stretch.emissions))
        for transcript in portion.ended:
            found = parts.pop(id(transcript), [])
            if transcript.error is not None:
                found = []
            scores = _joined(found, len(emitter.alphabet))
            yield transcript, Emissions(scores, emitter.labels, emitter.blank, shift)


def _joined(parts: list[tuple[int, np.ndarray]], labels: int) -> np.ndarray:
    """One (T, C) of parts with their first frames.

    Windows at the edge of a part make it a frame or two longer or shorter than its place: it is cut
    off, or its last frame, which lies in a pause, is repeated.
    """
    if not parts:
        return np.zeros((0, labels), np.float32)
    last_start, last = parts[-1]
    whole = np.empty((last_start + len(last), labels), np.float32)
    position = 0
    for k, (start, part) in enumerate(parts):
        end = parts[k + 1][0] if k + 1 < len(parts) else len(whole)
        part = part[: end - start]
        whole[start : start + len(part)] = part
        position = start + len(part)
        if position < end:  # the first frames of a recording are never missing
            whole[position:end] = whole[position - 1] if position else np.float32(0)
    return whole
