"""Cutting: nothing lost, nothing doubled, silences found, any chunking, constant memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.recognize.cut import cut

RATE = 8000


def speech(seconds, generator, level=0.1):
    """Noise whose loudness moves as that of syllables does, and never rests for 100 ms."""
    time = np.arange(int(seconds * RATE)) / RATE
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)
    return (level * envelope * generator.standard_normal(len(time))).astype(np.float32)


def pause(seconds, generator, level=1e-3):
    return (level * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def chunked(samples, sizes):
    position = 0
    for size in sizes:
        yield samples[position : position + size]
        position += size
    yield samples[position:]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.floats(0.1, 9), st.floats(0, 1)), max_size=8),
    sizes=st.lists(st.integers(0, 30000), max_size=10),
    grain=st.sampled_from([1, 80, 160, 333]),
    context=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_segments_make_up_the_recording(lengths, sizes, grain, context):
    generator = np.random.default_rng(len(lengths))
    parts = [
        part
        for loud, quiet in lengths
        for part in (speech(loud, generator), pause(quiet, generator))
    ]
    samples = np.concatenate([np.zeros(0, np.float32), *parts])
    segments = list(cut(chunked(samples, sizes), RATE, 5.0, context=context, grain=grain))

    joined = np.concatenate([np.zeros(0, np.float32), *(segment.own for segment in segments)])
    assert np.array_equal(joined, samples)
    for segment in segments:
        assert len(segment.samples) <= 5 * RATE
        assert len(segment.own) > 0
        assert segment.offset % grain == segment.head % grain == segment.tail % grain == 0
        # The context is what the recording has there.
        end = segment.offset + len(segment.samples)
        assert np.array_equal(segment.samples, samples[segment.offset : end])
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.tail == after.head
        assert before.end == after.start

    whole = list(cut([samples], RATE, 5.0, context=context, grain=grain))
    assert [(s.offset, s.head, s.tail) for s in whole] == [
        (s.offset, s.head, s.tail) for s in segments
    ]


def test_short_recording_is_one_segment():
    samples = speech(4.9, np.random.default_rng(0))
    (segment,) = cut([samples], RATE, 5.0, context=1.0)
    assert np.array_equal(segment.samples, samples)
    assert (segment.offset, segment.head, segment.tail) == (0, 0, 0)


def test_nothing_gives_nothing():
    assert list(cut([], RATE)) == []
    assert list(cut([np.zeros(0, np.float32)], RATE)) == []


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
def test_cuts_are_in_the_pauses(noise):
    # Words of 0.4 to 1.5 s with pauses of 0.3 to 0.6 s; no cut may touch a word.
    generator = np.random.default_rng(7)
    parts, pauses, position = [], [], 0
    for _ in range(80):
        word = speech(generator.uniform(0.4, 1.5), generator)
        gap = pause(generator.uniform(0.3, 0.6), generator, noise)
        parts += [word, gap]
        pauses.append((position + len(word), position + len(word) + len(gap)))
        position += len(word) + len(gap)
    segments = list(cut([np.concatenate(parts)], RATE, 8.0, context=1.0))
    assert len(segments) >= position / (8 * RATE)
    for segment in segments[1:]:
        assert segment.head == 0
        assert any(start < segment.offset < end for start, end in pauses)


def test_sound_without_pause_is_cut_at_its_quietest_with_context():
    generator = np.random.default_rng(1)
    samples = speech(10, generator)
    dip = slice(int(5.5 * RATE), int(5.65 * RATE))  # too short for a pause
    samples[dip] *= 0.01
    first, second = cut([samples], RATE, 8.0, min_silence=0.3, context=1.0, grain=80)
    assert dip.start <= first.end * RATE <= dip.stop
    assert first.tail == second.head == RATE
    overlap = first.samples[-2 * RATE :]
    assert np.array_equal(overlap, second.samples[: 2 * RATE])


def test_levels_that_drift_are_followed():
    # The noise rises by 30 dB over two minutes, at last above what was speech in the beginning.
    generator = np.random.default_rng(2)
    parts, pauses, position = [], [], 0
    for k in range(60):
        gain = 10 ** (1.5 * k / 60)
        word, gap = speech(1.5, generator, 0.01 * gain), pause(0.5, generator, 4e-4 * gain)
        parts += [word, gap]
        pauses.append((position + len(word), position + len(word) + len(gap)))
        position += len(word) + len(gap)
    segments = list(cut([np.concatenate(parts)], RATE, 10.0, context=1.0))
    for segment in segments[1:]:
        assert segment.head == 0
        assert any(start < segment.offset < end for start, end in pauses)


def test_memory_is_that_of_one_segment():
    # What is held is seen through the generator's own chunks: it is asked for one only when the
    # segments of those before it are out.
    asked = 0

    def endless():
        nonlocal asked
        generator = np.random.default_rng(3)
        while True:
            asked += RATE
            yield speech(1, generator)

    given = 0
    for segment, _ in zip(cut(endless(), RATE, 5.0, context=1.0), range(50), strict=False):
        given = segment.offset + len(segment.samples)
        assert asked - given <= 5 * RATE


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": RATE, "grain": 0}, "grain"),
        ({"sample_rate": RATE, "max_seconds": 3.0, "context": 1.0}, "max_seconds"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        next(cut([np.zeros(10, np.float32)], **arguments))


def test_long_recordings_are_cut_at_every_pause_and_short_ones_at_none():
    generator = np.random.default_rng(4)
    parts, pauses, position = [], [], 0
    for k in range(12):
        long = k % 3 == 2  # two short quiets, then a pause
        word, gap = speech(1.2, generator), pause(0.7 if long else 0.25, generator)
        parts += [word, gap]
        position += len(word) + len(gap)
        if long:
            pauses.append((position - len(gap), position))
    samples = np.concatenate([*parts, speech(1.2, generator)])
    segments = list(cut([samples], RATE, 10.0, context=1.0, pause=0.5))
    assert len(segments) == len(pauses) + 1
    for segment, (start, end) in zip(segments[1:], pauses, strict=True):
        assert start < segment.offset < end
    assert len(list(cut([samples], RATE, 60.0, context=1.0, pause=0.5))) == 1
    # Pauses nearer than a second to another cut or to an end are left alone.
    blips = np.concatenate([p for _ in range(40) for p in (parts[0][: RATE // 2], parts[5])])
    for segment in cut([blips], RATE, 10.0, context=1.0, pause=0.5):
        assert len(segment.own) >= RATE
