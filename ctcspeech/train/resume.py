"""Whether a run goes on, and from where."""

from collections.abc import Callable
from pathlib import Path

from ctcspeech.errors import CheckpointError, ConfigError, TrainingError
from ctcspeech.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, recover
from ctcspeech.train.config import MAY_CHANGE, RunConfig, differences, load_config
from ctcspeech.train.processes import Process

__all__ = ["last_checkpoint", "last_folder"]


def last_folder(run: Path) -> Path:
    """The checkpoint that a run goes on from."""
    return run / "checkpoints" / "last"


def last_checkpoint(
    config: RunConfig,
    run: Path,
    resume: bool,
    process: Process,
    report: Callable[[str], None],
) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin. Rank 0 looks, all processes do what it found.

    Raises TrainingError where the folder holds a run that is not to be resumed, ConfigError where
    that run had another configuration.
    """
    found = process.agree(lambda: _look(config, run, resume, report))
    return load_checkpoint(last_folder(run)) if found else None


def _look(config: RunConfig, run: Path, resume: bool, report: Callable[[str], None]) -> bool:
    recover(last_folder(run))
    recover(run / "model")
    try:
        find_checkpoint(last_folder(run))
    except CheckpointError:
        if (run / "metrics.jsonl").exists() and not resume:
            report(f"{run} holds a run without a checkpoint; it begins anew")
        elif resume:
            report(f"nothing to resume in {run}; the run begins")
        return False
    if not resume:
        raise TrainingError(
            f"{run} already holds a run: go on with --resume, or give another --run"
        )
    before = load_config(run / "config.toml")
    changed = sorted(set(differences(before, config)) - MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"the configuration is not that of the run in {run}: {', '.join(changed)} changed. "
            "Begin a new run (--run), or fine-tune this one's model (train.init_from)"
        )
    return True
