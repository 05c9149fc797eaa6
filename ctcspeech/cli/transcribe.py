"""ctcspeech transcribe: recordings to text."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import (
    DecoderName,
    DecodingOptions,
    LmUnit,
    load_recognizer,
    make_decoder,
    memory_trimmer,
)
from ctcspeech.cli.output import FORMAT_HELP, Format, make_writer, open_output, subtitle_limits
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    from ctcspeech.audio.read import PcmFormat
    from ctcspeech.recognize.recordings import Recording

__all__ = ["transcribe"]

_COUNTED = 2000  # files whose lengths are looked up beforehand, for the time left


def transcribe(
    model: str = decoding.MODEL,
    inputs: list[str] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Recordings, folders of them, patterns, manifests (.jsonl), or - for standard input.",
    ),
    format: Format = typer.Option(Format.text, help=FORMAT_HELP),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Write to this file, not to standard output."
    ),
    output_dir: Path | None = typer.Option(
        None, help="Write a file for each recording into this folder."
    ),
    names: bool | None = typer.Option(
        None,
        "--names/--no-names",
        help="In text, put the recording's name and a tab before each line. "
        "[default: when there are several]",
        show_default=False,
    ),
    subtitle_lines: int = typer.Option(2, min=1, help="Lines of a subtitle, at most."),
    subtitle_characters: int = typer.Option(42, min=1, help="Characters of its line, at most."),
    subtitle_seconds: tuple[float, float] = typer.Option(
        (1.0, 7.0), help="How long it is shown, at least and at most."
    ),
    decoder: DecoderName = decoding.DECODER,
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    lm_weight: float | None = decoding.LM_WEIGHT,
    word_score: float | None = decoding.WORD_SCORE,
    unk_score: float | None = decoding.UNK_SCORE,
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    neural_lm: Path | None = decoding.NEURAL_LM,
    neural_weight: float | None = decoding.NEURAL_WEIGHT,
    hot_word: list[str] | None = decoding.HOT_WORD,
    ctc_weight: float | None = decoding.CTC_WEIGHT,
    length_normalization: float | None = decoding.LENGTH_NORMALIZATION,
    coverage: float | None = decoding.COVERAGE,
    n_best: int = decoding.N_BEST,
    raw_rate: int | None = typer.Option(
        None, help="Sample rate of samples without a header, from - or .raw files."
    ),
    raw_encoding: str = typer.Option("s16le", help="Their encoding, as ffmpeg and sox name it."),
    raw_channels: int = typer.Option(1, help="Their number of channels."),
    max_seconds: float = typer.Option(
        30.0, help="Longer recordings are cut, at pauses, into pieces no longer than this."
    ),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    threads: int | None = typer.Option(
        None, min=1, help="Threads of the CPU. [default: one a core]", show_default=False
    ),
) -> None:
    """Write what is said in recordings.

    Any format that libsndfile reads (wav, flac, ogg, mp3, ...), any rate, channels and length.
    Text goes to standard output in the order of the inputs, progress to standard error. A
    recording that cannot be read is reported and the others are done; the exit code is then 1.

    \b
        ctcspeech transcribe runs/digits call.wav
        ctcspeech transcribe runs/digits recordings/ --format jsonl -o all.jsonl
        ctcspeech transcribe runs/english talk.mp3 --format srt -o talk.srt
        ctcspeech transcribe runs/english talk.mp3 --lm lm.bin --hot-word "deep speech:4"
        sox talk.mp3 -t wav - | ctcspeech transcribe runs/english -
        arecord -f S16_LE -r 8000 -t raw -d 5 |
          ctcspeech transcribe runs/digits - --raw-rate 8000
    """
    limits = subtitle_limits(subtitle_lines, subtitle_characters, subtitle_seconds)
    raw = _raw_format(raw_rate, raw_encoding, raw_channels)
    if n_best > 1 and format is not Format.jsonl:
        raise typer.BadParameter(f"--n-best {n_best} needs --format jsonl")
    options = DecodingOptions(
        decoder, lm, lm_unit, lm_weight, word_score, unk_score, beam_size, beam_threshold,
        hot_word or [], n_best, neural_lm=neural_lm, neural_weight=neural_weight,
        ctc_weight=ctc_weight, length_normalization=length_normalization, coverage=coverage,
    )  # fmt: skip

    from ctcspeech.recognize.recordings import find_recordings

    recordings = find_recordings(inputs, raw)
    if names is None:
        names = len(recordings) > 1 and output_dir is None
    write = make_writer(format, names, limits, n_best > 1)
    sink = open_output(recordings, format, write, output, output_dir)
    recognizer = load_recognizer(model, device, threads)
    made = make_decoder(options, recognizer)
    failed = 0
    progress = Progress("transcribing", len(recordings), "recording", _total(recordings))
    trim = memory_trimmer()

    def advance(seconds: float) -> None:
        progress.advance(0, seconds)
        trim()

    with sink as put, progress:
        transcripts = recognizer.transcribe(
            recordings,
            made,
            max_seconds=max_seconds,
            advance=advance,
        )
        with contextlib.closing(transcripts):
            for transcript in transcripts:
                if transcript.error is None:
                    put(transcript)
                else:
                    failed += 1
                    progress.message(f"ctcspeech: {transcript.error}")
                progress.advance(1)
        progress.note = _real_time_factor(progress)
    if failed:
        print(
            f"ctcspeech: {failed} of {len(recordings)} recordings could not be transcribed",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _raw_format(rate: int | None, encoding: str, channels: int) -> "PcmFormat | None":
    if rate is None:
        return None
    from ctcspeech.audio.read import PcmFormat

    try:
        return PcmFormat(rate, encoding, channels)
    except ValueError as error:
        raise typer.BadParameter(f"--raw-rate, --raw-encoding, --raw-channels: {error}") from error


def _total(recordings: "list[Recording]") -> float | None:
    """Seconds of audio in all of them, if that can be told soon."""
    if len(recordings) > _COUNTED:
        return None
    lengths = [recording.seconds() for recording in recordings]
    known = [length for length in lengths if length is not None]
    return sum(known) if len(known) == len(lengths) else None


def _real_time_factor(progress: Progress) -> str:
    import time

    if not progress.seconds:
        return ""
    factor = (time.monotonic() - progress.started) / progress.seconds
    return f"real-time factor {factor:.4f}"
