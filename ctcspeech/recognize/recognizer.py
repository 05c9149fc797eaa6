"""From recordings to text: a trained model with all it needs.

    recognizer = Recognizer.from_checkpoint("runs/digits")
    for transcript in recognizer.transcribe(["call.wav", "talk.flac"]):
        print(transcript.name, transcript.text)

Recordings of any length are read as streams, cut at pauses (`ctcspeech.segment`), and run through
the model in batches of like length, across files, by as many threads as there are cores. What comes
out does not depend on how it was batched, beyond rounding.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Barrier, Semaphore, Thread
from typing import Any, Protocol

import numpy as np
import torch

from ctcspeech.audio.features import FeatureExtractor
from ctcspeech.data.manifest import Utterance
from ctcspeech.decode.confidence import Calibration, load_calibrations
from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import AudioError, CtcSpeechError, DecoderError, FeatureError
from ctcspeech.model.checkpoint import find_checkpoint, load_checkpoint
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.recognize.cut import Segment, cut
from ctcspeech.recognize.recordings import Recording
from ctcspeech.recognize.stitch import Stitcher, Stretch
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.normalize import Normalizer

__all__ = ["Decoder", "Passage", "Recognizer", "Transcript", "decoder_kind"]

Source = str | os.PathLike[str] | Utterance | Recording

_FIRST_WINDOW = 60.0  # seconds of audio read before the first batch, so that text comes soon
_LARGEST_WINDOW = 240.0  # seconds of audio read ahead and sorted by length
_LONGEST_STRETCH = 120.0  # seconds without a pause that are decoded at once


class Decoder(Protocol):
    """What turns emissions into text: GreedyDecoder, BeamDecoder, or one of your own."""

    def decode(self, emissions: list[np.ndarray]) -> list[list[Hypothesis]]:
        """For each (T, C) of log-probabilities its hypotheses, best first, at least one. Word
        times are seconds from the first frame."""
        ...


def decoder_kind(decoder: Decoder) -> str:
    """By which the calibrations of confidences are told apart."""
    return "greedy" if isinstance(decoder, GreedyDecoder) else "beam"


@dataclass
class Passage:
    """What was recognised between two pauses. Times are seconds in the recording."""

    start: float
    end: float
    hypotheses: list[Hypothesis]  # best first


@dataclass
class Transcript:
    """What was recognised in one recording, or the error that kept it from being read."""

    name: str
    duration: float = 0.0  # seconds that were read
    passages: list[Passage] = field(default_factory=list)
    error: CtcSpeechError | None = None
    recording: Recording | None = None
    separator: str = " "  # between the texts of two passages

    @property
    def text(self) -> str:
        texts = (passage.hypotheses[0].text for passage in self.passages)
        return self.separator.join(text for text in texts if text)

    @property
    def words(self) -> list[Word]:
        return [word for passage in self.passages for word in passage.hypotheses[0].words]

    def to_dict(self, n_best: bool = False) -> dict[str, Any]:
        """For JSON: audio_filepath, duration, text, and the words with their times.

        n_best: all hypotheses of each passage, too, with their scores.
        """
        values: dict[str, Any] = {"audio_filepath": self.name}
        if self.recording is not None and self.recording.utterance is not None:
            utterance = self.recording.utterance
            values["id"] = utterance.id
            if utterance.offset:
                values["offset"] = utterance.offset
        values["duration"] = round(self.duration, 3)
        values["text"] = self.text
        values["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": None if word.confidence is None else round(word.confidence, 4),
            }
            for word in self.words
        ]
        if n_best:
            values["passages"] = [
                {
                    "start": round(passage.start, 3),
                    "end": round(passage.end, 3),
                    "hypotheses": [
                        {
                            "text": item.text,
                            "score": round(item.score, 4),
                            "ctc_score": round(item.ctc_score, 4),
                            "lm_score": round(item.lm_score, 4),
                        }
                        for item in passage.hypotheses
                    ],
                }
                for passage in self.passages
            ]
        return values


class Recognizer:
    """A model with its features and alphabet, ready to transcribe."""

    def __init__(
        self,
        model: AcousticModel,
        features: FeatureExtractor,
        alphabet: Alphabet,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        batch_seconds: float = 120.0,
        normalizer: Callable[[str], str] | None = None,
        calibrations: dict[str, Calibration] | None = None,
        settings: DecoderSettings | None = None,
    ) -> None:
        """
        threads: batches computed at the same time, each by one thread of the CPU; by default as
            many as torch would use. Elsewhere than on the CPU there is one at a time.
        batch_seconds: audio in a batch, padding included. It bounds the memory, with `threads`.
        normalizer: what was done to the texts before training; references of an evaluation get
            the same.
        calibrations: of the confidences that "greedy" and "beam" decoding give to words
            (`ctcspeech.confidence`); without one they are the decoder's own.
        settings: the language model and weights by which `default_decoder` decodes.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if not batch_seconds > 0:
            raise ValueError(f"batch_seconds must be above 0, got {batch_seconds}")
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.features = features.to(self.device).eval()
        self.alphabet = alphabet
        self.batch_seconds = batch_seconds
        self.normalizer = normalizer
        self.calibrations = dict(calibrations or {})
        self.settings = settings
        config = features.config
        self.precomputed = config.kind == "precomputed"
        # Inputs (samples, or precomputed frames) to a second and to a frame of emissions.
        if self.precomputed:
            self._input_rate = 1000 / config.shift_ms
            self._frame_inputs = model.subsampling
        else:
            self._input_rate = float(config.sample_rate)
            self._frame_inputs = model.subsampling * config.shift
        if self.device.type != "cpu":
            threads = 1
        self.threads = threads or torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> "Recognizer":
        """The recogniser of a run (its best checkpoint) or of a checkpoint folder.

        Raises CheckpointError saying what is missing or damaged.
        """
        checkpoint = load_checkpoint(path)
        rules = (checkpoint.config.get("data") or {}).get("normalizer")
        folder = find_checkpoint(path)
        return cls(
            checkpoint.model,
            checkpoint.features,
            checkpoint.alphabet,
            device=device,
            threads=threads,
            normalizer=None if rules is None else Normalizer.model_validate(rules),
            calibrations=load_calibrations(folder),
            settings=DecoderSettings.find(folder),
        )

    @property
    def sample_rate(self) -> int:
        """Of the samples that the model takes, in hertz."""
        return self.features.config.sample_rate

    @property
    def frame_shift_ms(self) -> float:
        """Milliseconds from one frame of emissions to the next."""
        return 1000 * self._frame_inputs / self._input_rate

    # -- emissions ----------------------------------------------------------------------------

    def emissions(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities, float32 (T', C), of each utterance.

        inputs: samples (S,) at `sample_rate`, or precomputed features (T, F), of any lengths. Less
        than a window of samples gives no frames. An utterance is computed whole: for long
        recordings there is `transcribe`.
        """
        batches = self._submit([np.asarray(item) for item in inputs])
        return _gather(batches, len(inputs))

    def _submit(self, inputs: list[np.ndarray]) -> list[tuple[list[int], Future]]:
        """Batches of like length: the indices of their utterances, and what will be computed."""
        if not inputs:
            return []
        lengths = [len(item) for item in inputs]
        order = sorted(range(len(inputs)), key=lambda i: (-lengths[i], i))
        # With little to do, every thread gets a share of it.
        limit = min(self.batch_seconds * self._input_rate, sum(lengths) / self.threads)
        batches: list[list[int]] = []
        for i in order:
            if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= limit:
                batches[-1].append(i)
            else:
                batches.append([i])
        pool = self._workers()
        return [
            (batch, pool.submit(self._compute, [inputs[i] for i in batch])) for batch in batches
        ]

    def _workers(self) -> ThreadPoolExecutor:
        """The pool, whose threads each let torch use one thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ctcspeech")
            if self.device.type == "cpu":
                before = torch.get_num_threads()
                barrier = Barrier(self.threads)  # so that each thread of the pool gets one call

                def prepare() -> None:
                    barrier.wait()
                    torch.get_num_threads()  # a thread's first call takes the program's number
                    torch.set_num_threads(1)

                for done in [self._pool.submit(prepare) for _ in range(self.threads)]:
                    done.result()
                torch.set_num_threads(before)  # of the other threads of the program
        return self._pool

    @torch.inference_mode()
    def _compute(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Emissions of one batch."""
        lengths = torch.tensor([len(item) for item in inputs])
        padded = torch.zeros(len(inputs), int(lengths.max()), *inputs[0].shape[1:])
        for i, item in enumerate(inputs):
            padded[i, : len(item)] = torch.from_numpy(np.ascontiguousarray(item, np.float32))
        features, frames = self.features(padded.to(self.device), lengths.to(self.device))
        results = [np.zeros((0, len(self.alphabet)), dtype=np.float32) for _ in inputs]
        filled = torch.nonzero(frames > 0)[:, 0]
        if not len(filled):
            return results
        logits, frames = self.model(features[filled], frames[filled])
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        for i, item, count in zip(filled.tolist(), log_probs, frames.tolist(), strict=True):
            results[i] = item[:count].copy()
        return results

    # -- transcripts --------------------------------------------------------------------------

    def greedy_decoder(self) -> GreedyDecoder:
        return GreedyDecoder(self.alphabet, self.frame_shift_ms)

    def default_decoder(self) -> Decoder:
        """The beam decoder by the model's `decoder.json`, where it has one, else the greedy one.

        Raises DecoderError or LanguageModelError if the language model is missing or damaged.
        """
        if self.settings is None:
            return self.greedy_decoder()
        return self.settings.decoder(self.alphabet, self.frame_shift_ms, threads=self.threads)

    def calibration(self, decoder: Decoder) -> Calibration | None:
        """What the confidences of this decoder are mapped through, if there is such a fit."""
        return self.calibrations.get(decoder_kind(decoder))

    def transcribe(
        self,
        sources: Iterable[Source],
        decoder: Decoder | None = None,
        *,
        max_seconds: float = 30.0,
        advance: Callable[[float], None] | None = None,
    ) -> Generator[Transcript, None, None]:
        """Transcribes recordings, in their order.

        Args:
            sources: paths, utterances of a manifest, or Recordings; taken one by one as needed, in
                another thread.
            decoder: `default_decoder()` unless given.
            max_seconds: recordings that are longer are cut at pauses, so that no piece is. Features
                from files are never cut.
            advance: called with the seconds of audio that have been computed since the last call.

        Yields a Transcript for each recording. One that cannot be read has its `error` set and no
        text; the others go on.
        """
        decoder = decoder or self.default_decoder()
        state = _Recordings(self)
        reader = _Reader(self._windows(sources, max_seconds))
        running: deque[tuple[_Window, list[tuple[list[int], Future]]]] = deque()
        try:
            while running or not reader.finished:
                window = reader.wait()
                if window is not None:
                    batches = self._submit([segment.samples for _, segment in window.pieces])
                    running.append((window, batches))
                    for _, future in batches:
                        future.add_done_callback(reader.wake)
                while running and all(future.done() for _, future in running[0][1]):
                    window, batches = running.popleft()
                    reader.proceed()
                    yield from state.finish(window, batches, decoder, advance)
        finally:
            reader.stop()
            for _, batches in running:
                for _, future in batches:
                    future.cancel()

    def _windows(self, sources: Iterable[Source], max_seconds: float) -> "Iterator[_Window]":
        """What is read, in portions that grow."""
        window, read, limit = _Window(), 0.0, _FIRST_WINDOW
        for source in sources:
            recording = Recording.of(source)
            transcript = Transcript(recording.name, recording=recording)
            if self.alphabet.kind == "characters" and self.alphabet.space is None:
                transcript.separator = ""
            try:
                for segment in self._segments(recording, max_seconds):
                    window.pieces.append((transcript, segment))
                    transcript.duration = segment.end
                    read += len(segment.samples) / self._input_rate
                    if read >= limit:
                        yield window
                        window, read, limit = _Window(), 0.0, min(2 * limit, _LARGEST_WINDOW)
            except (AudioError, FeatureError) as error:
                transcript.error = error
            except OSError as error:
                transcript.error = AudioError(f"{recording.name}: {error.strerror or error}")
            window.ended.append(transcript)
        yield window

    def _segments(self, recording: Recording, max_seconds: float) -> Iterator[Segment]:
        if not self.precomputed:
            yield from cut(
                recording.chunks(self.sample_rate),
                self.sample_rate,
                max_seconds,
                context=min(1.5, max_seconds / 8),
                grain=self._frame_inputs,
            )
            return
        config = self.features.config
        assert config.num_features is not None  # the configuration has checked it
        features = recording.features(config.shift_ms, config.num_features)
        yield Segment(features, 0, self._input_rate)


@dataclass
class _Window:
    """A portion of the work: pieces of recordings, and the recordings that end with them."""

    pieces: list[tuple[Transcript, Segment]] = field(default_factory=list)
    ended: list[Transcript] = field(default_factory=list)


class _Reader:
    """Reads windows in a thread of its own: the next one, while one is computed and decoded.

    The thread may wait for a pipe for ever, so nothing waits for it to end.
    """

    def __init__(self, windows: "Iterator[_Window]") -> None:
        self.finished = False  # all windows have come out
        self._windows = windows
        self._events: SimpleQueue[_Window | BaseException | str | None] = SimpleQueue()
        self._allowed = Semaphore(2)
        self._stopped = False
        Thread(target=self._read, name="ctcspeech-reader", daemon=True).start()

    def _read(self) -> None:
        try:
            while self._allowed.acquire() and not self._stopped:
                window = next(self._windows, None)
                self._events.put("finished" if window is None else window)
                if window is None:
                    return
        except BaseException as error:  # raised where the transcripts are asked for
            self._events.put(error)

    def wait(self) -> "_Window | None":
        """The next event: a window, or None when there is something else to look after."""
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, str):
            self.finished = True
            return None
        return event

    def wake(self, _: Future) -> None:
        """Ends the wait: a batch is done."""
        self._events.put(None)

    def proceed(self) -> None:
        """Another window may be read."""
        self._allowed.release()

    def stop(self) -> None:
        self._stopped = True
        self._allowed.release()


class _Recordings:
    """The recordings under way: emissions put together, decoded, and given out in order."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.stitchers: dict[int, Stitcher] = {}

    def finish(
        self,
        window: _Window,
        futures: list[tuple[list[int], Future]],
        decoder: Decoder,
        advance: Callable[[float], None] | None,
    ) -> Iterator[Transcript]:
        """Waits for a window's emissions, decodes them, and yields the recordings that end."""
        emissions = _gather(futures, len(window.pieces))
        stretches: list[tuple[Transcript, Stretch]] = []
        for (transcript, segment), item in zip(window.pieces, emissions, strict=True):
            if transcript.error is None and np.isnan(item).any():
                transcript.error = DecoderError(
                    f"{transcript.name}: the model's emissions are NaN; the checkpoint is damaged"
                )
            if transcript.error is None:
                stitcher = self._stitcher(transcript, segment)
                stretches.extend((transcript, part) for part in stitcher.add(segment, item))
        inputs = [stretch.emissions for _, stretch in stretches]
        decoded = decoder.decode(inputs) if inputs else []
        calibration = self.recognizer.calibration(decoder)
        for (transcript, stretch), hypotheses in zip(stretches, decoded, strict=True):
            if calibration is not None:
                hypotheses = [calibration.apply(hypothesis) for hypothesis in hypotheses]
            moved = [_moved(hypothesis, stretch.start) for hypothesis in hypotheses]
            transcript.passages.append(Passage(stretch.start, stretch.end, moved))
        if advance is not None and window.pieces:
            advance(sum(segment.end - segment.start for _, segment in window.pieces))
        for transcript in window.ended:
            self.stitchers.pop(id(transcript), None)
            if transcript.error is not None:
                transcript.passages.clear()
            yield transcript

    def _stitcher(self, transcript: Transcript, segment: Segment) -> Stitcher:
        known = self.stitchers.get(id(transcript))
        if known is None:
            recognizer = self.recognizer
            frames = int(_LONGEST_STRETCH * 1000 / recognizer.frame_shift_ms)
            known = Stitcher(recognizer.alphabet, recognizer._frame_inputs, frames)
            self.stitchers[id(transcript)] = known
        return known


def _gather(batches: list[tuple[list[int], Future]], count: int) -> list[np.ndarray]:
    results: list[Any] = [None] * count
    for indices, future in batches:
        for i, item in zip(indices, future.result(), strict=True):
            results[i] = item
    return results


def _moved(hypothesis: Hypothesis, seconds: float) -> Hypothesis:
    """The hypothesis with its words so much later."""
    words = [
        replace(word, start=word.start + seconds, end=word.end + seconds)
        for word in hypothesis.words
    ]
    return replace(hypothesis, words=words)
