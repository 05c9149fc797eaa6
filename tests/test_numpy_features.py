"""Features without torch against those of torch, and the presets against their own runtimes."""

import numpy as np
import pytest
import torch

from ctcspeech.audio.feature_config import FeatureConfig, filter_weights, num_frames
from ctcspeech.audio.features import FeatureExtractor, FeatureStatistics, StreamingFeatures
from ctcspeech.audio.numpy_features import FrontEnd
from ctcspeech.errors import FeatureError

CONFIGS = [
    {},
    {"sample_rate": 8000, "num_bins": 40, "normalization": "utterance"},
    {"kind": "mel", "deltas": 2, "normalization": "none"},
    {"kind": "spectrogram", "energy": False, "normalization": "utterance", "deltas": 1},
    {"preset": "nemo"},
    {"preset": "nemo", "sample_rate": 8000, "fft_size": 256},
    {"preset": "kaldi"},
    {"preset": "kaldi", "sample_scale": 32768.0, "energy": True, "normalization": "utterance"},
]


def speech_like(count, seed=0, rate=16000, noise=1e-3):
    """Tones that come and go over a quiet noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(count) / rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in generator.uniform(80, 3000, 6))
    samples = 0.1 * tones * np.maximum(0, np.sin(2 * np.pi * 3 * time))
    return (samples + noise * generator.standard_normal(count)).astype(np.float32)


def torch_extractor(config):
    extractor = FeatureExtractor(config)
    if config.normalization == "corpus":
        statistics = FeatureStatistics(extractor.num_features)
        samples = torch.from_numpy(speech_like(20000, 7))[None]
        statistics.accumulate(*extractor.raw(samples, torch.tensor([20000])))
        extractor.set_statistics(statistics)
    return extractor


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_equal_to_torch(values):
    config = FeatureConfig(**values)
    extractor = torch_extractor(config)
    front_end = FrontEnd(config, extractor.mean.numpy(), extractor.scale.numpy())
    assert front_end.num_features == extractor.num_features
    counts = [0, 1, 79, 80, 200, 399, 400, 401, 5000, 31999]
    signals = [speech_like(count, count) for count in counts]
    padded = np.full((len(counts), max(counts)), 9.0, np.float32)  # padding must not be heard
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = signal
    inputs = torch.from_numpy(padded).double(), torch.tensor(counts)
    raw, _ = extractor.double().raw(*inputs)
    wanted, lengths = extractor(*inputs)
    for signal, raws, features, length in zip(signals, raw, wanted, lengths, strict=True):
        found = front_end.raw(signal)
        np.testing.assert_allclose(found, raws[:length].numpy(), atol=1e-5, rtol=1e-6)
        found = front_end(signal)
        assert found.dtype == np.float32
        assert len(found) == length == num_frames(len(signal), config)
        if length > 20:  # the deviation of fewer frames may be that of their rounding
            np.testing.assert_allclose(found, features[:length].numpy(), atol=2e-5)


def test_precomputed_features_are_normalised_alike():
    config = FeatureConfig(kind="precomputed", num_features=13, deltas=2, normalization="utterance")
    features = np.random.default_rng(0).standard_normal((57, 13)).astype(np.float32)
    wanted, _ = FeatureExtractor(config)(torch.from_numpy(features)[None], torch.tensor([57]))
    np.testing.assert_allclose(FrontEnd(config)(features), wanted[0].numpy(), atol=2e-6)


def test_nemo_preset_is_that_of_sherpa_onnx_and_onnx_asr():
    preprocessors = pytest.importorskip("onnx_asr.preprocessors.numpy_preprocessor")
    peer = preprocessors.NemoPreprocessorNumpy("nemo80")
    ours = filter_weights(FeatureConfig(preset="nemo"), 512)
    np.testing.assert_allclose(ours, peer._melscale_fbanks, atol=1e-7)
    # onnx-asr's frames lie half a shift earlier, its ends are zeros, it normalises by N - 1.
    samples = speech_like(32000, 3, noise=0.03)
    features, lengths = peer(samples[None, 80:], np.array([len(samples) - 80]))
    wanted = features[0].T[3 : lengths[0] - 3]
    found = FrontEnd(FeatureConfig(preset="nemo"))(samples)[3 : lengths[0] - 3]
    assert np.abs(found - wanted).mean() < 0.01
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9999


def test_kaldi_preset_equals_kaldi():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    samples = speech_like(16000, 4)
    wanted = kaldi.fbank(
        torch.from_numpy(samples)[None], num_mel_bins=80, high_freq=-400.0, snip_edges=False
    ).numpy()
    found = FrontEnd(FeatureConfig(preset="kaldi"))(samples)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # quiet bins, in single precision
    assert np.abs(found - wanted).mean() < 1e-5


def test_a_preset_gives_what_is_not_given():
    config = FeatureConfig(preset="nemo", num_bins=64)
    assert (config.num_bins, config.window, config.pre_emphasis) == (64, 400, 0.97)
    assert FeatureConfig.model_validate(config.model_dump()) == config


def test_wrong_uses_are_refused():
    with pytest.raises(FeatureError, match="statistics"):
        FrontEnd(FeatureConfig())
    with pytest.raises(ValueError, match="padding"):
        StreamingFeatures(FeatureExtractor(FeatureConfig(preset="kaldi")))
    with pytest.raises(ValueError, match="mel"):
        FeatureConfig(filters="slaney")
