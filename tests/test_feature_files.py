"""Features that other tools have written."""

import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from ctcspeech.audio.features import load_features
from ctcspeech.errors import FeatureError, MissingPackageError

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
    for key in (b"", b"utt-1 "):
        text.write_bytes(key + matrix)
        np.testing.assert_array_equal(load_features(text), [[1.5], [2.5]])
    text.write_bytes(matrix[:-1])
    with pytest.raises(FeatureError, match="a.ark: truncated or damaged"):
        load_features(text)


def head(kind, rows, columns):
    if kind in ("FM", "DM"):
        return b"\0B" + kind.encode() + b" " + struct.pack("<bibi", 4, rows, 4, columns)
    return b"\0B" + kind.encode() + b" " + struct.pack("<ffii", 0.0, 1.0, rows, columns)


@pytest.mark.parametrize("kind", ["FM", "DM", "CM", "CM2", "CM3"])
def test_kaldi_hostile_sizes(tmp_path, kind):
    path = tmp_path / "a.ark"
    path.write_bytes(head(kind, 2, 4) + bytes(200))
    assert load_features(f"{path}:0").shape == (2, 4)
    huge = 2**31 - 1
    for rows, columns in [(-1, 4), (4, -1), (-2, -4), (huge, huge), (huge, 1), (1, huge), (0, 4)]:
        path.write_bytes(head(kind, rows, columns) + bytes(200))
        with pytest.raises(FeatureError, match="a.ark"):
            load_features(path)


@pytest.mark.parametrize("name", PLACES)
def test_kaldi_truncated_anywhere(tmp_path, name):
    archive, offset = PLACES[name].split(":")
    offsets = [int(place.split(":")[1]) for place in PLACES.values()]
    data = (GOLDEN / archive).read_bytes()
    following = min((o for o in offsets if o > int(offset)), default=None)
    end = len(data) if following is None else data.rindex(b"\0B", 0, following + 2)
    matrix = data[int(offset) : end]
    path = tmp_path / "a.ark"
    for length in range(0, len(matrix) - 16, 3):
        path.write_bytes(matrix[:length])
        with pytest.raises(FeatureError, match="a.ark"):
            load_features(f"{path}:0")


def test_kaldi_archives_run_nothing(tmp_path):
    path, ran = tmp_path / "a.ark", tmp_path / "ran"

    class Touch:
        def __reduce__(self):
            return Path.touch, (ran,)

    for key in (b"PKL", b"utt-1 PKL"):
        path.write_bytes(key + pickle.dumps(Touch()))
        for place in (path, f"{path}:0", f"{path}:6"):
            with pytest.raises(FeatureError, match="a.ark"):
                load_features(place)
    assert not ran.exists()


def test_kaldi_text_damaged(tmp_path):
    path = tmp_path / "a.ark"
    for text in (
        "[ ]",
        "[\n]",
        "[\n 1 2\n 3 ]\n",
        "[\n 1 x ]\n",
        "[\n 1 2",
        "",
        "]",
        "[\n 1 \xff ]",
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(FeatureError, match="a.ark"):
            load_features(path)


def test_kaldi_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldiio", None)
    monkeypatch.delitem(sys.modules, "kaldiio.matio", raising=False)
    with pytest.raises(MissingPackageError, match=r"ctcspeech\[kaldi\]"):
        load_features(GOLDEN / PLACES["float"])


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
