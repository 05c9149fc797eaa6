"""The best checkpoints of a run, and its result: the best, or their mean where that is better.

best = Best(config.train, folder / "checkpoints", folder / "model")
best.keep(numbers, epoch, step, make, write=rank == 0)
mean = best.mean(device)
checkpoint, how = best.choose(device, mean, numbers_of_the_mean, report)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ctcspeech.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)
from ctcspeech.train.config import TrainConfig

__all__ = ["Best", "average_checkpoints"]


class Best:
    """The validations whose checkpoints are kept, best first, and how many brought no gain since.

    An item is {"folder", "epoch", "step", "wer", "cer", "loss"}.
    """

    def __init__(self, config: TrainConfig, checkpoints: Path, result: Path) -> None:
        self.config, self.checkpoints, self.result = config, checkpoints, result
        self.items: list[dict[str, Any]] = []
        self.waited = 0  # validations since the best

    def order(self, numbers: dict[str, Any]) -> tuple[float, ...]:
        """By what a validation is better than another: lower is better."""
        names = [self.config.select, "wer", "cer", "loss"]
        return tuple(numbers[name] for name in names)

    def keep(
        self,
        numbers: dict[str, float],
        epoch: int,
        step: int,
        make: Callable[[dict[str, Any]], Checkpoint],
        write: bool,
    ) -> None:
        """Takes a validation; writes the checkpoint that `make` gives for it (and as the result so
        far, where it is the best), if it is among the best and this process is to `write`."""
        item = {"folder": f"epoch-{epoch:04d}", "epoch": epoch, "step": step, **numbers}
        first = not self.items
        ranked = sorted([*self.items, item], key=self.order)[: self.config.keep_best]
        self.waited = 0 if ranked[0] is item else self.waited + 1
        if item in ranked and write:
            checkpoint = make(item)
            save_checkpoint(self.checkpoints / str(item["folder"]), checkpoint)
            if ranked[0] is item or first:
                save_checkpoint(self.result, checkpoint)
        self.items = ranked

    def remove_others(self) -> None:
        """Deletes the epochs' checkpoints that are no longer among the best."""
        kept = {item["folder"] for item in self.items}
        for folder in self.checkpoints.glob("epoch-*"):
            if folder.name not in kept:
                remove_checkpoint(folder)

    @property
    def averages(self) -> bool:
        """Whether the mean of those kept is to be tried."""
        return self.config.average and len(self.items) > 1

    def mean(self, device: torch.device) -> Checkpoint:
        """The mean of those kept, on `device`."""
        mean = average_checkpoints([self.checkpoints / item["folder"] for item in self.items])
        mean.model.to(device)
        mean.features.to(device)
        return mean

    def choose(
        self,
        device: torch.device,
        mean: Checkpoint | None,
        numbers: dict[str, float] | None,
        report: Callable[[str], None],
    ) -> tuple[Checkpoint, str]:
        """The result, and a line about it: the best checkpoint, or the `mean`, where there is one
        and its validation's `numbers` are better."""
        best = load_checkpoint(self.checkpoints / self.items[0]["folder"], device)
        how = f"epoch {self.items[0]['epoch']}"
        if mean is not None and numbers is not None:
            report(
                f"mean of {len(self.items)} checkpoints: WER {100 * numbers['wer']:.2f}% "
                f"CER {100 * numbers['cer']:.2f}% loss {numbers['loss']:.4f}"
            )
            if self.order(numbers) < self.order(self.items[0]):
                epochs = sorted(item["epoch"] for item in self.items)
                mean.info = {**best.info, **numbers, "averaged_epochs": epochs}
                best, how = mean, f"mean of epochs {', '.join(map(str, epochs))}"
        wer, cer = 100 * best.info["wer"], 100 * best.info["cer"]
        return best, f"{how}, validation WER {wer:.2f}% CER {cer:.2f}%"


def average_checkpoints(folders: Sequence[Path]) -> Checkpoint:
    """A checkpoint whose weights, and batch norm statistics, are the mean of several."""
    result = load_checkpoint(folders[0])
    sums = {name: tensor.double() for name, tensor in result.model.state_dict().items()}
    for folder in folders[1:]:
        for name, tensor in load_checkpoint(folder).model.state_dict().items():
            sums[name] += tensor
    own = result.model.state_dict()
    result.model.load_state_dict(
        {name: (total / len(folders)).to(own[name].dtype) for name, total in sums.items()}
    )
    return result
