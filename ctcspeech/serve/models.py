"""The models that a server has: loaded once, named by the user, never by a client."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.live.windows import Windows
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.serve.batcher import Batcher
from ctcspeech.serve.metrics import Metrics
from ctcspeech.serve.settings import ServeSettings

__all__ = ["Models", "ServedModel", "named"]


def named(argument: str) -> tuple[str, str]:
    """`NAME=MODEL`, or MODEL, which is then called as its folder is: (name, model)."""
    name, equals, model = argument.partition("=")
    if equals and name and "/" not in name:
        return name, model
    return Path(argument).resolve().name or argument, argument


@dataclass
class ServedModel:
    """One model: for recordings, and for streams."""

    name: str
    recognizer: Recognizer
    live: StreamingRecognizer
    batcher: Batcher
    decoder: Any  # of recordings
    created: int = field(default_factory=lambda: int(time.time()))
    lock: threading.Lock = field(default_factory=threading.Lock)


class Models:
    """By name; the first one is the default."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.by_name: dict[str, ServedModel] = {}
        # Recordings are computed by few threads that give way to the streams.
        self.uploads = ThreadPoolExecutor(
            settings.uploads, thread_name_prefix="ctcspeech-upload", initializer=_give_way
        )

    def add(
        self,
        name: str,
        recognizer: Recognizer,
        *,
        decoder: Any = None,
        endpointing: Endpointing | None = None,
        windows: Windows | None = None,
    ) -> ServedModel:
        """Serves a recogniser. decoder: for streams and recordings, by default the model's own.

        Raises ValueError where the name is taken, DecoderError for a model that hears no streams.
        """
        if name in self.by_name:
            raise ValueError(f"two models are named {name}; name them NAME=MODEL")
        live = StreamingRecognizer.of(
            recognizer, decoder=decoder, endpointing=endpointing, windows=windows
        )
        settings = self.settings
        batcher = Batcher(
            name,
            live,
            self.metrics,
            max_batch=settings.max_batch,
            max_wait_seconds=settings.max_wait_seconds,
            queue_seconds=settings.queue_seconds,
        )
        model = ServedModel(
            name, recognizer, live, batcher, decoder or recognizer.default_decoder()
        )
        self.by_name[name] = model
        return model

    def find(self, name: str | None) -> ServedModel | None:
        """By its name, or the first one where none is given."""
        if not name:
            return next(iter(self.by_name.values()))
        return self.by_name.get(name)

    def start(self) -> None:
        for model in self.by_name.values():
            model.batcher.start()

    @property
    def alive(self) -> bool:
        return all(model.batcher.is_alive() for model in self.by_name.values())

    def stop(self) -> None:
        for model in self.by_name.values():
            model.batcher.stop()
        self.uploads.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    import os

    if hasattr(os, "setpriority"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        except OSError:
            pass  # not allowed here; then uploads compete with streams as equals
