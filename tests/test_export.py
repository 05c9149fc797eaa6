"""Exported models against torch: every architecture, any length, any batch, alone or padded."""

import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.audio.features import FeatureExtractor, FeatureStatistics
from ctcspeech.cli import app
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import ModelError
from ctcspeech.exchange.export import check_export, export, onnx_model
from ctcspeech.exchange.onnx_model import OnnxEmitter
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config, build_model
from ctcspeech.recognize.checkpoint import CheckpointEmitter
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet(["<blank>", " ", *"abcdefgh"])
RATE = 8000
ONE = {"convolution": "1d", "channels": [12], "time_width": [5], "time_stride": [2], "hidden": 9}
TWO = {"channels": [3, 4], "time_width": [5, 3], "frequency_width": [5, 3], "hidden": 8}
MODELS = {
    "gru": DeepSpeech2Config(**ONE, layers=2),
    "gru concat": DeepSpeech2Config(**ONE, layers=2, merge="concat"),
    "lstm": DeepSpeech2Config(**ONE, layers=2, recurrent="lstm"),
    "rnn": DeepSpeech2Config(**ONE, layers=2, recurrent="rnn", clip=0.7),
    "no batch norm": DeepSpeech2Config(**ONE, layers=1, batch_norm=False),
    "2d": DeepSpeech2Config(**TWO, time_stride=[2, 1], frequency_stride=[2, 2], layers=1),
    "2d stride 4": DeepSpeech2Config(**TWO, time_stride=[2, 2], frequency_stride=[2, 1], layers=1),
    "forward": DeepSpeech2Config(**ONE, layers=2, bidirectional=False, lookahead=3),
    "forward lstm": DeepSpeech2Config(**ONE, layers=1, bidirectional=False, recurrent="lstm"),
    "forward rnn, no lookahead": DeepSpeech2Config(
        **ONE, layers=1, bidirectional=False, recurrent="rnn", lookahead=0
    ),
    "forward, no end": DeepSpeech2Config(
        **ONE, layers=2, bidirectional=False, lookahead=3, hide_end=True
    ),
    "deepspeech1": DeepSpeech1Config(hidden=10, context=3, stride=3, clip=1.5),
}
FEATURES = {
    "corpus": {"num_bins": 20},
    "utterance": {"num_bins": 20, "normalization": "utterance"},
    "mel, deltas": {"kind": "mel", "num_bins": 12, "deltas": 2, "normalization": "none"},
    "spectrogram": {"kind": "spectrogram", "energy": False, "normalization": "utterance"},
    "tail": {"num_bins": 20, "tail_ms": 123},
    "nemo": {"preset": "nemo", "num_bins": 20, "fft_size": 256},
    "kaldi": {"preset": "kaldi", "num_bins": 20, "fft_size": 256, "high_frequency": 3600.0},
}


def signals(seed=0):
    """Of many lengths: nothing, less than a window, one frame, and more."""
    generator = np.random.default_rng(seed)
    lengths = [0, 1, 159, 160, 161, 239, 240, 400, 1601, *generator.integers(2000, 24000, 7)]
    loudness = generator.uniform(0.003, 0.4, len(lengths))
    return [
        (scale * generator.standard_normal(length)).astype(np.float32)
        for scale, length in zip(loudness, lengths, strict=True)
    ]


def checkpoint_of(model_config, seed=3, **feature_values):
    torch.manual_seed(seed)
    features = FeatureExtractor(FeatureConfig(sample_rate=RATE, **feature_values))
    if features.config.normalization == "corpus":
        statistics = FeatureStatistics(features.num_features)
        noise = 0.1 * torch.randn(1, 40000)
        statistics.accumulate(*features.raw(noise, torch.tensor([40000])))
        features.set_statistics(statistics)
    model = build_model(model_config, features.num_features, len(ALPHABET))
    for module in model.modules():  # as after training: no norm is the identity
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return Checkpoint(model.eval(), features.eval(), ALPHABET, {}, {})


def saved(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_equals_torch(tmp_path, name):
    checkpoint = checkpoint_of(MODELS[name], **FEATURES["corpus"])
    file = tmp_path / "model.onnx"
    onnx.save(onnx_model(checkpoint), file)
    assert check_export(checkpoint, file, signals()) < 1e-4


def test_what_a_model_was_trained_with_is_not_in_its_graph():
    dropped = MODELS["gru"].model_copy(update={"dropout_per": "utterance", "state_dropout": 0.4})
    graphs = [onnx_model(checkpoint_of(c)).SerializeToString() for c in (MODELS["gru"], dropped)]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("name", FEATURES)
def test_every_front_end_equals_torch(tmp_path, name):
    checkpoint = checkpoint_of(MODELS["gru"], **FEATURES[name])
    file = tmp_path / "model.onnx"
    onnx.save(onnx_model(checkpoint), file)
    assert check_export(checkpoint, file, signals()) < 1e-4


def test_the_graph_itself_pads_and_batches(tmp_path):
    # Not by OnnxEmitter: whatever follows the end of a recording, its frames are the same.
    checkpoint = checkpoint_of(MODELS["gru"], **FEATURES["utterance"])
    graph = onnx_model(checkpoint).SerializeToString()
    session = onnxruntime.InferenceSession(graph)
    items = signals()[3:]
    lengths = np.array([len(item) for item in items])
    padded = np.full((len(items), lengths.max() + 777), 0.5, np.float32)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    together, counts = session.run(None, {"audio": padded, "lengths": lengths})
    assert together.shape[1] == counts.max()
    for item, rows, count in zip(items, together, counts, strict=True):
        feed = {"audio": item[None], "lengths": np.array([len(item)])}
        (alone,), _ = session.run(None, feed)
        assert len(alone) == count
        np.testing.assert_allclose(rows[:count], alone, atol=2e-5)


def test_int8_is_near_and_smaller(tmp_path):
    config = DeepSpeech2Config(**{**ONE, "hidden": 128}, layers=2)
    checkpoint = checkpoint_of(config, **FEATURES["corpus"])
    exported = export(saved(tmp_path, checkpoint), tmp_path / "out", int8=True, samples=signals())
    small, whole = (tmp_path / "out" / f"model{k}.onnx" for k in (".int8", ""))
    assert 3.0 * small.stat().st_size < whole.stat().st_size
    assert exported.difference["model.onnx"] < 1e-4
    assert 0 < exported.difference["model.int8.onnx"] < 0.1
    # What it says does not depend on the batch either: its activations are not quantised.
    emitter = OnnxEmitter.load(small)
    together = emitter.compute(signals())
    for item, rows in zip(signals(), together, strict=True):
        np.testing.assert_allclose(rows, emitter.compute([item])[0], atol=2e-5)


def test_int8_is_smaller_with_a_large_front_end_inside():
    """The Fourier transform is worked out of one period of the cosine and sine, not stored."""
    features = FeatureExtractor(FeatureConfig(preset="nemo"))
    config = DeepSpeech2Config(**{**ONE, "channels": [160], "hidden": 160}, layers=2)
    model = build_model(config, features.num_features, len(ALPHABET)).eval()
    checkpoint = Checkpoint(model, features.eval(), ALPHABET, {}, {})
    small, whole = (onnx_model(checkpoint, int8=int8).ByteSize() for int8 in (True, False))
    assert 3.0 * small < whole
    transform = 4 * features.config.window * (features.config.fft_points + 2)
    front_end = whole - onnx_model(checkpoint, "nemo").ByteSize()
    assert front_end < 0.2 * transform


def test_int8_outlives_units_that_hardly_varied(tmp_path):
    """Batch norm multiplies such a unit by 300: the other columns of the matrix keep their bits."""
    from ctcspeech.exchange.graph_gru import SMALLEST

    for hidden in (12, SMALLEST):
        config = DeepSpeech2Config(**{**ONE, "hidden": hidden}, layers=2)
        checkpoint = checkpoint_of(config, num_bins=20, normalization="none")
        for norm in (checkpoint.model.norms[1], checkpoint.model.last_norm):
            norm.running_var[0] = 1e-12
            norm.weight.data[0] = 1.0
        with torch.no_grad():  # and indeed: its candidate is 1 and its gate lets all of it in
            for layer in checkpoint.model.recurrent:
                for suffix in ("", "_reverse"):
                    bias = getattr(layer.cell, f"bias_ih_l0{suffix}")
                    bias[hidden], bias[2 * hidden] = -40.0, 40.0
            for norm in (checkpoint.model.norms[1], checkpoint.model.last_norm):
                norm.running_mean[0] = 2.0  # both directions are summed
        folder = saved(tmp_path / str(hidden), checkpoint)
        exported = export(folder, tmp_path / f"out{hidden}", int8=True)
        assert exported.difference["model.int8.onnx"] < 0.3


def test_what_differs_little_from_a_mean_is_not_lost_in_float():
    from ctcspeech.exchange.graph import Graph
    from ctcspeech.exchange.graph_model import Affine, _linear

    random = np.random.default_rng(0)
    mean, scale = random.uniform(0.8, 1, 24), random.uniform(200, 316, 24)
    affine = Affine(scale, mean, random.normal(size=24))
    inputs = (mean + random.normal(0, 0.003, (50, 24))).astype(np.float32)
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 8)
    weight, bias = (x.detach().double().numpy() for x in (layer.weight, layer.bias))
    wanted = (scale * (inputs - mean) + affine.bias) @ weight.T + bias
    folded = inputs @ (weight * scale).T.astype(np.float32)
    folded += (bias + weight @ affine.shift).astype(np.float32)
    graph = Graph()
    graph.rename(_linear(graph, layer, "x", affine), "y")
    model = graph.model([("x", np.float32, ["N", 24])], [("y", np.float32, ["N", 8])])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": inputs})
    assert np.abs(found - wanted).max() < 0.1 * np.abs(folded - wanted).max()


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    from ctcspeech.exchange import export as module

    folder = saved(tmp_path, checkpoint_of(MODELS["gru"], **FEATURES["corpus"]))
    graph = module.onnx_model

    def wrong(checkpoint, *arguments, **options):
        checkpoint.features.mean += 0.3
        made = graph(checkpoint, *arguments, **options)
        checkpoint.features.mean -= 0.3
        return made

    monkeypatch.setattr(module, "onnx_model", wrong)
    with pytest.raises(ModelError, match="differs from torch by .* allowed is 0.01"):
        export(folder, tmp_path / "wrong", samples=signals()[-4:])
    assert not (tmp_path / "wrong" / "model.onnx").exists()


@pytest.mark.parametrize("directions", [1, 2])
def test_a_gru_of_8_bit_products_is_near_torchs(directions):
    from ctcspeech.exchange.graph import Graph
    from ctcspeech.exchange.graph_gru import SMALLEST
    from ctcspeech.exchange.graph_model import Affine, add_recurrent
    from ctcspeech.model.recurrent import RecurrentLayer

    torch.manual_seed(0)
    layer = RecurrentLayer("gru", 24, SMALLEST, directions == 2, "concat").eval()
    graph = Graph(int8=True)
    plain = Affine.plain(24)
    graph.rename(add_recurrent(graph, layer, "x", "lengths", plain), "y")
    model = graph.model(
        [("x", np.float32, ["T", "N", 24]), ("lengths", np.int64, ["N"])],
        [("y", np.float32, ["T", "N", layer.output_size])],
    )
    assert not [node for node in model.graph.node if node.op_type == "GRU"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    lengths = np.array([40, 25, 1])
    inputs = np.random.default_rng(0).normal(0, 2, (40, 3, 24)).astype(np.float32)
    (found,) = session.run(None, {"x": inputs, "lengths": lengths})
    for number, length in enumerate(lengths):
        item = torch.from_numpy(inputs[:length, number : number + 1])
        with torch.inference_mode():
            wanted = layer.cell(item)[0].numpy()
        np.testing.assert_allclose(found[:length, number : number + 1], wanted, atol=0.05)
        assert np.abs(found[:length, number : number + 1] - wanted).mean() < 0.01
        assert not found[length:, number].any()
        # Neither what stands after its end nor what stands beside it changes a recording.
        feed = {"x": inputs[:length, number : number + 1], "lengths": lengths[number : number + 1]}
        (alone,) = session.run(None, feed)
        np.testing.assert_allclose(found[:length, number : number + 1], alone, atol=1e-5)


def test_precomputed_features(tmp_path):
    features = FeatureExtractor(
        FeatureConfig(kind="precomputed", num_features=13, deltas=1, normalization="utterance")
    )
    torch.manual_seed(0)
    model = build_model(MODELS["gru"], features.num_features, len(ALPHABET)).eval()
    folder = saved(tmp_path, Checkpoint(model, features, ALPHABET, {}, {}))
    exported = export(folder, tmp_path / "out")
    assert exported.difference["model.onnx"] < 1e-4
    emitter = OnnxEmitter.load(tmp_path / "out")
    assert emitter.num_features == 13 and emitter.frame_shift_ms == pytest.approx(20)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((80, 13)))
    utterance = Utterance(features_filepath=tmp_path / "a.npy", duration=0.8)
    (found,) = Recognizer.load(tmp_path / "out").transcribe([utterance])
    (wanted,) = Recognizer.load(folder).transcribe([utterance])
    assert found.error is None and found.text == wanted.text


def test_the_folder_recognises_as_the_checkpoint_does(tmp_path):
    checkpoint = checkpoint_of(MODELS["gru"], **FEATURES["corpus"])
    checkpoint.config = {"data": {"normalizer": {"case": "upper"}}}
    folder = saved(tmp_path, checkpoint)
    DecoderSettings(beam_size=7).save(folder)
    export(folder, tmp_path / "out")
    tokens = (tmp_path / "out" / "tokens.txt").read_text().splitlines()
    assert tokens[:3] == ["<blk> 0", "▁ 1", "a 2"] and len(tokens) == len(ALPHABET)
    assert (tmp_path / "out" / "vocab.txt").read_text().splitlines() == tokens
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["ctcspeech"]["frame_shift_ms"] == 20
    by_torch, by_onnx = Recognizer.load(folder), Recognizer.load(tmp_path / "out")
    assert by_onnx.settings == by_torch.settings and by_onnx.settings.beam_size == 7
    assert by_onnx.normalizer == by_torch.normalizer and by_onnx.normalizer("ab") == "AB"
    assert by_onnx.alphabet == ALPHABET
    assert by_onnx.sample_rate == RATE and by_onnx.frame_shift_ms == by_torch.frame_shift_ms
    for found, wanted in zip(
        by_onnx.emissions(signals()), by_torch.emissions(signals()), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_nemo_layout(tmp_path):
    checkpoint = checkpoint_of(MODELS["gru concat"], preset="nemo", num_bins=20, fft_size=256)
    with pytest.raises(ModelError, match="16 kHz"):
        onnx_model(checkpoint, "nemo")
    features = FeatureExtractor(FeatureConfig(preset="nemo"))
    torch.manual_seed(0)
    model = build_model(MODELS["gru"], 80, len(ALPHABET)).eval()
    checkpoint = Checkpoint(model, features, ALPHABET, {}, {})
    folder = saved(tmp_path, checkpoint)
    assert export(folder, tmp_path / "out", layout="nemo").difference["model.onnx"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [item.name for item in session.get_inputs()] == ["audio_signal", "length"]
    assert [item.name for item in session.get_outputs()] == ["logprobs", "log_probs"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["normalize_type"] == "per_feature" and metadata["subsampling_factor"] == "2"
    emitter, by_torch = OnnxEmitter.load(tmp_path / "out"), CheckpointEmitter.load(folder)
    for found, wanted in zip(emitter.compute(signals()), by_torch.compute(signals()), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_command_writes_folder_and_card(tmp_path):
    import soundfile

    folder = saved(tmp_path, checkpoint_of(MODELS["gru"], **FEATURES["corpus"]))
    soundfile.write(tmp_path / "a.wav", signals()[-1], RATE)
    write_manifest(tmp_path / "m.jsonl", [Utterance(tmp_path / "a.wav", 1.0, "ab cd")])
    arguments = ["export", folder, tmp_path / "out", "--int8", "-m", tmp_path / "m.jsonl"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "differ from torch's by at most" in result.stdout and "WER" in result.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: # fill in" in card and "2 words" in card and "model.int8.onnx" in card
    result = CliRunner().invoke(app, ["transcribe", str(tmp_path / "out"), str(tmp_path / "a.wav")])
    assert result.exit_code == 0, result.output


def test_a_language_model_elsewhere_is_refused(tmp_path):
    folder = saved(tmp_path, checkpoint_of(MODELS["gru"], **FEATURES["corpus"]))
    DecoderSettings(tmp_path / "far" / "lm.bin").save(folder)
    with pytest.raises(ModelError, match="--reference-lm"):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize("count", [2, 3, 6])
def test_readers_of_floored_lengths_miss_no_label(count):
    """Every path of three labels: read without its last frame, it says what it said, wherever
    leaving out any one frame could do that."""
    from ctcspeech.exchange.export import _for_floored_lengths
    from ctcspeech.exchange.graph import Graph

    graph = Graph()
    shifted = _for_floored_lengths(graph, "scores", "lengths", "counts", 4, 0)
    graph.rename(shifted, "y")
    model = graph.model(
        [("scores", np.float32, ["N", "T", 3]), ("lengths", np.int64, ["N"]),
         ("counts", np.int64, ["N"])],
        [("y", np.float32, ["N", "T", 3])],
    )  # fmt: skip
    session = onnxruntime.InferenceSession(model.SerializeToString())
    paths = np.array(list(itertools.product(range(3), repeat=count)))
    scores = np.random.default_rng(0).uniform(-9, -1, (len(paths), count + 2, 3))
    np.put_along_axis(scores[:, :count], paths[..., None], -0.1, axis=2)
    feed = {"scores": scores.astype(np.float32), "counts": np.full(len(paths), count)}
    feed["lengths"] = np.full(len(paths), 4 * count - 1)
    (found,) = session.run(None, feed)
    collapse = Alphabet(["<blank>", "a", "b"]).collapse
    possible = 0
    for path, read in zip(paths, found[:, : count - 1].argmax(2), strict=True):
        said = collapse(path)
        if any(collapse(np.delete(path, k)) == said for k in range(count)):
            possible += 1
            assert collapse(read) == said, path
    assert possible > len(paths) / 2
    feed["lengths"] += 1  # floor and ceil are equal: nothing is left out
    (found,) = session.run(None, feed)
    np.testing.assert_array_equal(found[:, :count], feed["scores"][:, :count])


def test_large_batches_are_computed_in_parts(tmp_path, monkeypatch):
    from ctcspeech.exchange import onnx_model

    export(saved(tmp_path, checkpoint_of(MODELS["gru"], num_bins=20)), tmp_path / "out")
    emitter = onnx_model.OnnxEmitter.load(tmp_path / "out")
    whole = emitter.compute(signals())
    run, sizes = emitter._run, []
    monkeypatch.setattr(emitter, "_run", lambda items: (sizes.append(len(items)), run(items))[1])
    longest = max(map(len, signals())) / RATE
    monkeypatch.setattr(onnx_model, "_BATCH_SECONDS", longest)
    parts = emitter.compute(signals())
    assert len(sizes) > 1
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
