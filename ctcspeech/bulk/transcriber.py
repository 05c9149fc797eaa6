"""The one place where bulk meets recognition: recordings in, records out.

A worker makes its `Transcriber` by a `Loader`, a function without arguments that can be pickled, so
that it works in another process and on another machine.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ctcspeech.errors import CtcSpeechError
from ctcspeech.recognize.recognizer import Decoder, Recognizer
from ctcspeech.recognize.recordings import Recording

__all__ = ["Loader", "Transcriber"]


@dataclass
class Transcriber:
    """A model that is ready, and how it is used. `recognizer` must have one thread, so that its
    batches, and with them the last bits of its scores, are the same on every machine."""

    recognizer: Recognizer
    decoder: Decoder
    max_seconds: float = 30.0
    n_best: bool = False  # records hold all hypotheses
    trim: Callable[[], None] | None = None  # gives freed memory back to the system

    def __call__(
        self, recordings: Iterable[Recording]
    ) -> Iterator[tuple[Recording, dict[str, Any] | CtcSpeechError, float]]:
        """Each recording with its record (as `transcribe --format jsonl` has it) or the error that
        kept it from being read, and the seconds of it that were read."""
        transcripts = self.recognizer.transcribe(
            recordings, self.decoder, max_seconds=self.max_seconds
        )
        for transcript in transcripts:
            assert transcript.recording is not None
            result = transcript.error or transcript.to_dict(self.n_best)
            yield transcript.recording, result, transcript.duration
        if self.trim is not None:
            self.trim()


Loader = Callable[[], Transcriber]
