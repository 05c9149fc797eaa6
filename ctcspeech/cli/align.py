"""ctcspeech align: the times of the words of known texts."""

import contextlib
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import load_recognizer
from ctcspeech.cli.output import FORMAT_HELP, Format, make_writer, open_output, subtitle_limits
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    from ctcspeech.align.known_text import AlignedText
    from ctcspeech.align.split import SplitLimits
    from ctcspeech.recognize.recognizer import Recognizer
    from ctcspeech.recognize.recordings import Recording

__all__ = ["align"]

_WARNED = 5  # words outside the alphabet that are named, for each recording


class Skip(str, Enum):
    none = "none"
    ends = "ends"
    lines = "lines"


class Units(str, Enum):
    lines = "lines"
    sentences = "sentences"


def align(
    model: str = decoding.MODEL,
    inputs: list[str] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Manifests (.jsonl) with texts, or recordings, folders and patterns of them.",
    ),
    text: Path | None = typer.Option(
        None,
        help="The text of the one recording. [default: the .txt beside each recording]",
        show_default=False,
    ),
    text_string: str | None = typer.Option(None, help="The text itself."),
    format: Format = typer.Option(Format.jsonl, help=FORMAT_HELP),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Write to this file, not to standard output."
    ),
    output_dir: Path | None = typer.Option(
        None, help="Write a file for each recording into this folder."
    ),
    skip: Skip | None = typer.Option(
        None,
        help="Where there may be speech that is not in the text: none, at both ends of the "
        "recording, or also between lines. [default: none; with --split ends]",
        show_default=False,
    ),
    split: Path | None = typer.Option(
        None, help="Cut the recordings into utterances for training, in this folder."
    ),
    units: Units = typer.Option(Units.lines, help="With --split: what an utterance is."),
    min_score: float = typer.Option(
        -1.5, max=0.0, help="With --split: drop utterances whose worst second is below this."
    ),
    min_seconds: float = typer.Option(0.3, help="With --split: drop shorter utterances."),
    max_seconds: float = typer.Option(20.0, help="With --split: divide longer ones at pauses."),
    padding: float = typer.Option(0.25, help="With --split: seconds kept around the words."),
    offsets: bool = typer.Option(
        False, "--offsets", help="With --split: no audio; the manifest has offsets instead."
    ),
    subtitle_lines: int = typer.Option(2, min=1, help="Lines of a subtitle, at most."),
    subtitle_characters: int = typer.Option(42, min=1, help="Characters of its line, at most."),
    subtitle_seconds: tuple[float, float] = typer.Option(
        (1.0, 7.0), help="How long it is shown, at least and at most."
    ),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    threads: int | None = typer.Option(
        None, min=1, help="Threads of the CPU. [default: one a core]", show_default=False
    ),
) -> None:
    """Find when each word of a known text is spoken.

    Recordings of any length. Words keep their spelling and punctuation in the result; what the
    model cannot write is reported and gets the time that its neighbours leave.

    \b
        ctcspeech align runs/english talk.flac --text talk.txt --format srt -o talk.srt
        ctcspeech align runs/english test.jsonl --format ctm -o test.ctm
        ctcspeech align runs/digits call.wav --text-string "seven one four"

    With --split, recordings and their texts become a folder of utterances for training: manifest
    (manifest.jsonl), audio, and report.jsonl with every utterance, its score, and why it was
    dropped. The score is the mean log-probability of its worst second. --min-score sets how bad a
    pair may be; the summary tells how many would stay at other limits.

    \b
        ctcspeech align runs/english book.flac --text book.txt --split corpus/
        ctcspeech align runs/english talks/ --split corpus/ --units sentences --skip lines
    """
    if split is not None and (output is not None or output_dir is not None):
        raise typer.BadParameter("--split writes into its own folder: no --output, --output-dir")
    if text is not None and text_string is not None:
        raise typer.BadParameter("give --text or --text-string, not both")
    limits = subtitle_limits(subtitle_lines, subtitle_characters, subtitle_seconds)
    split_limits = _split_limits(min_score, min_seconds, max_seconds, padding)

    from ctcspeech.recognize.recordings import find_recordings

    recordings = find_recordings(inputs)
    if (text or text_string) and len(recordings) != 1:
        raise typer.BadParameter(
            f"--text and --text-string are for one recording, and there are {len(recordings)}: "
            "give a manifest with their texts, or a .txt beside each"
        )
    if skip is None:
        skip = Skip.none if split is None else Skip.ends
    task = _Task(recordings, text, text_string, skip.value, units.value if split else "lines")
    if split is not None:
        from ctcspeech.align.split_writer import SplitWriter

        writer = SplitWriter(split, split_limits, offsets=offsets)
        task.run(load_recognizer(model, device, threads), writer.add)
        writer.close()
        print(writer.summary())
    else:
        write = make_writer(format, len(recordings) > 1 and output_dir is None, limits)
        sink = open_output(recordings, format, write, output, output_dir)
        recognizer = load_recognizer(model, device, threads)
        with sink as put:
            task.run(recognizer, lambda transcript, aligned: put(transcript))
    task.conclude()


def _split_limits(
    min_score: float, min_seconds: float, max_seconds: float, padding: float
) -> "SplitLimits":
    from ctcspeech.align.split import SplitLimits

    try:
        return SplitLimits(
            min_score, min_seconds=min_seconds, max_seconds=max_seconds, padding=padding
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


class _Task:
    """All recordings aligned, one after the other; bad ones are reported."""

    def __init__(
        self,
        recordings: "list[Recording]",
        text: Path | None,
        text_string: str | None,
        skip: str,
        units: str,
    ) -> None:
        self.recordings, self.skip, self.units = recordings, skip, units
        self.text, self.text_string = text, text_string
        self.failed = 0

    def run(self, recognizer: "Recognizer", put: Any) -> None:
        """Calls put(transcript, aligned) for each recording that could be aligned."""
        from ctcspeech.align.known_text import align_text
        from ctcspeech.errors import CtcSpeechError

        with Progress("aligning", len(self.recordings), "recording") as progress:

            def fail(name: str, error: Exception) -> None:
                self.failed += 1
                progress.message(f"ctcspeech: {name}: {error}".replace(f"{name}: {name}", name))
                progress.advance(1)

            texts: dict[int, list[str]] = {}

            def with_text() -> "Iterator[Recording]":
                for recording in self.recordings:
                    try:
                        texts[id(recording)] = self._lines(recording)
                    except CtcSpeechError as error:
                        fail(recording.name, error)
                    else:
                        yield recording

            results = recognizer.recording_emissions(
                with_text(), advance=lambda seconds: progress.advance(0, seconds)
            )
            with contextlib.closing(results):
                for transcript, emissions in results:
                    try:
                        if transcript.error is not None:
                            raise transcript.error
                        aligned = align_text(
                            emissions,
                            texts.pop(id(transcript.recording)),
                            recognizer.alphabet,
                            recognizer.normalizer,
                            skip=self.skip,
                        )
                        self._warn(progress, transcript.name, aligned)
                        put(aligned.transcript(transcript), aligned)
                    except CtcSpeechError as error:
                        fail(transcript.name, error)
                    else:
                        progress.advance(1)

    def _lines(self, recording: "Recording") -> list[str]:
        from ctcspeech.align.split import sentences

        text = self._text(recording)
        if self.units == "sentences":
            return sentences(text)
        return [line for line in text.splitlines() if line.strip()]

    def _text(self, recording: "Recording") -> str:
        from ctcspeech.errors import AlignmentError

        if self.text_string is not None:
            return self.text_string
        if self.text is None and recording.utterance is not None:
            return recording.utterance.text
        beside = self.text
        if beside is None:
            if not isinstance(recording.source, Path):
                raise AlignmentError("give its text with --text")
            beside = recording.source.with_suffix(".txt")
        try:
            return beside.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise AlignmentError(
                f"cannot read its text {beside}: {error.strerror}; give --text, or a manifest"
            ) from error
        except UnicodeDecodeError as error:
            raise AlignmentError(f"its text {beside} is not UTF-8: {error}") from error

    def _warn(self, progress: Progress, name: str, aligned: "AlignedText") -> None:
        reasons = list(dict.fromkeys(aligned.unknown.values()))
        if not reasons:
            return
        more = f"; and {len(reasons) - _WARNED} more" if len(reasons) > _WARNED else ""
        progress.message(
            f"ctcspeech: {name}: {len(aligned.unknown)} of {len(aligned.words)} words are aligned "
            f"as unknown speech: {'; '.join(reasons[:_WARNED])}{more}"
        )

    def conclude(self) -> None:
        if self.failed:
            count = len(self.recordings)
            print(
                f"ctcspeech: {self.failed} of {count} recordings could not be aligned",
                file=sys.stderr,
            )
            raise typer.Exit(1)
