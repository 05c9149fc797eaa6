"""Features that other tools have written."""

import struct
from pathlib import Path

import numpy as np
import pytest

from ctcspeech.audio.features import load_features
from ctcspeech.errors import FeatureError

GOLDEN = Path(__file__).parent / "golden"
PLACES = dict(
    line.split(" ", 1) for line in (GOLDEN / "kaldi_features.scp").read_text().splitlines()
)


@pytest.mark.parametrize("name", PLACES)
def test_kaldi(name):
    golden = np.load(GOLDEN / "kaldi_features.npz")
    features = load_features(GOLDEN / PLACES[name])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, golden[name], rtol=1e-6, atol=1e-6)
    spread = np.ptp(golden["original"])
    assert np.abs(features - golden["original"]).max() < 0.01 * spread


def test_kaldi_text_and_single(tmp_path):
    text = tmp_path / "a.ark"
    text.write_text("utt-1  [\n  1 2.5 -3\n  4 5 6e1 ]\nutt-2  [\n  7 8 ]\n")
    np.testing.assert_array_equal(load_features(f"{text}:6"), [[1, 2.5, -3], [4, 5, 60]])
    np.testing.assert_array_equal(load_features(f"{text}:39"), [[7, 8]])
    with pytest.raises(FeatureError, match="several matrices"):
        load_features(text)
    matrix = b"\0BFM \x04" + struct.pack("<i", 2) + b"\x04" + struct.pack("<i", 1)
    matrix += struct.pack("<2f", 1.5, 2.5)
    for head in (b"", b"utt-1 "):
        text.write_bytes(head + matrix)
        np.testing.assert_array_equal(load_features(text), [[1.5], [2.5]])
    text.write_bytes(matrix[:-1])
    with pytest.raises(FeatureError, match="truncated: the matrix needs 8 bytes and 7"):
        load_features(text)


@pytest.mark.parametrize("order", "<>")
def test_sphinx(tmp_path, order):
    values = np.arange(26, dtype=np.float32).reshape(2, 13)
    path = tmp_path / "a.mfc"
    data = struct.pack(order + "i", 26) + values.astype(order + "f4").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(load_features(path), values)
    np.testing.assert_array_equal(load_features(path, 26), values.reshape(1, 26))
    with pytest.raises(FeatureError, match="whole frames of 12"):
        load_features(path, 12)
    path.write_bytes(data[:-4])
    with pytest.raises(FeatureError, match="does not agree with its size of 104 bytes"):
        load_features(path)
    path.write_bytes(b"")
    with pytest.raises(FeatureError, match="0 bytes"):
        load_features(path)


def test_numpy(tmp_path):
    path = tmp_path / "a.npy"
    values = np.random.default_rng(0).standard_normal((3, 4))
    np.save(path, values)
    np.testing.assert_array_equal(load_features(path, 4), values.astype(np.float32))
    with pytest.raises(FeatureError, match="frames have 4 features.*num_features = 5"):
        load_features(path, 5)
    for bad, message in (
        (values[0], r"shape \(4,\)"),
        (values[:0], "empty"),
        (values * np.nan, "NaN"),
        (values.astype("c8"), "matrix of numbers"),
        (np.array([["a"]]), "matrix of numbers"),
        (np.array([[{}]], object), "[Oo]bject arrays"),
    ):
        np.save(path, bad)
        with pytest.raises(FeatureError, match=message) as caught:
            load_features(path)
        assert str(path) in str(caught.value)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FeatureError, match="a.npy"):
        load_features(path)


def test_other_files(tmp_path):
    with pytest.raises(FeatureError, match="no such file"):
        load_features(tmp_path / "a.npy")
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(FeatureError, match="convert the file"):
        load_features(tmp_path / "a.h5")
    with pytest.raises(FeatureError, match="row ranges"):
        load_features(f"{GOLDEN / PLACES['float']}[0:3]")
    for wrong_offset in (8, 100, 5000):
        with pytest.raises(FeatureError, match="kaldi_features.ark:"):
            load_features(f"{GOLDEN / 'kaldi_features.ark'}:{wrong_offset}")


@pytest.mark.data
def test_an4(data_folder):
    path = next((data_folder / "an4_mfcc").rglob("*.mfc"))
    features = load_features(path)
    assert features.shape[1] == 13 and np.abs(features).max() < 100
