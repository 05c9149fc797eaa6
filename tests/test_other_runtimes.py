"""The same exported file in sherpa-onnx, onnx-asr and here, on real recordings: equal texts, in 8
bits nearly.

A small model learns 120 commands of GRID for a minute: enough to write words, and to be unsure of
many, so that a front end that differs shows.
"""

import numpy as np
import pytest

from ctcspeech import Recognizer, audio, read_manifest
from ctcspeech.data.manifest import write_manifest
from ctcspeech.exchange.export import export
from ctcspeech.exchange.onnx_model import open_session
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

pytestmark = pytest.mark.data

CONFIG = """
[data]
train = "train.jsonl"
validation = "validation.jsonl"
batch_seconds = 16

[features]
preset = "nemo"

[model]
convolution = "1d"
channels = [64, 64]
time_width = [5, 5]
time_stride = [2, 2]
layers = 1
hidden = 160  # int8: with the GRU of 8-bit products
merge = "concat"

[train]
epochs = 10
learning_rate = 6e-3
schedule = "onecycle"
warmup = 0.2
tensorboard = false
device = "cpu"
threads = 1
"""


@pytest.fixture(scope="module")
def recordings(data_folder):
    utterances = read_manifest(data_folder / "grid_s1" / "train.jsonl")
    return [audio.load(item.audio_filepath, 16000)[0] for item in utterances[:250]]


@pytest.fixture(scope="module")
def exported(data_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    utterances = read_manifest(data_folder / "grid_s1" / "train.jsonl")
    write_manifest(folder / "train.jsonl", utterances[-120:])
    write_manifest(folder / "validation.jsonl", utterances[-6:])
    (folder / "config.toml").write_text(CONFIG)
    train(load_config(folder / "config.toml"), folder / "run")
    export(folder / "run", folder / "out", layout="nemo", int8=True)
    return folder / "out"


@pytest.fixture(scope="module", params=["model.onnx", "model.int8.onnx"])
def file(request, exported):
    return exported / request.param


def most_unlike(file):
    """How many texts may differ. In float32 none. Of 8 bits, what one build of onnxruntime (or one
    choice of its options) rounds up another rounds down, and this model is unsure of many letters:
    one of 8% errors writes 0 of 1492 words otherwise (benchmarks/results/exchange.md)."""
    return 37 if "int8" in file.name else 0  # of 250


def by_us(recognizer, samples):
    return recognizer.greedy_decoder().decode(recognizer.emissions([samples]))[0][0].text


def test_sherpa_onnx_writes_the_same_words(file, recordings):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    theirs = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        str(file), tokens=str(file.parent / "tokens.txt")
    )
    ours, words, unlike = Recognizer.load(file, threads=1), 0, 0
    for samples in recordings:
        stream = theirs.create_stream()
        stream.accept_waveform(16000, samples)
        theirs.decode_stream(stream)
        text = by_us(ours, samples).split()
        words += len(text)
        unlike += stream.result.text.split() != text
    assert len(recordings) == 250 and words > 3 * 250
    assert unlike <= most_unlike(file)


def test_onnx_asr_writes_the_words_of_its_own_features(file, recordings):
    """Its front end is not sherpa-onnx's: of what it computes, our session and our decoder write
    the same, recording by recording."""
    onnx_asr = pytest.importorskip("onnx_asr")
    quantization = "int8" if "int8" in file.name else None
    theirs = onnx_asr.load_model("nemo-conformer-ctc", file.parent, quantization=quantization)
    front_end = theirs.asr._preprocessor
    ours = Recognizer.load(file, threads=1)
    session, contract = open_session(file), ours.emitter.contract
    words = unlike = 0
    for samples in recordings:
        features, lengths = front_end(samples[None], np.array([len(samples)], np.int64))
        feed = dict(zip(contract.inputs, (features, lengths), strict=True))
        (scores,) = session.run(["log_probs"], feed)
        frames = (int(lengths[0]) - 1) // contract.subsampling + 1
        ((hypothesis,),) = ours.greedy_decoder().decode([scores[0][:frames]])
        text = theirs.recognize(samples)
        unlike += hypothesis.text.split() != text.split()
        words += len(text.split())
    assert len(recordings) == 250 and words > 3 * 250
    assert unlike <= most_unlike(file)
