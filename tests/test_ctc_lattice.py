"""Alpha, beta and occupation against the sum over every path, one by one; their picture."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ctcspeech import ctc
from ctcspeech.cli import app
from ctcspeech.ctc.lattice import forward_backward


def log_probs_of(frames, classes, seed):
    return reference.log_softmax(np.random.default_rng(seed).standard_normal((frames, classes)))


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [2, 2], [1, 2, 1], [2, 2, 2]])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_tables_are_sums_over_paths(labels, frames):
    y = log_probs_of(frames, 3, frames)
    lattice = forward_backward(y, labels)
    loss, gamma = reference.ctc_enumerate(y, labels)
    np.testing.assert_allclose(lattice.occupation, gamma, atol=1e-12)
    assert -lattice.log_prob == pytest.approx(loss)
    z = reference.extended(labels, 0)
    assert lattice.states.tolist() == z
    alpha, beta = np.zeros((2, frames, len(z)))
    for t in range(frames):  # every path of the frames up to t, and of those after it
        for s in range(len(z)):
            for path in starts(z, t + 1, s):
                alpha[t, s] += np.exp(sum(y[i, z[r]] for i, r in enumerate(path)))
            for path in ends(z, frames - t, s):
                beta[t, s] += np.exp(sum(y[t + i, z[r]] for i, r in enumerate(path) if i))
    np.testing.assert_allclose(np.exp(lattice.alpha), alpha, atol=1e-12)
    np.testing.assert_allclose(np.exp(lattice.beta), beta, atol=1e-12)


def steps(z, path):
    """The states that may follow."""
    s = path[-1]
    for r in (s, s + 1, s + 2):
        if r < len(z) and (r < s + 2 or (r % 2 == 1 and z[r] != z[s])):
            yield r


def walks(z, begin, length):
    if length == 1:
        yield (begin,)
        return
    for path in walks(z, begin, length - 1):
        for r in steps(z, path):
            yield (*path, r)


def starts(z, length, end):
    for begin in range(min(2, len(z))):
        yield from (path for path in walks(z, begin, length) if path[-1] == end)


def ends(z, length, begin):
    yield from (path for path in walks(z, begin, length) if path[-1] >= len(z) - 2)


@given(st.integers(1, 30), st.lists(st.integers(1, 4), max_size=8), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_equals_the_operator(frames, labels, seed):
    y = log_probs_of(frames, 5, seed)
    lattice = forward_backward(y, labels)
    gamma = ctc.posteriors(y, np.array(labels, np.int64), [frames], [len(labels)])
    np.testing.assert_allclose(lattice.occupation, gamma, atol=1e-9)
    if np.isfinite(lattice.log_prob):
        sums = np.logaddexp.reduce(lattice.alpha + lattice.beta, axis=1)  # the same at every frame
        np.testing.assert_allclose(sums, lattice.log_prob)


def test_wrong_arguments():
    y = log_probs_of(4, 3, 0)
    with pytest.raises(ValueError, match=r"\(T, C\)"):
        forward_backward(y[0], [1])
    with pytest.raises(ValueError, match="different classes"):
        forward_backward(y, [0])
    with pytest.raises(ValueError, match="different classes"):
        forward_backward(y, [3])


def test_picture_names_every_state():
    pytest.importorskip("matplotlib")
    from ctcspeech.evaluate.plot_lattice import example, plot_lattice

    lattice, names, log_probs = example("abba")
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
    figure = plot_lattice(lattice, names, log_probs)
    ticks = [text.get_text() for text in figure.axes[3].get_yticklabels()]
    assert ticks == ["∅", "a", "∅", "b", "∅", "b", "∅", "a", "∅"]
    with pytest.raises(ValueError, match="at least 5 frames"):
        example("abba", 4)
    with pytest.raises(ValueError, match="too many to tell"):
        plot_lattice(*example("ab" * 30, 200))


def test_command(tmp_path):
    target = tmp_path / "cat.svg"
    done = CliRunner().invoke(app, ["plot", "--example", "cat", "-o", str(target)])
    assert done.exit_code == 0 and "<svg" in target.read_text()
    assert CliRunner().invoke(app, ["plot", "--example", "cat", "x.wav"]).exit_code == 2
    assert CliRunner().invoke(app, ["plot"]).exit_code == 2
    done = CliRunner().invoke(app, ["plot", "--example", "aa", "--frames", "2", "-o", str(target)])
    assert done.exit_code == 2 and "3 frames" in done.output
