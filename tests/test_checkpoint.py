"""Checkpoints: complete alone, whole or not at all, clear about what is wrong with them."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor, FeatureStatistics
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import CheckpointError, DecoderError
from ctcspeech.files import seal
from ctcspeech.model import checkpoint as checkpoint_module
from ctcspeech.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_training,
    save_checkpoint,
)
from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config, build_model
from ctcspeech.text.alphabet import Alphabet

CONFIGS = [
    DeepSpeech1Config(hidden=6, context=2),
    DeepSpeech2Config(
        channels=[2],
        time_width=[3],
        time_stride=[2],
        frequency_width=[3],
        frequency_stride=[2],
        layers=2,
        hidden=4,
    ),
]


def make(config=CONFIGS[1], seed=0):
    torch.manual_seed(seed)
    features = FeatureExtractor(FeatureConfig(sample_rate=8000, num_bins=8))
    statistics = FeatureStatistics(features.num_features)
    statistics.accumulate(torch.randn(50, features.num_features) * 3 + 1)
    features.set_statistics(statistics)
    alphabet = Alphabet.from_text(["ab c"])
    model = build_model(config, features.num_features, len(alphabet))
    return Checkpoint(model, features, alphabet, {"train": {"seed": 3}}, {"epoch": 2, "wer": 0.5})


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "model", make())
    return tmp_path / "model"


def emissions(checkpoint):
    torch.manual_seed(5)
    samples, lengths = torch.randn(2, 3000), torch.tensor([3000, 2000])
    with torch.no_grad():
        return checkpoint.model.eval()(*checkpoint.features(samples, lengths))[0]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_checkpoint_is_enough_alone(tmp_path, config):
    before = make(config)
    save_checkpoint(tmp_path / "deep" / "model", before, {"step": 7, "tensor": torch.ones(2)})
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "deep" / "model", moved)
    after = load_checkpoint(moved)
    assert torch.equal(emissions(before), emissions(after))
    assert after.alphabet == before.alphabet
    assert (after.config, after.info) == (before.config, before.info)
    assert after.frame_shift_ms == 20 and not after.model.training
    assert load_training(moved)["step"] == 7


def test_a_run_s_folder_stands_for_its_model(tmp_path):
    save_checkpoint(tmp_path / "checkpoints" / "last", make(seed=1))
    assert torch.equal(emissions(load_checkpoint(tmp_path)), emissions(make(seed=1)))
    save_checkpoint(tmp_path / "model", make(seed=2))
    assert torch.equal(emissions(load_checkpoint(tmp_path)), emissions(make(seed=2)))


def test_a_failed_write_leaves_the_old_one(saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, make(seed=9))
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_end_between_two_renames_loses_nothing(saved):
    """The old checkpoint has been moved aside, the new one is not in its place yet."""
    before = emissions(load_checkpoint(saved))
    saved.rename(saved.with_name(".model.old"))
    # Readers find the old one and touch nothing: its writer may be about to rename the new one.
    assert torch.equal(emissions(load_checkpoint(saved)), before)
    assert [path.name for path in saved.parent.iterdir()] == [".model.old"]
    saved.with_name(".model.1234abcd.tmp").mkdir()
    checkpoint_module.recover(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    assert torch.equal(emissions(load_checkpoint(saved)), before)
    save_checkpoint(saved, make(seed=4))
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    seal(folder, ["config.json"])


def failure(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def test_what_is_no_checkpoint(tmp_path, saved):
    assert "there is no checkpoint" in failure(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    assert "is a file; a checkpoint is a folder" in failure(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in failure(tmp_path / "empty")
    change(saved, format="something")
    assert 'lacks "format": "ctcspeech checkpoint"' in failure(saved)


def test_another_version_is_refused(saved):
    change(saved, version=2)
    text = failure(saved)
    assert "format version 2" in text and "reads version 1" in text and "newer ctcspeech" in text


@pytest.mark.parametrize(
    "name", ["model.safetensors", "alphabet.json", "statistics.safetensors", "config.json"]
)
def test_a_damaged_or_missing_part_is_named(saved, name):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    assert f"{name} is damaged" in failure(saved)
    seal(saved, [name])  # as if it had been written so
    assert name.split(".")[0] in failure(saved)
    (saved / name).unlink()
    assert name.split(".")[0] in failure(saved)


def test_weights_must_fit_the_configuration(saved):
    values = json.loads((saved / "config.json").read_text())
    change(saved, model={**values["model"], "hidden": 5})
    assert "must have shape" in failure(saved)
    change(saved, model={**values["model"], "layers": 3})
    assert "missing ['" in failure(saved)
    change(saved, model={**values["model"], "width": 3})
    assert "config.json" in failure(saved) and "width" in failure(saved)


FILES = ["config.json", "alphabet.json", "model.safetensors", "statistics.safetensors"]


def test_every_flipped_bit_is_noticed(saved):
    """Anywhere in any file: the file is named, by its checksum (SHA-256 of hashlib's)."""
    save_checkpoint(saved, make(), {"step": 3, "tensor": torch.ones(200)})
    index = json.loads((saved / "checksums.json").read_text())["files"]
    assert sorted(index) == sorted([*FILES, "training.pt"])
    random = np.random.default_rng(0)
    for name in index:
        whole = (saved / name).read_bytes()
        assert index[name]["sha256"] == hashlib.sha256(whole).hexdigest()
        for place in random.integers(0, 8 * len(whole), 12).tolist():
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            (saved / name).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=f"{name} is damaged"):
                load_training(saved) if name == "training.pt" else load_checkpoint(saved)
        (saved / name).write_bytes(whole)
    load_checkpoint(saved)


def test_checksums_that_are_damaged_or_missing(saved):
    (saved / "checksums.json").write_text('{"format": "ctcspeech checksums"')
    assert "checksums.json is damaged" in failure(saved)
    (saved / "checksums.json").unlink()
    load_checkpoint(saved)


def test_reading_while_another_takes_its_place(saved, monkeypatch):
    """In the middle of reading, the folder is replaced: the new one is read, whole."""
    new = make(seed=8)
    read = checkpoint_module.read_statistics
    times = []

    def replacing(folder):
        times.append(folder)
        if len(times) == 1:
            save_checkpoint(saved, new)
        return read(folder)

    monkeypatch.setattr(checkpoint_module, "read_statistics", replacing)
    assert torch.equal(emissions(load_checkpoint(saved)), emissions(new))
    assert len(times) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": None}, "config.json"),
        ({"model": {"architecture": "deepspeech2", "hidden": 10**9}}, "hidden"),
        ({"model": {"architecture": "deepspeech2", "layers": 10**5}}, "layers"),
        (
            {"model": {"architecture": "deepspeech2", "layers": 100, "hidden": 16384}},
            "weights need [0-9]+ GiB",
        ),
        ({"features": {"sample_rate": 10**8}}, "sample_rate"),
        ({"features": []}, "config.json"),
        ({"config": []}, "config must be an object"),
        ({"config": {"data": 3}}, "config must be an object"),
        ({"config": {"data": {"normalizer": {"case": 3}}}}, "case"),
        ({"info": 3}, "info must be an object"),
    ],
)
def test_wrong_values_of_the_configuration_are_named(saved, values, words):
    change(saved, **values)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["config.json", "alphabet.json"])
@pytest.mark.parametrize("text", ["[" * 200_000, "1" * 5000, '{"a":' * 90_000, "1e999", "\udfff"])
def test_json_of_any_kind(saved, name, text):
    (saved / name).write_text(text, errors="surrogatepass")
    seal(saved, [name])
    assert name in failure(saved)


def test_training_state_that_is_missing_or_damaged(saved):
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        load_training(saved)
    (saved / "training.pt").write_bytes(b"rubbish")
    seal(saved, ["training.pt"])
    with pytest.raises(CheckpointError, match="training.pt is damaged"):
        load_training(saved)


def test_a_language_model_in_the_folder_is_watched_over(saved):
    """Where a decoder's settings name it."""
    arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1 <unk>\n-1 </s>\n-9 <s>\n-1 a\n\n\\end\\\n"
    (saved / "lm.arpa").write_text(arpa)
    DecoderSettings(lm=saved / "lm.arpa").save(saved)
    assert DecoderSettings.find(saved).load_lm() is not None
    (saved / "lm.arpa").write_text(arpa.replace("-1 a", "-2 a"))
    with pytest.raises(DecoderError, match="lm.arpa is damaged"):
        DecoderSettings.find(saved).load_lm()
