"""Emissions: their file, and those of other toolkits' models (tiny ones, made here)."""

import json

import numpy as np
import pytest
from tiny_wav2vec2 import TINY_WAV2VEC2

from ctcspeech.align.forced import forced_align
from ctcspeech.emissions import Emissions, from_torchaudio, from_transformers
from ctcspeech.errors import FeatureError


def example():
    scores = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    return Emissions(scores, ["<blank>", " ", "ä", "b"], 0, 20.0, start=1.5)


def test_file_keeps_everything(tmp_path):
    emissions = example()
    emissions.save(tmp_path / "a.npz")
    loaded = Emissions.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.scores, emissions.scores)
    assert loaded.scores.dtype == np.float32
    assert (loaded.labels, loaded.blank) == (emissions.labels, 0)
    assert (loaded.frame_shift_ms, loaded.start) == (20.0, 1.5)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_times():
    emissions = example()
    assert emissions.duration == pytest.approx(0.14)
    np.testing.assert_allclose(emissions.seconds([0, 3]), [1.5, 1.56])
    np.testing.assert_allclose(np.exp(emissions.log_probs()).sum(1), 1.0)


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "a.npz"
    example().save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FeatureError, match="damaged"):
        Emissions.load(path)
    np.savez(path, scores=np.zeros((1, 1)))
    with pytest.raises(FeatureError, match="not a file of emissions"):
        Emissions.load(path)
    np.savez(path, header=json.dumps({"format": "ctcspeech-emissions", "version": 99}))
    with pytest.raises(FeatureError, match="version 99"):
        Emissions.load(path)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.zeros((2, 3, 4)), ["a"] * 4, 0, 10.0), "scores"),
        ((np.zeros((2, 3)), ["a"] * 4, 0, 10.0), "4 labels"),
        ((np.zeros((2, 3)), ["a"] * 3, 3, 10.0), "blank"),
        ((np.zeros((2, 3)), ["a"] * 3, 0, 0.0), "frame_shift_ms"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Emissions(*arguments)


def recordings(rate):
    rng = np.random.default_rng(1)
    return [rng.normal(0, 0.1, n).astype(np.float32) for n in (rate, rate // 2)]


def test_transformers_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABC"]
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    processor = transformers.Wav2Vec2Processor(
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000),
        tokenizer=transformers.Wav2Vec2CTCTokenizer(str(vocabulary)),
    )
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 64), conv_kernel=(10, 64),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config).eval()
    long, short = from_transformers(model, processor, recordings(16000))
    assert long.labels[4] == " " and long.labels[5:] == list("ABC")
    assert (long.blank, long.frame_shift_ms) == (0, 20.0)
    assert abs(long.duration - 1.0) < 0.05 and abs(short.duration - 0.5) < 0.05
    inputs = processor(recordings(16000)[1], sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0].numpy()
    np.testing.assert_allclose(short.scores, expected, atol=1e-6)
    assert forced_align(long.scores, [5, 6, 7], blank=long.blank)[0].ends[-1] <= len(long)


def test_torchaudio_model():
    models = pytest.importorskip("torchaudio.models")
    model = models.wav2vec2_model(**TINY_WAV2VEC2)

    class Bundle:
        sample_rate = 16000

        def get_labels(self):
            return ("-", "|", "A", "B", "C")

    long, short = from_torchaudio(Bundle(), model, recordings(16000))
    assert (long.labels, long.blank) == (["-", " ", "A", "B", "C"], 0)
    assert long.frame_shift_ms == 20.0
    assert len(long) == 49 and len(short) == 24
