"""Greedy decoding against hand-made paths and the alphabet's own collapse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.hypothesis import word_frames, word_spans
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet(["<blank>", " ", "a", "b", "c"])


def emissions(path, probability=0.9, classes=5):
    """(T, C) log-probabilities in which each frame of the path has `probability`."""
    rest = (1 - probability) / (classes - 1)
    values = np.full((len(path), classes), np.log(rest), dtype=np.float32)
    values[np.arange(len(path)), path] = np.log(probability)
    return values


def test_words_times_and_confidence_of_a_known_path():
    #        0  1  2  3  4  5  6  7  8  9 10 11
    path = [0, 2, 2, 0, 2, 1, 1, 0, 3, 4, 4, 0]
    values = emissions(path)
    values[8] = emissions([3], 0.6)[0]
    (((hypothesis,)),) = GreedyDecoder(ALPHABET, 20.0).decode([values])
    assert hypothesis.text == "aa bc"
    assert hypothesis.tokens == [2, 2, 1, 3, 4]
    assert hypothesis.ctc_score == pytest.approx(11 * np.log(0.9) + np.log(0.6), rel=1e-6)
    assert hypothesis.score == hypothesis.ctc_score
    first, second = hypothesis.words
    assert (first.text, second.text) == ("aa", "bc")
    assert (first.start, first.end) == pytest.approx((0.02, 0.10))
    assert (second.start, second.end) == pytest.approx((0.16, 0.22))
    assert first.confidence == pytest.approx(0.9, rel=1e-5)
    assert second.confidence == pytest.approx((0.6 + 0.9 + 0.9) / 3, rel=1e-5)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=30), st.floats(-50, 50), st.floats(0.5, 5))
def test_tokens_are_the_collapsed_path_and_logits_will_do(path, shift, scale):
    values = emissions(path) if path else np.zeros((0, 5), np.float32)
    decoder = GreedyDecoder(ALPHABET, 10.0)
    ((hypothesis,),) = decoder.decode([values])
    assert hypothesis.tokens == ALPHABET.collapse(path)
    assert hypothesis.text == " ".join(ALPHABET.decode(ALPHABET.collapse(path)).split())
    assert " ".join(word.text for word in hypothesis.words) == hypothesis.text
    ((shifted,),) = decoder.decode([values + shift])
    assert shifted.text == hypothesis.text
    assert shifted.score == pytest.approx(hypothesis.score, abs=1e-3)
    ((sharper,),) = decoder.decode([values * scale])
    assert sharper.tokens == hypothesis.tokens


def test_other_blank_and_other_alphabets():
    alphabet = Alphabet(["a", "b", "|", "<pad>"], blank=3, separator="|")
    ((hypothesis,),) = GreedyDecoder(alphabet, 10.0).decode(
        [emissions([0, 3, 0, 2, 1, 3], classes=4)]
    )
    assert hypothesis.text == "aa b"
    assert [word.text for word in hypothesis.words] == ["aa", "b"]

    spaceless = Alphabet(["<blank>", "你", "好"])
    ((hypothesis,),) = GreedyDecoder(spaceless, 10.0).decode([emissions([1, 0, 2], classes=3)])
    assert hypothesis.text == "你好"
    assert [word.text for word in hypothesis.words] == ["你好"]

    byte = Alphabet.of_bytes()
    path = [label for label in byte.encode("é a") for _ in range(2)]
    ((hypothesis,),) = GreedyDecoder(byte, 10.0).decode([emissions(path, classes=257)])
    assert hypothesis.text == "é a"
    assert [(word.text, word.start) for word in hypothesis.words] == [("é", 0.0), ("a", 0.06)]


def test_pieces_begin_words():
    pytest.importorskip("sentencepiece")
    texts = ["the cat sat on the mat", "a hat and a bat", "that cat at the hat"] * 5
    alphabet = Alphabet.from_text(texts, kind="sentencepiece", size=16)
    tokens = alphabet.encode("the cat sat")
    spans = word_spans(alphabet, tokens)
    assert [alphabet.decode(tokens[i:j]) for i, j in spans] == ["the", "cat", "sat"]
    path = [label for token in tokens for label in (token, alphabet.blank)]
    ((hypothesis,),) = GreedyDecoder(alphabet, 10.0).decode(
        [emissions(path, classes=len(alphabet))]
    )
    assert hypothesis.text == "the cat sat"
    assert [word.text for word in hypothesis.words] == ["the", "cat", "sat"]


def test_no_frames_give_no_text():
    ((hypothesis,),) = GreedyDecoder(ALPHABET, 10.0).decode([np.zeros((0, 5), np.float32)])
    assert (hypothesis.text, hypothesis.words, hypothesis.score) == ("", [], 0.0)


def test_wrong_emissions_are_named():
    decoder = GreedyDecoder(ALPHABET, 10.0)
    good = emissions([1, 2])
    with pytest.raises(ValueError, match=r"emissions\[1\] must be \(frames, 5\)"):
        decoder.decode([good, np.zeros((3, 4), np.float32)])
    bad = good.copy()
    bad[1, 3] = np.nan
    with pytest.raises(DecoderError, match=r"emissions\[1\] has no largest label at frame 1"):
        decoder.decode([good, bad])
    with pytest.raises(ValueError, match="frame_shift_ms"):
        GreedyDecoder(ALPHABET, 0.0)


def test_a_stray_label_does_not_stretch_its_word():
    # 20 ms a frame. "place" with its first label at the start of the recording, then silence.
    starts, ends = np.array([0, 30, 33, 36, 38]), np.array([1, 32, 34, 37, 40])
    assert word_frames(starts, ends, 0.02) == (25, 40)
    assert word_frames(starts[1:], ends[1:], 0.02) == (30, 40)
    assert word_frames(starts[:1], ends[:1], 0.02) == (0, 1)
    # A last label that strays, and labels that are just near enough.
    assert word_frames(np.array([5, 8, 60]), np.array([6, 9, 61]), 0.02) == (5, 14)
    assert word_frames(np.array([5, 18]), np.array([6, 19]), 0.02) == (5, 19)
