"""One thread a model that computes all streams together, off the event loop.

A `StreamHandle` is what a connection holds: it puts audio in and is called back with results, on
its event loop. The streams themselves belong to the thread.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.errors import CtcSpeechError
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import LiveStream, Result, StreamingRecognizer
from ctcspeech.serve.metrics import Metrics

__all__ = ["Batcher", "Event", "StreamHandle"]

log = logging.getLogger("ctcspeech.serve")


@dataclass
class Event:
    """What a connection is told of its stream.

    kind: "result"; "speech", where the first frame of an utterance that is not silent was heard;
    "mark", what was put in before the mark has been computed; "closed", after the last result;
    "error", after which the stream is closed too.
    """

    kind: str
    result: Result | None = None
    seconds: float = 0.0  # of audio decoded so far
    error: Exception | None = None
    mark: Any = None


Listener = Callable[[list[Event]], None]


class StreamHandle:
    """A connection's end of a stream. Its methods are called on the event loop."""

    def __init__(self, batcher: "Batcher", listener: Listener) -> None:
        self.batcher, self.listener = batcher, listener
        self.loop = asyncio.get_running_loop()
        self.stream: LiveStream | None = None  # the batcher's
        self.arrived = 0.0  # when the oldest audio came that has not been computed
        self.pushed = 0.0  # seconds of audio put in
        self.taken = 0.0  # seconds of audio that the batcher has computed
        self.spoken = False
        self.gone = False
        self._room = asyncio.Event()

    async def push(self, samples: np.ndarray, sample_rate: int) -> None:
        """Puts audio in; waits while more than `queue_seconds` of it are not computed."""
        self.pushed += len(samples) / sample_rate
        self.batcher.put(("audio", self, samples))
        while self.queued > self.batcher.queue_seconds and not self.gone:
            self._room.clear()
            await self._room.wait()

    @property
    def queued(self) -> float:
        """Seconds of audio that wait."""
        return self.pushed - self.taken

    def commit(self) -> None:
        """Ends the utterance, with what has been decoded."""
        self.batcher.put(("commit", self, None))

    def end(self) -> None:
        """No more audio: the last results come, then "closed"."""
        self.batcher.put(("end", self, None))

    def mark(self, value: Any) -> None:
        """Comes back as an event when what was put in before it has been computed."""
        self.batcher.put(("mark", self, value))

    def set_decoder(self, decoder: BeamDecoder) -> None:
        """From the next utterance on."""
        self.batcher.put(("decoder", self, decoder))

    def close(self) -> None:
        """The connection is gone: nothing more is computed or told."""
        self.gone = True
        self._room.set()
        self.batcher.put(("close", self, None))

    def deliver(self, events: list[Event], taken: float) -> None:
        self.taken = taken
        if self.queued <= self.batcher.queue_seconds:
            self._room.set()
        if not self.gone and events:
            self.listener(events)


class Batcher(threading.Thread):
    """The thread of one model."""

    def __init__(
        self,
        name: str,
        recognizer: StreamingRecognizer,
        metrics: Metrics,
        *,
        max_batch: int = 64,
        max_wait_seconds: float = 0.010,
        queue_seconds: float = 5.0,
    ) -> None:
        super().__init__(name=f"ctcspeech-{name}", daemon=True)
        self.model, self.recognizer, self.metrics = name, recognizer, metrics
        self.max_batch, self.max_wait = max_batch, max_wait_seconds
        self.queue_seconds = queue_seconds
        self.delay = 0.0  # seconds that the oldest audio of the last batch had waited
        self._inbox: deque[tuple[str, StreamHandle, Any]] = deque()
        self._waiting = threading.Condition()
        self._stopping = False
        self._handles: dict[int, StreamHandle] = {}
        self._marks: list[tuple[StreamHandle, Any]] = []
        self._turn: deque[StreamHandle] = deque()  # who is ready, the longest waiting first
        self._recent: deque[tuple[float, float, float]] = deque()

    # -- of any thread --------------------------------------------------------------------------

    def open(
        self,
        listener: Listener,
        sample_rate: int,
        decoder: BeamDecoder,
        endpointing: Endpointing | None = None,
    ) -> StreamHandle:
        """A new stream; to be called on an event loop, where `listener` is called with events."""
        handle = StreamHandle(self, listener)
        self.put(("open", handle, (sample_rate, decoder, endpointing)))
        return handle

    def put(self, command: tuple[str, StreamHandle, Any]) -> None:
        with self._waiting:
            self._inbox.append(command)
            self._waiting.notify()

    def stop(self) -> None:
        """Ends the thread; what is under way is dropped."""
        with self._waiting:
            self._stopping = True
            self._waiting.notify()

    # -- the thread -----------------------------------------------------------------------------

    def run(self) -> None:
        if (torch := sys.modules.get("torch")) is not None:
            torch.get_num_threads()  # a thread's first call takes the program's number
            torch.set_num_threads(1)
        while True:
            commands = self._take()
            if commands is None:
                return
            told: dict[int, list[Event]] = {}
            for kind, handle, value in commands:
                try:
                    self._obey(kind, handle, value, told)
                except (CtcSpeechError, ValueError) as error:
                    self._fail(handle, error, told)
                except Exception as error:  # a fault of one stream must not end the others
                    log.exception("a stream of %s failed", self.model)
                    self._fail(handle, error, told)
            self._compute(told)
            self._answer_marks(told)
            self._tell(told)

    def _take(self) -> list[tuple[str, StreamHandle, Any]] | None:
        """All commands, once there is something to do; None at the end."""
        with self._waiting:
            if not self._turn and not self._inbox and not self._stopping:
                self._waiting.wait()
                until = time.monotonic() + self.max_wait
                while not self._stopping and (left := until - time.monotonic()) > 0:
                    self._waiting.wait(left)
            if self._stopping:
                return None
            commands = list(self._inbox)
            self._inbox.clear()
        return commands

    def _obey(
        self, kind: str, handle: StreamHandle, value: Any, told: dict[int, list[Event]]
    ) -> None:
        if kind == "open":
            rate, decoder, endpointing = value
            handle.stream = LiveStream(
                self.recognizer, rate, decoder, endpointing or self.recognizer.endpointing
            )
            self._handles[id(handle)] = handle
            self.metrics.streams.labels(self.model).set(len(self._handles))
            return
        stream = handle.stream
        if kind == "mark":
            self._marks.append((handle, value))
        elif stream is None:
            return  # it has failed or is closed; its connection will hear of it
        elif kind == "audio":
            handle.arrived = handle.arrived or time.monotonic()
            stream.push(value)
            self._queue(handle)
        elif kind == "end":
            stream.end()
            self._queue(handle)
        elif kind == "commit":
            while stream.ready:
                self._results(handle, self.recognizer.advance([stream])[0], told)
            self._results(handle, stream.commit(), told)
        elif kind == "decoder":
            stream.set_hot_words(value)
        elif kind == "close":
            self._drop(handle)

    def _queue(self, handle: StreamHandle) -> None:
        if handle.stream is not None and handle.stream.ready and handle not in self._turn:
            self._turn.append(handle)

    def _compute(self, told: dict[int, list[Event]]) -> None:
        batch: list[StreamHandle] = []
        while self._turn and len(batch) < self.max_batch:
            handle = self._turn.popleft()
            if handle.stream is not None and handle.stream.ready:
                batch.append(handle)
        if not batch:
            return
        now, busy = time.monotonic(), time.thread_time()
        self.delay = max([now - handle.arrived for handle in batch if handle.arrived] or [0.0])
        self.metrics.queue_delay.labels(self.model).observe(self.delay)
        self.metrics.batch_size.labels(self.model).observe(len(batch))
        streams = [handle.stream for handle in batch if handle.stream is not None]
        before = [stream.seconds for stream in streams]
        try:
            found = self.recognizer.advance(streams)
        except Exception as error:
            log.exception("a batch of %s failed", self.model)
            for handle in batch:
                self._fail(handle, error, told)
            return
        audio = sum(s.seconds - b for s, b in zip(streams, before, strict=True))
        self._account(now, time.thread_time() - busy, audio)
        for handle, results in zip(batch, found, strict=True):
            self._results(handle, results, told)
            if handle.stream is not None and handle.stream.ready:
                self._turn.append(handle)
            else:
                handle.arrived = 0.0

    def _results(
        self, handle: StreamHandle, results: list[Result], told: dict[int, list[Event]]
    ) -> None:
        stream = handle.stream
        if stream is None:
            return
        events = told.setdefault(id(handle), [])
        now = time.monotonic()
        for result in results:
            if not handle.spoken:
                events.append(Event("speech", seconds=result.start))
            events.append(Event("result", result, stream.seconds))
            handle.spoken = not result.final
            kind = self.metrics.final_latency if result.final else self.metrics.partial_latency
            if handle.arrived:
                kind.labels(self.model).observe(now - handle.arrived)
        if stream.heard_speech and not handle.spoken and not stream.closed:
            handle.spoken = True
            events.append(Event("speech", seconds=stream.seconds))
        if stream.closed:
            events.append(Event("closed", seconds=stream.seconds))
            self._drop(handle)

    def _answer_marks(self, told: dict[int, list[Event]]) -> None:
        left = []
        for handle, value in self._marks:
            if handle in self._turn:
                left.append((handle, value))
            else:
                told.setdefault(id(handle), []).append(Event("mark", mark=value))
                self._handles.setdefault(id(handle), handle)
        self._marks = left

    def _fail(self, handle: StreamHandle, error: Exception, told: dict[int, list[Event]]) -> None:
        told.setdefault(id(handle), []).append(Event("error", error=error))
        self._handles.setdefault(id(handle), handle)
        self._drop(handle)

    def _drop(self, handle: StreamHandle) -> None:
        if handle.stream is not None:
            handle.stream.close()
            handle.stream = None
        if handle in self._turn:
            self._turn.remove(handle)
        self._marks = [(other, value) for other, value in self._marks if other is not handle]

    def _tell(self, told: dict[int, list[Event]]) -> None:
        """Calls the listeners back, with one call a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[StreamHandle, list[Event], float]]] = {}
        for key, handle in list(self._handles.items()):
            events = told.get(key, [])
            stream = handle.stream
            taken = handle.pushed if stream is None else _computed(stream)
            if events or taken != handle.taken:
                by_loop.setdefault(handle.loop, []).append((handle, events, taken))
            if stream is None:
                del self._handles[key]
                self.metrics.streams.labels(self.model).set(len(self._handles))
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # the loop is closed
                for handle, _, _ in items:
                    self._drop(handle)

    def _account(self, now: float, busy: float, audio: float) -> None:
        self.metrics.busy.labels(self.model).inc(busy)
        self.metrics.audio.labels(self.model, "live").inc(max(audio, 0.0))
        self._recent.append((now, busy, audio))
        while self._recent[0][0] < now - 60:
            self._recent.popleft()
        heard = sum(item[2] for item in self._recent)
        if heard > 0:
            factor = sum(item[1] for item in self._recent) / heard
            self.metrics.real_time_factor.labels(self.model).set(factor)


def _computed(stream: LiveStream) -> float:
    """Seconds of a stream's audio that no longer wait."""
    waiting = len(stream.source.buffer) / stream.recognizer.sample_rate
    return stream.samples / stream.sample_rate - waiting


def _deliver(items: list[tuple[StreamHandle, list[Event], float]]) -> None:
    for handle, events, taken in items:
        try:
            handle.deliver(events, taken)
        except Exception:
            log.exception("a connection could not take its results")
