"""Checkpoints: complete alone, whole or not at all, clear about what is wrong with them."""

import json
import shutil

import pytest
import torch

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor, FeatureStatistics
from ctcspeech.errors import CheckpointError
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


def test_training_state_that_is_missing_or_damaged(saved):
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        load_training(saved)
    (saved / "training.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="training.pt is damaged"):
        load_training(saved)
