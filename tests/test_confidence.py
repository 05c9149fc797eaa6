"""Calibration against scipy's optimiser, drawn data whose truth is known, and worked examples."""

import numpy as np
import pytest
from scipy.optimize import minimize

from ctcspeech.decode.confidence import (
    Calibration,
    calibration_error,
    correct_words,
    fit,
    load_calibrations,
    save_calibration,
)
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import CheckpointError


def drawn(slope, intercept, count=4000, seed=0):
    """Raw confidences, and words that are right with the calibrated probability."""
    random = np.random.default_rng(seed)
    odds = random.normal(2, 2, count)
    truth = 1 / (1 + np.exp(-(slope * odds + intercept)))
    return 1 / (1 + np.exp(-odds)), random.random(count) < truth


def test_finds_the_true_calibration():
    raw, right = drawn(0.5, -0.7)
    found = fit(raw, right)
    assert found.slope == pytest.approx(0.5, abs=0.06)
    assert found.intercept == pytest.approx(-0.7, abs=0.12)
    assert found.words == 4000
    other_raw, other_right = drawn(0.5, -0.7, seed=1)
    calibrated = [found(value) for value in other_raw]
    assert calibration_error(other_raw, other_right) > 0.15
    assert calibration_error(calibrated, other_right) < 0.03


def test_fit_is_the_most_likely():
    raw, right = drawn(1.3, 0.4, 300)
    x = np.log(raw) - np.log1p(-raw)
    high, low = (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2)
    targets = np.where(right, high, low)

    def loss(w):
        z = w[0] * x + w[1]
        return (np.logaddexp(0, z) - targets * z).sum()

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9})
    found = fit(raw, right)
    assert [found.slope, found.intercept] == pytest.approx(list(best.x), abs=1e-3)


@pytest.mark.parametrize("right", [True, False])
def test_words_all_right_or_all_wrong(right):
    found = fit([0.9, 0.99, 1.0, 0.0], [right] * 4)
    assert all((found(p) > 0.7) == right for p in (0.0, 0.5, 1.0))


def test_confidences_that_say_the_contrary_are_not_inverted():
    found = fit([0.9] * 10 + [0.2] * 10, [False] * 9 + [True] * 11)
    assert found.slope == 0.0
    assert found(0.1) == found(0.9) == pytest.approx(0.5, abs=0.1)


def test_calibration_error_of_a_worked_example():
    # Two parts: 0.2 and 0.4 with one right of two, 0.9 with none right.
    error = calibration_error([0.2, 0.4, 0.9], [True, False, False], bins=2)
    assert error == pytest.approx((2 * abs(0.5 - 0.3) + 1 * abs(0.0 - 0.9)) / 3)
    assert calibration_error([1.0], [True]) == 0.0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        fit([], [])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        fit([1.2], [True])
    with pytest.raises(ValueError, match="one length"):
        calibration_error([0.5, 0.5], [True])
    with pytest.raises(ValueError, match="bins"):
        calibration_error([0.5], [True], bins=0)


def test_which_words_are_right():
    words = [Word(text, 0, 1, c) for text, c in [("a", 0.9), ("x", 0.4), ("c", 0.8), ("d", 0.1)]]
    assert correct_words("a b c", words) == ([0.9, 0.4, 0.8, 0.1], [True, False, True, False])
    assert correct_words("", [Word("a", 0, 1)]) == ([], [])


def test_applied_to_a_hypothesis():
    hypothesis = Hypothesis("a b", [1], 0.0, 0.0, words=[Word("a", 0, 1, 0.5), Word("b", 1, 2)])
    applied = Calibration(1.0, 1.0).apply(hypothesis)
    assert applied.words[0].confidence == pytest.approx(1 / (1 + np.exp(-1)))
    assert applied.words[1].confidence is None
    assert hypothesis.words[0].confidence == 0.5


def test_stored_with_the_model(tmp_path):
    assert load_calibrations(tmp_path) == {}
    save_calibration(tmp_path, "greedy", Calibration(1.5, -0.25, 10))
    save_calibration(tmp_path, "beam", Calibration(0.5, 0.0, 20))
    assert load_calibrations(tmp_path) == {
        "greedy": Calibration(1.5, -0.25, 10),
        "beam": Calibration(0.5, 0.0, 20),
    }
    file = tmp_path / "confidence.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="version 2"):
        load_calibrations(tmp_path)
    for text in ("{", "[]", '{"format": "ctcspeech confidence", "version": 1, "decoders": 3}'):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="damaged"):
            load_calibrations(tmp_path)


def test_a_decoder_of_ones_own_has_no_other_decoders_calibration():
    from ctcspeech import BeamDecoder
    from ctcspeech.decode.greedy import GreedyDecoder
    from ctcspeech.recognize.transcript import decoder_kind
    from ctcspeech.text.alphabet import Alphabet

    class Own(BeamDecoder):
        pass

    class Other:
        def decode(self, emissions):
            return []

    assert decoder_kind(BeamDecoder(["", "a"])) == "beam"
    assert decoder_kind(GreedyDecoder(Alphabet.from_text(["a b"]), 20)) == "greedy"
    assert decoder_kind(Own(["", "a"])) == "beam"
    assert decoder_kind(Other()).endswith("Other")
