"""`POST /v1/audio/transcriptions` and `GET /v1/models`, as OpenAI's."""

import asyncio
import contextlib
import json
import math
import os
import tempfile
import threading
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from ctcspeech.decode.hypothesis import Word
from ctcspeech.errors import AudioError, CtcSpeechError
from ctcspeech.recognize.formats import format_srt, format_vtt, subtitles
from ctcspeech.recognize.recordings import Recording
from ctcspeech.recognize.transcript import Passage, moved
from ctcspeech.serve.errors import ApiError
from ctcspeech.serve.models import ServedModel
from ctcspeech.serve.state import ServerState

__all__ = ["Transcriptions"]

_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_MOST_WAITING = 2  # uploads for each that is computed


class Transcriptions:
    """The two endpoints."""

    def __init__(self, server: ServerState) -> None:
        self.server = server
        self.waiting = 0

    async def models(self, request: Request) -> Response:
        """GET /v1/models, and /v1/models/NAME."""
        shown = [_model(model) for model in self.server.models.by_name.values()]
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": shown})
        for item in shown:
            if item["id"] == name:
                return JSONResponse(item)
        raise ApiError(404, f"there is no model {name[:100]!r}", "model_not_found", "model")

    async def create(self, request: Request) -> Response:
        """POST /v1/audio/transcriptions."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise self._refused("encoding", 415, "the request must not be compressed")
        form = await self._form(request)
        path: str | None = None
        try:
            model, options = self._options(form)
            settings = self.server.settings
            if self.waiting >= (1 + _MOST_WAITING) * settings.uploads:
                raise self._refused("uploads", 503, "too many uploads", {"Retry-After": "5"})
            path = await asyncio.to_thread(_copy, options.pop("file"))
            self.waiting += 1
            work = _Work(model, path, settings.max_upload_seconds, asyncio.get_running_loop())
            work.done = self._done
            self.server.models.uploads.submit(work.run)
            path = None  # the thread removes it
            if options["stream"]:
                return StreamingResponse(self._stream(work), media_type="text/event-stream")
            async with contextlib.aclosing(work.passages()) as passages:
                found = [passage async for passage in passages]
            self.server.metrics.audio.labels(model.name, "upload").inc(work.duration)
            request.state.audio_seconds = work.duration
            return _answer(found, work, options)
        except CtcSpeechError as error:
            raise ApiError(400, _without_path(error), "invalid_audio", "file") from error
        finally:
            await form.close()
            if path is not None:
                Path(path).unlink(missing_ok=True)

    async def _form(self, request: Request) -> FormData:
        limit = self.server.settings.max_upload_bytes
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise self._too_large()
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(
                400, "the request must be multipart/form-data with a file", "bad_request"
            )
        receive, taken = request.receive, 0

        async def counted() -> Any:
            nonlocal taken
            try:
                message = await asyncio.wait_for(receive(), self.server.settings.idle_seconds)
            except asyncio.TimeoutError:
                raise self._refused("idle", 408, "the upload does not go on") from None
            taken += len(message.get("body", b""))
            if taken > limit:
                raise self._too_large()
            return message

        request._receive = counted
        try:
            return await request.form(max_files=1, max_fields=50, max_part_size=1 << 16)
        except ClientDisconnect as error:
            raise ApiError(400, "the upload was broken off", "bad_request") from error
        except MultiPartException as error:
            raise ApiError(400, f"the form is damaged: {error.message}", "bad_request") from error

    def _too_large(self) -> ApiError:
        limit = self.server.settings.max_upload_bytes
        return self._refused("upload_size", 413, f"the upload is larger than {limit} bytes")

    def _refused(
        self, reason: str, status: int, text: str, headers: dict[str, str] | None = None
    ) -> ApiError:
        self.server.metrics.refusals.labels(reason).inc()
        return ApiError(status, text, reason, headers=headers)

    def _options(self, form: FormData) -> tuple[ServedModel, dict[str, Any]]:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "file is missing", "missing", "file")
        if not file.size:
            raise ApiError(400, "the file is empty", "invalid_audio", "file")
        name = form.get("model")
        model = self.server.models.find(str(name) if name else None)
        if model is None:
            raise ApiError(
                404, f"there is no model {str(name)[:100]!r}", "model_not_found", "model"
            )
        shape = str(form.get("response_format") or "json")
        if shape not in _FORMATS:
            raise ApiError(
                400,
                f"response_format must be one of {', '.join(_FORMATS)}",
                "bad_value",
                "response_format",
            )
        stream = str(form.get("stream") or "false").lower() in ("true", "1")
        wanted = [
            str(value)
            for key in ("timestamp_granularities[]", "timestamp_granularities")
            for value in form.getlist(key)
        ]
        if wanted and shape != "verbose_json" or set(wanted) - {"word", "segment"}:
            raise ApiError(
                400,
                "timestamp_granularities may be word and segment, with verbose_json",
                "bad_value",
                "timestamp_granularities",
            )
        include = [str(v) for key in ("include[]", "include") for v in form.getlist(key)]
        return model, {
            "file": file,
            "format": shape,
            "stream": stream,
            "words": "word" in wanted,
            "segments": not wanted or "segment" in wanted,
            "logprobs": "logprobs" in include,
            "language": str(form.get("language") or ""),
        }

    async def _stream(self, work: "_Work") -> AsyncIterator[str]:
        texts: list[str] = []
        try:
            async with contextlib.aclosing(work.passages()) as passages:
                async for passage in passages:
                    text = passage.hypotheses[0].text
                    if not text:
                        continue
                    delta = text if not texts else work.separator + text
                    texts.append(text)
                    yield _event({"type": "transcript.text.delta", "delta": delta})
            self.server.metrics.audio.labels(work.model.name, "upload").inc(work.duration)
            usage = {"type": "duration", "seconds": math.ceil(work.duration)}
            yield _event(
                {
                    "type": "transcript.text.done",
                    "text": work.separator.join(texts),
                    "usage": usage,
                }
            )
        except CtcSpeechError as error:  # the answer has begun: its status is sent
            body = {"message": _without_path(error), "type": "invalid_request_error"}
            body |= {"param": "file", "code": "invalid_audio"}
            yield f"event: error\n{_event({'error': body})}"

    def _done(self) -> None:
        self.waiting -= 1


class _Work:
    """One upload: computed in a thread, its passages given out on the event loop as they come."""

    def __init__(
        self,
        model: ServedModel,
        path: str,
        max_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.model, self.path, self.max_seconds, self.loop = model, path, max_seconds, loop
        self.duration = 0.0
        self.separator = " "
        self.done: Callable[[], None] = lambda: None
        self._queue: asyncio.Queue[Passage | BaseException | None] = asyncio.Queue()
        self._stopped = threading.Event()

    async def passages(self) -> AsyncGenerator[Passage, None]:
        """Raises CtcSpeechError for a recording that cannot be read."""
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stopped.set()

    def run(self) -> None:
        """In the thread."""
        error: BaseException | None = None
        try:
            for passage in self._compute():
                self._put(passage)
        except BaseException as caught:
            error = caught
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self._put(error)
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.done)

    def _put(self, item: Passage | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _compute(self) -> Iterator[Passage]:
        recognizer = self.model.recognizer
        recording = Recording("file", Path(self.path))
        seconds = recording.seconds()
        if seconds is not None and seconds > self.max_seconds:
            raise AudioError(f"the recording is longer than {self.max_seconds:g} s")
        calibration = recognizer.calibration(self.model.decoder)
        with self.model.lock, contextlib.closing(recognizer.stretches([recording])) as portions:
            for portion in portions:
                inputs = [stretch.emissions for _, stretch in portion.stretches]
                decoded = self.model.decoder.decode(inputs) if inputs else []
                for (transcript, stretch), hypotheses in zip(
                    portion.stretches, decoded, strict=True
                ):
                    self.separator = transcript.separator
                    if calibration is not None:
                        hypotheses = [calibration.apply(item) for item in hypotheses]
                    hypotheses = [moved(item, stretch.start, stretch.end) for item in hypotheses]
                    self.duration = stretch.end
                    yield Passage(stretch.start, stretch.end, hypotheses)
                if self._stopped.is_set():
                    return
                if self.duration > self.max_seconds:
                    raise AudioError(f"the recording is longer than {self.max_seconds:g} s")
                for transcript in portion.ended:
                    self.duration = transcript.duration
                    if transcript.error is not None:
                        raise transcript.error


def _answer(passages: list[Passage], work: _Work, options: dict[str, Any]) -> Response:
    texts = [passage.hypotheses[0].text for passage in passages]
    text = work.separator.join(text for text in texts if text)
    words = [word for passage in passages for word in passage.hypotheses[0].words]
    shape = options["format"]
    if shape == "text":
        return PlainTextResponse(text + "\n")
    if shape == "srt":
        return PlainTextResponse(format_srt(subtitles(words)))
    if shape == "vtt":
        return PlainTextResponse(format_vtt(subtitles(words)), media_type="text/vtt")
    usage = {"type": "duration", "seconds": math.ceil(work.duration)}
    body: dict[str, Any] = {"text": text, "usage": usage}
    if shape == "json":
        if options["logprobs"]:
            body["logprobs"] = [_logprob(word, i) for i, word in enumerate(words)]
        return JSONResponse(body)
    body |= {
        "task": "transcribe",
        "language": options["language"],
        "duration": round(work.duration, 3),
    }
    if options["segments"]:
        body["segments"] = [_segment(i, passage) for i, passage in enumerate(passages)]
    if options["words"]:
        body["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for word in words
        ]
    return JSONResponse(body)


def _segment(index: int, passage: Passage) -> dict[str, Any]:
    best = passage.hypotheses[0]
    data = best.text.encode()
    return {
        "id": index,
        "seek": round(100 * passage.start),
        "start": round(passage.start, 3),
        "end": round(passage.end, 3),
        "text": best.text,
        "tokens": [int(token) for token in best.tokens],
        "temperature": 0.0,
        "avg_logprob": round(best.ctc_score / max(1, len(best.tokens)), 6),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 6) if data else 1.0,
        "no_speech_prob": 0.0 if best.text else 1.0,
    }


def _logprob(word: Word, index: int) -> dict[str, Any]:
    token = word.text if not index else " " + word.text
    confidence = 1.0 if word.confidence is None else max(word.confidence, 1e-6)
    return {
        "token": token,
        "bytes": list(token.encode()),
        "logprob": round(math.log(confidence), 6),
    }


def _model(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "ctcspeech",
        "sample_rate": model.live.sample_rate,
        "lookahead_ms": round(1000 * model.live.lookahead_seconds, 1),
        "has_language_model": model.live.default_decoder.lm is not None,
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _copy(file: UploadFile) -> str:
    """The upload as a file of its own, with its ending: some formats are told by that."""
    ending = Path(file.filename or "").suffix[:10]
    if not ending[1:].isalnum():
        ending = ""
    descriptor, path = tempfile.mkstemp(ending, "ctcspeech-")
    with open(descriptor, "wb") as target:
        file.file.seek(0)
        while block := file.file.read(1 << 20):
            target.write(block)
    return path


def _without_path(error: Exception) -> str:
    """The message without the name of the temporary file."""
    text = str(error)
    start = text.find(tempfile.gettempdir())
    if start < 0:
        return text.removeprefix("file: ")
    end = text.find(":", start)
    return (text[:start] + "the file" + (text[end:] if end >= 0 else "")).strip()
