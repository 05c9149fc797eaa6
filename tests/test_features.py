"""Features against torchaudio, hand computation, and themselves in other chunks and batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctcspeech.audio.features import (
    FeatureConfig,
    FeatureExtractor,
    FeatureStatistics,
    StreamingFeatures,
    add_deltas,
    num_frames,
)
from ctcspeech.errors import FeatureError


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def statistics(extractor: FeatureExtractor) -> FeatureStatistics:
    samples = noise(2, 8000, seed=5)
    result = FeatureStatistics(extractor.num_features)
    result.accumulate(*extractor.raw(samples, torch.tensor([8000, 5000])))
    return result


def extractor_of(**changes) -> FeatureExtractor:
    extractor = FeatureExtractor(FeatureConfig(**changes))
    if extractor.config.normalization == "corpus":
        extractor.set_statistics(statistics(extractor))
    return extractor


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("kind", ["filterbank", "mel", "spectrogram"])
def test_equals_torchaudio(kind, rate):
    torchaudio = pytest.importorskip("torchaudio")
    config = FeatureConfig(kind=kind, sample_rate=rate, normalization="none")
    samples = noise(2, rate)
    features, lengths = FeatureExtractor(config)(samples, torch.tensor([rate, rate]))

    # torchaudio computes in float64: in float32 its own rounding reaches 1.6e-4 where a
    # frequency happens to be nearly silent.
    points = config.fft_points
    window = torch.zeros(points, dtype=torch.float64)
    window[: config.window] = torch.hann_window(config.window, dtype=torch.float64)
    spectrogram = torchaudio.transforms.Spectrogram(
        n_fft=points,
        win_length=points,
        hop_length=config.shift,
        window_fn=lambda _: window,
        center=False,
    )
    power = spectrogram(torch.nn.functional.pad(samples.double(), (0, points))).transpose(1, 2)
    power = power[:, : features.shape[1]]
    if kind != "spectrogram":
        make = {
            "filterbank": torchaudio.functional.linear_fbanks,
            "mel": torchaudio.functional.melscale_fbanks,
        }[kind]
        torch.set_default_dtype(torch.float64)
        try:
            power = power @ make(points // 2 + 1, 0.0, rate / 2, 80, rate)
        finally:
            torch.set_default_dtype(torch.float32)
    expected = torch.log(power + config.floor)
    assert lengths.tolist() == [99, 99]
    assert features.shape == (2, 99, expected.shape[2] + 1)
    torch.testing.assert_close(features[..., :-1].double(), expected, atol=1e-4, rtol=0)


def test_deltas_equal_torchaudio():
    functional = pytest.importorskip("torchaudio.functional")
    features = noise(2, 30, 4)
    delta = functional.compute_deltas(features.transpose(1, 2))
    expected = torch.cat(
        [features, delta.transpose(1, 2), functional.compute_deltas(delta).transpose(1, 2)], -1
    )
    torch.testing.assert_close(add_deltas(features, torch.tensor([30, 30]), 2), expected)


def test_one_frame_by_hand():
    """A frame by the formulas of the module's head, in Python's own arithmetic."""
    config = FeatureConfig(sample_rate=8000, num_bins=3, normalization="none", floor=1e-3)
    x = [math.sin(0.37 * n) for n in range(160)]
    power = []
    for k in range(81):
        re = im = 0.0
        for n, value in enumerate(x):
            value *= 0.5 - 0.5 * math.cos(2 * math.pi * n / 160)
            re += value * math.cos(2 * math.pi * k * n / 160)
            im -= value * math.sin(2 * math.pi * k * n / 160)
        power.append(re * re + im * im)
    expected = []
    for centre in (1000.0, 2000.0, 3000.0):
        filtered = sum(
            p * max(0.0, 1 - abs(50.0 * k - centre) / 1000.0) for k, p in enumerate(power)
        )
        expected.append(math.log(filtered + 1e-3))
    expected.append(math.log(sum(v * v for v in x) + 1e-3))
    features, _ = FeatureExtractor(config)(torch.tensor([x]), torch.tensor([160]))
    assert features[0, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_digital_silence_is_the_floor():
    extractor = extractor_of(normalization="none")
    features, _ = extractor(torch.zeros(1, 1000), torch.tensor([1000]))
    assert torch.allclose(features, torch.tensor(math.log(1e-7)))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 5000), st.sampled_from([(8000, 20, 10), (16000, 25, 10), (11025, 20, 7)]))
def test_num_frames(count, shape):
    rate, window, shift = shape
    config = FeatureConfig(sample_rate=rate, window_ms=window, shift_ms=shift)
    starts = [s for s in range(0, count, config.shift) if s + config.window <= count]
    assert num_frames(count, config) == len(starts)
    features, lengths = FeatureExtractor(config).raw(torch.zeros(1, count), torch.tensor([count]))
    assert features.shape[1] == lengths.item() == len(starts)


def test_num_features():
    assert extractor_of().num_features == 81
    assert extractor_of(energy=False, deltas=2).num_features == 240
    assert extractor_of(kind="spectrogram", energy=False).num_features == 161
    assert extractor_of(kind="precomputed", num_features=13, normalization="none", deltas=1)(
        noise(1, 5, 13), torch.tensor([5])
    )[0].shape == (1, 5, 26)


@pytest.mark.parametrize("normalization", ["corpus", "utterance", "none"])
@pytest.mark.parametrize("deltas", [0, 2])
@pytest.mark.parametrize("padding", [0.0, 7.0, math.nan, math.inf])
def test_padding_and_neighbours_have_no_influence(normalization, deltas, padding):
    extractor = extractor_of(sample_rate=8000, normalization=normalization, deltas=deltas)
    counts = [4000, 1234, 159, 160, 0]
    utterances = [noise(n, seed=n) for n in counts]
    batch = torch.full((5, 4321), padding)
    for row, utterance in zip(batch, utterances, strict=True):
        row[: len(utterance)] = utterance
    features, lengths = extractor(batch, torch.tensor(counts))
    assert lengths.tolist() == [num_frames(n, extractor.config) for n in counts]
    for i, utterance in enumerate(utterances):
        alone, _ = extractor(utterance[None], torch.tensor([len(utterance)]))
        torch.testing.assert_close(features[i, : lengths[i]], alone[0], atol=1e-5, rtol=1e-5)
        assert not features[i, lengths[i] :].any()


@pytest.mark.parametrize("deltas", [0, 2])
def test_precomputed_padding_has_no_influence(deltas):
    extractor = extractor_of(
        kind="precomputed", num_features=4, deltas=2, normalization="utterance"
    )
    long, short = noise(9, 4), noise(5, 4, seed=1)
    batch = torch.full((2, 9, 4), math.nan)
    batch[0], batch[1, :5] = long, short
    features, lengths = extractor(batch, torch.tensor([9, 5]))
    alone, _ = extractor(short[None], torch.tensor([5]))
    torch.testing.assert_close(features[1, :5], alone[0])
    assert batch[1, 5:].isnan().all()  # the caller's tensor stays as it is
    assert lengths.tolist() == [9, 5] and not features[1, 5:].any()


def test_utterance_normalisation():
    extractor = extractor_of(normalization="utterance")
    features, lengths = extractor(noise(2, 9000), torch.tensor([9000, 5000]))
    for one, length in zip(features, lengths, strict=True):
        assert one[:length].mean(0).abs().max() < 1e-4
        assert (one[:length].std(0, correction=0) - 1).abs().max() < 1e-4


def test_corpus_normalisation():
    extractor = extractor_of()
    samples, lengths = noise(2, 8000, seed=5), torch.tensor([8000, 5000])
    features, frames = extractor(samples, lengths)
    rows = torch.cat([features[0], features[1, : frames[1]]])
    assert rows.mean(0).abs().max() < 1e-4
    assert (rows.std(0, correction=0) - 1).abs().max() < 1e-4


def test_corpus_normalisation_needs_statistics():
    extractor = FeatureExtractor(FeatureConfig())
    with pytest.raises(FeatureError, match="no corpus statistics"):
        extractor(noise(1, 1000), torch.tensor([1000]))
    with pytest.raises(ValueError, match="81 features, got 80"):
        extractor.set_statistics(FeatureStatistics(80))
    with pytest.raises(ValueError, match="at least one frame"):
        extractor.set_statistics(FeatureStatistics(81))


def test_a_feature_that_never_varies_is_only_centred():
    extractor = FeatureExtractor(FeatureConfig(kind="precomputed", num_features=2))
    stats = FeatureStatistics(2)
    stats.accumulate(torch.tensor([[3.0, 1.0], [3.0, 2.0]]))
    extractor.set_statistics(stats)
    features, _ = extractor(torch.tensor([[[3.5, 2.0]]]), torch.tensor([1]))
    assert features.flatten().tolist() == [0.5, pytest.approx(1.0)]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(0, 700), max_size=12),
    st.sampled_from([0, 1, 2]),
    st.sampled_from(["filterbank", "mel", "spectrogram"]),
)
def test_streaming_equals_offline(chunks, deltas, kind):
    extractor = extractor_of(sample_rate=8000, kind=kind, deltas=deltas)
    samples = noise(sum(chunks), seed=sum(chunks))
    expected, _ = extractor(samples[None], torch.tensor([len(samples)]))
    twin = StreamingFeatures(extractor)
    parts, given_samples = [], 0
    for chunk in samples.split(chunks):
        parts.append(twin.accept(chunk.numpy()))
        given_samples += len(chunk)
        # nothing is held back for longer than the deltas need
        ready = num_frames(given_samples, extractor.config) - 2 * deltas
        assert sum(map(len, parts)) == max(0, ready)
    parts.append(twin.finish())
    torch.testing.assert_close(torch.cat(parts), expected[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="accept must not follow finish"):
        twin.accept(samples)
    twin.reset()
    assert len(twin.accept(samples)) == max(0, len(expected[0]) - 2 * deltas)


def test_streaming_refuses_what_needs_the_future():
    with pytest.raises(ValueError, match="utterance"):
        StreamingFeatures(extractor_of(normalization="utterance"))
    with pytest.raises(ValueError, match="precomputed"):
        StreamingFeatures(extractor_of(kind="precomputed", num_features=13, normalization="none"))
    with pytest.raises(ValueError, match="statistics"):
        StreamingFeatures(FeatureExtractor(FeatureConfig()))


def test_statistics_are_those_of_all_frames():
    rows = 3.0 + noise(100, 5).double()
    whole, parts, merged = FeatureStatistics(5), FeatureStatistics(5), FeatureStatistics(5)
    whole.accumulate(rows)
    padded = torch.full((2, 60, 5), math.nan, dtype=torch.float64)
    padded[0], padded[1, :30] = rows[:60], rows[60:90]
    parts.accumulate(padded, torch.tensor([60, 30]))
    merged.accumulate(rows[90:])
    merged.merge(parts)
    for stats in (whole, merged):
        assert stats.frames == 100
        torch.testing.assert_close(stats.mean, rows.mean(0))
        torch.testing.assert_close(stats.std, rows.std(0, correction=0))
    with pytest.raises(ValueError, match="got \\(3, 4\\)"):
        whole.accumulate(torch.zeros(3, 4))


def test_statistics_round_trip():
    stats = statistics(FeatureExtractor(FeatureConfig(sample_rate=8000)))
    again = FeatureStatistics.from_dict(stats.to_dict())
    assert again.frames == stats.frames
    torch.testing.assert_close(again.mean, stats.mean)
    torch.testing.assert_close(again.std, stats.std)
    again.merge(stats)  # the mean of twice the same is the same
    torch.testing.assert_close(again.std, stats.std)
    with pytest.raises(FeatureError, match="lack 'std'"):
        FeatureStatistics.from_dict({"mean": stats.mean})
    with pytest.raises(FeatureError, match="not finite"):
        FeatureStatistics.from_dict(stats.to_dict() | {"std": stats.std * math.nan})


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="cannot export an FFT")
@pytest.mark.parametrize("normalization", ["corpus", "utterance"])
def test_export(normalization):
    extractor = extractor_of(sample_rate=8000, normalization=normalization, deltas=1)
    samples, lengths = noise(3, 4000), torch.tensor([4000, 3000, 2000])
    shapes = (
        {0: torch.export.Dim("n"), 1: torch.export.Dim("s", min=1000)},
        {0: torch.export.Dim("n")},
    )
    program = torch.export.export(extractor, (samples, lengths), dynamic_shapes=shapes)
    other, other_lengths = noise(2, 7777), torch.tensor([7777, 1000])
    for ours, exported in zip(
        extractor(other, other_lengths), program.module()(other, other_lengths), strict=True
    ):
        torch.testing.assert_close(ours, exported)


@pytest.mark.parametrize("kind", ["filterbank", "spectrogram"])
def test_blocks_are_the_whole(kind):
    """A CPU works in blocks; gradients take the other way, all frames at once."""
    extractor = extractor_of(sample_rate=8000, kind=kind)
    samples, lengths = noise(2, 80 * 2300), torch.tensor([80 * 2300, 80 * 1600 + 7])
    in_blocks, _ = extractor(samples, lengths)
    at_once, _ = extractor(samples.requires_grad_(), lengths)
    torch.testing.assert_close(in_blocks, at_once.detach(), atol=1e-5, rtol=1e-5)


def test_gradient():
    extractor = extractor_of(
        sample_rate=1000, num_bins=4, floor=0.1, normalization="utterance", deltas=1
    ).double()
    samples = (10 * noise(2, 60).double()).requires_grad_()
    lengths = torch.tensor([60, 35])
    assert torch.autograd.gradcheck(lambda x: extractor(x, lengths)[0], (samples,))


def test_autocast_does_not_lower_the_precision():
    extractor = extractor_of()
    samples, lengths = noise(1, 5000), torch.tensor([5000])
    expected, _ = extractor(samples, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = extractor(samples, lengths)
    torch.testing.assert_close(features, expected)


def test_float64():
    extractor = extractor_of(normalization="none").double()
    features, _ = extractor(noise(1, 2000).double(), torch.tensor([2000]))
    assert features.dtype == torch.float64


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "mfcc"}, "kind"),
        ({"bins": 80}, "bins"),
        ({"kind": "precomputed"}, "num_features must be given"),
        ({"num_features": 13}, "num_features is for precomputed"),
        ({"shift_ms": 30}, "not exceed window_ms"),
        ({"shift_ms": 0.01}, "at least one sample"),
        ({"fft_size": 100}, "at least the window of 320"),
        ({"kind": "mel", "fft_size": 320}, "larger fft_size"),
        ({"num_bins": 1000, "sample_rate": 1000}, "too many"),
        ({"high_frequency": 9000}, "at most half"),
        ({"low_frequency": 8000}, "below high_frequency"),
    ],
)
def test_configuration_errors(changes, message):
    with pytest.raises(ValidationError, match=message):
        FeatureConfig(**changes)


def test_wrong_arguments():
    extractor = extractor_of(normalization="none")
    with pytest.raises(ValueError, match=r"samples must be floating point \(N, S\), got \(5,\)"):
        extractor(torch.zeros(5), torch.tensor([5]))
    with pytest.raises(ValueError, match="int16"):
        extractor(torch.zeros(1, 5, dtype=torch.int16), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"lengths\[1\] must be at most 500, .* got 501"):
        extractor(torch.zeros(2, 500), torch.tensor([500, 501]))
    with pytest.raises(ValueError, match=r"lengths must be integers \(2,\), got \(1,\)"):
        extractor(torch.zeros(2, 500), torch.tensor([500]))
    with pytest.raises(ValueError, match="precomputed"):
        num_frames(5, FeatureConfig(kind="precomputed", num_features=13))
    with pytest.raises(ValueError, match="samples must be"):
        StreamingFeatures(extractor).accept(np.zeros((2, 3), np.float32))


@pytest.mark.data
def test_statistics_of_recordings_are_those_of_speech(data_folder):
    """Real speech is neither at the floor nor beyond what 16 bits can hold."""
    from ctcspeech import audio

    stats = FeatureStatistics(81)
    extractor = FeatureExtractor(FeatureConfig())
    for path in sorted((data_folder / "kathleen").rglob("*.flac"))[:10]:
        samples, _ = audio.load(path, 16000)
        tensor = torch.from_numpy(samples)[None]
        stats.accumulate(*extractor.raw(tensor, torch.tensor([tensor.shape[1]])))
    assert stats.frames > 1000
    assert ((stats.mean > -16) & (stats.mean < 8)).all()
    assert ((stats.std > 0.3) & (stats.std < 6)).all()
