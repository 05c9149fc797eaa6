"""`ctcspeech listen`: standard input, and a microphone as the sounddevice package offers it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("uvicorn")  # of serving

from serving import pcm, spoken, wav
from tone_language import RATE
from tone_stream import save_tones


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tones(tmp_path_factory.mktemp("models") / "tones")


def test_listen_to_standard_input(checkpoint):
    both = np.concatenate([spoken("ab cd", 2.0), spoken("e", 0.1)])
    command = [sys.executable, "-m", "ctcspeech", "listen", str(checkpoint), "-"]
    raw = [*command, "--raw-rate", str(RATE)]
    done = subprocess.run(raw, input=pcm(both), capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout.decode() == "ab cd\ne\n"
    done = subprocess.run([*command, "--json"], input=wav(both), capture_output=True, timeout=60)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["text"] for r in results if r["final"]] == ["ab cd", "e"]
    assert any(not r["final"] and r["words"] for r in results)


# What its documentation says of InputStream: the callback gets indata (frames, channels), which is
# the caller's buffer again at the next call, frames, a time and flags; finished_callback is called
# when the stream has become inactive; PortAudioError when it cannot be opened.
SOUNDDEVICE = """
import os, signal, threading, time
import numpy as np

class PortAudioError(Exception):
    pass

class CallbackFlags:
    def __init__(self, input_overflow=False):
        self.input_overflow = input_overflow

class InputStream:
    def __init__(self, samplerate=None, blocksize=None, device=None, channels=None, dtype=None,
                 latency=None, extra_settings=None, callback=None, finished_callback=None):
        if device == "none":
            raise PortAudioError("Error querying device -1")
        assert (device, channels, dtype) == (3, 1, "float32"), (device, channels, dtype)
        self.samples = np.load(os.environ["HEARD"])
        assert samplerate == int(os.environ["HEARD_RATE"])
        self.size, self.callback, self.finished = blocksize, callback, finished_callback

    def __enter__(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        buffer = np.zeros((self.size, 1), np.float32)
        for i in range(0, len(self.samples) - self.size, self.size):
            buffer[:, 0] = self.samples[i : i + self.size]
            self.callback(buffer, self.size, None, CallbackFlags(i // self.size in (2, 3)))
            time.sleep(0.001)
        buffer[:] = np.nan
        if os.environ["HEARD_END"] == "ctrl-c":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            self.finished()

    def __exit__(self, *_):
        self.finished()
"""


@pytest.mark.parametrize("end", ["ctrl-c", "unplugged"])
def test_the_microphone(checkpoint, tmp_path, end):
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    np.save(tmp_path / "heard.npy", np.concatenate([spoken("ab cd ", 2.0), spoken("e", 0.3)]))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "HEARD": str(tmp_path / "heard.npy"), "HEARD_RATE": str(RATE), "HEARD_END": end,
    }  # fmt: skip
    command = [sys.executable, "-m", "ctcspeech", "listen", str(checkpoint), "--microphone"]
    done = subprocess.run(
        [*command, "3"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ab cd\ne\n"  # what had been heard is finished
    assert done.stderr.count("some of the audio is lost") == 1
    assert "listening; Ctrl-C ends" in done.stderr
    assert ("the microphone has ended" in done.stderr) == (end == "unplugged")
    done = subprocess.run(
        [*command, "none"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "the microphone cannot be opened" in done.stderr
