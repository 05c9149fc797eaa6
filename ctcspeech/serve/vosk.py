"""vosk-server's dialect, so that its clients move over: `/vosk`.

One answer for each message of audio, as there: a partial result, or the final one of an utterance
that has ended. A model cannot be named by a client.
"""

from typing import Any

import numpy as np

from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.live.recognizer import Result
from ctcspeech.serve.batcher import Event
from ctcspeech.serve.native import flag, integer, read_object
from ctcspeech.serve.session import GOING_AWAY, BadMessage, Session

__all__ = ["VoskSession"]


class VoskSession(Session):
    """config, PCM of 16 bits, eof, reset."""

    protocol = "vosk"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sample_rate = 8000  # vosk-server's own default
        self.words, self.alternatives = True, 0
        self.phrases: list[str] | None = None
        self.partial = ""
        self.finals: list[Result] = []
        self.ending = False

    async def on_text(self, text: str) -> None:
        message = read_object(text)
        if "config" in message:
            await self._configure(message["config"])
        elif message.get("eof"):
            self.ending = True
            if self.handle is None:
                self.send({"text": ""})
                self.close(1000)
            else:
                self.handle.end()
        elif message.get("reset"):
            if self.handle is not None:
                self.handle.close()
                self.handle = None
            self.partial, self.finals = "", []
        else:
            raise BadMessage("a message must hold config, eof or reset")

    async def _configure(self, config: Any) -> None:
        if not isinstance(config, dict):
            raise BadMessage("config must be an object")
        if "model" in config:
            raise BadMessage("a model cannot be named by a client", "model_not_found")
        self.sample_rate = integer(config, "sample_rate", self.sample_rate, 1000, 384000)
        self.words = flag(config, "words", self.words)
        self.alternatives = integer(config, "max_alternatives", self.alternatives, 0, 20)
        phrases = config.get("phrase_list")
        if phrases is not None:
            wrong = not isinstance(phrases, list) or not all(isinstance(p, str) for p in phrases)
            if wrong:
                raise BadMessage("phrase_list must be a list of strings")
            self.phrases = [phrase for phrase in phrases if phrase != "[unk]"]
        if self.handle is not None:
            self.handle.close()
            self.handle = None

    async def on_audio(self, data: bytes) -> None:
        if self.handle is None:
            self.model = self.find_model(None)
            decoder = await self.make_decoder(self.phrases, max(1, self.alternatives))
            self.open_stream(self.sample_rate, decoder, None)
        assert self.handle is not None
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        self.audio_seconds += len(samples) / self.sample_rate
        handle = self.handle
        await handle.push(samples, self.sample_rate)
        handle.mark(True)

    def on_event(self, event: Event) -> None:
        if event.kind == "result" and event.result is not None:
            if event.result.final:
                self.finals.append(event.result)
                self.partial = ""
            else:
                self.partial = event.result.text
        elif event.kind == "mark" and not self.ending:
            if self.finals:
                self.send(self._final(self.finals.pop(0)))
            else:
                self.send({"partial": self.partial})

    def on_closed(self) -> None:
        while len(self.finals) > 1:
            self.send(self._final(self.finals.pop(0)))
        self.send(self._final(self.finals.pop()) if self.finals else {"text": ""})
        self.close(GOING_AWAY if self.server.draining else 1000)

    def _final(self, result: Result) -> dict[str, Any]:
        if self.alternatives:
            return {"alternatives": [self._alternative(item) for item in result.alternatives]}
        message: dict[str, Any] = {"text": result.text}
        if self.words and result.words:
            message = {"result": [_word(word) for word in result.words], **message}
        return message

    def _alternative(self, item: Hypothesis) -> dict[str, Any]:
        message: dict[str, Any] = {"confidence": item.score, "text": item.text}
        if self.words:
            message["result"] = [
                {"start": w.start, "end": w.end, "word": w.text} for w in item.words
            ]
        return message

    def on_error(self, code: str, message: str, param: str | None = None) -> None:
        self.send({"error": message})


def _word(word: Word) -> dict[str, Any]:
    return {
        "conf": 1.0 if word.confidence is None else round(word.confidence, 6),
        "end": round(word.end, 3),
        "start": round(word.start, 3),
        "word": word.text,
    }
