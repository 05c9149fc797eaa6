"""Whether a run goes on, and from where."""

from collections.abc import Callable
from pathlib import Path

from ctcspeech.errors import CheckpointError, ConfigError, TrainingError
from ctcspeech.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, recover
from ctcspeech.train.config import MAY_CHANGE, RunConfig, differences, load_config
from ctcspeech.train.fingerprint import Fingerprint, changes, fingerprint
from ctcspeech.train.prepare import Manifests
from ctcspeech.train.processes import Process

__all__ = ["check_data", "last_checkpoint", "last_folder"]


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


def check_data(
    config: RunConfig,
    run: Path,
    manifests: Manifests,
    last: Checkpoint | None,
    force: bool,
    process: Process,
    report: Callable[[str], None],
) -> bool:
    """Whether the data are others than those of the run so far; their fingerprint is kept.

    Raises TrainingError naming what differs, where the run is to go on and not to be forced.
    """

    def compare() -> bool:
        everything = manifests.train.joined(manifests.validation)
        now = fingerprint(config, everything)
        other: list[str] = []
        if last is not None and force and not _readable(run):
            other = ["the record of the data is damaged"]
        elif last is not None:
            before = Fingerprint.load(run)
            other = ["it has no record of its data"] if before is None else []
            other += changes(before, now, everything) if before is not None else []
        if other and not force:
            raise TrainingError(
                f"the data are not those of the run in {run}: {'; '.join(other)}. Begin a new run "
                "(--run), or go on with the data as they are, from the beginning of the epoch "
                "(--force)"
            )
        for line in other:
            report(f"going on with other data: {line}")
        now.save(run)
        return bool(other)

    return process.agree(compare)


def _readable(run: Path) -> bool:
    try:
        Fingerprint.load(run)
    except CheckpointError:
        return False
    return True
