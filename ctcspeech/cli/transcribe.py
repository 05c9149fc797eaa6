"""ctcspeech transcribe: recordings to text."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer

from ctcspeech.cli.decoding import DecoderName, load_recognizer, make_decoder
from ctcspeech.files import atomic_write
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    from ctcspeech.audio import PcmFormat
    from ctcspeech.recordings import Recording
    from ctcspeech.transcribe import Transcript

__all__ = ["transcribe"]

_COUNTED = 2000  # files whose lengths are looked up beforehand, for the time left


class Format(str, Enum):
    text = "text"
    jsonl = "jsonl"


def transcribe(
    model: Path = typer.Argument(..., metavar="MODEL", help="A run or a checkpoint folder."),
    inputs: list[str] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Recordings, folders of them, patterns, manifests (.jsonl), or - for standard input.",
    ),
    format: Format = typer.Option(
        Format.text, help="text: a line a recording; jsonl: JSON with times of the words."
    ),
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
    decoder: DecoderName = typer.Option(DecoderName.greedy, help="How emissions become text."),
    raw_rate: int | None = typer.Option(
        None, help="Sample rate of samples without a header, from - or .raw files."
    ),
    raw_encoding: str = typer.Option("s16le", help="Their encoding, as ffmpeg and sox name it."),
    raw_channels: int = typer.Option(1, help="Their number of channels."),
    max_seconds: float = typer.Option(
        30.0, help="Longer recordings are cut at pauses into pieces no longer than this."
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
        sox talk.mp3 -t wav - | ctcspeech transcribe runs/english -
        arecord -f S16_LE -r 8000 -t raw -d 5 |
          ctcspeech transcribe runs/digits - --raw-rate 8000
    """
    if output is not None and output_dir is not None:
        raise typer.BadParameter("give --output or --output-dir, not both")
    raw = _raw_format(raw_rate, raw_encoding, raw_channels)

    from ctcspeech.recordings import find_recordings

    recordings = find_recordings(inputs, raw)
    if names is None:
        names = len(recordings) > 1 and output_dir is None
    write = _formatter(format, names)
    sink = _output(output, _output_paths(recordings, output_dir, format), write)
    recognizer = load_recognizer(model, device, threads)
    failed = 0
    progress = Progress("transcribing", len(recordings), "recording", _total(recordings))
    with sink as put, progress:
        transcripts = recognizer.transcribe(
            recordings,
            make_decoder(decoder, recognizer),
            max_seconds=max_seconds,
            advance=lambda seconds: progress.advance(0, seconds),
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
    from ctcspeech.audio import PcmFormat

    try:
        return PcmFormat(rate, encoding, channels)
    except ValueError as error:
        raise typer.BadParameter(f"--raw-rate, --raw-encoding, --raw-channels: {error}") from error


def _formatter(format: Format, names: bool) -> "Callable[[Transcript], str]":
    if format is Format.jsonl:
        return lambda transcript: json.dumps(transcript.to_dict(), ensure_ascii=False)
    if names:
        return lambda transcript: f"{transcript.name}\t{transcript.text}"
    return lambda transcript: transcript.text


def _output_paths(
    recordings: "list[Recording]", folder: Path | None, format: Format
) -> dict[int, Path] | None:
    """The file in `folder` for each recording (by id()); the tree of a folder argument is kept."""
    if folder is None:
        return None
    ending = {Format.text: ".txt", Format.jsonl: ".jsonl"}[format]
    paths: dict[int, Path] = {}
    taken: dict[Path, str] = {}
    for recording in recordings:
        if recording.utterance is not None:
            place = Path(recording.utterance.id.replace(os.sep, "_"))
        elif not isinstance(recording.source, Path):
            place = Path("stdin")
        elif recording.folder is not None:
            place = recording.source.relative_to(recording.folder).with_suffix("")
        else:
            place = Path(recording.source.stem)
        path = folder / place.parent / (place.name + ending)
        if path in taken:
            raise typer.BadParameter(
                f"--output-dir: {taken[path]} and {recording.name} would both be written to "
                f"{path}; transcribe them into two folders, or use --output"
            )
        taken[path] = recording.name
        paths[id(recording)] = path
    return paths


@contextlib.contextmanager
def _output(
    file: Path | None, paths: dict[int, Path] | None, write: "Callable[[Transcript], str]"
) -> "Iterator[Callable[[Transcript], None]]":
    """A function that takes the transcripts as they are done."""
    if paths is not None:

        def put_apart(transcript: "Transcript") -> None:
            with atomic_write(paths[id(transcript.recording)]) as opened:
                opened.write(write(transcript) + "\n")

        yield put_apart
        return

    def put(transcript: "Transcript") -> None:
        stream.write(write(transcript) + "\n")
        stream.flush()

    stream: IO[str]
    if file is None:
        stream = sys.stdout
        yield put
        return
    # What is done is kept when the work is interrupted, but not under the name of the whole.
    partial = file.with_name(file.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", encoding="utf-8") as stream:
        try:
            yield put
        except BaseException:
            print(f"ctcspeech: what was done is in {partial}", file=sys.stderr)
            raise
    os.replace(partial, file)


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
