import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ctcspeech import Alphabet, read_manifest
from ctcspeech.cli import app
from ctcspeech.errors import ManifestError


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seconds, text in [("a", 0.5, "Hello, you"), ("b", 1.5, "It's two")]:
        noise = np.random.default_rng(int(seconds * 10)).uniform(-0.5, 0.5, int(8000 * seconds))
        soundfile.write(folder / f"{name}.wav", noise, 8000)
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_import_check_stats_alphabet(recordings, tmp_path):
    manifest = tmp_path / "m.jsonl"
    result = run("import", "folder", recordings, manifest)
    assert result.exit_code == 0, result.output
    assert "m.jsonl: 2 utterances, 0:02 of audio" in result.output
    assert [u.text for u in read_manifest(manifest)] == ["hello you", "it's two"]

    result = run("alphabet", manifest, "-o", tmp_path / "alphabet.json")
    assert result.exit_code == 0 and "13 labels" in result.output
    assert Alphabet.load(tmp_path / "alphabet.json").missing("hello you it's two") == []

    result = run("check", manifest, "--alphabet", tmp_path / "alphabet.json")
    assert result.exit_code == 0 and "2 utterances, 0:02 of audio: nothing wrong" in result.output

    result = run("stats", manifest, "--json")
    values = json.loads(result.output)[str(manifest)]
    assert values["hours"] == pytest.approx(2.0 / 3600)
    assert (values["utterances"], values["words"], values["vocabulary"]) == (2, 4, 4)
    assert values["characters"]["o"] == 3
    assert values["characters_per_second"] == pytest.approx(17 / 2)
    assert values["duration_quantiles"]["max"] == 1.5
    (tmp_path / "n.jsonl").write_text(manifest.read_text())
    result = run("stats", manifest, tmp_path / "n.jsonl")
    assert "characters" in result.output and "\nall\n" in result.output


def test_import_leaves_out_what_is_bad(recordings, tmp_path):
    (recordings / "b.wav").write_bytes(b"damaged")
    result = run("import", "folder", recordings, tmp_path / "out")
    assert result.exit_code == 1
    assert "b.wav" in result.output and "1 items were left out" in result.output
    assert [u.id for u in read_manifest(tmp_path / "out" / "in.jsonl")] == ["a"]


def test_raw_text(recordings, tmp_path):
    (recordings / "a.txt").write_text("In  1984")
    assert run("import", "folder", recordings, tmp_path / "m.jsonl", "--raw-text").exit_code == 0
    assert [u.text for u in read_manifest(tmp_path / "m.jsonl")] == ["In 1984", "It's two"]
    result = run("import", "folder", recordings, tmp_path / "n.jsonl", "--refuse-digits")
    assert result.exit_code == 1 and "'In 1984' has digits" in result.output
    assert [u.text for u in read_manifest(tmp_path / "n.jsonl")] == ["it's two"]


def test_check_lists_problems_and_cleans(recordings, tmp_path):
    run("import", "folder", recordings, tmp_path / "m.jsonl", "--raw-text")
    Alphabet.from_text(["abcdefghijklmnopqrstuvwxyz ,H"]).save(tmp_path / "alphabet.json")
    options = ["--alphabet", tmp_path / "alphabet.json", "--clean", tmp_path / "good.jsonl"]
    result = run("check", tmp_path / "m.jsonl", *options)
    assert result.exit_code == 1
    assert f"{tmp_path}/m.jsonl:2: {recordings}/b.wav: the text" in result.output
    assert "1 problems (alphabet 1)" in result.output
    assert [u.id for u in read_manifest(tmp_path / "good.jsonl")] == ["a"]
    result = run("check", tmp_path / "m.jsonl", *options[:2], "--normalize")
    assert result.exit_code == 1 and "APOSTROPHE" in result.output


def test_split(tmp_path):
    lines = [{"audio_filepath": f"{i}.wav", "duration": 1, "text": str(i)} for i in range(20)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("split", tmp_path / "m.jsonl", tmp_path / "s", "--dev", "0.2", "--test", "0")
    assert result.exit_code == 0 and "dev.jsonl: 4 utterances" in result.output
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["dev.jsonl", "train.jsonl"]
    assert read_manifest(tmp_path / "s/train.jsonl")[0].path.parent == tmp_path
    assert run("split", tmp_path / "m.jsonl", tmp_path / "s", "--dev", "1").exit_code == 2


def test_wrong_usage(recordings, tmp_path):
    assert run("import", "timit", recordings, tmp_path / "m.jsonl").exit_code == 2
    result = run("import", "kaldi", recordings, tmp_path / "m.jsonl")
    assert isinstance(result.exception, ManifestError)
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("verb", ["import", "check", "stats", "alphabet", "split"])
def test_help_has_an_example(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0 and f"ctcspeech data {verb}" in result.output


def test_check_takes_alphabet_and_frames_of_a_run(recordings, tmp_path):
    from pydantic import TypeAdapter

    from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
    from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
    from ctcspeech.model.deepspeech import ModelConfig, build_model

    run("import", "folder", recordings, tmp_path / "m.jsonl", "--raw-text")
    values = {"channels": [4], "time_stride": [2], "time_width": [5], "layers": 1, "hidden": 4}
    config = TypeAdapter(ModelConfig).validate_python(
        {"architecture": "deepspeech2", "convolution": "1d", **values}
    )
    features = FeatureExtractor(
        FeatureConfig(sample_rate=8000, num_bins=8, shift_ms=50, window_ms=50, normalization="none")
    )
    alphabet = Alphabet.from_text(["helo yu"])
    model = build_model(config, features.num_features, len(alphabet))
    checkpoint = Checkpoint(model, features, alphabet, {"data": {"normalizer": {}}})
    save_checkpoint(tmp_path / "run", checkpoint)
    result = run("check", tmp_path / "m.jsonl", "--run", tmp_path / "run")
    # "hello you" of 0.5 s: 9 labels and a repeat in 5 frames of 100 ms; "it's two" has no labels
    assert result.exit_code == 1 and "2 problems (alphabet 1, too-long 1)" in result.output
    assert "10 frames (9 labels + 1 repeats), but 0.500 s have only 5 of 100 ms" in result.output
