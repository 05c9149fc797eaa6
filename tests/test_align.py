"""Forced alignment against enumeration of all paths and against torchaudio."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.align.forced import WILDCARD, forced_align
from ctcspeech.errors import AlignmentError


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def collapse(path, blank):
    kept = [c for i, c in enumerate(path) if i == 0 or c != path[i - 1]]
    return [c for c in kept if c != blank]


def best_score_by_enumeration(log_probs, labels, blank):
    T, C = log_probs.shape
    scores = [
        sum(log_probs[t, c] for t, c in enumerate(path))
        for path in itertools.product(range(C), repeat=T)
        if collapse(path, blank) == list(labels)
    ]
    return max(scores, default=-np.inf)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 6),
    C=st.integers(2, 4),
    blank=st.integers(0, 3),
    data=st.data(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_finds_the_best_path_of_all(T, C, blank, data, dtype):
    blank %= C
    others = [c for c in range(C) if c != blank]
    labels = data.draw(st.lists(st.sampled_from(others), max_size=4))
    seed = data.draw(st.integers(0, 2**31))
    emissions = np.random.default_rng(seed).normal(0, 3, (T, C)).astype(dtype)
    log_probs = log_softmax(emissions.astype(np.float64))
    expected = best_score_by_enumeration(log_probs, labels, blank)
    if expected == -np.inf:
        with pytest.raises(AlignmentError, match="frames"):
            forced_align(emissions, labels, blank=blank)
        return
    (alignment,) = forced_align(emissions, labels, blank=blank)
    assert alignment.score == pytest.approx(expected, abs=1e-4)
    assert collapse(alignment.path, blank) == labels
    assert log_probs[np.arange(T), alignment.path].sum() == pytest.approx(expected, abs=1e-4)
    for i, label in enumerate(labels):
        frames = np.arange(alignment.starts[i], alignment.ends[i])
        assert len(frames) > 0
        assert (alignment.path[frames] == label).all()
        assert alignment.log_probs[i] == pytest.approx(log_probs[frames, label].mean(), abs=1e-4)


def random_problem(seed, T, C, L, scale=2.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (T, C)).astype(np.float32), rng.integers(1, C, L)


@pytest.mark.parametrize("T, L", [(31, 10), (32, 10), (33, 10), (200, 60), (700, 250), (1000, 3)])
def test_equals_torchaudio_over_many_intervals(T, L):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchaudio.functional")
    emissions, labels = random_problem(T, T, 29, L)
    log_probs = torch.log_softmax(torch.tensor(emissions), -1)
    with pytest.warns(UserWarning) if _warns(functional) else _nothing():
        path, scores = functional.forced_align(log_probs[None], torch.tensor(labels)[None], blank=0)
    (alignment,) = forced_align(emissions, labels)
    assert alignment.path.tolist() == path[0].tolist()
    np.testing.assert_allclose(alignment.frame_log_probs, scores[0].numpy(), atol=1e-4)


def _warns(functional):
    return "deprecated" in (functional.forced_align.__doc__ or "").lower()


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_batch_equals_single_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    emissions = rng.normal(0, 2, (6, 300, 12)).astype(np.float32)
    targets = [rng.integers(1, 12, L) for L in (0, 5, 90, 17, 60, 1)]
    lengths = [300, 40, 300, 299, 120, 1]
    alone = [
        forced_align(emissions[n, : lengths[n]], targets[n], threads=1)[0].path for n in range(6)
    ]
    for threads in (1, 2, 5):
        batch = forced_align(emissions, targets, lengths, threads=threads)
        for path, alignment in zip(alone, batch, strict=True):
            np.testing.assert_array_equal(path, alignment.path)


def test_long_recording_keeps_its_precision():
    """float32 and float64 agree on a path of 60,000 frames."""
    emissions, labels = random_problem(1, 60_000, 8, 700, scale=1.0)
    single = forced_align(emissions, labels)[0]
    double = forced_align(emissions.astype(np.float64), labels)[0]
    assert single.score == pytest.approx(double.score, rel=1e-7)


def test_band_keeps_to_the_line_and_a_wide_one_changes_nothing():
    emissions, labels = random_problem(2, 400, 10, 100)
    free = forced_align(emissions, labels)[0]
    np.testing.assert_array_equal(forced_align(emissions, labels, band=100)[0].path, free.path)
    narrow = forced_align(emissions, labels, band=3)[0]
    centre = np.arange(400) * 100 / 399
    label_index = np.searchsorted(narrow.starts, np.arange(400), side="right") - 1
    inside = [(narrow.starts[i] <= t < narrow.ends[i]) for t, i in enumerate(label_index)]
    assert (np.abs(label_index - centre)[inside] <= 4).all()
    assert narrow.score <= free.score


def test_wildcard_takes_what_the_text_leaves_out():
    """Clear emissions of a b c d e; the text knows only a and e."""
    spoken = np.repeat([1, 0, 2, 0, 3, 0, 4, 0, 5], 5)
    emissions = np.full((45, 6), -6.0)
    emissions[np.arange(45), spoken] = 6.0
    alignment = forced_align(emissions, [1, WILDCARD, 5], wildcard_score=-1.0)[0]
    assert (alignment.starts[0], alignment.ends[0]) == (0, 5)
    assert (alignment.starts[2], alignment.ends[2]) == (40, 45)
    assert alignment.starts[1] >= 5 and alignment.ends[1] <= 40
    wild = np.arange(alignment.starts[1], alignment.ends[1])
    expected = log_softmax(emissions).max(-1)[wild] - 1.0
    np.testing.assert_allclose(alignment.frame_log_probs[wild], expected)


def test_infeasible_frames_name_the_arithmetic():
    with pytest.raises(
        AlignmentError, match=r"targets\[0\] needs at least 5 frames \(3 labels \+ 2"
    ):
        forced_align(np.zeros((4, 3)), [1, 1, 1])
    emissions = np.zeros((4, 3))
    emissions[:, 2] = -np.inf
    with pytest.raises(AlignmentError, match=r"targets\[0\] has no path"):
        forced_align(emissions, [2])
    assert len(forced_align(emissions, [1])) == 1
    emissions[0, 0] = np.nan
    with pytest.raises(AlignmentError, match="NaN"):
        forced_align(emissions, [1])


def test_empty_text_and_no_frames():
    alignment = forced_align(np.zeros((4, 3)), [])[0]
    assert alignment.path.tolist() == [0, 0, 0, 0] and len(alignment.starts) == 0
    assert forced_align(np.zeros((0, 3)), [])[0].score == 0
    with pytest.raises(AlignmentError):
        forced_align(np.zeros((0, 3)), [1])


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((np.zeros((4, 3)), [3]), ValueError, r"targets\[0\]\[0\]"),
        ((np.zeros((4, 3)), [0]), ValueError, "blank"),
        ((np.zeros((4, 3)), [1.5]), TypeError, "integers"),
        ((np.zeros((4, 3), np.int32), [1]), TypeError, "floating point"),
        ((np.zeros(4), [1]), ValueError, "shape"),
        ((np.zeros((2, 4, 3)), [[1]]), ValueError, "2 utterances"),
        ((np.zeros((1, 4, 3)), [[1]], [5]), ValueError, r"input_lengths\[0\]"),
        ((np.zeros((1, 4, 3)), [[1]], [4], [2]), ValueError, r"target_lengths\[0\]"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        forced_align(*arguments)


def test_takes_tensors_of_every_kind():
    torch = pytest.importorskip("torch")
    emissions, labels = random_problem(3, 50, 6, 9)
    expected = forced_align(emissions, labels)[0].path
    for given_emissions in (
        torch.tensor(emissions),
        torch.tensor(emissions).T.contiguous().T,
        torch.tensor(emissions, requires_grad=True),
        emissions.astype(np.float64),
    ):
        path = forced_align(given_emissions, torch.tensor(labels))[0].path
        np.testing.assert_array_equal(path, expected)
    assert forced_align(torch.tensor(emissions).bfloat16(), labels)[0].path.shape == (50,)
