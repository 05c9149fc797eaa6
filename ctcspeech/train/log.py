"""What a training run writes about itself: metrics as JSON lines, TensorBoard, where time went."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["MetricsLog", "Profile", "Sums"]


class MetricsLog:
    """Lines of `metrics.jsonl`, the same numbers for TensorBoard.

    A line is {"kind": "step" | "epoch", "step": ..., ...}. `size` at the time of a checkpoint tells
    what to keep when the run is resumed from it: later lines will be written again.
    """

    def __init__(self, folder: Path, tensorboard: bool, keep: int = 0, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self.file.truncate(min(keep, os.path.getsize(self.path)))
        self.file.seek(0, os.SEEK_END)
        self.board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        self.file.flush()
        return self.file.tell()

    def write(self, kind: str, step: int, **values: float | int | None) -> None:
        """One line; numbers that are None are left out."""
        values = {name: value for name, value in values.items() if value is not None}
        self.file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if kind == "epoch":
            self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


class Profile:
    """Seconds by part of the work.

        with profile("forward"):
            ...

    On a CUDA device work is only queued; the device is waited for at both ends of a part in one
    step of `every`, and what is measured there counts for all of them.
    """

    def __init__(self, device: torch.device, every: int = 20) -> None:
        self.device, self.every = device, every if device.type == "cuda" else 1
        self.seconds: dict[str, float] = {}
        self.step = 0

    @contextlib.contextmanager
    def __call__(self, part: str, sampled: bool = False) -> Iterator[None]:
        """`sampled`: a part of each step, to be measured in one of `every`."""
        if sampled and self.step % self.every:
            yield
            return
        wait = sampled and self.device.type == "cuda"
        if wait:
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            if wait:
                torch.cuda.synchronize(self.device)
            spent = (time.perf_counter() - start) * (self.every if sampled else 1)
            self.seconds[part] = self.seconds.get(part, 0.0) + spent

    def table(self, total: float, audio_seconds: float) -> list[str]:
        """Lines for people: seconds and share of `total` seconds, by part, and the speed."""
        rest = max(0.0, total - sum(self.seconds.values()))
        parts = {**self.seconds, "other": rest}
        lines = [
            f"  {part:<12}{seconds:>9.1f} s{100 * seconds / max(total, 1e-9):>7.1f}%"
            for part, seconds in parts.items()
        ]
        steps = total - sum(self.seconds.get(part, 0.0) for part in OUTSIDE)
        if audio_seconds and steps > 0:
            lines.append(
                f"  training throughput: {audio_seconds / steps:.0f} hours of audio an hour "
                "(without validation and checkpoints)"
            )
        return lines


OUTSIDE = ("validation", "checkpoints")  # parts of a run that are no training steps


@dataclass
class Sums:
    """What is added up over an epoch, in one process."""

    loss: float = 0.0  # nats
    attention_loss: float = 0.0  # nats, of the attention decoder, where there is one
    labels: int = 0
    utterances: int = 0
    seconds: float = 0.0  # of audio
    skipped: int = 0
    logged_loss: float = 0.0  # as it was at the last line of the log
    logged_labels: int = 0

    @classmethod
    def share(cls, saved: list[dict[str, Any]], rank: int, world_size: int) -> "Sums":
        """A process's part of what the processes of a checkpoint had summed: its own, or, where
        their number is another, everything for rank 0."""
        if len(saved) == world_size:
            return cls(**saved[rank])
        if rank:
            return cls()
        return cls(**{name: sum(item[name] for item in saved) for name in saved[0]})

    @property
    def mean(self) -> float:
        return self.loss / max(1, self.labels)

    def since_last(self) -> float:
        """The mean loss since this was last called."""
        loss, labels = self.loss - self.logged_loss, self.labels - self.logged_labels
        self.logged_loss, self.logged_labels = self.loss, self.labels
        return loss / max(1, labels)
