"""OpenAI's realtime protocol for transcription sessions: `/v1/realtime`.

Deltas come from words that nothing will change, so they only ever append; what is left of an
utterance comes with its end.
"""

import base64
import binascii
import math
from typing import Any
from uuid import uuid4

from ctcspeech.audio.pcm import PcmFormat, decode
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import Result
from ctcspeech.serve.batcher import Event
from ctcspeech.serve.native import read_object
from ctcspeech.serve.session import BadMessage, Session

__all__ = ["RealtimeSession"]

_FORMATS = {
    "audio/pcm": PcmFormat(24000, "s16le"),
    "audio/pcmu": PcmFormat(8000, "mulaw"),
    "audio/pcma": PcmFormat(8000, "alaw"),
}
_VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
}
_LOGPROBS = "item.input_audio_transcription.logprobs"
_LARGEST_APPEND = 15 << 20  # bytes of audio, as OpenAI allows


class RealtimeSession(Session):
    """session.update; input_audio_buffer.append, commit and clear."""

    protocol = "realtime"
    subprotocols = ("realtime",)
    bad_message_ends = False  # as OpenAI's: an error event, and the session goes on

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.id = new_id("sess")
        self.kind = "audio/pcm"
        self.transcription: dict[str, Any] = {}
        self.vad: dict[str, Any] | None = dict(_VAD)
        self.include: list[str] = []
        self.item: str | None = None  # the utterance under way
        self.previous: str | None = None
        self.texts: list[str] = []  # finals of an item that the client will commit
        self.logprobs: list[dict[str, Any]] = []
        self.committing = False
        self.base = 0.0  # seconds of the session at which the stream under way began
        self.item_start = 0.0

    @property
    def largest_message(self) -> int:
        return _LARGEST_APPEND * 4 // 3 + 1000

    async def begin(self) -> None:
        self.model = self._model(self.websocket.query_params.get("model"))
        if self.model is None:
            self.close(4404, "there is no such model")
            return
        self._emit("session.created", session=self._session())

    def _model(self, name: str | None) -> Any:
        try:
            return self.find_model(name)
        except BadMessage as error:
            self.on_error(error.code, str(error), error.param)
            return None

    # -- from the client ------------------------------------------------------------------------

    async def on_text(self, text: str) -> None:
        message = read_object(text)
        kind, self._event_id = message.get("type"), message.get("event_id")
        if kind in ("session.update", "transcription_session.update"):
            await self._update(message.get("session"))
        elif kind == "input_audio_buffer.append":
            await self._append(message.get("audio"))
        elif kind == "input_audio_buffer.commit":
            self._commit()
        elif kind == "input_audio_buffer.clear":
            self._clear()
            self._emit("input_audio_buffer.cleared")
        else:
            raise BadMessage(f"type {str(kind)[:100]!r} is unknown", "unknown_event", "type")

    async def on_audio(self, data: bytes) -> None:
        raise BadMessage("audio comes as base64 in input_audio_buffer.append", "bad_message")

    _event_id: Any = None

    async def _update(self, session: Any) -> None:
        if not isinstance(session, dict):
            raise BadMessage("session must be an object", "bad_value", "session")
        if session.get("type", "transcription") != "transcription":
            raise BadMessage(
                'session.type must be "transcription": this server only transcribes',
                "unsupported",
                "session.type",
            )
        audio = _object(_object(session, "audio", "session"), "input", "session.audio")
        # The older shape has these at the top.
        given = {
            "format": session.get("input_audio_format"),
            "transcription": session.get("input_audio_transcription"),
            **(
                {"turn_detection": session["turn_detection"]} if "turn_detection" in session else {}
            ),
            **audio,
        }
        if given.get("noise_reduction") is not None:
            raise BadMessage("noise_reduction is not offered", "unsupported", "session.audio.input")
        kind = self._read_format(given.get("format"))
        vad = self._read_vad(given["turn_detection"]) if "turn_detection" in given else self.vad
        changes = (kind, vad) != (self.kind, self.vad)
        if given.get("transcription") is not None:
            await self._read_transcription(given["transcription"])
            changes = True
        include = session.get("include")
        if include is not None:
            if not isinstance(include, list) or any(item != _LOGPROBS for item in include):
                raise BadMessage(f'include may hold "{_LOGPROBS}"', "bad_value", "include")
            self.include = include
        if changes and self.handle is not None:
            if kind != self.kind and self.handle.pushed:
                raise BadMessage("the format cannot change while audio waits", "bad_value")
            self._finish_stream()
        self.kind, self.vad = kind, vad
        self._emit("session.updated", session=self._session())

    def _read_format(self, value: Any) -> str:
        if value is None:
            return self.kind
        old = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
        kind = old.get(value, value) if isinstance(value, str) else None
        if isinstance(value, dict):
            kind = value.get("type")
            if kind == "audio/pcm" and value.get("rate", 24000) != 24000:
                raise BadMessage(
                    "audio/pcm has a rate of 24000", "bad_value", "session.audio.input.format.rate"
                )
        if kind not in _FORMATS:
            raise BadMessage(
                f"format must be one of {', '.join(_FORMATS)}",
                "bad_value",
                "session.audio.input.format",
            )
        return str(kind)

    def _read_vad(self, value: Any) -> dict[str, Any] | None:
        name = "session.audio.input.turn_detection"
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("type", "server_vad") != "server_vad":
            raise BadMessage(
                'turn_detection must be null or of type "server_vad"', "bad_value", name
            )
        vad = {**_VAD, **{key: value[key] for key in _VAD if value.get(key) is not None}}
        for key, low, high in (
            ("threshold", 0.01, 0.99),
            ("prefix_padding_ms", 0, 60000),
            ("silence_duration_ms", 40, 60000),
        ):
            number = vad[key]
            ok = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not ok or not low <= number <= high:
                raise BadMessage(f"{key} must be in {low}..{high}", "bad_value", f"{name}.{key}")
        return vad

    async def _read_transcription(self, value: Any) -> None:
        name = "session.audio.input.transcription"
        if not isinstance(value, dict):
            raise BadMessage("transcription must be an object", "bad_value", name)
        model = self.find_model(value["model"]) if value.get("model") else self.model
        keywords = value.get("keywords")
        if keywords is not None and not isinstance(keywords, list):
            raise BadMessage("keywords must be a list", "bad_value", f"{name}.keywords")
        self.model = model
        await self.make_decoder(keywords)  # so that wrong ones are told now
        self.transcription = {
            key: value[key] for key in ("language", "prompt", "keywords") if value.get(key)
        }

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True) if isinstance(audio, str) else None
        except (binascii.Error, ValueError):
            data = None
        if data is None:
            raise BadMessage("audio must be a string of base64", "bad_value", "audio")
        pcm = _FORMATS[self.kind]
        if len(data) % pcm.frame_bytes:
            raise BadMessage("audio must be whole samples of 16 bits", "bad_value", "audio")
        if self.handle is None:
            await self._open()
        assert self.handle is not None
        samples = decode(data, pcm)[:, 0]
        self.audio_seconds += len(samples) / pcm.sample_rate
        await self.handle.push(samples, pcm.sample_rate)

    async def _open(self) -> None:
        endpointing = Endpointing.off()
        if self.vad is not None:
            silence = self.vad["silence_duration_ms"] / 1000
            endpointing = Endpointing(
                max(2.4, silence), silence, blank_threshold=1 - self.vad["threshold"]
            )
        decoder = await self.make_decoder(self.transcription.get("keywords"))
        self.base, self.committing = self.audio_seconds, False
        self.item, self.texts, self.logprobs = None, [], []
        self.open_stream(_FORMATS[self.kind].sample_rate, decoder, endpointing)

    def _commit(self) -> None:
        if self.handle is None or not self.handle.pushed:
            raise BadMessage("there is no audio to commit", "input_audio_buffer_commit_empty", None)
        self._finish_stream()

    def _finish_stream(self) -> None:
        """What was put in becomes final; what comes next is another recording."""
        assert self.handle is not None
        self.committing = True
        self.handle.end()

    def _clear(self) -> None:
        if self.handle is not None:
            self.handle.close()
            self.handle = None
        self.item, self.texts = None, []

    # -- from the stream ------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        if event.kind == "speech" and self.vad is not None:
            self._open_item(event.seconds)
        elif event.kind == "result" and event.result is not None:
            self._result(event.result)

    def _open_item(self, seconds: float) -> None:
        if self.item is not None:
            return
        self.item = new_id("item")
        self.item_start = self.base + seconds
        if self.vad is not None:
            self._emit(
                "input_audio_buffer.speech_started",
                audio_start_ms=round(1000 * self.item_start),
                item_id=self.item,
            )

    def _result(self, result: Result) -> None:
        self._open_item(result.start)
        added = result.added
        if added and self.texts and not result.stable.removesuffix(added):
            added = " " + added  # the first words of a further part of the item
        if added:
            self._emit(
                "conversation.item.input_audio_transcription.delta",
                item_id=self.item,
                content_index=0,
                delta=added,
                **self._with_logprobs(result if result.final else None),
            )
        if not result.final:
            return
        self.texts.append(result.text)
        self.logprobs += logprobs_of(result)
        if self.vad is not None:
            self._emit(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=round(1000 * (self.base + result.end)),
                item_id=self.item,
            )
            self._complete(self.base + result.end)

    def _with_logprobs(self, result: Result | None) -> dict[str, Any]:
        if _LOGPROBS not in self.include or result is None:
            return {}
        return {"logprobs": logprobs_of(result)}

    def _complete(self, until: float) -> None:
        """The item under way is committed and complete."""
        self._emit(
            "input_audio_buffer.committed", item_id=self.item, previous_item_id=self.previous
        )
        more = {"logprobs": self.logprobs} if _LOGPROBS in self.include else {}
        self._emit(
            "conversation.item.input_audio_transcription.completed",
            item_id=self.item,
            content_index=0,
            transcript=" ".join(text for text in self.texts if text),
            usage={"type": "duration", "seconds": round(until - self.item_start, 3)},
            **more,
        )
        self.previous, self.item = self.item, None
        self.texts, self.logprobs = [], []

    def on_closed(self) -> None:
        if self.item is not None or self.vad is None or self.committing and not self.previous:
            if self.item is None:
                self.item, self.item_start = new_id("item"), self.base
            self._complete(self.audio_seconds)
        self.item = None
        if self.server.draining:
            super().on_closed()

    # -- to the client --------------------------------------------------------------------------

    def _emit(self, kind: str, **fields: Any) -> None:
        self.send({"type": kind, "event_id": new_id("event"), **fields})

    def on_error(self, code: str, message: str, param: str | None = None) -> None:
        kind = "server_error" if code == "server_error" else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message, "param": param}
        error["event_id"] = self._event_id if isinstance(self._event_id, str) else None
        self._emit("error", error=error)

    def _session(self) -> dict[str, Any]:
        assert self.model is not None
        pcm: dict[str, Any] = {"type": self.kind}
        if self.kind == "audio/pcm":
            pcm["rate"] = 24000
        return {
            "id": self.id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "include": self.include or None,
            "audio": {
                "input": {
                    "format": pcm,
                    "noise_reduction": None,
                    "transcription": {"model": self.model.name, **self.transcription},
                    "turn_detection": self.vad,
                }
            },
        }


def new_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex[:24]}"


def logprobs_of(result: Result) -> list[dict[str, Any]]:
    """A word's confidence in OpenAI's shape: a token, its bytes, a natural logarithm."""
    found: list[dict[str, Any]] = []
    for word in result.words:
        confidence = 1.0 if word.confidence is None else max(word.confidence, 1e-6)
        token = word.text if not found else " " + word.text
        found.append(
            {
                "token": token,
                "bytes": list(token.encode()),
                "logprob": round(math.log(confidence), 6),
            }
        )
    return found


def _object(value: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    inner = value.get(name)
    if inner is None:
        return {}
    if not isinstance(inner, dict):
        raise BadMessage(f"{where}.{name} must be an object", "bad_value", f"{where}.{name}")
    return inner
