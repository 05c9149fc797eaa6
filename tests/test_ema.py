"""The moving average of the weights: against the recursion by hand, and exact across a stop."""

import pytest
import torch
from tone_training import last_weights, silent, train_in_parts, write_training

from ctcspeech.errors import ConfigError
from ctcspeech.model.checkpoint import load_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.train.config import load_config
from ctcspeech.train.ema import MovingAverage
from ctcspeech.train.learner import Learner
from ctcspeech.train.trainer import train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_training(folder, 24, 6)
    return folder


def recursion(values: list[float], decay: float) -> float:
    """By hand, in double precision."""
    mean = values[0]
    for t, value in enumerate(values[1:], 2):
        d = min(decay, t / (t + 9))
        mean = d * mean + (1 - d) * value
    return mean


def test_the_average_is_the_recursion():
    config = DeepSpeech2Config(
        convolution="1d", channels=[4], time_width=[3], time_stride=[1], layers=2, hidden=4
    )
    model = build_model(config, 5, 3)
    average = MovingAverage(model, 0.6)
    seen = []
    for step in range(40):
        with torch.no_grad():
            for number, tensor in enumerate(model.state_dict().values()):
                if tensor.is_floating_point():
                    tensor.fill_((step * (number + 3)) % 7)
                else:
                    tensor.fill_(step)
        seen.append({k: float(v.flatten()[0]) for k, v in model.state_dict().items()})
        average.update(model)
    for name, tensor in average.model.state_dict().items():
        if tensor.is_floating_point():
            expected = recursion([values[name] for values in seen], 0.6)
            assert torch.allclose(tensor, torch.full_like(tensor, expected), rtol=1e-5), name
        else:
            assert int(tensor) == 39
    # 0.6 is reached at t = 13.5: until then the decay was the lower one, and no weights but the
    # average's were touched.
    assert float(next(iter(model.state_dict().values())).flatten()[0]) != expected


def test_training_validates_and_keeps_the_average_and_resumes_exactly(
    corpus, tmp_path, monkeypatch
):
    config = load_config(corpus / "tones.toml", ["train.epochs=3", "train.ema=0.8"])
    update, seen = Learner.update, []

    def watched(self, batches):
        norm = update(self, batches)
        seen.append({k: v.detach().clone() for k, v in self.model.state_dict().items()})
        return norm

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", watched)
        train(config, tmp_path / "whole", report=silent)
    kept = load_checkpoint(tmp_path / "whole" / "checkpoints" / "epoch-0003").model.state_dict()
    last = last_weights(tmp_path / "whole")
    name = "output.weight"
    assert torch.equal(last[name], seen[-1][name])  # resuming goes on from the weights themselves
    expected = recursion([values[name].double() for values in seen], 0.8)
    torch.testing.assert_close(kept[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(kept[name], last[name])
    train_in_parts(config, tmp_path / "parts", 5)
    for part in ("checkpoints/last", "checkpoints/epoch-0003", "model"):
        one, other = (load_checkpoint(tmp_path / run / part) for run in ("whole", "parts"))
        for key, tensor in one.model.state_dict().items():
            assert torch.equal(tensor, other.model.state_dict()[key]), (part, key)


def test_a_decay_out_of_range_is_refused(corpus):
    with pytest.raises(ConfigError, match="train.ema"):
        load_config(corpus / "tones.toml", ["train.ema=1"])
    with pytest.raises(ValueError, match="above 0 and below 1"):
        MovingAverage(torch.nn.Linear(1, 1), 1.0)
