"""Labels' priors taken off the emissions: against emissions from which they were taken by hand."""

import json
import pickle

import numpy as np
import pytest
from test_tune import ALPHABET, noisy_set, write_arpa
from tone_language import tone_recognizer

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import DecoderError
from ctcspeech.evaluate.tune import tune

LABELS = ["", " ", "a", "b", "c"]
PRIORS = [0.6, 0.2, 0.15, 0.04, 0.01]


def emissions(seed=0, frames=20):
    return np.random.default_rng(seed).normal(0, 2, (frames, 5)).astype(np.float32)


def by_hand(logits, weight):
    """Probabilities divided by the priors' power and normalised, as float64."""
    scaled = np.exp(logits.astype(np.float64)) / np.array(PRIORS) ** weight
    return np.log(scaled / scaled.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_decoding_is_that_of_emissions_divided_by_the_priors(weight):
    plain = BeamDecoder(LABELS, n_best=3)
    decoder = BeamDecoder(LABELS, n_best=3, label_priors=PRIORS, prior_weight=weight)
    differ = False
    for seed in range(10):
        logits = emissions(seed)
        expected = plain.decode(by_hand(logits, weight))[0]
        got = decoder.decode(logits)[0]
        assert [h.text for h in got] == [h.text for h in expected]
        np.testing.assert_allclose(
            [h.score for h in got], [h.score for h in expected], rtol=1e-4, atol=1e-4
        )
        differ |= plain.decode(logits)[0][0].text != got[0].text
        assert decoder.exact_ctc_score(logits, got[0]) == pytest.approx(
            plain.exact_ctc_score(by_hand(logits, weight), got[0]), abs=1e-4
        )
        assert (
            decoder.best_path(logits, got[0])[1]
            == (plain.best_path(by_hand(logits, weight), got[0])[1])
        )
    assert differ


def test_a_stream_takes_them_off_too_and_copies_keep_them():
    logits = emissions(3, 30)
    decoder = BeamDecoder(LABELS, label_priors=PRIORS, prior_weight=0.7)
    expected = decoder.decode(logits)[0][0]
    stream = decoder.stream()
    for start in range(0, 30, 7):
        stream.accept(logits[start : start + 7])
    assert stream.finish()[0].text == expected.text
    for copy in (pickle.loads(pickle.dumps(decoder)), decoder.replace(threads=1)):
        assert copy.decode(logits)[0][0].text == expected.text
        assert copy.decode(logits)[0][0].score == pytest.approx(expected.score)


def test_without_weight_nothing_changes():
    logits = emissions(5)
    plain = BeamDecoder(LABELS).decode(logits)
    assert BeamDecoder(LABELS, label_priors=PRIORS).decode(logits) == plain


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prior_weight": 0.5}, "prior_weight needs label_priors"),
        ({"prior_weight": -1, "label_priors": PRIORS}, "prior_weight must be"),
        ({"prior_weight": 1, "label_priors": PRIORS[:4]}, "one for each of the 5 labels"),
        ({"prior_weight": 1, "label_priors": [0.5, 0.5, 0, 0, 0]}, "finite and above 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BeamDecoder(LABELS, **arguments)


def test_settings_keep_them(tmp_path):
    settings = DecoderSettings(prior_weight=0.4, label_priors=PRIORS)
    path = settings.save(tmp_path)
    assert DecoderSettings.load(path) == settings
    for change, message in (
        ({"label_priors": [0.5, -0.1]}, "probabilities above 0"),
        ({"label_priors": None}, "prior_weight needs label_priors"),
        ({"prior_weight": -0.1}, "prior_weight must be 0 to"),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(DecoderError, match=message):
            DecoderSettings.load(path)
        settings.save(tmp_path)


def test_tuning_finds_that_a_network_expects_too_much_of_some_labels(tmp_path):
    data, recognizer = noisy_set(), tone_recognizer(threads=1)
    count = len(ALPHABET)
    mean = np.mean(
        [np.exp(row) / np.exp(row).sum() for utterance in data.emissions for row in utterance], 0
    )
    frames = sum(map(len, data.emissions))
    expected = (mean * frames + 1) / (frames + count)
    np.testing.assert_allclose(data.label_priors(), expected, rtol=1e-5)
    assert sum(data.label_priors()) == pytest.approx(1, abs=1e-4)

    settings = DecoderSettings(write_arpa(tmp_path / "lm.arpa"))
    skew = 5 * np.eye(count, dtype=np.float32)[0]  # the blank, whatever is heard
    data.emissions = [utterance + skew for utterance in data.emissions]
    tuning = tune(data, recognizer, settings, trials=30, vocabulary="closed")
    without = [t for t in tuning.completed if t.settings.prior_weight < 0.05]
    assert tuning.best.prior_weight > 0.3
    assert tuning.best_trial.rates.words.rate < 0.8 * min(t.rates.words.rate for t in without)
    np.testing.assert_allclose(tuning.best.label_priors, data.label_priors())
    assert tuning.trials[0].settings.prior_weight == 0  # the defaults
