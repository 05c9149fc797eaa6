"""A recogniser of streams: words as they come, final ones at endpoints.

    recognizer = StreamingRecognizer.load("runs/digits-streaming")
    stream = recognizer.stream(sample_rate=16000, hot_words={"seven": 3.0})
    for samples in microphone:                          # any sizes
        for result in stream.accept(samples):
            print(result.text, "." if result.final else "...")
    for result in stream.finish():
        print(result.text)

An endpoint resets the decoder, never the acoustic state. Many streams are computed in one batch:
`push` to each of them, then `StreamingRecognizer.advance(streams)`.
"""

import math
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import soxr

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.confidence import Calibration
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.emissions import Emitter
from ctcspeech.errors import AlphabetError, AudioError, DecoderError
from ctcspeech.exchange.streaming import StreamingOnnx
from ctcspeech.live.endpoint import EndpointDetector, Endpointing, QuietAudio
from ctcspeech.live.source import Source
from ctcspeech.live.stable import StablePrefix
from ctcspeech.live.state import OnnxSource
from ctcspeech.live.windows import Windows, WindowSource

__all__ = ["LiveStream", "Result", "StreamingRecognizer"]

_DECODERS = 16  # with other hot words, kept for the next stream that asks for them


@dataclass
class Result:
    """What is known of an utterance. Times are seconds from the beginning of the stream.

    stable: the leading words of `text` that nothing will change; of a final result all of it.
    added: what `stable` has gained since the last result of this utterance.
    utterance: its number in the stream, from 0. start, end: of what was heard for it.
    reason: why a result is final: "silence", "length", "commit" (the caller's) or "end".
    alternatives: of a final result, as many hypotheses as were asked for, best first.
    """

    text: str
    final: bool
    stable: str
    added: str
    words: list[Word]
    utterance: int
    start: float
    end: float
    reason: str | None = None
    alternatives: list[Hypothesis] = field(default_factory=list)


class StreamingRecognizer:
    """An emitter and a decoder for streams. Belongs to one thread, but for `decoder`."""

    def __init__(
        self,
        emitter: Emitter,
        decoder: BeamDecoder | None = None,
        *,
        endpointing: Endpointing | None = None,
        windows: Windows | None = None,
        calibration: Calibration | None = None,
        carry_context: bool = False,
    ) -> None:
        """
        emitter: forward-only models go by their state, others by overlapping windows.
        decoder: with language model and weights; by default a search without.
        endpointing: the rules, by default Kaldi's.
        windows: for models that go by windows, or to let one with a state go by them.
        calibration: of the words' confidences.
        carry_context: whether the language model goes on from an utterance to the next, instead of
            taking each for a sentence.

        Raises DecoderError for a model that cannot hear streams.
        """
        self.emitter = emitter
        self.source: Source
        if windows is None and isinstance(emitter, StreamingOnnx):
            self.source = OnnxSource(emitter)
        elif windows is None and (source := _torch_source(emitter)) is not None:
            self.source = source
        else:
            self.source = WindowSource(emitter, windows)
        shift = emitter.frame_shift_ms
        self.default_decoder = decoder or BeamDecoder(emitter.alphabet, frame_shift_ms=shift)
        self.endpointing = endpointing or Endpointing()
        self.calibration = calibration
        self.carry_context = carry_context
        self._decoders: OrderedDict[Any, BeamDecoder] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], device: str = "cpu", **options: Any
    ) -> "StreamingRecognizer":
        """Of a model as `Recognizer.load` takes it, with its language model and calibration.

        options: of the class; a `decoder` takes the place of the model's own settings.
        """
        from ctcspeech.recognize.recognizer import Recognizer

        return cls.of(Recognizer.load(model, device), **options)

    @classmethod
    def of(cls, recognizer: Any, **options: Any) -> "StreamingRecognizer":
        """Of a `Recognizer`: its emitter, decoder settings and calibration."""
        if options.get("decoder") is None and recognizer.settings is not None:
            options["decoder"] = recognizer.settings.decoder(
                recognizer.alphabet, recognizer.frame_shift_ms
            )
        options.setdefault("calibration", recognizer.calibrations.get("beam"))
        return cls(recognizer.emitter, **options)

    @property
    def sample_rate(self) -> int:
        """Of the samples that the model takes, in hertz."""
        return self.source.sample_rate

    @property
    def lookahead_seconds(self) -> float:
        """Audio after a frame that must have come before it is decoded."""
        return self.source.lookahead_seconds

    def decoder(
        self, hot_words: Mapping[str, float] | Iterable[str] | None = None, n_best: int = 1
    ) -> BeamDecoder:
        """The decoder with these hot words. May take long with a large language model, and may be
        called from any thread.

        Raises ValueError for hot words that the alphabet cannot write.
        """
        if not hot_words and n_best == 1:
            return self.default_decoder
        pairs = hot_words.items() if isinstance(hot_words, Mapping) else hot_words or ()
        key = (n_best, tuple(pairs))
        for phrase in hot_words or ():
            try:
                self.emitter.alphabet.encode(phrase)
            except AlphabetError as error:
                raise ValueError(f"the model cannot write {phrase!r}: {error}") from error
        with self._lock:
            made = self._decoders.get(key)
            if made is None:
                changes: dict[str, Any] = {"n_best": n_best}
                if hot_words:
                    changes["hot_words"] = hot_words
                made = self.default_decoder.replace(**changes)
                self._decoders[key] = made
            self._decoders.move_to_end(key)
            while len(self._decoders) > _DECODERS:
                self._decoders.popitem(last=False)
        return made

    def stream(
        self,
        sample_rate: int | None = None,
        *,
        hot_words: Mapping[str, float] | Iterable[str] | None = None,
        n_best: int = 1,
        endpointing: Endpointing | None = None,
    ) -> "LiveStream":
        """A new stream of samples at `sample_rate` (by default the model's)."""
        decoder = self.decoder(hot_words, n_best)
        return LiveStream(self, sample_rate, decoder, endpointing or self.endpointing)

    def advance(self, streams: Sequence["LiveStream"]) -> list[list[Result]]:
        """Computes and decodes what is ready of the streams, in one batch; the results of each.

        Of a stream with much to do a part is done: it is `ready` still.
        """
        chosen = [stream for stream in streams if stream.ready]
        emissions = self.source.compute([stream.source for stream in chosen])
        found = {
            id(stream): stream.decode(item) for stream, item in zip(chosen, emissions, strict=True)
        }
        return [found.get(id(stream), []) for stream in streams]


def _torch_source(emitter: Emitter) -> Source | None:
    """Where torch computes the emitter, and it has a state. Without torch there is none."""
    if "torch" not in sys.modules:
        return None
    from ctcspeech.live.torch_state import TorchSource, has_state

    return TorchSource(emitter) if has_state(emitter) else None


class LiveStream:
    """One stream. Made by `StreamingRecognizer.stream`; for one thread."""

    def __init__(
        self,
        recognizer: StreamingRecognizer,
        sample_rate: int | None,
        decoder: BeamDecoder,
        endpointing: Endpointing,
    ) -> None:
        self.recognizer = recognizer
        self.sample_rate = sample_rate or recognizer.sample_rate
        if not 1000 <= self.sample_rate <= 384000:
            raise ValueError(f"sample_rate must be in 1000..384000 Hz, got {sample_rate}")
        self.source = recognizer.source.open()
        self.frame_seconds = recognizer.source.frame_seconds
        self._resampler = None
        if self.sample_rate != recognizer.sample_rate:
            self._resampler = soxr.ResampleStream(
                self.sample_rate, recognizer.sample_rate, 1, dtype="float32"
            )
        self._decoder = decoder
        self._frame_heard = recognizer.source.frame_heard
        self._quiet = None
        if self._frame_heard is not None:
            self._quiet = QuietAudio(recognizer.sample_rate)
        self._detector = EndpointDetector(
            endpointing, recognizer.emitter.alphabet, self.frame_seconds
        )
        self.frames = 0  # decoded so far
        self.samples = 0  # taken so far, at `sample_rate`
        self._end = math.inf  # seconds, once it is known; frames of a tail lie after it
        self.utterance = -1
        self._begin(None)

    # -- samples in -----------------------------------------------------------------------------

    def push(self, samples: np.ndarray) -> None:
        """The next samples (S,), float (full scale 1) or int16; nothing is computed yet.

        Raises AudioError for samples that are not finite, ValueError for another shape or type.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f" and samples.dtype != np.int16:
            raise ValueError(
                f"samples must be float or int16 (S,), got {samples.dtype} {samples.shape}"
            )
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / np.float32(32768)
        samples = samples.astype(np.float32, copy=False)
        if len(samples) and not np.isfinite(samples).all():
            raise AudioError(
                "samples are NaN or infinite; is their encoding the one that was told?"
            )
        self.samples += len(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        self._take(samples)

    def end(self) -> None:
        """There are no more samples; the rest comes out by `advance`."""
        if self._resampler is not None and not self.source.ended:
            rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            self._take(rest)
        self._end = self.samples / self.sample_rate
        self.source.end()

    def _take(self, samples: np.ndarray) -> None:
        if self._quiet is not None:
            self._quiet.push(samples)
        self.source.push(samples)

    def accept(self, samples: np.ndarray) -> list[Result]:
        """The next samples, as `push` takes them; the results that they bring."""
        self.push(samples)
        return self._drain()

    def finish(self) -> list[Result]:
        """The end of the stream: the results that are left, the last one final."""
        self.end()
        return self._drain()

    def _drain(self) -> list[Result]:
        results: list[Result] = []
        while self.ready:
            results += self.recognizer.advance([self])[0]
        return results

    @property
    def ready(self) -> bool:
        """Whether there is something to compute, or the end to be told."""
        return not self._closed and (self.source.ready or self.source.finished)

    @property
    def closed(self) -> bool:
        """Whether the last result has come out."""
        return self._closed

    def close(self) -> None:
        """Gives back what the stream holds. Done by itself after the last result."""
        if not self._closed:
            self.source.close()
            self._closed = True

    # -- words out ------------------------------------------------------------------------------

    _closed = False

    def decode(self, log_probs: np.ndarray) -> list[Result]:
        """Takes the next frames (T, C), by `advance`."""
        results: list[Result] = []
        if np.isnan(log_probs).any():
            raise DecoderError("the model's emissions are NaN; the checkpoint is damaged")
        quiet = self._quiet_at(len(log_probs))
        while True:
            found = self._detector.accept(log_probs, quiet)
            now = log_probs if found is None else log_probs[: found[0]]
            if len(now):
                self._beam.accept(now)
                self.frames += len(now)
            if found is None:
                break
            log_probs = log_probs[found[0] :]
            quiet = quiet[found[0] :] if quiet is not None else None
            results += self._end_utterance(found[1])
        if self.source.finished:
            results += self._end_utterance("end")
            self.close()
        elif partial := self._partial():
            results.append(partial)
        return results

    def _quiet_at(self, count: int) -> list[float] | None:
        """Seconds of quiet before the last sample that was heard for each of the next frames."""
        if self._quiet is None or self._frame_heard is None:
            return None
        step = round(self.frame_seconds * self.recognizer.sample_rate)
        first = self.frames * step + self._frame_heard
        return [self._quiet.at(first + k * step) for k in range(count)]

    def commit(self) -> list[Result]:
        """Ends the utterance with the frames decoded so far, whatever the rules say."""
        return self._end_utterance("commit")

    def set_hot_words(self, decoder: BeamDecoder) -> None:
        """The decoder (`StreamingRecognizer.decoder`) from the next utterance on."""
        self._decoder = decoder

    @property
    def seconds(self) -> float:
        """Of audio decoded so far."""
        return min(self.frames * self.frame_seconds, self._end)

    @property
    def silence(self) -> float:
        """Seconds of silence at the end of what was decoded."""
        return self._detector.silence

    @property
    def heard_speech(self) -> bool:
        """Whether the utterance under way has a frame that is not silent."""
        return self._detector.spoken

    @property
    def num_bytes(self) -> int:
        """Memory that the stream holds: samples, the model's state, the decoder's beam."""
        state = getattr(self.recognizer.source, "state_bytes", 0)
        return self.source.buffer.nbytes + state + self._beam.num_bytes

    def _begin(self, context: str | None) -> None:
        self._detector.reset()
        self._beam = self._decoder.stream(context=context)
        self._first = self.frames
        self._stable = StablePrefix()
        self._shown: tuple[str, str] = ("", "")
        self.utterance += 1

    def _partial(self) -> Result | None:
        """A result where the text or its stable part has changed."""
        if not self._detector.spoken and not self._shown[0]:
            return None
        best = self._beam.partial()
        if (best.text, best.final) == self._shown or (not best.text and not self._shown[0]):
            return None
        self._shown = (best.text, best.final)
        added = self._stable.update(best.final)
        return self._result(best.text, best.words, added, final=False)

    def _end_utterance(self, reason: str) -> list[Result]:
        hypotheses = self._beam.finish()
        text = hypotheses[0].text
        results = []
        if text or self._shown[0]:
            added = self._stable.update(text)
            result = self._result(text, hypotheses[0].words, added, final=True)
            result.reason = reason
            result.alternatives = [self._moved(hypothesis) for hypothesis in hypotheses]
            results.append(result)
        carried = text if self.recognizer.carry_context and text else None
        number = self.utterance
        self._begin(carried)
        if not results:
            self.utterance = number  # nothing was said: the number is the next one's
        return results

    def _result(self, text: str, words: list[Word], added: str, final: bool) -> Result:
        start = min(self._first * self.frame_seconds, self._end)
        return Result(
            text,
            final,
            self._stable.text,
            added,
            [self._word(word) for word in words],
            self.utterance,
            start,
            self.seconds,
        )

    def _word(self, word: Word) -> Word:
        start, calibration = self._first * self.frame_seconds, self.recognizer.calibration
        confidence = word.confidence
        if calibration is not None and confidence is not None:
            confidence = calibration(confidence)
        begin, end = min(word.start + start, self._end), min(word.end + start, self._end)
        return Word(word.text, begin, end, confidence)

    def _moved(self, hypothesis: Hypothesis) -> Hypothesis:
        return replace(hypothesis, words=[self._word(word) for word in hypothesis.words])
