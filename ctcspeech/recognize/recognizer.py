"""From recordings to text: a model with all it needs.

recognizer = Recognizer.load("runs/digits")
for transcript in recognizer.transcribe(["call.wav", "talk.flac"]):
    print(transcript.name, transcript.text)
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctcspeech.decode.confidence import Calibration, load_calibrations
from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.emissions import Emissions, Emitter
from ctcspeech.recognize.emitter import Workers
from ctcspeech.recognize.load import load_emitter
from ctcspeech.recognize.stretches import Portion, Source, read_stretches, recording_emissions
from ctcspeech.recognize.transcript import Decoder, Passage, Transcript, decoder_kind, moved
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.fitting import FittingNormalizer

if TYPE_CHECKING:
    import torch

__all__ = ["Recognizer"]


class Recognizer:
    """An emitter with what belongs to it, ready to transcribe."""

    def __init__(
        self,
        emitter: Emitter,
        *,
        threads: int | None = None,
        batch_seconds: float = 120.0,
        normalizer: Callable[[str], str] | None = None,
        calibrations: dict[str, Calibration] | None = None,
        settings: DecoderSettings | None = None,
    ) -> None:
        """
        threads: batches computed at the same time; by default as many as the emitter would use
            (on a GPU one, else one a processor).
        batch_seconds: audio in a batch, padding included. It bounds the memory, with `threads`.
        normalizer: what was done to the texts before training; references of an evaluation get
            the same.
        calibrations: of the confidences that "greedy" and "beam" decoding give to words
            (`ctcspeech.decode.confidence`); without one they are the decoder's own.
        settings: the language model and weights by which `default_decoder` decodes.
        """
        self.emitter = emitter
        self.workers = Workers(emitter, threads, batch_seconds)
        self._attending: Workers | None = None
        self.normalizer = normalizer
        self.calibrations = dict(calibrations or {})
        self.settings = settings

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        device: "str | torch.device" = "cpu",
        threads: int | None = None,
    ) -> "Recognizer":
        """The recogniser of a MODEL: a run or checkpoint, an ONNX model, a folder or a hub's model
        of transformers; see `ctcspeech.recognize.load`.

        Raises CheckpointError or ModelError saying what is missing or damaged.
        """
        loaded = load_emitter(model, str(device))
        normalizer: Callable[[str], str] | None = None
        if loaded.normalizer is not None:
            from ctcspeech.text.normalize import Normalizer

            normalizer = Normalizer.model_validate(loaded.normalizer)
        elif not loaded.own:
            normalizer = FittingNormalizer(loaded.emitter.alphabet)
        folder = loaded.folder
        return cls(
            loaded.emitter,
            threads=threads,
            normalizer=normalizer,
            calibrations=None if folder is None else load_calibrations(folder),
            settings=None if folder is None else DecoderSettings.find(folder),
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        device: "str | torch.device" = "cpu",
        threads: int | None = None,
    ) -> "Recognizer":
        """`load`, by the name it has for runs and checkpoints."""
        return cls.load(path, device, threads)

    @property
    def alphabet(self) -> Alphabet:
        return self.emitter.alphabet

    @property
    def sample_rate(self) -> int:
        """Of the samples that the model takes, in hertz."""
        return self.emitter.sample_rate

    @property
    def frame_shift_ms(self) -> float:
        """Milliseconds from one frame of emissions to the next."""
        return self.emitter.frame_shift_ms

    @property
    def threads(self) -> int:
        """Batches that are computed at the same time."""
        return self.workers.threads

    # -- emissions ----------------------------------------------------------------------------

    def emissions(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities, float32 (T', C), of each utterance.

        inputs: samples (S,) at `sample_rate`, or precomputed features (T, F), of any lengths. Less
        than a window of samples gives no frames. An utterance is computed whole: for long
        recordings there is `recording_emissions`.
        """
        return self.workers.emissions(inputs)

    def stretches(
        self,
        sources: Iterable[Source],
        *,
        max_seconds: float = 30.0,
        advance: Callable[[float], None] | None = None,
    ) -> Generator[Portion, None, None]:
        """Emissions of recordings between their pauses: see `read_stretches`."""
        return read_stretches(self.workers, sources, max_seconds=max_seconds, advance=advance)

    def recording_emissions(
        self,
        sources: Iterable[Source],
        *,
        max_seconds: float = 30.0,
        advance: Callable[[float], None] | None = None,
    ) -> Generator[tuple[Transcript, Emissions], None, None]:
        """Emissions of whole recordings of any length: see `recognize.recording_emissions`."""
        return recording_emissions(self.workers, sources, max_seconds=max_seconds, advance=advance)

    def attending(self) -> Workers:
        """What computes the encoder's states beside the emissions: see `Emitter.with_states`."""
        if self._attending is None:
            emitter = self.emitter.with_states()
            self._attending = Workers(emitter, self.workers.threads, self.workers.batch_seconds)
        return self._attending

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
            decoder: `default_decoder()` unless given; one that `attends` gets the encoder's states,
                too. The others: see `read_stretches`.

        Raises CtcSpeechError where the decoder attends and the model has no attention decoder.

        Yields a Transcript for each recording. One that cannot be read has its `error` set and no
        text; the others go on.
        """
        decoder = decoder or self.default_decoder()
        workers = self.attending() if getattr(decoder, "attends", False) else self.workers
        portions = read_stretches(workers, sources, max_seconds=max_seconds, advance=advance)
        try:
            for portion in portions:
                yield from self._decoded(portion, decoder)
        finally:
            portions.close()

    def _decoded(self, portion: Portion, decoder: Decoder) -> Iterator[Transcript]:
        """Decodes a portion and gives out the recordings that end with it."""
        inputs = [stretch.emissions for _, stretch in portion.stretches]
        decoded = decoder.decode(inputs) if inputs else []
        calibration = self.calibration(decoder)
        for (transcript, stretch), hypotheses in zip(portion.stretches, decoded, strict=True):
            if calibration is not None:
                hypotheses = [calibration.apply(hypothesis) for hypothesis in hypotheses]
            place = stretch.start, stretch.end
            hypotheses = [moved(hypothesis, *place) for hypothesis in hypotheses]
            transcript.passages.append(Passage(stretch.start, stretch.end, hypotheses))
        for transcript in portion.ended:
            if transcript.error is not None:
                transcript.passages.clear()
            yield transcript
