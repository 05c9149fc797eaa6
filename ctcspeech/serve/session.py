"""What all WebSocket protocols have in common: limits, keys, an outgoing queue, the end."""

import asyncio
import json
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.serve.batcher import Event, StreamHandle
from ctcspeech.serve.models import ServedModel
from ctcspeech.serve.state import ServerState

__all__ = ["BadMessage", "Session"]

log = logging.getLogger("ctcspeech.serve")

NORMAL, GOING_AWAY, TOO_LARGE, INTERNAL, OVERLOADED = 1000, 1001, 1009, 1011, 1013
BAD_MESSAGE, NO_KEY, TIMED_OUT = 4400, 4401, 4408
_MOST_WAITING = 500  # messages to a client that does not read
_MOST_HOT_WORDS = 1000
_RATE, _BURST = 500.0, 500.0  # messages a second of one client, and that may come at once


class BadMessage(Exception):
    """A message of the client that cannot be followed."""

    def __init__(self, message: str, code: str = "bad_message", param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class Session(ABC):
    """One WebSocket. A protocol says how messages are read and results written."""

    protocol = ""
    subprotocols: tuple[str, ...] = ()

    def __init__(self, server: ServerState, websocket: WebSocket) -> None:
        self.server, self.websocket = server, websocket
        self.settings = server.settings
        self.model: ServedModel | None = None
        self.handle: StreamHandle | None = None
        self.sample_rate = 16000
        self.audio_seconds = 0.0
        self.close_code = NORMAL
        self._outgoing: deque[tuple[str, bool]] = deque()
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._reader: asyncio.Task[None] | None = None

    # -- what a protocol says -------------------------------------------------------------------

    async def begin(self) -> None:  # noqa: B027  (most protocols begin with the client)
        """The connection is open."""

    @abstractmethod
    async def on_text(self, text: str) -> None:
        """A text message. Raises BadMessage."""

    @abstractmethod
    async def on_audio(self, data: bytes) -> None:
        """A binary message. Raises BadMessage."""

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """Something happened to the stream."""

    @abstractmethod
    def on_error(self, code: str, message: str, param: str | None = None) -> None:
        """Tells the client of an error."""

    def on_closed(self) -> None:
        """The stream has ended after the client, or the server, asked for it."""
        self.close(GOING_AWAY if self.server.draining else NORMAL)

    bad_message_ends = True

    # -- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """From the handshake to the end."""
        chosen = self._subprotocol()
        await self.websocket.accept(subprotocol=chosen)
        refusal = self._refusal()
        if refusal is not None:
            self.close_code = refusal[0]
            await self.websocket.close(*refusal)
            return
        self.server.sessions.add(self)
        writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({writer, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():  # the reader has ended: what waits is still written
                await asyncio.wait({writer}, timeout=self.settings.send_seconds)
        finally:
            self.server.sessions.discard(self)
            for task in (writer, self._reader):
                task.cancel()
            await asyncio.gather(writer, self._reader, return_exceptions=True)
            if self.handle is not None:
                self.handle.close()

    def _subprotocol(self) -> str | None:
        offered = self.websocket.scope.get("subprotocols") or []
        return next((name for name in self.subprotocols if name in offered), None)

    def _refusal(self) -> tuple[int, str] | None:
        if not self.server.allowed(self.websocket):
            return self._refused("key", NO_KEY, "a valid key is needed")
        if self.server.draining:
            return self._refused("draining", OVERLOADED, "the server is ending; try another")
        if self.server.overloaded:
            return self._refused("overloaded", OVERLOADED, "the server is overloaded; try later")
        return None

    def _refused(self, reason: str, code: int, text: str) -> tuple[int, str]:
        self.server.metrics.refusals.labels(reason).inc()
        return code, text

    async def _read(self) -> None:
        started = since = time.monotonic()
        settings, allowed = self.settings, _BURST
        try:
            await self.begin()
            while self._closing is None:
                left = started + settings.max_session_seconds - time.monotonic()
                try:
                    wait = max(0.0, min(left, settings.idle_seconds))
                    message = await asyncio.wait_for(self.websocket.receive(), wait)
                except asyncio.TimeoutError:
                    self._time_out(left <= settings.idle_seconds)
                    return
                if message["type"] == "websocket.disconnect":
                    self.close_code = message.get("code") or NORMAL
                    self.close(self.close_code)
                    return
                now = time.monotonic()
                allowed = min(_BURST, allowed + (now - since) * _RATE) - 1
                since = now
                if allowed < 0:  # a flood of messages would leave no time for the others
                    await asyncio.sleep(-allowed / _RATE)
                await self._take(message)
        except WebSocketDisconnect as error:
            self.close(error.code)

    async def _take(self, message: Mapping[str, Any]) -> None:
        text, data = message.get("text"), message.get("bytes")
        try:
            size = len(data) if data is not None else len(text or "")
            if size > self.largest_message:
                self.refuse("message_size", TOO_LARGE, "too_large", "the message is too large")
            elif data is not None:
                await self.on_audio(data)
            else:
                await self.on_text(text or "")
        except BadMessage as error:
            self.server.metrics.refusals.labels("bad_message").inc()
            self.on_error(error.code, str(error), error.param)
            if self.bad_message_ends:
                self.close(BAD_MESSAGE, str(error))

    @property
    def largest_message(self) -> int:
        return self.settings.max_message_bytes

    def _time_out(self, whole: bool) -> None:
        what = "session_time" if whole else "idle"
        limit = self.settings.max_session_seconds if whole else self.settings.idle_seconds
        message = f"the session has reached its {limit:g} s" if whole else f"idle for {limit:g} s"
        self.refuse(what, TIMED_OUT, what, message)

    def refuse(self, reason: str, code: int, name: str, message: str) -> None:
        """Tells of an error, counts it, and closes."""
        self.server.metrics.refusals.labels(reason).inc()
        self.on_error(name, message)
        self.close(code, message)

    def drain(self) -> None:
        """The server is told to end: the results so far become final, then the session ends."""
        if self.handle is None:
            self.close(GOING_AWAY, "the server is ending")
        else:
            self.handle.end()

    # -- the stream -----------------------------------------------------------------------------

    def find_model(self, name: Any) -> ServedModel:
        """Raises BadMessage for a name that no model has."""
        if name is not None and not isinstance(name, str):
            raise BadMessage(f"model must be a string, got {name!r}", "bad_value", "model")
        model = self.server.models.find(name)
        if model is None:
            raise BadMessage(f"there is no model {str(name)[:100]!r}", "model_not_found", "model")
        return model

    async def make_decoder(self, hot_words: Any, n_best: int = 1) -> BeamDecoder:
        """The decoder with these hot words. Raises BadMessage where they cannot be."""
        assert self.model is not None
        words = read_hot_words(hot_words)
        try:
            return await asyncio.to_thread(self.model.live.decoder, words, n_best)
        except (ValueError, TypeError) as error:
            raise BadMessage(f"hot_words: {error}", "bad_value", "hot_words") from error

    def open_stream(
        self, sample_rate: int, decoder: BeamDecoder, endpointing: Endpointing | None
    ) -> StreamHandle:
        assert self.model is not None
        self.sample_rate = sample_rate
        batcher = self.model.batcher
        opened: list[StreamHandle] = []

        def listen(events: list[Event]) -> None:
            for event in events:
                if self.handle is opened[0]:
                    self._on_event(event)

        opened.append(batcher.open(listen, sample_rate, decoder, endpointing))
        self.handle = opened[0]
        return opened[0]

    def _on_event(self, event: Event) -> None:
        if event.kind == "error":
            error = event.error
            self.handle = None
            known = (
                isinstance(error, ValueError)
                or hasattr(error, "__module__")
                and str(type(error).__module__).startswith("ctcspeech.")
            )
            message = str(error) if known else "the server failed; its log says why"
            self.on_error("bad_audio" if known else "server_error", message)
            self.close(BAD_MESSAGE if known else INTERNAL, message)
        elif event.kind == "closed":
            self.handle = None
            self.on_closed()
        else:
            self.on_event(event)

    # -- messages out ---------------------------------------------------------------------------

    def send(self, message: Mapping[str, Any], replaceable: bool = False) -> None:
        """Queues a message. A replaceable one (a partial result) gives way to the next such."""
        if self._closing is not None:
            return
        if replaceable and self._outgoing and self._outgoing[-1][1]:
            self._outgoing.pop()
        self._outgoing.append((json.dumps(message, ensure_ascii=False), replaceable))
        if len(self._outgoing) > _MOST_WAITING:
            self._outgoing.clear()
            self.server.metrics.refusals.labels("slow_reader").inc()
            self.close(OVERLOADED, "the client does not read")
        self._wake.set()

    def close(self, code: int, reason: str = "") -> None:
        """Closes the connection, after what is queued has been sent."""
        if self._closing is None:
            self._closing = (code, reason.encode()[:120].decode(errors="ignore"))
            self.close_code = code
            self._wake.set()

    async def _write(self) -> None:
        limit = self.settings.send_seconds
        try:
            while True:
                while self._outgoing:
                    text, _ = self._outgoing.popleft()
                    await asyncio.wait_for(self.websocket.send_text(text), limit)
                if self._closing is not None:
                    break
                await self._wake.wait()
                self._wake.clear()
            if self.websocket.client_state is WebSocketState.CONNECTED:
                await asyncio.wait_for(self.websocket.close(*self._closing), limit)
        except asyncio.TimeoutError:
            if self._closing is None:
                self.server.metrics.refusals.labels("slow_reader").inc()
            self.close_code = OVERLOADED
            self._closing = (OVERLOADED, "the client does not read")
            abort = self.websocket.scope["state"].get("abort")
            if abort is not None:  # else the server would keep what it cannot send
                abort()
        except (RuntimeError, WebSocketDisconnect, OSError):
            self.close_code = self.close_code or 1006  # the connection is gone


def read_hot_words(value: Any) -> dict[str, float] | list[str] | None:
    """Hot words of a message: {"word": weight} or ["word"]. Raises BadMessage."""
    if not value:
        return None
    if isinstance(value, str) or not isinstance(value, (dict, list)):
        raise BadMessage(
            "hot_words must be a list of words or an object of weights", "bad_value", "hot_words"
        )
    if len(value) > _MOST_HOT_WORDS:
        raise BadMessage(f"hot_words: at most {_MOST_HOT_WORDS}", "bad_value", "hot_words")
    for word in value:
        weight = value[word] if isinstance(value, dict) else 0.0
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not isinstance(word, str) or not number or not abs(weight) <= 100:
            raise BadMessage(
                f"hot_words: {word!r} must be a word, its weight a number up to 100",
                "bad_value",
                "hot_words",
            )
    if isinstance(value, dict):
        return {word: float(weight) for word, weight in value.items()}
    return list(value)
