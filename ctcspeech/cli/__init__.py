"""The command `ctcspeech`: one module a verb.

A verb's module imports at its top only what is quick to import, the rest inside its function, so
that `--help` answers at once.
"""

import sys

import typer

from ctcspeech.cli import (
    align,
    bulk,
    data,
    doctor,
    evaluate,
    export,
    listen,
    lm,
    plot,
    serve,
    train,
    transcribe,
    tune,
)

BEGIN = """\
ctcspeech: CTC speech recognition. Where to begin:

  with a model        ctcspeech transcribe MODEL recording.wav
                      (MODEL: a run, model.onnx, a folder of transformers, hf:owner/name)
  with recordings     ctcspeech data import folder my-recordings all.jsonl
                      ctcspeech data split all.jsonl data --by text
                      ctcspeech train recipes/reader/reader.toml --run runs/mine \\
                        data.train=data/train.jsonl data.validation=data/dev.jsonl
  with neither        bash recipes/digits/run.sh

  all verbs           ctcspeech --help; each verb has its own --help
  something is wrong  ctcspeech doctor
  completion          ctcspeech --install-completion (bash, zsh, fish)"""

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="CTC speech recognition: train, evaluate, transcribe.",
)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from ctcspeech import __version__

        print(__version__)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(BEGIN)


# Verbs, in the order in which --help shows them: app.command()(module.verb) for a single one,
# app.add_typer(module.app, name="verb") for a group.
app.add_typer(data.app, name="data")
app.command("train", help=train.HELP)(train.train)
app.command()(evaluate.evaluate)
app.command()(transcribe.transcribe)
app.command()(bulk.bulk)
app.command()(align.align)
app.command()(listen.listen)
app.command()(serve.serve)
app.command()(plot.plot)
app.add_typer(lm.app, name="lm")
app.command()(tune.tune)
app.command()(export.export)
app.command()(doctor.doctor)


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
    except ModuleNotFoundError as error:
        from ctcspeech.extras import missing

        found = missing(error, "this command")
        if found is None:
            raise
        print(f"ctcspeech: {found}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("ctcspeech: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that must not be written to
        print(f"ctcspeech: {error}", file=sys.stderr)
        sys.exit(1)
