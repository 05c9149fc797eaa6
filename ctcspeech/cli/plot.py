"""ctcspeech plot: pictures of what was heard, and of a run."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.cli.decoder_options import load_recognizer
from ctcspeech.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ctcspeech.decode.hypothesis import Word
    from ctcspeech.evaluate.plot import AttentionMap
    from ctcspeech.recognize.recognizer import Recognizer

__all__ = ["plot"]

_ENDINGS = (".png", ".svg", ".pdf")


def plot(
    what: Path | None = typer.Argument(
        None, metavar="[FILE|RUN]", help="A recording, or a run's folder."
    ),
    example: str | None = typer.Option(
        None, help="In place of a recording: alpha, beta and occupation of this short text."
    ),
    frames: int | None = typer.Option(None, min=1, help="With --example: so many frames."),
    model: str | None = typer.Option(None, help="The MODEL that listens to the recording."),
    text: Path | None = typer.Option(None, help="Its text, to be aligned and drawn as trellis."),
    text_string: str | None = typer.Option(None, help="The text itself."),
    start: float = typer.Option(0.0, "--from", min=0.0, help="Draw from this second on."),
    end: float | None = typer.Option(None, "--to", help="Draw up to this second."),
    output: Path | None = typer.Option(
        None,
        "--output",
        "-o",
        help="A .png, .svg or .pdf. [default: the recording's or run's name and .png]",
        show_default=False,
    ),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Draw what a model hears in a recording, or how a run was trained.

    Of a recording: waveform, log spectrogram, the probability of each label over time, and the
    words with their boundaries, as recognised or, with a text, as aligned; with a text also its
    trellis: the probability of each state of the text at each frame, and the best path. Of a model
    with an attention decoder also where it looks for each label, of the text or its own.

    \b
        ctcspeech plot call.wav --model runs/digits -o call.png
        ctcspeech plot talk.flac --model runs/english --from 60 --to 75
        ctcspeech plot call.wav --model runs/digits --text-string "seven one" -o call.svg
        ctcspeech plot runs/digits -o curves.png
        ctcspeech plot --example cat -o lattice.png
        ctcspeech plot word.inkml --model runs/pen/run -o word.png

    --example draws the forward-backward recursions of CTC on a made-up utterance, for teaching:
    a circle for each state of the text at each frame, the blanks between the letters named too.
    Of pen strokes (.inkml) it draws the line, each point in the colour of the label written there.
    """
    if (what is None) == (example is None):
        raise typer.BadParameter("give a recording, a run's folder, or --example TEXT")
    if example is not None:
        _save(_example(example, frames), output or Path("lattice.png"))
        return
    assert what is not None
    output = output or Path((what.name if what.is_dir() else what.stem) + ".png")
    _check_ending(output)
    if text is not None and text_string is not None:
        raise typer.BadParameter("give --text or --text-string, not both")
    if end is not None and end <= start:
        raise typer.BadParameter(f"--to must be above --from: {end:g}, {start:g}")
    if what.is_dir():
        from ctcspeech.evaluate.plot import plot_training

        figure = plot_training(what)
    else:
        if model is None:
            raise typer.BadParameter("--model is needed to draw what it hears in a recording")
        if text is not None:
            text_string = _read(text)
        figure = _recording(what, model, device, text_string, start, end)
    _save(figure, output)


def _save(figure: "Figure", output: Path) -> None:
    _check_ending(output)
    with atomic_write(output, "wb") as file:
        figure.savefig(file, format=output.suffix[1:].lower())
    print(output)


def _check_ending(output: Path) -> None:
    if output.suffix.lower() not in _ENDINGS:
        raise typer.BadParameter(f"--output must end in {', '.join(_ENDINGS)}: {output}")


def _example(text: str, frames: int | None) -> "Figure":
    from ctcspeech.evaluate.plot_lattice import example, plot_lattice

    try:
        return plot_lattice(*example(text, frames))
    except ValueError as error:
        raise typer.BadParameter(f"--example: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--text: cannot read {path}: {error}") from error


def _recording(
    path: Path, model: str, device: str, text: str | None, start: float, end: float | None
) -> "Figure":
    from ctcspeech import audio
    from ctcspeech.align.known_text import align_text
    from ctcspeech.decode.hypothesis import Word
    from ctcspeech.errors import AudioError
    from ctcspeech.evaluate.plot import plot_recording, trellis

    recognizer = load_recognizer(model, device, None)
    with contextlib.closing(recognizer.recording_emissions([path])) as results:
        transcript, emissions = next(results)
    if transcript.error is not None:
        raise transcript.error
    if path.suffix.lower() == ".inkml":
        from ctcspeech.evaluate.plot_ink import plot_ink
        from ctcspeech.pen import read_inkml

        return plot_ink(read_inkml(path), emissions, path.name)
    if start >= transcript.duration:
        raise AudioError(
            f"{path} is {transcript.duration:.2f} s long: there is nothing from {start:g} s on"
        )
    stop = transcript.duration if end is None else min(end, transcript.duration)
    states, words = None, list[Word]()
    if text is not None:
        aligned = align_text(emissions, text, recognizer.alphabet, recognizer.normalizer)
        words = aligned.words
        try:
            states = trellis(emissions, aligned, start, stop)
        except (ValueError, TypeError) as error:
            typer.echo(f"ctcspeech: without the trellis: {error}", err=True)
    elif len(emissions):
        ((hypothesis,),) = recognizer.greedy_decoder().decode([emissions.scores])
        words = hypothesis.words
    rate = None if recognizer.emitter.num_features is None else recognizer.sample_rate
    samples, rate = audio.load(path, rate, start, stop - start)
    weights = _attention(recognizer, samples, start, words if text is not None else None)
    return plot_recording(
        samples, rate, emissions, words, offset=start, trellis=states, attention=weights,
        title=path.name,
    )  # fmt: skip


_LONGEST_ATTENDED = 60.0  # seconds that an attention decoder is shown at once


def _attention(
    recognizer: "Recognizer", samples: "np.ndarray", start: float, words: "list[Word] | None"
) -> "AttentionMap | None":
    """Of the part that is drawn, which the decoder hears as if it were all; words: those of the
    given text."""
    from ctcspeech.evaluate.plot_attention import attention_map

    if recognizer.emitter.attention is None or recognizer.emitter.num_features is not None:
        return None
    seconds = len(samples) / recognizer.sample_rate
    if seconds > _LONGEST_ATTENDED:
        typer.echo(
            f"ctcspeech: without the attention: {seconds:.0f} s are too much at once, choose at "
            f"most {_LONGEST_ATTENDED:g} with --from and --to",
            err=True,
        )
        return None
    text = None
    if words is not None:
        shown = [w.text for w in words if w.end > start and w.start < start + seconds]
        text = " ".join(shown)
    return attention_map(recognizer.emitter, samples, text, start)
