"""Trainings on tones that take seconds, and whether two of them came to the same; for tests and
benchmarks."""

import json
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tones import write_corpus

from ctcspeech.model.checkpoint import load_checkpoint, load_training
from ctcspeech.train.config import RunConfig
from ctcspeech.train.trainer import Trainer, train

# The model of tones.toml on train.jsonl and validation.jsonl in the configuration's folder.
CONFIG = (
    (Path(__file__).parent / "tones.toml")
    .read_text()
    .replace("data/train.jsonl", "train.jsonl")
    .replace("data/dev.jsonl", "validation.jsonl")
)


def write_training(folder: Path, train: int = 48, validation: int = 12) -> Path:
    """Writes recordings, manifests and tones.toml; returns the path of the latter."""
    write_corpus(folder, "train", train, 1)
    write_corpus(folder, "validation", validation, 2)
    (folder / "tones.toml").write_text(CONFIG)
    return folder / "tones.toml"


def tone_shards(folder: Path, per_shard: int) -> Path:
    """The same with the recordings of the training in tar files."""
    write_training(folder)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for first in range(0, len(lines), per_shard):
        path = folder / f"shard-{first:02}.tar"
        with tarfile.open(path, "w") as archive:
            for line in lines[first : first + per_shard]:
                archive.add(folder / line["audio_filepath"], line["audio_filepath"])
        with tarfile.open(path) as archive:
            for line in lines[first : first + per_shard]:
                member = archive.getmember(line["audio_filepath"])
                line["id"] = member.name[:-4]
                line["audio_filepath"] = f"{path.name}:{member.offset_data}:{member.size}"
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = '\nshuffle_buffer = 6\nshard_streams = 2\ntrain = "train.jsonl"'
    (folder / "tones.toml").write_text(CONFIG.replace('\ntrain = "train.jsonl"', options))
    return folder / "tones.toml"


def silent(_: str) -> None:
    """A report that nobody reads."""


def train_in_parts(
    config: RunConfig, run: Path, *steps: int, report: Callable[[str], None] = silent
) -> None:
    """Trains, stopped by a signal in each of these steps (the first one is 1) and resumed."""
    take_step = Trainer._step

    def stopping(self: Trainer, batches: Any, progress: Any) -> Any:
        if batches and self.step + 1 in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batches, progress)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_step", stopping)
        for step in steps:
            with pytest.raises(KeyboardInterrupt):
                train(config, run, resume=True, report=report)
            assert len(metrics(run, "step")) == step
    train(config, run, resume=True, report=report)


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the checkpoint that a run would go on from."""
    return load_checkpoint(run / "checkpoints" / "last").model.state_dict()


def metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl (of one kind)."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]


def differences(one: Path, other: Path) -> Iterator[str]:
    """What is not the same, bit by bit, in two runs that have ended: weights, the optimizer's
    state, the log (but for its seconds), the result."""
    states = [load_training(run / "checkpoints" / "last") for run in (one, other)]
    for key in ("optimizer", "schedule", "ema", "step", "epoch", "best", "waited"):
        if not same(states[0][key], states[1][key]):
            yield f"training state: {key}"
    for folder in ("checkpoints/last", "model"):
        weights = [load_checkpoint(run / folder).model.state_dict() for run in (one, other)]
        if not same(dict(weights[0]), dict(weights[1])):
            yield f"weights of {folder}"
    logs = [[{**line, "seconds": None} for line in metrics(run)] for run in (one, other)]
    if logs[0] != logs[1]:
        yield "metrics.jsonl"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
