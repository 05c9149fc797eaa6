"""ctcspeech listen: speech to text as it is spoken, in a terminal."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import DecodingOptions, LmUnit, load_recognizer, make_decoder

if TYPE_CHECKING:
    import numpy as np

    from ctcspeech.live.recognizer import Result

__all__ = ["listen"]

_CHUNK = 0.04  # seconds


def listen(
    model: str = typer.Argument(..., metavar="MODEL", help="A run or a checkpoint folder."),
    source: str = typer.Argument(
        "microphone", metavar="[SOURCE]", help="- for standard input, a recording, or microphone."
    ),
    json_lines: bool = typer.Option(False, "--json", help="A line of JSON for each result."),
    device: str | None = typer.Option(
        None, "--microphone", help="Name or number of the microphone. [default: the system's]"
    ),
    raw_rate: int | None = typer.Option(
        None, help="Sample rate of samples without a header, from -."
    ),
    raw_encoding: str = typer.Option("s16le", help="Their encoding, as ffmpeg and sox name it."),
    raw_channels: int = typer.Option(1, help="Their number of channels."),
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    lm_weight: float | None = decoding.LM_WEIGHT,
    word_score: float | None = decoding.WORD_SCORE,
    unk_score: float | None = decoding.UNK_SCORE,
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    hot_word: list[str] | None = decoding.HOT_WORD,
    silence: float = typer.Option(1.2, help="Seconds of silence that end a line."),
    silence_alone: float = typer.Option(2.4, help="The same where nothing was said."),
    longest: float = typer.Option(20.0, help="Seconds after which a line ends anyway."),
) -> None:
    """Write what is said while it is said.

    On a terminal the words under way stand in place, in grey until nothing will change them; a line
    is written where the speaker pauses. Elsewhere only those lines, or with --json all results. The
    microphone needs the extra [listen]. Ctrl-C ends it.

    \b
        ctcspeech listen runs/digits
        arecord -f S16_LE -r 16000 -t raw | ctcspeech listen runs/digits - --raw-rate 16000
        sox call.mp3 -t wav - | ctcspeech listen runs/digits - --json
    """
    from ctcspeech.live.endpoint import Endpointing
    from ctcspeech.live.recognizer import StreamingRecognizer

    options = DecodingOptions(
        lm=lm, lm_unit=lm_unit, lm_weight=lm_weight, word_score=word_score, unk_score=unk_score,
        beam_size=beam_size, beam_threshold=beam_threshold, hot_words=hot_word or [],
    )  # fmt: skip
    try:
        endpointing = Endpointing(silence_alone, silence, longest)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    recognizer = load_recognizer(model, "cpu", 1)
    decoder = make_decoder(options, recognizer) if options.given() else None
    live = StreamingRecognizer.of(recognizer, decoder=decoder, endpointing=endpointing)
    stream = live.stream()
    show = _json_line if json_lines else _Terminal(sys.stdout).show
    if source == "microphone":
        chunks = _microphone(live.sample_rate, device)
    else:
        chunks = _recording(source, live.sample_rate, raw_rate, raw_encoding, raw_channels)
    for chunk in chunks:
        for result in stream.accept(chunk):
            show(result)
    for result in stream.finish():
        show(result)


def _recording(
    source: str, rate: int, raw_rate: int | None, raw_encoding: str, raw_channels: int
) -> Iterator["np.ndarray"]:
    """A recording, or standard input, in small chunks as they come."""
    from ctcspeech import audio
    from ctcspeech.audio.read import PcmFormat

    raw = None
    if raw_rate is not None:
        try:
            raw = PcmFormat(raw_rate, raw_encoding, raw_channels)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    opened = open(0, "rb", buffering=0, closefd=False) if source == "-" else Path(source)
    return audio.stream(opened, rate, _CHUNK, raw=raw)


def _microphone(rate: int, device: str | None) -> Iterator["np.ndarray"]:
    """What is heard until Ctrl-C, with all before it; a second Ctrl-C ends at once."""
    import queue
    import signal

    from ctcspeech.errors import AudioError

    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is missing
        raise AudioError(
            f"the microphone needs sounddevice ({error}): pip install 'ctcspeech[listen]', or give "
            "- and pipe samples in"
        ) from error
    heard: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
    lost = False

    def take(samples: "np.ndarray", frames: int, time: object, status: Any) -> None:
        nonlocal lost
        if status.input_overflow and not lost:
            lost = True
            print("the machine is too slow: some of the audio is lost", file=sys.stderr)
        heard.put(samples[:, 0].copy())  # the next call has the same buffer

    def ended() -> None:
        heard.put(None)

    def interrupted(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        heard.put(None)  # SimpleQueue allows it in a handler, whatever the program is at

    wanted: str | int | None = int(device) if device and device.isdecimal() else device
    try:
        with sounddevice.InputStream(
            samplerate=rate, blocksize=int(_CHUNK * rate), device=wanted, channels=1,
            dtype="float32", callback=take, finished_callback=ended,
        ):  # fmt: skip
            before = signal.signal(signal.SIGINT, interrupted)
            print("listening; Ctrl-C ends", file=sys.stderr)
            while (samples := heard.get()) is not None:
                yield samples
            if signal.getsignal(signal.SIGINT) is interrupted:  # not by Ctrl-C
                signal.signal(signal.SIGINT, before)
                print("the microphone has ended", file=sys.stderr)
    except sounddevice.PortAudioError as error:
        raise AudioError(f"the microphone cannot be opened: {error}") from error


def _json_line(result: "Result") -> None:
    line = {
        "final": result.final,
        "utterance": result.utterance,
        "text": result.text,
        "stable": result.stable,
        "start": round(result.start, 3),
        "end": round(result.end, 3),
        "words": [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": None if word.confidence is None else round(word.confidence, 4),
            }
            for word in result.words
        ],
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


class _Terminal:
    """Words in place where the output is a terminal; else a line for each utterance."""

    def __init__(self, output: TextIO) -> None:
        self.output, self.live = output, output.isatty()

    def show(self, result: "Result") -> None:
        if result.final:
            erase = "\r\x1b[K" if self.live else ""
            self.output.write(f"{erase}{result.text}\n")
        elif self.live:
            import shutil

            width = shutil.get_terminal_size().columns - 1
            text = result.text[-width:]
            stable = max(0, len(result.stable) - (len(result.text) - len(text)))
            self.output.write(f"\r\x1b[K{text[:stable]}\x1b[90m{text[stable:]}\x1b[0m")
        self.output.flush()
