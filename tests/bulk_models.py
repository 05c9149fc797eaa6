"""Loaders of transcribers for tests of bulk work; they can be pickled, for workers elsewhere."""

import os
import signal
from pathlib import Path

from tone_language import tone_recognizer

from ctcspeech.bulk.transcriber import Transcriber


def tones():
    """The recogniser of tones, on one thread."""
    recognizer = tone_recognizer(threads=1)
    return Transcriber(recognizer, recognizer.greedy_decoder())


class Deadly(Transcriber):
    """Its process is killed by recordings whose name has `poison` in it, as by a library's fault;
    who is to see the kills gets a line in the file that KILLS names."""

    def __call__(self, recordings):
        return super().__call__(self._watched(recordings))

    def _watched(self, recordings):
        for recording in recordings:
            if "poison" in Path(recording.name).name:
                with open(os.environ["KILLS"], "a") as file:
                    file.write(recording.name + "\n")
                os.kill(os.getpid(), signal.SIGKILL)
            yield recording


def deadly():
    made = tones()
    return Deadly(made.recognizer, made.decoder)


def broken():
    os._exit(3)
