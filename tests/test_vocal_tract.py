"""Cepstra of another vocal tract: against cosine transforms of spectra that were moved by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from ctcspeech.data.augment import AugmentConfig, Augmenter
from ctcspeech.data.vocal_tract import warp_of_cepstra

LOW, HIGH, FILTERS, COUNT = 133.3334, 6855.4976, 40, 13
MEL = 2595 * np.log10(1 + np.array([LOW, HIGH]) / 700)
CENTRES = 700 * (10 ** (np.linspace(*MEL, 2 * FILTERS + 1)[1::2] / 2595) - 1)  # Hz
DCT = np.cos(np.pi * np.outer(np.arange(COUNT), np.arange(FILTERS) + 0.5) / FILTERS)


def spectrum(hz: np.ndarray) -> np.ndarray:
    """Log energies: a slope and two broad resonances, at 600 and 2000 Hz."""
    octaves = np.log2((hz + 300) / 300)
    return (
        10
        - octaves
        + sum(3 * np.exp(-(((octaves - np.log2((f + 300) / 300)) / 0.5) ** 2)) for f in (600, 2000))
    )


@pytest.mark.parametrize("factor", [0.8, 0.9, 0.97, 1.0, 1.05, 1.15, 1.25])
def test_resonances_move_by_the_factor(factor):
    knee = 0.7 * HIGH * min(factor, 1)  # below, frequencies are scaled, above is a straight line
    above = np.interp(CENTRES, [knee, HIGH], [knee / factor, HIGH])
    moved = spectrum(np.where(CENTRES < knee, CENTRES / factor, above))
    expected = DCT @ moved
    got = warp_of_cepstra(factor, COUNT, LOW, HIGH) @ (DCT @ spectrum(CENTRES))
    distance = np.abs(expected - DCT @ spectrum(CENTRES)).max()
    assert np.abs(got - expected).max() < 0.1 + 0.03 * distance  # 13 of 40 say nearly all
    assert distance >= 50 * abs(factor - 1)  # what is tested is more than the tolerance


def test_a_factor_of_one_changes_nothing_and_loudness_stays():
    matrix = warp_of_cepstra(1.0, COUNT, LOW, HIGH)
    np.testing.assert_allclose(matrix, np.eye(COUNT), atol=1e-6)
    loud = np.eye(COUNT)[0]  # a flat spectrum
    np.testing.assert_allclose(warp_of_cepstra(1.2, COUNT, LOW, HIGH) @ loud, loud, atol=1e-6)


def test_augmenter_draws_a_vocal_tract_for_each_utterance():
    cepstra = np.tile(DCT @ spectrum(CENTRES), (5, 1)).astype(np.float32)
    options = {"cepstral_warp_range": (0.9, 1.1), "cepstral_warp_hz": (LOW, HIGH)}
    augmenter = Augmenter(AugmentConfig(cepstral_warp_probability=1, **options), 16000)
    bounds = [cepstra[0] @ warp_of_cepstra(f, COUNT, LOW, HIGH).T for f in (0.9, 1.0, 1.1)]
    second = []  # c_1 rises or falls with the resonances
    for i in range(50):
        got = augmenter.features(cepstra, seed=0, epoch=0, utterance=str(i))
        np.testing.assert_allclose(got, np.tile(got[:1], (5, 1)), rtol=1e-5, atol=1e-4)
        second.append(got[0, 1])
    low, middle, high = (bound[1] for bound in bounds)
    assert min(low, high) - 1e-3 <= min(second) < middle < max(second) <= max(low, high) + 1e-3
    rare = Augmenter(AugmentConfig(cepstral_warp_probability=0.3, **options), 16000)
    got = [rare.features(cepstra, 0, 0, str(i)) for i in range(300)]
    assert 60 < sum(not np.array_equal(features, cepstra) for features in got) < 120


def test_bounds_that_are_none():
    with pytest.raises(ValidationError, match="cepstral_warp_hz must be a lower and a higher"):
        AugmentConfig(cepstral_warp_hz=(8000.0, 100.0))
    with pytest.raises(ValidationError, match="cepstral_warp_range must be a lower"):
        AugmentConfig(cepstral_warp_range=(1.1, 0.9))
