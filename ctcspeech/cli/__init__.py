"""The command `ctcspeech`: one module a verb.

A verb's module imports at its top only what is quick to import, the rest inside its function, so
that `--help` answers at once.
"""

import sys

import typer

from ctcspeech.cli import (
    align,
    data,
    evaluate,
    lm,
    plot,
    train,
    transcribe,
    tune,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="CTC speech recognition: train, evaluate, transcribe.",
)


@app.callback(invoke_without_command=True)
def options(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from ctcspeech import __version__

        print(__version__)
        raise typer.Exit()


# Verbs, in the order in which --help shows them: app.command()(module.verb) for a single one,
# app.add_typer(module.app, name="verb") for a group.
app.add_typer(data.app, name="data")
app.command("train", help=train.HELP)(train.train)
app.command()(evaluate.evaluate)
app.command()(transcribe.transcribe)
app.command()(align.align)
app.command()(plot.plot)
app.add_typer(lm.app, name="lm")
app.command()(tune.tune)


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 failed (wholly or for some items), 2 wrong usage, 130 interrupted.
    """
    from ctcspeech.errors import CtcSpeechError

    try:
        app()
    except CtcSpeechError as error:
        print(f"ctcspeech: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("ctcspeech: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that must not be written to
        print(f"ctcspeech: {error}", file=sys.stderr)
        sys.exit(1)
