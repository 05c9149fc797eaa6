"""Optimizers and learning rate schedules of the training loop."""

import math
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["Schedule", "build_optimizer"]


class OptimizerConfig(Protocol):  # the part of config.TrainConfig that is needed here
    optimizer: Any
    learning_rate: float
    weight_decay: float
    momentum: float
    betas: tuple[float, float]
    schedule: Any
    warmup: float
    plateau_patience: int
    plateau_factor: float


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; weights decay, biases and batch norm do not."""
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=True,
    )


class Schedule:
    """The learning rate by how much of the run is done, from 0 to 1.

    All but onecycle rise linearly to `learning_rate` in the first `warmup` share. Then
    cosine:    half a cosine down to 0;
    constant:  nothing more;
    plateau:   times `plateau_factor` when `plateau_patience` epochs brought no gain;
    onecycle:  Smith 2018 (arXiv 1803.09820): half a cosine up from a 25th, half a cosine down to
               nearly 0, momentum (beta 1) the other way between 0.95 and 0.85.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> None:
        self.optimizer, self.config = optimizer, config
        self.reductions = 0  # of plateau
        self.best = math.inf
        self.waited = 0  # epochs since the best

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of the run is done."""
        config, done = self.config, min(max(done, 0.0), 1.0)
        top = config.learning_rate
        rising = done < config.warmup
        share = done / config.warmup if rising else (done - config.warmup) / (1 - config.warmup)
        if config.schedule == "onecycle":
            return between(top / 25, top, share) if rising else between(top, top / 25e4, share)
        if rising:
            return top * share
        if config.schedule == "cosine":
            return between(top, 0.0, share)
        return top * config.plateau_factor**self.reductions

    def apply(self, done: float) -> float:
        """Sets the optimizer's rate (and momentum) for the next step; returns the rate."""
        rate = self.rate(done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if self.config.schedule == "onecycle":
                set_momentum(group, self.momentum(done))
        return rate

    def momentum(self, done: float) -> float:
        """Of onecycle: 0.95 at the ends of the run, 0.85 where the rate is highest."""
        warmup, done = self.config.warmup, min(max(done, 0.0), 1.0)
        if done < warmup:
            return between(0.95, 0.85, done / warmup)
        return between(0.85, 0.95, (done - warmup) / (1 - warmup))

    def epoch_ended(self, value: float) -> None:
        """Tells `plateau` an epoch's validation result (or loss); lower is better."""
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.config.plateau_patience:
            self.reductions, self.waited = self.reductions + 1, 0

    def state_dict(self) -> dict[str, float]:
        return {"reductions": self.reductions, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reductions, self.best = int(state["reductions"]), float(state["best"])
        self.waited = int(state["waited"])


def between(start: float, end: float, share: float) -> float:
    """From start to end by half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
