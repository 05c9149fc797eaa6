"""The GPU's kernels of the CTC loss, run on the host: their values, that threads do not disturb one
another, that wrong lengths and labels stay inside their utterance. The bodies of the operator's
tests run on them too."""

import gpu_on_host
import numpy as np
import pytest
import reference
import test_ctc
import test_ctc_terms
import torch
from gpu_on_host import ROOMY, TIGHT, loss_and_gradient
from test_ctc_arithmetic import FAMILIES, family

from ctcspeech import _core, ctc
from ctcspeech.ctc import cuda as _ctc_cuda
from ctcspeech.ctc.problem import Options, Problem
from ctcspeech.ctc.tensors import own, prepare

# ---- the operator's tests, with the kernels and their Python in place of the CPU's ---------------

NOT_HERE = {"test_same_bits_for_threads_and_order"}  # counts CPU threads
for _module in (test_ctc, test_ctc_terms):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in NOT_HERE:
            globals()[_name.replace("test_", "test_operator_", 1)] = _test


@pytest.fixture(autouse=True)
def kernels(monkeypatch, request):
    if request.node.name.startswith("test_operator_"):
        gpu_on_host.pretend_to_be_a_device(monkeypatch)


def test_labels_and_lengths_move_beside_the_logits():
    x, targets, frames, labels = test_ctc.batch()
    problem = prepare(
        x, targets.t().contiguous().t(), frames.int(), labels, False, Options(0, None, 0.0)
    )
    for copy in (False, True):
        there = _ctc_cuda.on_device(problem, copy)
        for array, value in zip(there[1:4], (targets, frames, labels), strict=True):
            assert array.dtype == torch.int64 and array.is_contiguous()
            assert torch.equal(array, value) and array.data_ptr() != value.data_ptr()
        assert there.longest == max(1, labels.max())
    assert torch.equal(
        _ctc_cuda.int_length("target_lengths", 3, 6, 4, x.device), torch.full((4,), 3)
    )
    with pytest.raises(ValueError, match="input_lengths must be between 0 and 30, got 31"):
        _ctc_cuda.int_length("input_lengths", 31, 30, 4, x.device)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_lengths": [30, 31, 1, 1]}, r"input_lengths\[1\] must be between 0 and the 30"),
        ({"target_lengths": [1, 1, 7, 1]}, r"target_lengths\[2\] must be between 0 and the 6"),
        ({"target_lengths": [1, -1, 1, 1]}, r"target_lengths\[1\] must be between 0 .*, got -1"),
        ({"targets": [24], "target_lengths": [6, 6, 6, 7]},
         "concatenated targets have 24 labels.* run out in utterance 3, which has 7"),
    ],
)  # fmt: skip
def test_lengths_on_the_host_are_checked_when_labels_are_elsewhere(change, message):
    x, targets, frames, labels = test_ctc.batch()
    shape = change.get("targets", targets.shape)
    elsewhere = torch.empty(*shape, dtype=torch.int64, device="meta")
    lengths = [
        torch.tensor(change.get(name, given.tolist()))
        for name, given in (("input_lengths", frames), ("target_lengths", labels))
    ]
    problem = Problem(x, elsewhere, *lengths, False, Options(0, None, 0.0))
    with pytest.raises(ValueError, match=message):
        _ctc_cuda.check_host_values(problem)


# ---- values --------------------------------------------------------------------------------------


def exact(x, y, *lengths, **options):
    """Float64 on the CPU."""
    losses, gradient = [], np.zeros(x.shape)
    x = x.astype(np.float64)
    for n in range(x.shape[1]):
        one = [np.asarray(length)[n : n + 1] for length in lengths]
        loss, slope = ctc.loss_and_grad(x[:, n : n + 1], y[n : n + 1], *one, **options)
        losses.append(loss * max(1, one[1][0]))
        gradient[:, n] = slope[:, 0] * max(1, one[1][0])
    return np.array(losses), gradient


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "shape", [(120, 3, 29, 30), (700, 1, 29, 110), (90, 2, 200, 20), (40, 2, 9, 19), (300, 2, 5, 2)]
)
def test_error_against_float64(name, shape):
    x, y = family(name, *shape)
    T, N, _, L = shape
    lengths = np.full(N, T), np.full(N, L)
    wanted, wanted_gradient = exact(x, y, *lengths)
    for shared in (ROOMY, TIGHT):
        losses, gradient, _ = loss_and_gradient(x, y, *lengths, shared=shared)
        alone, _, _ = loss_and_gradient(x, y, *lengths, shared=shared, gradient=False)
        for loss in (losses, alone):
            np.testing.assert_allclose(loss, wanted, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)
        losses, gradient, _ = loss_and_gradient(x.astype(np.float64), y, *lengths, shared=shared)
        np.testing.assert_allclose(losses, wanted, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-9)


@pytest.mark.parametrize("labels", [1, 30, 31, 32, 33, 63, 64, 130, 1023, 1024, 1500])
def test_label_counts_around_whole_warps(labels):
    T, N, C = 2 * labels + 5, 2, 40
    x, y = family("random", T, N, C, labels, seed=labels)
    lengths = np.array([T, 2 * labels]), np.array([labels, labels - 1])
    wanted, wanted_gradient = exact(x, y, *lengths)
    losses, gradient, _ = loss_and_gradient(x, y, *lengths, shared=48 * 1024)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


@pytest.mark.parametrize("classes", [2, 3, 31, 32, 33, 64, 65, 68, 127, 1024, 1025, 2052])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_class_counts_around_whole_warps(classes, dtype):
    x, y = family("random", 25, 3, classes, 7, seed=classes)
    x = x.astype(dtype)
    lengths = np.array([25, 19, 25]), np.array([7, 6, 0])
    wanted, wanted_gradient = exact(x, y, *lengths)
    losses, gradient, _ = loss_and_gradient(x, y, *lengths)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    atol = 5e-4 if dtype == np.float16 else 1e-6
    np.testing.assert_allclose(gradient.astype(np.float64), wanted_gradient, atol=atol)


def test_logits_far_beyond_the_range_of_a_float():
    """1e6 nats a frame: probabilities of 2 to the power of -1.4 million, and that 50 times over."""
    x, y = family("random", 50, 2, 8, 6)
    lengths = np.full(2, 50), np.full(2, 6)
    wanted, wanted_gradient = exact(x * 1e6, y, *lengths)
    losses, gradient, _ = loss_and_gradient(x * 1e6, y, *lengths)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-4)


def test_any_segment_and_chunk_length_gives_the_same_loss():
    """The shared memory decides how many frames a segment has; the result must not depend on it."""
    x, y = family("trained", 137, 2, 20, 30)
    lengths = np.array([137, 101]), np.array([30, 22])
    wanted, wanted_gradient = exact(x, y, *lengths)
    gradients = []
    for shared in (TIGHT, 4_000, 8_000, 12_000, 20_000, 48 * 1024):
        losses, gradient, _ = loss_and_gradient(x, y, *lengths, shared=shared)
        np.testing.assert_allclose(losses, wanted, rtol=1e-6)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)
        gradients.append(gradient)
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, gradients[0])


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [ROOMY, TIGHT])
@pytest.mark.parametrize("classes", [12, 90, 1500])
@pytest.mark.parametrize("options", [{}, {"wildcard": 0.3, "delay": 0.02}])
def test_order_of_threads_does_not_matter(shared, classes, options):
    """Between two barriers threads run forwards, backwards or shuffled; blocks too: same bits."""
    rng = np.random.default_rng(classes)
    T, N, L = 61, 4, 40
    x = rng.normal(size=(T, N, classes)).astype(np.float32)
    x[7, 2, 3] = np.nan
    y = rng.integers(1, 5, (N, L))
    if options:
        y[1, 3] = y[1, 9] = y[2, 0] = -1
    lengths = np.array([61, 60, 61, 0]), np.array([12, 40, 3, 0])
    wanted = loss_and_gradient(x, y, *lengths, shared=shared, **options)
    assert np.isfinite(wanted[0][:1]).all() and np.isnan(wanted[0][2])
    for order in (1, 2, 3, 4):
        got = loss_and_gradient(x, y, *lengths, shared=shared, order=order, **options)
        np.testing.assert_array_equal(got[0], wanted[0])
        np.testing.assert_array_equal(got[1], wanted[1])


def test_order_in_the_batch_does_not_matter():
    x, y = family("random", 50, 6, 12, 9)
    lengths = np.array([50, 44, 31, 50, 20, 27]), np.array([9, 3, 8, 1, 9, 0])
    losses, gradient, _ = loss_and_gradient(x, y, *lengths)
    order = np.array([3, 1, 5, 0, 4, 2])
    other, other_gradient, _ = loss_and_gradient(
        np.ascontiguousarray(x[:, order]), y[order], *(length[order] for length in lengths)
    )
    np.testing.assert_array_equal(other, losses[order])
    np.testing.assert_array_equal(other_gradient, gradient[:, order])


@pytest.mark.parametrize("order", [0, 1, 5])
@pytest.mark.parametrize("factors", [np.array(1.0), np.array(0.5), np.array([1.0, 3.0, -2.0])])
def test_scaling_of_the_gradient(order, factors):
    x, y = family("random", 30, 3, 12, 5)
    problem = gpu_on_host.numpy_problem(x, y, 30, 5, False, gpu_on_host.Options(0, None, 0.0))
    gradient = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    wanted = gradient * factors.astype(np.float32).reshape(1, -1, 1)
    output = problem.output(None, None, gradient, 0, False)
    factors = factors.astype(np.float32)
    _core.ctc_on_host_scale(problem.input(), output, factors.ctypes.data, factors.ndim == 0, order)
    np.testing.assert_array_equal(gradient, wanted)


# ---- wrong values, which the host cannot see when they are on the device -------------------------


@pytest.mark.parametrize("layout", ["padded", "concatenated"])
@pytest.mark.parametrize(
    "wrong",
    [("label", 12), ("label", -1), ("label", -(10**12)), ("label", 0), ("frames", 31),
     ("frames", -1), ("frames", 2**62), ("labels", 12), ("labels", -1), ("labels", 2**62)],
)  # fmt: skip
def test_wrong_values_stay_in_their_utterance(layout, wrong):
    """A wrong label or length on the device: NaN, without an access outside the arrays."""
    x, y = family("random", 30, 3, 12, 5)
    frames, counts = np.array([30, 25, 28]), np.array([5, 4, 5])
    if layout == "concatenated":
        y = np.concatenate([row[:n] for row, n in zip(y, counts, strict=True)])
    losses, gradient, _ = loss_and_gradient(x, y, frames, counts)
    what, value = wrong
    if what == "label":
        y.reshape(-1)[7] = value  # of utterance 1
    elif what == "frames":
        frames[1] = value
    else:
        counts[1] = value
    got, got_gradient, _ = loss_and_gradient(x, y, frames, counts, check=False)
    assert np.isnan(got[1])
    if what == "frames":
        rows = 30 if value > 0 else 0
    else:
        rows = frames[1]
    assert np.isnan(got_gradient[:rows, 1]).all() and not got_gradient[rows:, 1].any()
    assert got[0] == losses[0]
    np.testing.assert_array_equal(got_gradient[:, 0], gradient[:, 0])
    if layout == "concatenated" and what == "labels":
        assert np.isnan(got[2])  # nobody knows where its labels begin
    else:
        assert got[2] == losses[2]
        np.testing.assert_array_equal(got_gradient[:, 2], gradient[:, 2])


def test_a_target_longer_than_promised_is_nan():
    x, y = family("random", 30, 2, 12, 5)
    lengths = np.array([30, 30]), np.array([5, 3])
    losses, _, roomy = loss_and_gradient(x, y, *lengths)
    got, gradient, taken = loss_and_gradient(x, y, *lengths, longest=3)
    assert np.isnan(got[0]) and got[1] == losses[1] and np.isnan(gradient[:, 0]).all()
    assert taken < roomy


def test_workspace_is_small():
    """Below a quarter of what the lattice and log-probabilities of torch's kernel take."""
    for T, N, C, L in [(150, 4, 29, 40), (400, 2, 29, 80), (300, 1, 29, 120), (60, 2, 1024, 20)]:
        x, y = family("random", T, N, C, L)
        _, _, taken = loss_and_gradient(x, y, np.full(N, T), np.full(N, L))
        torchs = T * N * 4 * (2 * (2 * L + 1) + 2 * C)
        assert taken < torchs / 4, (T, N, C, L, taken, torchs)


def test_long_targets_in_little_memory():
    T, L = 900, 400
    x, y = family("random", T, 1, 8, L)
    losses, gradient, _ = loss_and_gradient(x, y, [T], [L], shared=TIGHT)
    wanted, wanted_gradient = reference.ctc_loss(x[:60, 0], y[0, :20].tolist())
    short, short_gradient, _ = loss_and_gradient(x[:60], y[:, :20], [60], [20], shared=TIGHT)
    np.testing.assert_allclose(short, wanted, rtol=1e-6)
    np.testing.assert_allclose(short_gradient[:, 0], wanted_gradient, atol=3e-6)
    wanted, wanted_gradient = exact(x, y, [T], [L])
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


def test_sixteen_bits_of_torch():
    """bfloat16, which NumPy has not."""
    args = test_ctc.batch(dtype=torch.bfloat16)
    _, wanted = test_ctc.loss_and_gradient(args[0].float(), *args[1:], reduction="sum")
    problem = own(prepare(*args, False, Options(0, None, 0.0)), copy=False)
    losses, gradient = torch.empty(4), torch.empty_like(args[0])
    gpu_on_host.compute(problem, losses, None, gradient, 0, False)
    torch.testing.assert_close(gradient, wanted.bfloat16(), atol=1e-3, rtol=1e-2)
