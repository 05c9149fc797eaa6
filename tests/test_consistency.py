"""Consistency regularisation: equations 2 and 3 of CR-CTC by hand, and the gradient they imply."""

import numpy as np
import pytest
import torch
from tone_training import metrics, silent, write_training

from ctcspeech.train.config import load_config
from ctcspeech.train.consistency import disagreement
from ctcspeech.train.learner import Learner
from ctcspeech.train.trainer import train


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_disagreement_is_the_symmetric_divergence_of_the_true_frames():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6, 7, 4))
    lengths = [7, 3, 5] * 2
    found = disagreement(torch.tensor(logits), torch.tensor(lengths))
    p = softmax(logits)
    for i in range(3):
        expected = 0.0
        for t in range(lengths[i]):
            a, b = p[i, t], p[3 + i, t]
            expected += 0.5 * sum(b * np.log(b / a)) + 0.5 * sum(a * np.log(a / b))
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)
        assert float(found[3 + i]) == float(found[i])


def test_no_gradient_goes_through_what_is_compared_with():
    """d KL(sg(b) || softmax(z)) / dz = softmax(z) - b; half of it in each direction, and the
    disagreement stands with both views."""
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(0, 2, (2, 5, 3)), requires_grad=True)
    disagreement(logits, torch.tensor([4, 4])).sum().backward()
    p = softmax(logits.detach().numpy())
    expected = np.stack([p[0] - p[1], p[1] - p[0]])
    expected[:, 4:] = 0
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_equal_views_agree():
    logits = torch.randn(1, 6, 5).repeat(2, 1, 1)
    assert disagreement(logits, torch.tensor([6, 6])).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_training_sees_two_views_with_masks_of_their_own(tmp_path, monkeypatch):
    config = write_training(tmp_path, 24, 6)
    overrides = ["train.epochs=6", "train.consistency=0.2", "augment.spec_probability=1"]
    prepare, seen = Learner.prepare, []

    def watched(self, batch, epoch):
        seen.append((batch, prepare(self, batch, epoch)))
        return seen[-1][1]

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "prepare", watched)
        train(load_config(config, overrides), tmp_path / "run", report=silent)
    for batch, made in seen:
        count = len(batch)
        assert len(made.inputs) == 2 * count
        one, other = made.inputs.chunk(2)
        assert torch.equal(*made.targets.chunk(2)) and torch.equal(*made.input_lengths.chunk(2))
        assert not torch.equal(one, other)
        both = (one != 0) & (other != 0)  # what neither view masks is the same
        assert torch.equal(one[both], other[both]) and both.float().mean() > 0.3
    losses = [line["loss"] for line in metrics(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.7 * losses[0]
