"""A run that goes on notices other data: lines, sizes of recordings, alphabet, noises."""

import json

import numpy as np
import pytest

from ctcspeech.data.indexed import IndexedManifest
from ctcspeech.errors import CheckpointError
from ctcspeech.train.config import load_config
from ctcspeech.train.fingerprint import FILE, Fingerprint, changes, fingerprint


@pytest.fixture
def data(tmp_path):
    """A run's data; a function that gives their fingerprint, and one that tells what differs."""
    for name in ("a.wav", "b.wav", "noise/n.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    lines = [{"audio_filepath": f"{x}.wav", "duration": 1, "text": x} for x in "ab"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "alphabet.json").write_text("{}")
    (tmp_path / "run.toml").write_text(
        '[data]\ntrain = "train.jsonl"\nalphabet = "alphabet.json"\n'
        '[augment]\nnoise_folder = "noise"\nnoise_probability = 0.5\n'
    )
    config = load_config(tmp_path / "run.toml")

    def look():
        manifest = IndexedManifest.read(config.data.train)
        return fingerprint(config, manifest), manifest

    look()[0].save(tmp_path)
    return tmp_path, lambda: changes(Fingerprint.load(tmp_path), *look())


def test_the_same_data(data):
    folder, differences = data
    assert differences() == []
    (folder / "a.wav").touch()  # copied anew, say
    assert differences() == []
    saved = Fingerprint.load(folder)
    assert [list(sizes) for sizes in saved.sizes.values()] == [[100, 100], [100]]
    assert all(sizes.dtype == np.int64 for sizes in saved.sizes.values())


def test_what_differs_is_named(data):
    folder, differences = data
    (folder / "b.wav").write_bytes(b"x" * 150)
    (line,) = differences()
    assert "train.jsonl: 1 of 2 files have another size" in line
    assert f"{folder}/b.wav: 100 bytes then, 150 bytes now" in line
    (folder / "b.wav").unlink()
    assert "100 bytes then, missing now" in differences()[0]
    (folder / "b.wav").write_bytes(b"x" * 100)
    (folder / "noise" / "m.wav").write_bytes(b"x")
    assert "noise: 1 files then, 2 now" in differences()[0]
    (folder / "noise" / "m.wav").unlink()
    (folder / "alphabet.json").write_text("{ }")
    assert differences() == [f"{folder}/alphabet.json has another content"]
    (folder / "alphabet.json").write_text("{}")
    with open(folder / "train.jsonl", "a") as file:
        file.write(json.dumps({"audio_filepath": "a.wav", "duration": 1, "text": "c"}) + "\n")
    assert differences() == [f"{folder}/train.jsonl has another content: 2 utterances then, 3 now"]


def test_a_damaged_record(data):
    folder, differences = data
    whole = (folder / FILE).read_bytes()
    for damaged in (b"", whole[:50], b"PK" + whole[2:60], whole[: len(whole) // 2]):
        (folder / FILE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"data\.npz is damaged"):
            differences()
