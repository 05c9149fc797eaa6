"""A real server for tests: uvicorn in a thread, on a free port of the loopback, a tone model."""

import asyncio
import contextlib
import io
import threading
import time

import numpy as np
import soundfile
import uvicorn
from tone_language import RATE, hush, say
from tone_stream import tone_emitter

from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.serve.server import Draining, Server
from ctcspeech.serve.settings import ServeSettings

TEXT = "ab cde e"


@contextlib.contextmanager
def serving(recognizer=None, *, name="tones", **settings):
    """A running server; `url` and `ws` are its addresses, `log` its access log."""
    settings.setdefault("drain_seconds", 5.0)
    server = Server(ServeSettings(**settings), log_file=io.StringIO())
    server.models.add(name, recognizer or Recognizer(tone_emitter(), threads=1))
    options = {**server.uvicorn_options(), "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(server.app, "127.0.0.1", 0, **options)
    runner = Draining(config, server)
    thread = threading.Thread(target=lambda: asyncio.run(runner.serve()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not runner.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert runner.started
    port = runner.servers[0].sockets[0].getsockname()[1]
    server.url, server.ws = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
    server.log, server.runner, server.thread = server.state.log_file, runner, thread
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def spoken(text=TEXT, pause=0.5, seed=3):
    """Samples (S,) float32 at the tone model's rate, silence after them."""
    generator = np.random.default_rng(seed)
    return np.concatenate([say(text, generator), hush(pause, generator)])


def wav(samples, rate=RATE, kind="WAV"):
    """The samples as a file's bytes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def pcm(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def chunks(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]
