"""Terms of the CTC loss for training: label smoothing, delay penalty, wildcards."""

import numpy as np
import pytest
import reference
import torch

from ctcspeech import ctc, ctc_loss


def logits(T=5, C=3, seed=0):
    return np.random.default_rng(seed).normal(size=(T, C))


@pytest.mark.parametrize("delay", [0.4, -0.4])
@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1]])
def test_delay_penalty(delay, labels):
    x = torch.tensor(logits(), requires_grad=True)
    loss = ctc_loss(x, torch.tensor(labels), 5, len(labels), 0, "sum", delay_penalty=delay)
    loss.backward()

    def enumerated(x):
        return reference.ctc_enumerate(x, labels, delay_penalty=delay)[0]

    assert loss.item() == pytest.approx(enumerated(x.detach().numpy()), rel=1e-12)
    numeric = reference.finite_difference(enumerated, x.detach().numpy())
    np.testing.assert_allclose(x.grad, numeric, atol=1e-8)


def test_delay_penalty_makes_labels_earlier():
    """Training with the penalty moves the labels' occupation to earlier frames."""

    def mean_time(delay):
        x = torch.zeros(20, 1, 4, requires_grad=True)
        optimizer = torch.optim.SGD([x], lr=1.0)
        for _ in range(50):
            optimizer.zero_grad()
            ctc_loss(x, torch.tensor([[1, 2, 3]]), 20, 3, delay_penalty=delay).backward()
            optimizer.step()
        gamma = ctc.posteriors(x.detach(), np.array([[1, 2, 3]]), 20, 3)[0, :, 1::2]
        return (gamma * np.arange(20)[:, None]).sum() / gamma.sum()

    assert mean_time(0.2) < mean_time(0.0) - 1 < mean_time(-0.2) - 2


@pytest.mark.parametrize("labels", [[-1], [-1, 1], [1, -1], [1, -1, 1], [-1, -1], [2, -1, 2]])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_wildcard(labels, penalty):
    x = torch.tensor(logits(), requires_grad=True)
    loss = ctc_loss(x, torch.tensor(labels), 5, len(labels), 0, "sum", wildcard_penalty=penalty)
    loss.backward()

    def enumerated(x):
        return reference.ctc_enumerate(x, labels, wildcard_penalty=penalty)[0]

    assert loss.item() == pytest.approx(enumerated(x.detach().numpy()), rel=1e-12)
    numeric = reference.finite_difference(enumerated, x.detach().numpy())
    np.testing.assert_allclose(x.grad, numeric, atol=1e-8)


def test_wildcard_trains_on_partly_transcribed_audio():
    """Only the middle of what was said is known: the loss is small whatever stands around it."""
    T, C = 24, 6
    spoken = [1, 2, 3, 4, 5]
    x = np.full((T, C), 0.0)
    for j, label in enumerate(spoken):
        x[5 * j, label] = 12
    x[x.max(1) == 0, 0] = 12
    plain = ctc.loss_and_grad(x, np.array([3]), T, 1)[0]
    wild = ctc.loss_and_grad(x, np.array([-1, 3, -1]), T, 3, wildcard_penalty=0.0)[0]
    assert plain > 40 and wild < 1


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing(smoothing):
    x = torch.tensor(np.stack([logits(seed=1), logits(seed=2)], 1), requires_grad=True)
    targets, frames = torch.tensor([[1, 2], [2, 0]]), [5, 3]
    args = (targets, frames, [2, 1], 0, "none")
    loss = ctc_loss(x, *args, label_smoothing=smoothing)
    plain = ctc_loss(x, *args)
    for n in range(2):
        p = x[: frames[n], n].detach().softmax(1).numpy()
        divergence = (np.log(1 / 3) - np.log(p)).sum() / 3
        wanted = (1 - smoothing) * plain[n].item() + smoothing * divergence
        assert loss[n].item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x, *args, label_smoothing=smoothing), x)


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_label_smoothing_leaves_impossible_items_alone(zero_infinity):
    x = torch.zeros(2, 2, 4, requires_grad=True)
    targets = torch.tensor([[1, 1], [1, 2]])
    loss = ctc_loss(x, targets, 2, 2, 0, "none", zero_infinity, label_smoothing=0.5)
    loss.sum().backward()
    assert loss[0] == (0 if zero_infinity else torch.inf)
    assert not x.grad[:, 0].any() and torch.isfinite(loss[1]) and x.grad[:, 1].any()
