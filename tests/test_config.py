"""Reading a run's configuration: overrides, paths, and what is said of a wrong key."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config
from ctcspeech.train.config import RunConfig, load_config, save_config

LEAST = '[data]\ntrain = "train.jsonl"\n'


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def message(write, text, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), overrides)
    return str(caught.value)


def test_the_least_configuration(write, tmp_path):
    config = load_config(write(LEAST))
    assert config.data.train == [tmp_path / "train.jsonl"]
    assert isinstance(config.model, DeepSpeech2Config)


def test_overrides_are_toml_values_or_else_strings(write):
    config = load_config(
        write(LEAST + "[model]\nhidden = 3\n"),
        [
            "model.hidden=128",
            "model.channels=[16, 16]",
            "train.learning_rate=3e-4",
            "train.average=false",
            "train.optimizer=sgd",
            "features.num_bins = 40",
            "data.normalizer.case=upper",
        ],
    )
    assert config.model.hidden == 128 and config.model.channels == [16, 16]
    assert config.train.learning_rate == 3e-4 and config.train.average is False
    assert config.train.optimizer == "sgd" and config.features.num_bins == 40
    assert config.data.normalizer.case == "upper"


def test_paths_are_meant_from_the_file_and_overrides_from_here(write, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    text = LEAST + 'validation = ["../a.jsonl", "/b.jsonl"]\n[augment]\nnoise_folder = "noise"\n'
    config = load_config(write(text), ["data.train=[mine.jsonl]", "data.alphabet=x.json"][1:])
    assert config.data.validation == [tmp_path.parent / "a.jsonl", Path("/b.jsonl")]
    assert config.augment.noise_folder == tmp_path / "noise"
    assert config.data.alphabet == here / "x.json"
    assert load_config(write(text), ["data.train=m.jsonl"]).data.train == [here / "m.jsonl"]


def test_an_unknown_key_proposes_the_nearest(write):
    assert "model.hiden is unknown; did you mean model.hidden?" in message(
        write, LEAST + "[model]\nhiden = 3\n"
    )
    assert "train.learning_rat is unknown; did you mean train.learning_rate?" in message(
        write, LEAST, "train.learning_rat=1"
    )
    # In the wrong section.
    assert "train.hidden is unknown; did you mean model.hidden?" in message(
        write, LEAST, "train.hidden=1"
    )
    # A key of the other architecture is no proposal.
    text = message(write, LEAST, "model.architecture=deepspeech1", "model.layers=3")
    assert "model.layers is unknown" in text and "did you mean model.layers" not in text
    assert "modle is unknown; did you mean model?" in message(write, LEAST, "modle.hidden=1")
    assert "did you mean data.normalizer.case?" in message(write, LEAST, "data.normalizer.cas=x")


def test_wrong_values_name_key_bound_and_value(write):
    text = message(write, LEAST, "model.hidden=0", "train.optimizer=adam")
    assert "model.hidden: input should be greater than or equal to 1, got 0" in text
    assert "train.optimizer: input should be 'adamw' or 'sgd', got 'adam'" in text
    assert text.count("run.toml:") == 2
    assert "data.train is missing" in message(write, "[data]\n")
    assert "data is missing" in message(write, "")
    assert "model.channels" in message(write, LEAST, "model.channels=[]")
    text = message(write, LEAST, "model.time_width=[4, 5]")
    assert "time_width must be odd" in text


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden=30000",
        "model.layers=100000",
        "model.channels=[1000000]",
        "train.seed=1e23",
        "train.seed=99999999999999999999999",
        "train.threads=100000",
        "train.betas=[1,1]",
        "train.device=meta",
        "train.delay_penalty=nan",
        "train.max_minutes=inf",
        "train.epochs=1000000000000",
        "data.batch_seconds=inf",
        "data.cache_mb=inf",
        "data.max_seconds=nan",
        "data.workers=100000",
        "features.window_ms=inf",
        "features.sample_rate=100000000",
        "features.fft_size=1000000000",
        "augment.jitter_ms=inf",
        "augment.gain_db=[-inf, inf]",
    ],
)
def test_values_out_of_all_bounds_are_refused_at_once(write, override):
    assert override.partition("=")[0] in message(write, LEAST, override)


def test_what_is_no_configuration(write, tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration .*none.toml"):
        load_config(tmp_path / "none.toml")
    assert "is not valid TOML" in message(write, "[data\n")
    assert "must look like section.key=value" in message(write, LEAST, "hidden=3")
    assert "must look like section.key=value" in message(write, LEAST, "model.hidden")


@pytest.mark.parametrize(
    "more",
    ["", '[model]\narchitecture = "deepspeech1"\n', "[augment]\ngain_probability = 1\n"],
)
def test_what_is_saved_is_read_back(write, tmp_path, more):
    config = load_config(write(LEAST + 'normalizer = {replace = {"&" = " and "}}\n' + more))
    save_config(config, tmp_path / "other" / "saved.toml")
    again = load_config(tmp_path / "other" / "saved.toml")
    assert again.model_dump() == config.model_dump()
    assert isinstance(again.model, DeepSpeech1Config) == ("deepspeech1" in more)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/.\0"), min_size=1)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.lists(NAME, min_size=1, max_size=3),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.booleans(),
    st.integers(0, 2**63 - 1),
)
def test_any_text_and_number_is_read_as_it_was_saved(
    tmp_path_factory, replace, names, rate, sorta_grad, seed
):
    data = {
        "train": [f"/{name}" for name in names],
        "normalizer": {"replace": {key: value for key, value in replace.items() if key}},
        "sorta_grad": sorta_grad,
    }
    train = {"learning_rate": rate, "seed": seed}
    config = RunConfig.model_validate({"data": data, "train": train})
    path = tmp_path_factory.getbasetemp() / "any.toml"
    save_config(config, path)
    assert load_config(path).model_dump() == config.model_dump()


def test_augmentation_of_features_without_features_is_refused(write):
    for name in ("feature_speed_probability", "cepstral_warp_probability"):
        text = LEAST + f"[augment]\n{name} = 0.5\n"
        assert f"augment.{name} changes precomputed features" in message(write, text)
        features = '[features]\nkind = "precomputed"\nnum_features = 13\n'
        load_config(write(text + features))
