"""What `transcribe` and `align` have in common: recognised or aligned words written to files."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer

from ctcspeech.files import atomic_write

if TYPE_CHECKING:
    from ctcspeech.recognize.formats import SubtitleLimits
    from ctcspeech.recognize.recordings import Recording
    from ctcspeech.recognize.transcript import Transcript

__all__ = ["FORMAT_HELP", "Format", "make_writer", "open_output", "subtitle_limits"]


class Format(str, Enum):
    text = "text"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"
    ctm = "ctm"
    textgrid = "textgrid"
    tsv = "tsv"


ENDINGS = {Format.text: ".txt", Format.textgrid: ".TextGrid"}  # else "." and the format's name
ONE_RECORDING = (Format.srt, Format.vtt, Format.textgrid)  # their files hold one recording

Writer = Callable[["Transcript"], str]

FORMAT_HELP = (
    "text: a line a recording; jsonl: JSON with times of the words; srt, vtt: subtitles; "
    "ctm: as sclite reads it; textgrid: for Praat; tsv: a line a word."
)


def subtitle_limits(lines: int, characters: int, seconds: tuple[float, float]) -> "SubtitleLimits":
    """The limits from the options; what makes no sense is wrong usage."""
    from ctcspeech.recognize.formats import SubtitleLimits

    try:
        return SubtitleLimits(lines, characters, *seconds)
    except ValueError as error:
        raise typer.BadParameter(f"--subtitle-...: {error}") from error


def make_writer(
    format: Format, names: bool, limits: "SubtitleLimits", n_best: bool = False
) -> Writer:
    """What makes of a transcript the text of its file, or its part of the file for all.

    names: whether a line of text begins with the recording's name and a tab. n_best: whether JSON
    holds all hypotheses.
    """
    from ctcspeech.recognize import formats

    def text(transcript: "Transcript") -> str:
        line = transcript.text + "\n"
        return f"{transcript.name}\t{line}" if names else line

    return {
        Format.text: text,
        Format.jsonl: lambda item: json.dumps(item.to_dict(n_best), ensure_ascii=False) + "\n",
        Format.srt: lambda item: formats.format_srt(formats.subtitles(item.words, limits)),
        Format.vtt: lambda item: formats.format_vtt(formats.subtitles(item.words, limits)),
        Format.ctm: lambda item: formats.format_ctm(_short_name(item), item.words),
        Format.textgrid: lambda item: formats.format_textgrid(item.words, item.duration),
        Format.tsv: lambda item: formats.format_tsv(item.name, item.words, header=False),
    }[format]


def _short_name(transcript: "Transcript") -> str:
    """As references name a recording: the id in the manifest, or the file without its ending."""
    recording = transcript.recording
    if recording is not None and recording.utterance is not None:
        return recording.utterance.id
    return "stdin" if transcript.name == "-" else Path(transcript.name).stem


def open_output(
    recordings: "list[Recording]",
    format: Format,
    write: Writer,
    file: Path | None,
    folder: Path | None,
) -> "AbstractContextManager[Callable[[Transcript], None]]":
    """A context whose value is a function that takes the transcripts as they are done.

    They go into a file each in `folder`, else all into `file`, else to standard output. What is
    wrong usage is told at once; files are opened when the context is entered.
    """
    if file is not None and folder is not None:
        raise typer.BadParameter("give --output or --output-dir, not both")
    if folder is not None:
        return _apart(_output_paths(recordings, folder, format), _header(format), write)
    if format in ONE_RECORDING and len(recordings) > 1:
        raise typer.BadParameter(
            f"--format {format.value} holds one recording a file, and there are "
            f"{len(recordings)}: give --output-dir"
        )
    return _together(file, _header(format), write)


@contextlib.contextmanager
def _apart(
    paths: dict[int, Path], header: str, write: Writer
) -> "Iterator[Callable[[Transcript], None]]":
    def put(transcript: "Transcript") -> None:
        with atomic_write(paths[id(transcript.recording)]) as opened:
            opened.write(header + write(transcript))

    yield put


@contextlib.contextmanager
def _together(
    file: Path | None, header: str, write: Writer
) -> "Iterator[Callable[[Transcript], None]]":
    def put(transcript: "Transcript") -> None:
        stream.write(write(transcript))
        stream.flush()

    stream: IO[str]
    if file is None:
        stream = sys.stdout
        stream.write(header)
        yield put
        return
    # What is done is kept when the work is interrupted, but not under the name of the whole.
    partial = file.with_name(file.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", encoding="utf-8") as stream:
        try:
            stream.write(header)
            yield put
        except BaseException:
            print(f"ctcspeech: what was done is in {partial}", file=sys.stderr)
            raise
    os.replace(partial, file)


def _header(format: Format) -> str:
    if format is not Format.tsv:
        return ""
    from ctcspeech.recognize.formats import format_tsv

    return format_tsv("", [])


def _output_paths(recordings: "list[Recording]", folder: Path, format: Format) -> dict[int, Path]:
    """The file in `folder` for each recording (by id()); the tree of a folder argument is kept."""
    ending = ENDINGS.get(format, f".{format.value}")
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
                f"{path}; write them into two folders, or use --output"
            )
        taken[path] = recording.name
        paths[id(recording)] = path
    return paths
