"""The fast CTC recursion in each kind of number and instruction set, against float64 logarithms."""

import numpy as np
import pytest
import reference

from ctcspeech import _core, ctc
from ctcspeech.ctc import core
from ctcspeech.ctc.arguments import numpy_problem
from ctcspeech.ctc.core import ARITHMETICS, compute, read_environment
from ctcspeech.ctc.problem import Options

ISAS = _core.available_isas()


@pytest.fixture
def force(monkeypatch):
    def choose(isa="", arithmetic=""):
        monkeypatch.setenv("CTCSPEECH_ISA", isa)
        monkeypatch.setenv("CTCSPEECH_CTC_ARITHMETIC", arithmetic)
        read_environment()

    yield choose
    monkeypatch.undo()
    read_environment()


def run(x, y, input_lengths, target_lengths, blank=0, wildcard=None, delay=0.0):
    """Losses with a gradient, the gradient, the loss alone, which arithmetic each took."""
    options = Options(blank, wildcard, delay)
    problem = numpy_problem(x, y, input_lengths, target_lengths, False, options)
    N = x.shape[1]
    real = np.float64 if x.dtype == np.float64 else np.float32
    losses, alone = np.empty(N, real), np.empty(N, real)
    gradient, kinds = np.empty_like(x), np.empty(N, np.int32)
    compute(problem, losses, None, gradient, 0, False, kinds)
    compute(problem, alone, None, None, 0, False)
    return losses, gradient, alone, kinds


def trained(rng, y, T, C, confidence):
    """Emissions like a trained model's of transcripts y: blank but for short spikes."""
    N, L = y.shape
    x = rng.normal(size=(T, N, C)).astype(np.float32)
    x[:, :, 0] += confidence
    for n in range(N):
        for j, t in enumerate(np.sort(rng.choice(T // 2, L, replace=False)) * 2):
            x[t, n, 0] -= confidence
            x[t, n, y[n, j]] += confidence
    return x


def family(name, T, N, C, L, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(1, C, (N, L))
    x = rng.normal(size=(T, N, C)).astype(np.float32)
    if name == "random":
        return x, y
    if name == "peaky":
        return x * 20, y
    if name == "extreme":
        return x * 100, y
    if name == "trained":
        return trained(rng, y, T, C, 8.0), y
    return trained(rng, rng.integers(1, C, (N, L)), T, C, 15.0), y  # a wrong transcript


FAMILIES = ["random", "trained", "wrong", "peaky", "extreme"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "shape", [(120, 3, 29, 30), (700, 1, 29, 110), (90, 2, 200, 20), (40, 2, 9, 19), (300, 2, 5, 2)]
)
def test_error_against_logarithms_in_float64(name, shape, force):
    x, y = family(name, *shape)
    T, N, C, L = shape
    lengths = np.full(N, T), np.full(N, L)
    force(arithmetic="log")
    wanted, wanted_gradient, _, kinds = run(x.astype(np.float64), y, *lengths)
    assert (kinds == ARITHMETICS["log"]).all()
    for isa in ISAS:
        force(isa)
        losses, gradient, alone, _ = run(x, y, *lengths)
        for loss in (losses, alone):
            np.testing.assert_allclose(loss, wanted, rtol=1e-6)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)
        losses, gradient, alone, _ = run(x.astype(np.float64), y, *lengths)
        for loss in (losses, alone):
            np.testing.assert_allclose(loss, wanted, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-9)


@pytest.mark.parametrize("confidence", [6.0, 9.0, 14.0])
@pytest.mark.parametrize(
    "shape", [(60, 3, 29, 12), (1000, 1, 29, 100), (5000, 1, 29, 300), (900, 1, 150, 30)]
)
def test_small_losses_of_a_trained_model(confidence, shape, force):
    """The loss of a sure utterance is a millionth of what float would round over its frames."""
    T, N, C, L = shape
    rng = np.random.default_rng(T)
    y = rng.integers(1, C, (N, L))
    x = trained(rng, y, T, C, confidence)
    lengths = np.full(N, T), np.full(N, L)
    force(arithmetic="log")
    wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, *lengths)
    for isa in ISAS:
        force(isa)
        losses, gradient, alone, kinds = run(x, y, *lengths)
        assert (kinds == ARITHMETICS["float"]).all()
        np.testing.assert_allclose(losses, wanted, rtol=1e-6)
        np.testing.assert_allclose(alone, wanted, rtol=1e-6)
        np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("arithmetic", ["double", "extended", "log"])
def test_every_kind_of_number_gives_the_same(isa, arithmetic, force):
    x, y = family("random", 100, 3, 29, 25)
    lengths = np.array([100, 60, 77]), np.array([25, 20, 0])
    force()
    losses, gradient, _, kinds = run(x, y, *lengths)
    assert (kinds == ARITHMETICS["float"]).all()
    force(isa, arithmetic)
    other, other_gradient, alone, kinds = run(x, y, *lengths)
    assert (kinds == ARITHMETICS[arithmetic]).all()
    np.testing.assert_allclose(other, losses, rtol=1e-6)
    np.testing.assert_allclose(alone, losses, rtol=1e-6)
    np.testing.assert_allclose(other_gradient, gradient, atol=1e-6)


def test_the_chain_goes_no_further_than_needed(force):
    force()
    for name, most in [("random", 0), ("trained", 0), ("wrong", 1), ("extreme", 2)]:
        x, y = family(name, 400, 2, 29, 60)
        *_, kinds = run(x, y, [400, 400], [60, 60])
        assert (kinds <= most).all(), name
    *_, kinds = run(x * 1e30, y, [400, 400], [60, 60])  # out of range of everything but logarithms
    assert (kinds == ARITHMETICS["log"]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_underflow_is_noticed(isa, force):
    """The only way through the middle is far below a float's range under other, useless mass."""
    T, C = 64, 4
    x = np.zeros((T, 1, C), np.float32)
    x[8:56, 0, 2] = -30  # label 2 must be held for long, since 1 and 3 have only the ends
    x[8:56, 0, 0] = -30
    x[8:, 0, 1] = -80
    x[:56, 0, 3] = -80
    y = np.array([[1, 2, 3]])
    wanted, wanted_gradient = reference.ctc_loss(x[:, 0], [1, 2, 3])
    force(isa)
    losses, gradient, alone, _ = run(x, y, [T], [3])
    np.testing.assert_allclose([losses[0], alone[0]], wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], wanted_gradient, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("labels", [1, 14, 15, 16, 31, 47, 63, 95, 96, 97, 130])
def test_target_lengths_around_whole_vectors(isa, labels, force):
    T = 3 * labels + 5
    x, y = family("random", T, 2, 12, labels, seed=labels)
    lengths = np.array([T, 2 * labels + 1]), np.array([labels, labels])
    force(arithmetic="log")
    wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, *lengths)
    force(isa)
    losses, gradient, alone, _ = run(x, y, *lengths)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(alone, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("classes", [2, 3, 14, 15, 30, 31, 62, 63, 64, 65, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_class_counts_around_whole_vectors(isa, classes, dtype, force):
    x, y = family("random", 37, 2, classes, 7, seed=classes)
    x = x.astype(dtype)
    lengths = np.array([37, 33]), np.array([7, 6])
    force(arithmetic="log")
    wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, *lengths, blank=0)
    force(isa)
    losses, gradient, alone, _ = run(x, y, *lengths)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(alone, wanted, rtol=1e-6)
    atol = 1e-6 if dtype == np.float32 else 5e-4
    np.testing.assert_allclose(gradient.astype(np.float64), wanted_gradient, atol=atol)


@pytest.mark.parametrize("isa", ISAS)
def test_alpha_from_checkpoints(isa, force):
    """Long enough that alpha is kept in segments and computed again."""
    T, L = 3000, 260
    x, y = family("random", T, 1, 6, L)
    force(arithmetic="log")
    wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, [T], [L])
    force(isa)
    losses, gradient, _, kinds = run(x, y, [T], [L])
    assert kinds[0] == ARITHMETICS["float"]
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("arithmetic", ["float", "double", "extended", "log"])
def test_options_in_every_kind_of_number(isa, arithmetic, force):
    """Wildcards and the delay penalty against enumeration."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 1, 3))
    for labels, options in [([1, 2], {"delay": 0.3}), ([1, -1], {"wildcard": 0.5}),
                            ([-1, 1, 1], {"wildcard": 0.0, "delay": -0.2})]:  # fmt: skip

        def loss(x, labels=labels, options=options):
            return reference.ctc_enumerate(
                x[:, 0], labels, 0, options.get("delay", 0.0), options.get("wildcard", 0.0)
            )[0]

        force(isa, arithmetic)
        losses, gradient, alone, _ = run(
            x.astype(np.float32), np.array([labels]), [5], [len(labels)], **options
        )
        np.testing.assert_allclose([losses[0], alone[0]], loss(x), rtol=2e-6)
        np.testing.assert_allclose(gradient, reference.finite_difference(loss, x), atol=2e-6)


def test_sixteen_bit_rounding_is_to_nearest_even():
    """Gradients in float16 are those in float32 rounded once."""
    x, y = family("random", 50, 2, 29, 10)
    x = x.astype(np.float16)
    _, narrow = ctc.loss_and_grad(x, y, 50, 10, reduction="sum")
    _, wide = ctc.loss_and_grad(x.astype(np.float32), y, 50, 10, reduction="sum")
    np.testing.assert_array_equal(narrow, wide.astype(np.float16))


def test_forced_values_are_read_once(monkeypatch):
    monkeypatch.setenv("CTCSPEECH_CTC_ARITHMETIC", "roman")
    assert core._arithmetic == 0
    with pytest.raises(ValueError, match="must be one of float, double, extended, log"):
        read_environment()


@pytest.mark.parametrize("seed", [20, 152, 187])
@pytest.mark.parametrize("isa", ISAS)
def test_occupation_below_the_range_is_noticed(isa, seed, force):
    """alpha and beta each in range, but large on different states: their product may be lost where
    neither is. Found by the fuzzer; of the many short utterances with sharp emissions that each
    seed draws, one or two had a gradient off by up to 0.15."""
    rng = np.random.default_rng(seed)
    N, T, C = 200, int(rng.integers(20, 61)), int(rng.integers(3, 30))
    L = int(rng.integers(2, min(T // 2, 30)))
    scale, few = float(rng.choice([5, 8, 10, 15, 20, 30])), int(rng.integers(3, C + 1))
    x = (rng.normal(size=(T, N, C)) * scale).astype(np.float32)
    y = rng.integers(1, few, (N, L))
    lengths = np.full(N, T), np.full(N, L)
    force(arithmetic="double")
    wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, *lengths)
    force(isa)
    losses, gradient, alone, _ = run(x, y, *lengths)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(alone, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_delay_penalty_does_not_overflow(isa, force):
    """The weight of entering a label grows with the distance from the middle: a frame's sum may
    come so close to the top of the range that its inverse is flushed to zero. Found by the fuzzer
    as gradients without their gamma."""
    rng = np.random.default_rng(0)
    C, N = 37, 4
    for T, L in [(42, 23), (60, 40), (42, 12)]:
        x = (rng.normal(size=(T, N, C)) * 0.01).astype(np.float32)
        y = rng.integers(1, C, (N, L))
        lengths = np.full(N, T), np.full(N, L)
        for delay in np.linspace(-0.6, 0.6, 31):
            force(arithmetic="double")
            wanted, wanted_gradient, _, _ = run(x.astype(np.float64), y, *lengths, delay=delay)
            force(isa)
            losses, gradient, alone, _ = run(x, y, *lengths, delay=delay)
            np.testing.assert_allclose(losses, wanted, rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(alone, wanted, rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(gradient, wanted_gradient, atol=3e-6)
            _, mean = ctc.loss_and_grad(x, y, *lengths, delay_penalty=delay)
            np.testing.assert_allclose(mean * (N * L), wanted_gradient, atol=3e-6)
