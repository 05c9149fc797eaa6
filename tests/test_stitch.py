"""Seams: what two segments say about their overlap is joined without a label lost or doubled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.recognize.cut import Segment
from ctcspeech.recognize.stitch import Stitcher, join_emissions, word_end
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet(["<blank>", " ", "a", "b", "c"])
CLASSES = 5


def spikes(frames, labels, generator, jitter):
    """(T, C) of a model that writes each label in one or two frames near its own frame."""
    values = np.full((frames, CLASSES), np.log(0.01), dtype=np.float32)
    values[:, 0] = np.log(0.96)
    for frame, label in labels:
        first = frame + int(generator.integers(-jitter, jitter + 1))
        for k in range(first, first + int(generator.integers(1, 3))):
            if 0 <= k < frames:
                values[k] = np.log(0.01)
                values[k, label] = np.log(0.96)
    return values


def text(emissions):
    return ALPHABET.collapse(emissions.argmax(axis=1))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.integers(7, 14), min_size=1, max_size=30),
    labels=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    overlap=st.integers(60, 120),
    seed=st.integers(0, 1 << 30),
)
def test_opinions_that_differ_by_frames_join_to_the_truth(gaps, labels, overlap, seed):
    generator = np.random.default_rng(seed)
    truth = list(zip(np.cumsum(gaps).tolist(), labels, strict=False))
    total = sum(gaps) + 130
    cut = total // 2
    # Each side hears up to `overlap // 2` past the cut, and jitters on its own by 2 frames.
    begin, end = max(cut - overlap // 2, 0), min(cut + overlap // 2, total)
    before = spikes(end, [(f, label) for f, label in truth if f < end], generator, 2)
    after = spikes(
        total - begin, [(f - begin, label) for f, label in truth if f >= begin], generator, 2
    )
    joined = join_emissions(before, after, end - begin)
    assert joined.shape == (total, CLASSES)
    assert text(joined) == [label for _, label in truth]


def test_seam_keeps_both_ends():
    generator = np.random.default_rng(0)
    before, after = (generator.standard_normal((50, CLASSES)).astype(np.float32) for _ in "xy")
    joined = join_emissions(before, after, 20)
    # Outside the middle half of the overlap each side speaks alone.
    assert np.array_equal(joined[:35], before[:35])
    assert np.array_equal(joined[45:], after[15:])
    assert np.array_equal(join_emissions(before, after, 0), np.concatenate([before, after]))
    with pytest.raises(ValueError, match="overlap"):
        join_emissions(before, after, 51)


def make_segment(offset, length, head, tail, rate=1000):
    return Segment(np.zeros(length, np.float32), offset, rate, head, tail)


def test_stretches_end_at_pauses_and_have_their_times():
    stitcher = Stitcher(ALPHABET, frame_samples=10, max_frames=1000)
    generator = np.random.default_rng(1)
    one = spikes(100, [(50, 2)], generator, 0)
    (stretch,) = stitcher.add(make_segment(0, 1000, 0, 0), one)
    assert (stretch.start, stretch.end) == (0.0, 1.0)
    assert np.array_equal(stretch.emissions, one)

    # Two segments that overlap by 40 frames, from frame 160 to 200; both hear the c at 180.
    two = spikes(100, [(20, 3), (80, 4)], generator, 0)
    three = spikes(90, [(20, 4), (80, 2)], generator, 0)
    assert stitcher.add(make_segment(1000, 1000, 0, 200), two) == []
    (stretch,) = stitcher.add(make_segment(1600, 900, 200, 0), three)
    assert (stretch.start, stretch.end) == (1.0, 2.5)
    assert stretch.emissions.shape == (150, CLASSES)
    assert text(stretch.emissions) == [3, 4, 2]


@pytest.mark.parametrize("space", [True, False])
def test_memory_is_bounded_without_pauses(space):
    # 100 segments in a row without a pause: what is held back stays below the limit and a segment.
    stitcher = Stitcher(ALPHABET, frame_samples=10, max_frames=300)
    generator = np.random.default_rng(2)
    labels = [1 if k % 3 == 2 and space else 2 + k % 3 for k in range(2000)]
    truth = [(8 + 9 * k, label) for k, label in enumerate(labels)]
    total, step = 100 * 60 + 40, 60
    parts = []
    for k in range(100):
        begin, end = k * step, k * step + 100
        last = k == 99
        values = spikes(
            end - begin,
            [(f - begin, label) for f, label in truth if begin <= f < end],
            generator,
            0,
        )
        segment = make_segment(begin * 10, 1000, 200 if k else 0, 0 if last else 200)
        parts += stitcher.add(segment, values)
        if stitcher._pending is not None:
            assert len(stitcher._pending) <= 300 + 100
    joined = np.concatenate([part.emissions for part in parts])
    assert len(joined) == total
    assert len(parts) > 10
    expected = [label for f, label in truth if f < total]
    assert text(joined)[: len(expected)] == expected
    for part, following in zip(parts, parts[1:], strict=False):
        assert part.end == pytest.approx(following.start)
        if space:  # divided after a word
            assert text(part.emissions)[-1] == 1


def test_word_ends():
    generator = np.random.default_rng(3)
    values = spikes(60, [(5, 2), (10, 1), (40, 1), (50, 3)], generator, 0)
    path = values.argmax(axis=1)
    place = word_end(values, ALPHABET)
    assert path[place - 1] == 1 and path[place] == 0 and place in (41, 42)
    # No end of a word in the second half: the middle of the longest blank run there.
    values = spikes(60, [(5, 1), (34, 2), (52, 3)], generator, 0)
    assert 40 <= word_end(values, ALPHABET) <= 47
    pieces = Alphabet(["<blank>", "▁", "a"])
    pieces.space = None
    values = np.log(np.eye(3)[[0, 2, 0, 0, 1, 2, 0, 1, 1, 0]] * 0.9 + 0.05).astype(np.float32)
    assert word_end(values, pieces) == 7
