"""Error counts against enumeration, jiwer, and values counted by hand."""

import functools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.text.error_rates import (
    ErrorCounts,
    align,
    aligned_rows,
    bootstrap_interval,
    character_error_rate,
    character_errors,
    count_errors,
    word_error_rate,
    word_errors,
)


def fewest_edits(a, b):
    """By trying every alignment."""

    @functools.cache
    def best(i, j):
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(best(i + 1, j + 1) + (a[i] != b[j]), best(i + 1, j) + 1, best(i, j + 1) + 1)

    return best(0, 0)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_counts_are_those_of_enumeration_and_of_jiwer(reference, hypothesis):
    jiwer = pytest.importorskip("jiwer")
    counts = count_errors(reference, hypothesis)
    assert counts.errors == fewest_edits(reference, hypothesis)
    assert counts.insertions - counts.deletions == len(hypothesis) - len(reference)
    if reference:
        theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        assert counts.substitutions == theirs.substitutions
        assert (counts.deletions, counts.insertions) == (theirs.deletions, theirs.insertions)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12))
def test_alignment_covers_both_in_order(reference, hypothesis):
    pairs = align(reference, hypothesis)
    assert [r for r, _ in pairs if r is not None] == list(range(len(reference)))
    assert [h for _, h in pairs if h is not None] == list(range(len(hypothesis)))
    assert (None, None) not in pairs
    wrong = sum(None in (r, h) or reference[r] != hypothesis[h] for r, h in pairs)
    assert wrong == count_errors(reference, hypothesis).errors


def test_rates_are_those_of_jiwer():
    jiwer = pytest.importorskip("jiwer")
    generator = random.Random(1)
    words = "one two three four five six  oh zero".split()
    references, hypotheses = [], []
    for _ in range(60):
        reference = generator.choices(words, k=generator.randint(1, 12))
        hypothesis = [w for w in reference if generator.random() > 0.2]
        for _ in range(generator.randint(0, 3)):
            hypothesis.insert(generator.randint(0, len(hypothesis)), generator.choice(words))
        references.append(" ".join(reference))
        hypotheses.append(" ".join(hypothesis))
    assert word_error_rate(references, hypotheses) == pytest.approx(
        jiwer.wer(references, hypotheses), abs=1e-12
    )
    assert character_error_rate(references, hypotheses) == pytest.approx(
        jiwer.cer(references, hypotheses), abs=1e-12
    )
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        theirs = jiwer.process_words(reference, hypothesis)
        ours = word_errors(reference, hypothesis)
        assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions
        assert ours.correct >= theirs.hits  # they leave ties open, we take most correct words


def test_counts_by_hand():
    counts = word_errors("one two three", " one  too three four ")
    assert counts == ErrorCounts(1, 0, 1, 3)
    assert (counts.errors, counts.correct) == (2, 2)
    assert counts.rate == pytest.approx(2 / 3)
    assert character_errors("ab cd", "ab\t cd") == ErrorCounts(0, 0, 0, 5)
    assert character_errors("ab cd", "abcd") == ErrorCounts(0, 1, 0, 5)
    assert word_errors(["a", "b"], ["a"]) == ErrorCounts(0, 1, 0, 2)


def test_empty_references():
    assert word_errors("", "").rate == 0.0
    assert word_errors("", "a b") == ErrorCounts(0, 0, 2, 0)
    assert word_errors("", "a b").rate == float("inf")
    assert word_errors("a b", "").rate == 1.0
    # Over a corpus an insertion into an empty reference counts like any other.
    assert word_error_rate(["", "a b"], ["x", "a b"]) == 0.5


def test_counts_add_up():
    counts = [ErrorCounts(1, 2, 3, 10), ErrorCounts(0, 1, 0, 5)]
    assert sum(counts) == sum(counts, ErrorCounts()) == ErrorCounts(1, 3, 3, 15)


def test_texts_and_lists_mean_the_same():
    jiwer = pytest.importorskip("jiwer")
    pair = ("hello world", "hella  world ")
    lists = tuple([text] for text in pair)
    assert word_error_rate(*pair) == word_error_rate(*lists) == jiwer.wer("hello world", pair[1])
    cer = jiwer.cer("hello world", "hella world")
    assert character_error_rate(*pair) == character_error_rate(*lists) == cer
    words = tuple(text.split() for text in pair)
    assert word_errors(*pair) == word_errors(*words) == ErrorCounts(1, 0, 0, 2)
    assert character_errors(*pair) == character_errors(*words) == ErrorCounts(1, 0, 0, 11)
    for rate in (word_error_rate, character_error_rate):
        with pytest.raises(TypeError, match="hypotheses is one text"):
            rate(["hello world"], "hella world")
        with pytest.raises(TypeError, match="references is one text"):
            rate("hello world", ["hella world"])


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError):
        word_error_rate(["a"], [])


def test_rows_show_each_edit():
    assert aligned_rows("the cat sat up", "the hat has sat") == [
        "REF: the *** cat sat up",
        "HYP: the hat has sat **",
        "         I   S       D",
    ] or aligned_rows("the cat sat up", "the hat has sat") == [
        "REF: the cat *** sat up",
        "HYP: the hat has sat **",
        "         S   I       D",
    ]
    wide = aligned_rows("word " * 50, "word " * 49, width=60)
    assert len(wide) % 3 == 0 and len(wide) > 3
    assert all(len(line) <= 60 for line in wide)
    assert sum(line.count("word") for line in wide[::3]) == 50
    assert "".join(wide[2::3]).split() == ["D"]


def test_interval_has_its_coverage():
    # Utterances of 10 words, each wrong with probability 0.2: in about 95% of the corpora the
    # interval holds 0.2.
    generator = np.random.default_rng(3)
    held = 0
    for k in range(100):
        wrong = generator.binomial(10, 0.2, 100)
        counts = [ErrorCounts(int(n), 0, 0, 10) for n in wrong]
        low, high = bootstrap_interval(counts, resamples=300, seed=k)
        held += low <= 0.2 <= high
    assert 88 <= held <= 100


def test_interval_by_speaker_is_wider_when_speakers_differ():
    counts = [ErrorCounts(5 if k < 50 else 0, 0, 0, 10) for k in range(100)]
    speakers = [k // 25 for k in range(100)]
    low, high = bootstrap_interval(counts, seed=5)
    wide_low, wide_high = bootstrap_interval(counts, speakers, seed=5)
    assert wide_low < low < 0.25 < high < wide_high
    assert bootstrap_interval(counts, seed=5) == (low, high)


def test_interval_refuses_nothing():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="not empty"):
        bootstrap_interval([ErrorCounts()])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([ErrorCounts(0, 0, 0, 1)], level=95)
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval([ErrorCounts(0, 0, 0, 1)], [1, 2])
