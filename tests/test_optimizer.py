"""Learning rates by hand, and torch's own one-cycle schedule as a witness."""

import math

import pytest
import torch

from ctcspeech.train.config import TrainConfig
from ctcspeech.train.optimizer import Schedule, build_optimizer


def made(**values):
    config = TrainConfig(learning_rate=0.4, **values)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = build_optimizer(model, config)
    return optimizer, Schedule(optimizer, config)


def test_cosine_with_warmup():
    _, schedule = made(schedule="cosine", warmup=0.2)
    assert schedule.rate(0.1) == pytest.approx(0.2)
    assert schedule.rate(0.2) == pytest.approx(0.4)
    assert schedule.rate(0.6) == pytest.approx(0.2)
    assert schedule.rate(0.4) == pytest.approx(0.4 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.rate(1.0) == pytest.approx(0.0) == schedule.rate(1.5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_onecycle_is_torch_s(optimizer):
    ours, schedule = made(schedule="onecycle", warmup=0.3, optimizer=optimizer)
    theirs, _ = made(optimizer=optimizer)
    steps = 100
    with pytest.warns(UserWarning, match="lr_scheduler.step"):  # no optimizer steps here
        witness = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.4, total_steps=steps + 1)
        for step in range(steps):
            # Theirs turns one step earlier: at pct_start * total_steps - 1.
            done = step / 29.3 * 0.3 if step < 29.3 else 0.3 + (step - 29.3) / (100 - 29.3) * 0.7
            schedule.apply(done)
            mine, its = ours.param_groups[0], theirs.param_groups[0]
            assert mine["lr"] == pytest.approx(its["lr"], rel=1e-6, abs=1e-9)
            key = "betas" if optimizer == "adamw" else "momentum"
            assert mine[key] == pytest.approx(its[key])
            witness.step()


def test_plateau_lowers_the_rate_after_epochs_without_gain():
    _, schedule = made(schedule="plateau", warmup=0.0, plateau_patience=1)
    rates = []
    for value in [5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0]:
        schedule.epoch_ended(value)
        rates.append(schedule.rate(0.5))
    assert rates == [0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1, 0.05]
    _, other = made(schedule="plateau", warmup=0.0, plateau_patience=1)
    other.load_state_dict(schedule.state_dict())
    assert other.rate(0.5) == 0.05


def test_only_weights_decay():
    optimizer, _ = made(weight_decay=0.3)
    decays = {
        tuple(p.shape): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]
    }
    assert decays == {(2, 3): 0.3, (2,): 0.0}
