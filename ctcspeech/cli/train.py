"""`ctcspeech train`: trains a model as a TOML file says."""

from pathlib import Path

import typer

__all__ = ["train"]

HELP = """Train a model as CONFIG says; the result is RUN/model.

\b
    ctcspeech train digits.toml --run runs/digits
    ctcspeech train digits.toml --run runs/digits --resume
    ctcspeech train digits.toml --run runs/small model.hidden=128 train.epochs=10

CONFIG is a TOML file with sections [data], [features], [augment], [model], [train]; the least is
data.train, a manifest (or several) with a line of JSON for each utterance:
{"audio_filepath": "a.wav", "duration": 2.5, "text": "hello world"}. Relative paths in it are meant
from its folder. KEY=VALUE overrides one of its keys, the value written as in TOML.

Ctrl-C (or SIGTERM) ends training after the current step with a checkpoint; the same command with
--resume goes on exactly there. It is refused, naming what differs, when manifests or recordings are
no longer those of the run; --force goes on with them, from the beginning of the epoch.

To fine-tune a model give train.init_from=MODEL_FOLDER. Several processes, one a GPU:

\b
    torchrun --nproc-per-node 4 --max-restarts 10 -m ctcspeech -- train CONFIG --run RUN

(-- keeps torchrun from taking --run for one of its own options.) When one of them dies, torchrun
starts all of them again, as often as --max-restarts says, and they go on from the last checkpoint,
of which there is one every train.checkpoint_minutes. When torchrun itself has ended, give the
command again with --resume; there may be another number of processes.
"""


def train(
    config: Path = typer.Argument(help="The run's TOML file."),
    overrides: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="For example train.learning_rate=3e-4."
    ),
    run: Path = typer.Option(
        None, "--run", help="The run's folder; default: runs/ and the name of CONFIG."
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the run in that folder (begin if there is none)."
    ),
    force: bool = typer.Option(
        False, "--force", help="Resume although the data are no longer those of the run."
    ),
) -> None:
    from ctcspeech.train.config import load_config
    from ctcspeech.train.trainer import train as train_model

    loaded = load_config(config, overrides or ())
    folder = run if run is not None else Path("runs") / config.stem

    def report(line: str) -> None:
        print(line, flush=True)

    train_model(loaded, folder, resume, report, force=force)
