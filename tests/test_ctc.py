"""The CTC loss: values and gradients against enumeration, finite differences and torch."""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import CTCLoss, ctc, ctc_loss


def batch(T=30, N=4, C=7, L=6, dtype=torch.float64, seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, N, C, generator=g, dtype=torch.float64).mul(scale).to(dtype)
    targets = torch.randint(1, C, (N, L), generator=g)
    input_lengths = torch.randint(min(2 * L, T), T + 1, (N,), generator=g)
    input_lengths[0] = T
    target_lengths = torch.randint(0, L + 1, (N,), generator=g)
    return logits, targets, input_lengths, target_lengths


def loss_and_gradient(logits, *args, **options):
    x = logits.clone().requires_grad_()
    loss = ctc_loss(x, *args, **options)
    loss.sum().backward()
    return loss.detach(), x.grad


def torch_loss_and_gradient(logits, *args, **options):
    x = logits.clone().requires_grad_()
    loss = F.ctc_loss(x.log_softmax(-1), *args, **options)
    loss.sum().backward()
    return loss.detach(), x.grad


# ---- tiny inputs: every alignment added up ---------------------------------------------------


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1], [2, 2, 1]])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_equals_sum_over_all_alignments(labels, frames):
    logits = np.random.default_rng(frames).normal(size=(frames, 3))
    wanted, gamma = reference.ctc_enumerate(logits, labels)
    assert reference.ctc_by_collapsing(logits, labels) == pytest.approx(wanted, rel=1e-12)
    targets = np.array(labels, np.int64)
    loss, gradient = ctc.loss_and_grad(logits, targets, frames, len(labels))
    if not np.isfinite(wanted):
        assert loss == np.inf and not gradient.any()
        return
    assert loss * max(1, len(labels)) == pytest.approx(wanted, rel=1e-12)
    numeric = reference.finite_difference(
        lambda x: reference.ctc_enumerate(x, labels)[0] / max(1, len(labels)), logits
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    np.testing.assert_allclose(
        ctc.posteriors(logits, targets, frames, len(labels)), gamma, atol=1e-12
    )


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_any_blank(blank):
    logits = np.random.default_rng(blank).normal(size=(4, 3))
    labels = [c for c in range(3) if c != blank]
    wanted = reference.ctc_by_collapsing(logits, labels, blank)
    loss, _ = ctc.loss_and_grad(logits, np.array(labels), 4, 2, blank, reduction="sum")
    assert loss == pytest.approx(wanted, rel=1e-12)


# ---- against torch in float64 ----------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_torch(reduction, seed):
    args = batch(seed=seed)
    loss, gradient = loss_and_gradient(*args, reduction=reduction)
    wanted, wanted_gradient = torch_loss_and_gradient(*args, reduction=reduction)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)


def test_training_through_log_softmax_equals_torch():
    logits, *rest = batch(dtype=torch.float32)
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ctc_loss(x.log_softmax(2), *rest).backward()
    F.ctc_loss(y.log_softmax(2), *rest).backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-4)


def test_layouts_agree():
    logits, targets, input_lengths, target_lengths = batch()
    loss, gradient = loss_and_gradient(logits, targets, input_lengths, target_lengths)
    rows = [t[:n] for t, n in zip(targets, target_lengths, strict=True)]
    concatenated = torch.cat(rows)
    variants = [
        (logits, concatenated, input_lengths, target_lengths),
        (logits, targets.int(), input_lengths.int(), target_lengths.int()),
        (logits, targets.int(), input_lengths, target_lengths.tolist()),
        (logits, targets, input_lengths.tolist(), tuple(target_lengths.tolist())),
        (logits[:, :, ::1], targets.t().contiguous().t(), input_lengths, target_lengths),
    ]
    for variant in variants:
        other, other_gradient = loss_and_gradient(*variant)
        assert torch.equal(loss, other) and torch.equal(gradient, other_gradient)
    other, other_gradient = loss_and_gradient(
        logits.transpose(0, 1), targets, input_lengths, target_lengths, batch_first=True
    )
    assert torch.equal(loss, other)
    assert torch.equal(gradient, other_gradient.transpose(0, 1))


def test_single_utterance():
    logits, targets, _, _ = batch(N=1)
    for args in [(30, 6), (torch.tensor(30), torch.tensor([6])), ([30], [6])]:
        loss, gradient = loss_and_gradient(logits[:, 0], targets[0], *args, reduction="none")
        assert loss.shape == () and gradient.shape == (30, 7)
        whole, _ = loss_and_gradient(logits, targets, [30], [6], reduction="none")
        assert loss == whole[0]


def test_int_lengths_serve_the_whole_batch():
    logits, targets, _, _ = batch()
    assert torch.equal(
        ctc_loss(logits, targets, 30, 6), ctc_loss(logits, targets, [30] * 4, [6] * 4)
    )


def test_module_equals_function():
    logits, targets, input_lengths, target_lengths = batch()
    module = CTCLoss(blank=0, reduction="sum", zero_infinity=True)
    assert torch.equal(
        module(logits, targets, input_lengths, target_lengths),
        ctc_loss(logits, targets, input_lengths, target_lengths, 0, "sum", True),
    )
    assert repr(module) == "CTCLoss(blank=0, reduction='sum')"


# ---- edges -----------------------------------------------------------------------------------


def test_impossible_item():
    logits, targets, _, _ = batch(T=8, N=3, L=6)
    targets[1] = torch.tensor([1, 1, 2, 2, 3, 3])  # needs 9 frames
    targets[0] = targets[2] = torch.tensor([1, 2, 3, 4, 5, 6])
    loss, gradient = loss_and_gradient(logits, targets, 8, 6, reduction="none")
    assert loss[1] == torch.inf and torch.isfinite(loss[[0, 2]]).all()
    assert not gradient[:, 1].any() and gradient[:, 0].any() and gradient[:, 2].any()
    assert ctc.infeasible(targets, 8, 6).tolist() == [False, True, False]
    assert ctc.infeasible(targets.flatten(), [8, 9, 5], [6, 6, 6]).tolist() == [False, False, True]
    zeroed, same = loss_and_gradient(logits, targets, 8, 6, reduction="none", zero_infinity=True)
    assert zeroed[1] == 0 and torch.equal(same, gradient)
    assert ctc_loss(logits, targets, 8, 6) == torch.inf
    assert torch.isfinite(ctc_loss(logits, targets, 8, 6, zero_infinity=True))


def test_empty_target_and_no_frames():
    logits, targets, _, _ = batch()
    loss, gradient = loss_and_gradient(
        logits, targets, [0, 0, 5, 30], [0, 2, 0, 1], reduction="none"
    )
    assert loss[0] == 0 and loss[1] == torch.inf
    assert loss[2] == pytest.approx(-logits[:5, 2].log_softmax(1)[:, 0].sum().item(), rel=1e-12)
    assert not gradient[:, :2].any() and not gradient[5:, 2].any()
    empty, grad = loss_and_gradient(
        torch.zeros(0, 2, 3), torch.zeros(2, 0, dtype=torch.int64), [0, 0], [0, 0], reduction="none"
    )
    assert empty.tolist() == [0, 0] and grad.shape == (0, 2, 3)
    assert (
        ctc_loss(torch.zeros(4, 0, 3), torch.zeros(0, 2, dtype=torch.int64), [], [], 0, "sum") == 0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minus_infinity_in_logits(dtype):
    logits, targets, _, _ = batch(T=12, N=3, L=2, dtype=dtype)
    targets[:] = torch.tensor([1, 2])
    logits[3, :, 4] = -torch.inf  # a class that no target has
    logits[5, 0, 1] = -torch.inf
    logits[:, 1, 1] = -torch.inf  # target 1 cannot be emitted
    logits[6, 2] = -torch.inf  # a frame that says nothing at all
    loss, gradient = loss_and_gradient(logits, targets, 12, 2, reduction="none")
    wanted, wanted_gradient = reference.ctc_loss(logits[:, 0].numpy(), [1, 2])
    assert loss[0].item() == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(gradient[:, 0], wanted_gradient, atol=1e-6)
    assert loss[1] == torch.inf and loss[2] == torch.inf
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_in_its_utterance(value, dtype):
    logits, targets, _, _ = batch(dtype=dtype)
    clean, clean_gradient = loss_and_gradient(logits, targets, 20, 6, reduction="none")
    logits[7, 2, 5] = value
    logits[20:, 1] = value  # beyond the length: not looked at
    loss, gradient = loss_and_gradient(logits, targets, 20, 6, reduction="none")
    others = [0, 1, 3]
    assert loss[2].isnan() and gradient[:20, 2].isnan().all() and not gradient[20:].any()
    assert torch.equal(loss[others], clean[others])
    assert torch.equal(gradient[:, others], clean_gradient[:, others])


def test_padding_of_targets_is_not_looked_at():
    logits, targets, input_lengths, target_lengths = batch()
    loss = ctc_loss(logits, targets, input_lengths, target_lengths)
    inside = torch.arange(6) < target_lengths[:, None]
    for padding in (-1, -100, 0, 10**9):
        padded = targets.where(inside, torch.tensor(padding))
        assert torch.equal(ctc_loss(logits, padded, input_lengths, target_lengths), loss)


def test_targets_may_change_after_forward():
    logits, targets, input_lengths, target_lengths = batch()
    _, wanted = loss_and_gradient(logits, targets, input_lengths, target_lengths)
    for create_graph in (False, True):
        x = logits.clone().requires_grad_()
        mine = [targets.clone(), input_lengths.clone(), target_lengths.clone()]
        loss = ctc_loss(x, *mine)
        for tensor in mine:
            tensor.zero_()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
        assert torch.equal(gradient, wanted)


def test_backward_twice():
    logits, *rest = batch()
    x = logits.clone().requires_grad_()
    loss = ctc_loss(x, *rest)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss * 3, x)
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, 3 * first)


def test_same_bits_for_threads_and_order():
    args = batch(T=60, N=9, C=11, L=12, dtype=torch.float32)
    wanted, wanted_gradient = loss_and_gradient(*args, reduction="none")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            loss, gradient = loss_and_gradient(*args, reduction="none")
            assert torch.equal(loss, wanted) and torch.equal(gradient, wanted_gradient)
    finally:
        torch.set_num_threads(threads)
    order = torch.randperm(9)
    logits, targets, input_lengths, target_lengths = args
    loss, gradient = loss_and_gradient(
        logits[:, order], targets[order], input_lengths[order], target_lengths[order],
        reduction="none",
    )  # fmt: skip
    assert torch.equal(loss, wanted[order]) and torch.equal(gradient, wanted_gradient[:, order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype):
    args = batch(dtype=dtype)
    loss, gradient = loss_and_gradient(*args, reduction="none")
    wanted, wanted_gradient = loss_and_gradient(args[0].float(), *args[1:], reduction="none")
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, wanted_gradient.to(dtype))


def test_loss_scaling_does_not_underflow_float16():
    logits, *rest = batch(dtype=torch.float16)
    x, y = logits.clone().requires_grad_(), logits.float().requires_grad_()
    (ctc_loss(x, *rest) * 1e-7 * 2.0**23).backward()
    (ctc_loss(y, *rest) * 1e-7 * 2.0**23).backward()
    torch.testing.assert_close(x.grad, y.grad.half())


# ---- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("log_probs", [False, True])
def test_gradcheck(reduction, log_probs):
    logits, targets, _, _ = batch(T=6, N=2, C=3, L=2)
    x = (logits.log_softmax(2) if log_probs else logits).requires_grad_()
    targets[0] = torch.tensor([2, 2])

    def function(x):
        return ctc_loss(x, targets, [6, 4], [2, 1], reduction=reduction)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_second_derivative_of_impossible_item_is_zero():
    logits, targets, _, _ = batch(T=4, N=2, C=5, L=3)
    targets[0] = torch.tensor([1, 1, 1])
    x = logits.requires_grad_()
    loss = ctc_loss(x, targets, 4, 3, zero_infinity=True)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert not second[:, 0].any() and second[:, 1].any() and torch.isfinite(second).all()


# ---- laws ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    T=st.integers(0, 40), C=st.integers(2, 20), L=st.integers(0, 20), seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0, 1e2, 1e3]), few=st.booleans(), data=st.data(),
)  # fmt: skip
def test_equals_the_plain_recursion(T, C, L, seed, scale, few, data):
    rng = np.random.default_rng(seed)
    blank = data.draw(st.integers(0, C - 1))
    logits = rng.normal(size=(T, 1, C)) * scale
    labels = rng.integers(0, min(C - 1, 2) if few else C - 1, size=L)  # few: many repeats
    labels = labels + (labels >= blank)
    for dtype, atol, rtol in ((np.float64, 1e-9, 1e-10), (np.float32, 5e-6, 2e-6)):
        x = logits.astype(dtype)
        wanted, wanted_gradient = reference.ctc_loss(x[:, 0], labels.tolist(), blank)
        loss, gradient = ctc.loss_and_grad(x, labels[None], [T], [L], blank, reduction="sum")
        np.testing.assert_allclose(loss, wanted, rtol=rtol, atol=atol)
        np.testing.assert_allclose(gradient[:, 0], wanted_gradient, atol=atol)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shift=st.floats(-100, 100), seed=st.integers(0, 1000))
def test_adding_a_constant_to_a_frame_changes_nothing(shift, seed):
    logits, *rest = batch(seed=seed)
    loss = ctc_loss(logits, *rest)
    logits[3] += shift
    torch.testing.assert_close(ctc_loss(logits, *rest), loss)


def test_losses_of_all_labellings_add_up_to_one():
    T, C = 4, 3
    logits = np.random.default_rng(0).normal(size=(T, C))
    total = 0.0
    for L in range(T + 1):
        for labels in np.ndindex(*[C - 1] * L):
            target = np.array(labels, np.int64) + 1
            total += np.exp(-ctc.loss_and_grad(logits, target, T, L, reduction="sum")[0])
    assert total == pytest.approx(1, rel=1e-12)
