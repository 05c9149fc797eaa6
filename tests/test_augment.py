"""Each augmentation does what its name says, and follows from (seed, epoch, utterance) alone."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctcspeech.data import augment
from ctcspeech.data.augment import AugmentConfig, Augmenter
from ctcspeech.data.tempo import change_tempo
from ctcspeech.errors import ConfigError

RATE = 16000
GOLDEN_DRAWS = [0.832181254978662, 0.3602707656272264]  # PCG64 seeded with the BLAKE2b of the key
KEY = {"seed": 1, "epoch": 2, "utterance": "a"}


def noise(count: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def tone(frequency: float, count: int = RATE, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(count) / rate)).astype(np.float32)


def peak(samples: np.ndarray, rate: int = RATE) -> float:
    """The frequency of most power, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * len(samples)))
    return float(np.argmax(spectrum)) * rate / (4 * len(samples))


def augmenter_of(rate: int = RATE, **options) -> Augmenter:
    return Augmenter(AugmentConfig(**options), rate)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    for name in ("noise", "rir"):
        (folder / name).mkdir()
    for i in range(3):
        soundfile.write(folder / f"noise/{i}.wav", noise(3000 + i, i), RATE, subtype="FLOAT")
    soundfile.write(folder / "rir/a.wav", np.eye(1, 400, 7)[0], RATE, subtype="FLOAT")
    response = np.zeros(900)
    response[[50, 450]] = 0.5, 0.25
    soundfile.write(folder / "rir/b.wav", response, RATE, subtype="FLOAT")
    return {"noise_folder": folder / "noise", "rir_folder": folder / "rir"}


KINDS = ["pitch", "tempo", "speed", "silence", "jitter", "rir", "noise", "filter", "gain"]
KINDS.append("telephone")


def everything(folders) -> dict:
    return {f"{kind}_probability": 1.0 for kind in KINDS} | folders


def test_off_by_default():
    samples, features = noise(1000), noise(60).reshape(20, 3)
    augmenter = Augmenter(AugmentConfig(), RATE)
    np.testing.assert_array_equal(augmenter(samples, **KEY), samples)
    np.testing.assert_array_equal(augmenter.features(features, **KEY), features)
    batch = torch.from_numpy(features)[None]
    assert augmenter.mask_batch(batch, torch.tensor([20]), 1, 2, ["a"]) is batch


@pytest.mark.parametrize("kind", KINDS)
def test_follows_from_seed_epoch_and_utterance(folders, kind):
    options = {f"{kind}_probability": 1.0, **folders}
    samples = noise(8000)
    before = samples.copy()
    augmenter = augmenter_of(**options)
    first = augmenter(samples, **KEY)
    assert first.dtype == np.float32 and first.ndim == 1
    np.testing.assert_array_equal(samples, before)
    assert not np.array_equal(first, samples)
    if kind != "telephone":  # the line is always the same
        for name, values in (("seed", range(20)), ("epoch", range(20)), ("utterance", "bcdefghi")):
            others = [augmenter(samples, **{**KEY, name: value}) for value in values]
            assert any(not np.array_equal(first, other) for other in others), name
    again = pickle.loads(pickle.dumps(augmenter))  # as a worker process gets it
    np.testing.assert_array_equal(again(samples, **KEY), first)
    np.testing.assert_array_equal(augmenter_of(**options)(samples, **KEY), first)


def test_one_augmentation_does_not_change_the_draws_of_another():
    samples = noise(4000)
    alone = augmenter_of(gain_probability=0.5)
    both = augmenter_of(gain_probability=0.5, jitter_probability=1.0, jitter_ms=1e-3)
    for epoch in range(20):
        key = {**KEY, "epoch": epoch}
        np.testing.assert_array_equal(alone(samples, **key), both(samples, **key))


def test_draws_stay_the_same_from_release_to_release():
    """Else a run could not be repeated with a later version."""
    drawn = augment._Draw("speed", 0, 3, "reader-0017")
    assert [drawn.between((0, 1)) for _ in range(2)] == pytest.approx(GOLDEN_DRAWS, abs=1e-15)


def test_probability():
    augmenter = augmenter_of(gain_probability=0.3, gain_db=(6.0, 6.0))
    ones = np.ones(10, np.float32)
    changed = [augmenter(ones, 0, 0, str(i))[0] != 1 for i in range(1000)]
    assert 0.25 < np.mean(changed) < 0.35


def test_gain():
    augmenter = augmenter_of(gain_probability=1, gain_db=(-6.0, 3.0))
    gains = [augmenter(np.ones(3, np.float32), 0, 0, str(i))[0] for i in range(300)]
    decibel = 20 * np.log10(gains)
    assert -6 <= decibel.min() < -5.5 and 2.5 < decibel.max() <= 3


def test_filter_raises_and_lowers_bands_by_up_to_the_decibels_that_are_given():
    augmenter = augmenter_of(filter_probability=1, filter_db=9.0, filter_bands=4)
    frequencies = [60.0, 300.0, 800.0, 1900.0, 3700.0, 7000.0]
    mixture = sum(tone(f, 2 * RATE) for f in frequencies).astype(np.float32) / len(frequencies)

    def levels(samples):
        spectrum = np.abs(np.fft.rfft(samples[: 2 * RATE] * np.hanning(2 * RATE)))
        return 20 * np.log10(
            [spectrum[round(2 * f) - 3 : round(2 * f) + 4].max() for f in frequencies]
        )

    gains = np.array(
        [levels(augmenter(mixture, 0, 0, str(i))) - levels(mixture) for i in range(60)]
    )
    assert np.abs(gains).max() < 9.1
    assert (gains.min(0) < -5).all() and (gains.max(0) > 5).all()  # each place, both ways
    assert gains.std(1).mean() > 2  # not the same at all frequencies
    assert np.abs(gains.mean(0)).max() < 2.5  # as often up as down
    between = [300.0, 317.0]  # a response without steps
    pair = sum(tone(f, 2 * RATE) for f in between).astype(np.float32) / 4
    frequencies = between
    near = np.array([levels(augmenter(pair, 0, 0, str(i))) - levels(pair) for i in range(20)])
    assert np.abs(near[:, 0] - near[:, 1]).max() < 1


def test_filter_keeps_the_place_of_a_click():
    click = np.zeros(4000, np.float32)
    click[1000] = 1.0
    for i in range(20):
        filtered = augmenter_of(filter_probability=1)(click, 0, 0, str(i))
        assert len(filtered) == 4000 and np.argmax(np.abs(filtered)) == 1000


def test_silence_of_three_kinds_around_samples_that_stay_as_they_are():
    augmenter = augmenter_of(silence_probability=1, silence_seconds=0.5)
    quiet = np.convolve(noise(RATE), np.ones(8) / 8, "same").astype(np.float32)  # of low pitch
    level = 0.001 * np.std(quiet)
    halves = 0.001 * quiet[: RATE // 2], noise(RATE), 0.001 * quiet[RATE // 2 :]
    samples = np.concatenate(halves)
    seconds, kinds = [], {"digital": 0, "fainter": 0, "like its own": 0}
    for i in range(200):
        longer = augmenter(samples, 0, 0, str(i))
        windows = np.lib.stride_tricks.sliding_window_view(longer, 8)
        start = int(np.flatnonzero((windows == samples[:8]).all(1))[0])
        end = start + len(samples)
        np.testing.assert_array_equal(longer[start:end], samples)
        assert longer.dtype == np.float32
        seconds.append((start / RATE, (len(longer) - end) / RATE))
        for side in (longer[:start], longer[end:]):
            if len(side) < RATE // 4:
                continue
            if not side.any():
                kinds["digital"] += 1
            elif low_share(side) > 0.7:  # as its own quiet stretches: their level and their pitch
                assert np.std(side) == pytest.approx(level, rel=0.2)
                assert low_share(side) == pytest.approx(low_share(quiet), abs=0.1)
                kinds["like its own"] += 1
            else:  # white, and fainter by up to 40 dB
                assert low_share(side) == pytest.approx(0.25, abs=0.05)
                assert 0.009 * level < np.std(side) < 1.1 * level
                kinds["fainter"] += 1
    assert all(0.2 < count / sum(kinds.values()) < 0.5 for count in kinds.values()), kinds
    for side in zip(*seconds, strict=True):
        assert 0 <= min(side) < 0.05 and 0.45 < max(side) <= 0.5
    assert abs(np.corrcoef(np.array(seconds).T)[0, 1]) < 0.25  # each is drawn by itself
    assert len(augmenter(samples[:40], 0, 0, "7")) > 40  # shorter than a stretch of 10 ms


def low_share(samples) -> float:
    """Of the power, in the lowest quarter of the frequencies."""
    powers = np.abs(np.fft.rfft(samples)) ** 2
    return float(powers[: len(powers) // 4].sum() / powers.sum())


def test_silence_around_what_is_cut_closely_is_40_db_below_it():
    augmenter = augmenter_of(silence_probability=1, silence_seconds=1.0)
    samples = tone(300)
    levels = []
    for i in range(60):
        longer = augmenter(samples, 0, 0, str(i))
        start = int(np.flatnonzero(np.abs(longer) > 0.1)[0])
        after = longer[start + len(samples) :]
        if len(after) > RATE // 4:
            levels.append(np.std(after) / np.std(samples))
    assert max(levels) == pytest.approx(0.01, rel=0.1) and min(levels) == 0


def test_speed_moves_pitch_and_length():
    augmenter = augmenter_of(speed_probability=1, speed_range=(1.2, 1.2))
    faster = augmenter(tone(500), **KEY)
    assert abs(len(faster) - RATE / 1.2) <= 1
    assert peak(faster) == pytest.approx(600, abs=2)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("factor", [0.5, 0.85, 1.15, 2.0])
def test_tempo_moves_length_alone(rate, factor):
    samples = tone(300, 2 * rate, rate) + 0.3 * tone(1100, 2 * rate, rate)
    augmenter = augmenter_of(rate, tempo_probability=1, tempo_range=(factor, factor))
    other = augmenter(samples, **KEY)
    assert len(other) == round(len(samples) / factor)
    assert peak(other, rate) == pytest.approx(300, abs=3)
    assert np.std(other) == pytest.approx(np.std(samples), rel=0.02)
    # it stays two tones: almost no power beside them
    spectrum = np.abs(np.fft.rfft(other * np.hanning(len(other)))) ** 2
    frequency = np.fft.rfftfreq(len(other), 1 / rate)
    near = (np.abs(frequency - 300) < 12) | (np.abs(frequency - 1100) < 12)
    assert spectrum[near].sum() > 0.99 * spectrum.sum()


def test_tempo_keeps_events_in_order():
    """Clicks come at 1 / factor of their times, within the reach of the search."""
    samples = noise(2 * RATE) * 1e-3
    clicks = np.arange(3000, 30000, 4000)
    samples[clicks] = 1.0
    slower = change_tempo(samples, 0.8, RATE)
    for click in clicks:
        around = slower[round(click / 0.8) - 400 : round(click / 0.8) + 400]
        assert around.max() > 0.3


def test_pitch_moves_pitch_alone():
    augmenter = augmenter_of(pitch_probability=1, pitch_semitones=4.0)
    peaks = []
    for i in range(12):
        other = augmenter(tone(400), 0, 0, str(i))
        assert abs(len(other) - RATE) <= 2
        peaks.append(12 * np.log2(peak(other) / 400))
    assert -4.2 < min(peaks) < -1 and 1 < max(peaks) < 4.2


def test_jitter_shifts():
    samples = noise(2000)
    augmenter = augmenter_of(jitter_probability=1, jitter_ms=5.0)
    shifts = set()
    for i in range(200):
        other = augmenter(samples, 0, 0, str(i))
        assert len(other) == 2000
        shift = int(np.argmax(np.correlate(other, samples, "full"))) - 1999
        expected = np.zeros_like(samples)
        for n in range(2000):
            if 0 <= n - shift < 2000:
                expected[n] = samples[n - shift]
        np.testing.assert_array_equal(other, expected)
        shifts.add(shift)
    assert min(shifts) >= -80 and max(shifts) <= 80 and len(shifts) > 60
    assert len(augmenter(samples[:5], **KEY)) == 5


def test_noise_has_the_ratio(folders):
    samples = noise(10000, 9)
    augmenter = augmenter_of(
        noise_probability=1, noise_folder=folders["noise_folder"], noise_snr_db=(5.0, 15.0)
    )
    ratios = []
    for i in range(100):
        added = augmenter(samples, 0, 0, str(i)) - samples
        ratios.append(10 * np.log10(np.mean(samples**2) / np.mean(added**2)))
    assert 5 - 1e-3 < min(ratios) < 6 and 14 < max(ratios) < 15 + 1e-3
    # the noise is a file of the folder from some sample on, repeated
    files = [noise(3000 + i, i) for i in range(3)]
    shape = added / np.std(added)
    fits = [
        np.abs(np.roll(np.tile(f, 5), -s)[:10000] / np.std(f) - shape).max()
        for f in files
        for s in range(len(f))
    ]
    assert min(fits) < 0.1
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(augmenter(silence, **KEY), silence)


def test_noise_does_not_depend_on_what_is_cached(folders, monkeypatch):
    options = {"noise_probability": 1, "noise_folder": folders["noise_folder"]}
    roomy = augmenter_of(8000, **options)  # resampled
    samples = noise(3000)
    expected = [roomy(samples, 0, 0, str(i)) for i in range(10)]
    monkeypatch.setattr(augment._Clips, "cache_bytes", 1)
    narrow = augmenter_of(8000, **options)
    for i in reversed(range(10)):
        np.testing.assert_array_equal(narrow(samples, 0, 0, str(i)), expected[i])
    assert len(narrow._noises._cache) == 1


def test_long_noises_are_cut_into_clips(tmp_path):
    soundfile.write(tmp_path / "long.flac", noise(8000 * 100), 8000)
    clips = augment._Clips(tmp_path, 8000, "noise_folder")
    assert [len(clips.get(i)) for i in range(len(clips))] == [240000, 240000, 240000]
    np.testing.assert_allclose(clips.get(1), noise(8000 * 100)[240000:480000], atol=1e-4)


def test_room(folders):
    samples = noise(5000)
    augmenter = augmenter_of(rir_probability=1, rir_folder=folders["rir_folder"])
    echo = samples.copy()
    echo[400:] += 0.5 * samples[:-400]
    echo *= np.std(samples) / np.std(echo)
    seen = set()
    for i in range(20):
        other = augmenter(samples, 0, 0, str(i))
        fits = [bool(np.allclose(other, x, atol=1e-3)) for x in (samples, echo)]
        assert sum(fits) == 1
        seen.add(fits[0])
        assert np.mean(other**2) == pytest.approx(np.mean(samples**2), rel=1e-4)
    assert seen == {True, False}


@pytest.mark.parametrize("rate", [8000, 11025, 16000])
def test_telephone(rate):
    augmenter = augmenter_of(rate, telephone_probability=1)
    white = noise(4 * rate)
    line = augmenter(white, **KEY)
    assert len(line) == len(white)
    frequency = np.fft.rfftfreq(len(white), 1 / rate)
    power = [np.abs(np.fft.rfft(x)) ** 2 for x in (white, line)]

    def change_db(low: float, high: float) -> float:
        inside = (frequency > low) & (frequency < high)
        return 10 * np.log10(power[1][inside].mean() / power[0][inside].mean())

    assert abs(change_db(400, 3300)) < 0.5
    assert change_db(0, 150) < -30
    assert change_db(3850, min(8000, rate / 2)) < -25
    if rate == 8000:
        assert len(np.unique(line)) <= 255


def test_masks_lie_within_their_bounds():
    augmenter = augmenter_of(
        spec_probability=1, time_masks=1, time_mask_frames=20, time_mask_share=0.25,
        frequency_masks=1, frequency_mask_bins=6,
    )  # fmt: skip
    features = noise(60 * 40).reshape(60, 40)
    times, bands = set(), set()
    for i in range(300):
        masked = augmenter.features(features, 0, 0, str(i))
        changed = masked != features
        rows, columns = changed.all(1), changed.all(0)
        np.testing.assert_array_equal(changed, rows[:, None] | columns)
        for marks, lengths in ((rows, times), (columns, bands)):
            where = np.flatnonzero(marks)
            assert not len(where) or where[-1] - where[0] + 1 == len(where)  # one stretch
            lengths.add(len(where))
        expected = np.broadcast_to(features.mean(0), features.shape)
        np.testing.assert_allclose(masked[changed], expected[changed], atol=1e-6)
    assert times == set(range(16)) and bands == set(range(7))


def test_mask_batch_is_the_masks_of_each():
    augmenter = augmenter_of(spec_probability=0.7, time_masks=2, frequency_masks=2)
    lengths = [100, 37, 1, 0, 80, 64]
    ids = [f"u{i}" for i in range(6)]
    batch = torch.ones(6, 100, 30)
    masked = augmenter.mask_batch(batch, torch.tensor(lengths), 5, 6, ids)
    assert batch.all()
    for row, length, name in zip(masked, lengths, ids, strict=True):
        alone = augmenter.mask_batch(
            torch.ones(1, length, 30), torch.tensor([length]), 5, 6, [name]
        )
        torch.testing.assert_close(row[:length], alone[0])
        # by the other way: features of mean 0 that are nowhere 0
        features = torch.tensor([1.0, -1.0]).repeat(length)[:length, None].expand(-1, 30).numpy()
        if length % 2 == 0 and length:
            other = augmenter.features(features, 5, 6, name)
            np.testing.assert_array_equal(other == 0, row[:length].numpy() == 0)
    assert (masked == 0).any()


def test_feature_speed_interpolates():
    ramp = np.stack([np.arange(50), 100 - 2 * np.arange(50)], 1).astype(np.float32)
    augmenter = augmenter_of(feature_speed_probability=1, feature_speed_range=(0.8, 0.8))
    slower = augmenter.features(ramp, **KEY)
    assert slower.shape == (62, 2) and slower.dtype == np.float32
    np.testing.assert_allclose(slower[:, 0], np.linspace(0, 49, 62), atol=1e-4)
    np.testing.assert_allclose(slower[:, 1], 100 - 2 * slower[:, 0], atol=1e-4)
    assert augmenter.features(ramp[:1], **KEY).shape == (1, 2)
    assert augmenter.features(ramp[:0], **KEY).shape == (0, 2)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 10**6), st.sampled_from([8000, 16000, 22050]))
def test_any_length(count, seed, rate):
    kinds = {f"{kind}_probability": 0.7 for kind in KINDS if kind not in ("rir", "noise")}
    other = augmenter_of(rate, **kinds)(noise(count), seed, 0, "a")
    assert other.dtype == np.float32 and np.isfinite(other).all()
    assert (len(other) == 0) == (count == 0)


@settings(max_examples=300, derandomize=True)
@given(st.integers(1, 10**7))
def test_fast_length(count):
    size = augment._fast_length(count)
    assert count <= size < 1.15 * count + 2
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sped_probability": 1}, "sped_probability"),
        ({"gain_probability": 1.5}, "gain_probability"),
        ({"speed_range": (1.1, 0.9)}, "speed_range must be a lower and an upper factor"),
        ({"tempo_range": (0.0, 1.0)}, "tempo_range"),
        ({"gain_db": (3, -3)}, "gain_db must be"),
        ({"noise_snr_db": (0, float("nan"))}, "noise_snr_db"),
        ({"noise_probability": 0.1}, "noise_folder must be given"),
        ({"rir_probability": 0.1}, "rir_folder must be given"),
    ],
)
def test_configuration_errors(options, message):
    with pytest.raises(ValidationError, match=message):
        AugmentConfig(**options)


def test_folders_are_checked_at_once(tmp_path):
    with pytest.raises(ConfigError, match="noise_folder: .*/none is no folder"):
        augmenter_of(noise_probability=1, noise_folder=tmp_path / "none")
    with pytest.raises(ConfigError, match="rir_folder: .* has no recordings"):
        augmenter_of(rir_probability=1, rir_folder=tmp_path)


@pytest.mark.data
def test_real_noises_and_rooms(data_folder):
    from ctcspeech import audio

    options = everything({"noise_folder": data_folder / "noise", "rir_folder": data_folder / "rir"})
    paths = sorted((data_folder / "kathleen").rglob("*.flac"))[:8]
    recordings = {path.stem: audio.load(path, 8000)[0] for path in paths}
    one, other = augmenter_of(8000, **options), augmenter_of(8000, **options)
    forward = {name: one(recordings[name], 0, 1, name) for name in recordings}
    for name in reversed(list(recordings)):
        np.testing.assert_array_equal(other(recordings[name], 0, 1, name), forward[name])
        assert np.isfinite(forward[name]).all() and np.std(forward[name]) > 1e-4
