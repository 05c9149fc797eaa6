"""Models that give no emissions for the end of what they hear: nothing tells them that it has come,
and the tail after a recording is where they hear its last word out."""

import math

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError
from test_live import HIDDEN_END, random_emitter
from tone_language import RATE
from tone_training import silent, write_training

from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.data.augment import AugmentConfig, Augmenter
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import ConfigError
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.emitter import Workers
from ctcspeech.recognize.stretches import recording_emissions
from ctcspeech.recognize.transcript import moved
from ctcspeech.train import learner
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

SHAPE = dict(
    convolution="1d", channels=[6, 8], time_width=[5, 3], time_stride=[2, 2], layers=1, hidden=8,
    bidirectional=False, lookahead=2, dropout=0.0,
)  # fmt: skip


def model_of(hide_end, **options):
    torch.manual_seed(2)
    config = DeepSpeech2Config(**{**SHAPE, **options}, hide_end=hide_end)
    return build_model(config, 5, 4).eval()


@pytest.mark.parametrize("lookahead", [0, 2])
def test_frames_that_look_beyond_the_end_are_left_out(lookahead):
    model = model_of(True, lookahead=lookahead)
    for length in range(1, 60):
        within = [t for t in range(60) if t * model.subsampling + model.lookahead < length]
        assert int(model.output_lengths(torch.tensor(length))) == len(within)
        emissions, lengths = model(torch.zeros(1, length, 5), torch.tensor([length]))
        assert emissions.shape[1] == int(lengths[0]) == len(within)


@pytest.mark.parametrize("hide_end", [True, False])
def test_emissions_and_gradients_do_not_tell_that_the_end_has_come(hide_end):
    """They are those of a recording that goes on, whatever is said there."""
    model = model_of(hide_end)
    whole = torch.randn(1, 60, 5)
    for length in (30, 31, 32, 33):
        results = []
        for end in (length, 60):
            features = whole[:, :end].clone().requires_grad_()
            emissions, _ = model(features, torch.tensor([end]))
            count = int(model.output_lengths(torch.tensor(length)))
            counted = emissions[:, :count].log_softmax(-1)
            gradient = torch.autograd.grad(counted[..., 0].sum(), features)[0]
            results.append((counted, gradient[:, :length]))
            assert hide_end is False or not gradient[:, length:].any()
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-5) is hide_end


def test_a_tail_is_samples_of_silence():
    emitter = random_emitter(**HIDDEN_END)
    samples = [np.full(n, 0.1, np.float32) for n in (100, 160, 700, 5000)]
    found = emitter.compute(samples)
    assert found[0].shape == (0, len(emitter.alphabet))  # less than a frame is nothing still
    for item, emissions in zip(samples[1:], found[1:], strict=True):
        longer = np.concatenate([item, np.zeros(round(0.333 * RATE), np.float32)])
        features, lengths = emitter.features(
            torch.tensor(longer)[None], torch.tensor([len(longer)])
        )
        with torch.inference_mode():
            expected = emitter.model(features, lengths)[0][0].log_softmax(-1)
        np.testing.assert_allclose(emissions, expected, atol=1e-5)


def test_pieces_of_a_long_recording_have_no_tail_where_they_overlap(tmp_path):
    """The joined emissions of a recording that is cut in sound: as many as those of the whole."""
    emitter = random_emitter(**HIDDEN_END)
    samples = 0.1 * np.random.default_rng(0).standard_normal(9 * RATE).astype(np.float32)
    (whole,) = emitter.compute([samples])
    soundfile.write(tmp_path / "noise.wav", samples, RATE, subtype="FLOAT")
    recordings = [tmp_path / "noise.wav"]
    ((_, pieces),) = recording_emissions(Workers(emitter, 1), recordings, max_seconds=3.0)
    assert len(pieces) == len(whole)
    apart = np.abs(pieces.scores - whole).max(1)
    assert (apart < 0.05).mean() > 0.9  # but where a piece begins with a state of zeros


def test_words_end_with_the_recording():
    words = [Word("one", 1.0, 1.4), Word("two", 1.6, 2.1), Word("three", 2.2, 2.4)]
    late = moved(Hypothesis("one two three", [], 0.0, 0.0, words=words), 1.0, 3.0).words
    assert [(w.start, w.end) for w in late] == [(2.0, 2.4), (2.6, 3.0), (3.0, 3.0)]
    recognizer = StreamingRecognizer(random_emitter(**HIDDEN_END))
    stream = recognizer.stream()
    seconds = 1.234
    noise = np.random.default_rng(1).standard_normal(round(seconds * RATE)).astype(np.float32)
    results = [*stream.accept(noise), *stream.finish()]
    assert results[-1].final and len(results[-1].words) > 0  # of random weights
    assert stream.frames * stream.frame_seconds > seconds
    for result in results:
        assert result.end <= seconds and stream.seconds <= seconds
        assert all(word.start <= word.end <= seconds for word in result.words)


def test_what_cannot_be():
    with pytest.raises(ValidationError, match="hide_end is for forward-only models"):
        DeepSpeech2Config(hide_end=True)
    for options in ({"normalization": "utterance"}, {"deltas": 1}, {"preset": "kaldi"}):
        with pytest.raises(ValidationError, match="tail_ms is for audio without padding"):
            FeatureConfig(tail_ms=100, **options)


# -- training ---------------------------------------------------------------------------------


def test_every_recording_is_followed_by_silence():
    samples = np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    alone = Augmenter(AugmentConfig(), RATE, end_silence=800)
    both = Augmenter(AugmentConfig(silence_probability=0.5, silence_seconds=0.5), RATE, 800)
    drawn = []
    for i in range(60):
        longer = alone(samples, 0, 0, str(i))
        np.testing.assert_array_equal(longer[:1600], samples)
        assert len(longer) == 2400 and np.abs(longer[1600:]).max() < 0.06
        longer = both(samples, 0, 0, str(i))
        place = int(np.flatnonzero(longer == samples[0])[0])
        np.testing.assert_array_equal(longer[place : place + 1600], samples)
        drawn.append((place, len(longer) - place - 2400))
    assert min(after for _, after in drawn) == 0 and max(after for _, after in drawn) > 3000
    assert 10 < sum(pair == (0, 0) for pair in drawn) < 50


FORWARD = [
    "model.bidirectional=false", "model.lookahead=2", "model.hide_end=true", "features.tail_ms=200",
    'model.merge="sum"', "train.epochs=1",
]  # fmt: skip


def test_the_loss_is_of_the_frames_that_see_no_end(tmp_path, monkeypatch):
    folder = write_training(tmp_path, 12, 4).parent
    config = load_config(folder / "tones.toml", FORWARD)
    seen = []

    def loss(emissions, targets, lengths, *arguments, **options):
        seen.append((tuple(emissions.shape), lengths.tolist()))
        return original(emissions, targets, lengths, *arguments, **options)

    original, prepare = learner.ctc_loss, learner.Learner.prepare
    features = []

    def prepared(self, batch, epoch):
        result = prepare(self, batch, epoch)
        features.append(result.input_lengths.tolist())
        # The samples of the recordings, and as many after them as are looked ahead to.
        durations = [round(8000 * utterance.duration) for utterance in result.utterances]
        expected = [(n + 6 * 80 - 160) // 80 + 1 for n in durations]
        assert features[-1] == expected
        return result

    monkeypatch.setattr(learner, "ctc_loss", loss)
    monkeypatch.setattr(learner.Learner, "prepare", prepared)
    train(config, tmp_path / "run", report=silent)
    assert len(seen) == len(features) > 1
    for (shape, lengths), frames in zip(seen, features, strict=True):
        # One convolution of width 5 and stride 2, a row convolution of 2 frames: 2 + 2 * 2 ahead.
        assert lengths == [math.ceil((count - 6) / 2) for count in frames]
        assert shape[1] == max(lengths)


def test_a_tail_must_hold_the_lookahead(tmp_path):
    folder = write_training(tmp_path, 4, 2).parent
    config = load_config(folder / "tones.toml", [*FORWARD, "features.tail_ms=50"])
    with pytest.raises(
        ConfigError, match="tail_ms must be at least the 60 ms that the model looks"
    ):
        train(config, tmp_path / "run", report=silent)
