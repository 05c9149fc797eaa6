"""The project's own WebSocket protocol, version 1: `/v1/stream`. See docs/live-protocol.md."""

import json
from typing import Any

from ctcspeech.audio.pcm import ENCODINGS, PcmFormat, decode
from ctcspeech.decode.hypothesis import Word
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import Result
from ctcspeech.serve.batcher import Event
from ctcspeech.serve.session import BadMessage, Session

__all__ = ["NativeSession"]

VERSION = 1
_MOST_N_BEST = 20
_RULES = ("silence_alone", "silence_after_speech", "longest_utterance", "blank_threshold")


class NativeSession(Session):
    """start, audio, commit, hot_words, end; ready, speech, partial, final, done, error."""

    protocol = "native"
    subprotocols = ("ctcspeech.v1",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.format: PcmFormat | None = None
        self.rest = b""  # of a sample that a message has cut
        self.n_best, self.partials, self.words = 1, True, True

    async def on_text(self, text: str) -> None:
        message = read_object(text)
        kind = message.get("type")
        if kind == "start":
            await self._start(message)
        elif self.format is None or self.handle is None:
            raise BadMessage('the first message must be {"type": "start", ...}')
        elif kind == "commit":
            self.handle.commit()
        elif kind == "end":
            self.handle.end()
        elif kind == "hot_words":
            decoder = await self.make_decoder(message.get("hot_words"), self.n_best)
            self.handle.set_decoder(decoder)
        elif kind == "ping":
            self.send({"type": "pong", "id": message.get("id")})
        else:
            raise BadMessage(f"type {kind!r} is unknown", param="type")

    async def _start(self, message: dict[str, Any]) -> None:
        if self.format is not None:
            raise BadMessage("start must come once, first")
        known = {
            "type", "version", "model", "sample_rate", "encoding", "hot_words", "n_best",
            "partials", "words", "endpointing",
        }  # fmt: skip
        if unknown := sorted(message.keys() - known):
            raise BadMessage(f"start has unknown fields: {', '.join(unknown)[:200]}")
        if message.get("version", VERSION) != VERSION:
            raise BadMessage(
                f"version {message['version']!r}: this server speaks version {VERSION}", "version"
            )
        self.model = self.find_model(message.get("model"))
        rate = integer(message, "sample_rate", self.model.live.sample_rate, 1000, 384000)
        self.n_best = integer(message, "n_best", 1, 1, _MOST_N_BEST)
        self.partials, self.words = flag(message, "partials"), flag(message, "words")
        encoding = message.get("encoding", "s16le")
        if encoding not in ENCODINGS:
            raise BadMessage(f"encoding must be one of {', '.join(ENCODINGS)}", "bad_value")
        endpointing = read_endpointing(message.get("endpointing"), self.model.live.endpointing)
        decoder = await self.make_decoder(message.get("hot_words"), self.n_best)
        self.format = PcmFormat(rate, encoding)
        self.open_stream(rate, decoder, endpointing)
        live = self.model.live
        self.send(
            {
                "type": "ready",
                "version": VERSION,
                "model": self.model.name,
                "sample_rate": rate,
                "encoding": encoding,
                "frame_ms": round(1000 * live.source.frame_seconds, 3),
                "lookahead_ms": round(1000 * live.lookahead_seconds, 1),
                "max_message_bytes": self.settings.max_message_bytes,
            }
        )

    async def on_audio(self, data: bytes) -> None:
        if self.format is None or self.handle is None:
            raise BadMessage('audio came before {"type": "start", ...}, or after the end')
        data = self.rest + data
        whole = len(data) // self.format.frame_bytes * self.format.frame_bytes
        self.rest, data = data[whole:], data[:whole]
        samples = decode(data, self.format)[:, 0]
        self.audio_seconds += len(samples) / self.sample_rate
        await self.handle.push(samples, self.sample_rate)

    def on_event(self, event: Event) -> None:
        if event.kind == "speech":
            self.send({"type": "speech", "at": round(event.seconds, 3)})
        elif event.kind == "result" and event.result is not None:
            result = event.result
            if result.final or self.partials:
                self.send(self._message(result, event.seconds), replaceable=not result.final)

    def _message(self, result: Result, heard: float) -> dict[str, Any]:
        message: dict[str, Any] = {
            "type": "final" if result.final else "partial",
            "utterance": result.utterance,
            "text": result.text,
            "stable": result.stable,
            "start": round(result.start, 3),
            "end": round(result.end, 3),
            "heard": round(heard, 3),
        }
        if self.words:
            message["words"] = [word_of(word) for word in result.words]
        if result.final:
            message["reason"] = result.reason
            if self.n_best > 1:
                message["alternatives"] = [
                    {
                        "text": item.text,
                        "score": round(item.score, 4),
                        "ctc_score": round(item.ctc_score, 4),
                        "lm_score": round(item.lm_score, 4),
                    }
                    for item in result.alternatives
                ]
        return message

    def on_error(self, code: str, message: str, param: str | None = None) -> None:
        self.send({"type": "error", "code": code, "message": message, "param": param})

    def on_closed(self) -> None:
        self.send({"type": "done", "audio_seconds": round(self.audio_seconds, 3)})
        super().on_closed()


def word_of(word: Word) -> dict[str, Any]:
    """A word for JSON."""
    return {
        "word": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": None if word.confidence is None else round(word.confidence, 4),
    }


def read_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises BadMessage."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"no valid JSON: {error}"[:200], "bad_json") from error
    if not isinstance(message, dict):
        raise BadMessage("a message must be a JSON object", "bad_json")
    return message


def integer(message: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = message.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadMessage(f"{name} must be an integer in {low}..{high}", "bad_value", name)
    return value


def flag(message: dict[str, Any], name: str, default: bool = True) -> bool:
    value = message.get(name, default)
    if not isinstance(value, bool):
        raise BadMessage(f"{name} must be true or false", "bad_value", name)
    return value


def read_endpointing(value: Any, default: Endpointing) -> Endpointing:
    """False: none; an object: the rules that differ from the server's. Raises BadMessage."""
    if value is None or value is True:
        return default
    if value is False:
        return Endpointing.off()
    if not isinstance(value, dict) or (unknown := sorted(value.keys() - set(_RULES))):
        extra = (
            f"; {', '.join(map(str, unknown))[:100]} is unknown" if isinstance(value, dict) else ""
        )
        raise BadMessage(
            f"endpointing may hold {', '.join(_RULES)}{extra}", "bad_value", "endpointing"
        )
    values = {name: getattr(default, name) for name in _RULES} | value
    try:
        return Endpointing(**{name: float(number) for name, number in values.items()})
    except (TypeError, ValueError) as error:
        raise BadMessage(f"endpointing: {error}", "bad_value", "endpointing") from error
