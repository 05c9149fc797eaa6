"""Models exported for streams: state in and out of the graph, what torch gives."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch
from test_live import in_random_company, joined, listen, random_emitter, speech
from tone_stream import tone_emitter
from typer.testing import CliRunner

from ctcspeech.cli import app
from ctcspeech.errors import CheckpointError
from ctcspeech.exchange.streaming import StreamingOnnx, export_streaming
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.live.state import OnnxSource
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model


def saved(emitter, folder):
    save_checkpoint(folder, Checkpoint(emitter.model, emitter.features, emitter.alphabet))
    return folder


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("recurrent", ["gru", "lstm", "rnn"])
def test_the_graph_gives_what_torch_gives(tmp_path, steps, recurrent):
    emitter = random_emitter()
    if recurrent != "gru":
        torch.manual_seed(5)
        config = emitter.model.config.model_copy(update={"recurrent": recurrent})
        emitter.model = build_model(config, 13, len(emitter.alphabet)).eval()
    file = tmp_path / "model.onnx"
    assert export_streaming(saved(emitter, tmp_path / "run"), file, steps) < 1e-4
    exported = StreamingOnnx(file)
    generator = np.random.default_rng(4)
    lengths = [0, 100, 160, 161, 800, 3123, 9000, 20000]
    recordings = [0.1 * generator.standard_normal(n).astype(np.float32) for n in lengths]
    expected = [emitter.compute([samples])[0] for samples in recordings]
    found = in_random_company(OnnxSource(exported), recordings, generator)
    for item, other, whole in zip(found, exported.compute(recordings), expected, strict=True):
        assert item.shape == other.shape == whole.shape
        np.testing.assert_allclose(item, whole, atol=1e-4)
        np.testing.assert_allclose(other, whole, atol=1e-4)


def test_two_dimensional_convolutions(tmp_path):
    emitter = random_emitter()
    torch.manual_seed(6)
    config = DeepSpeech2Config(
        channels=[3, 4], time_width=[5, 3], time_stride=[2, 1], frequency_width=[5, 3],
        frequency_stride=[2, 2], layers=1, hidden=6, bidirectional=False, lookahead=2,
    )  # fmt: skip
    emitter.model = build_model(config, 13, len(emitter.alphabet)).eval()
    assert export_streaming(saved(emitter, tmp_path / "run"), tmp_path / "model.onnx", 2) < 1e-4


def test_a_stream_is_recognised(tmp_path):
    emitter = tone_emitter()
    export_streaming(saved(emitter, tmp_path / "run"), tmp_path / "model.onnx", 2)
    recognizer = StreamingRecognizer.load(
        tmp_path / "model.onnx", endpointing=Endpointing(2.0, 0.6)
    )
    assert isinstance(recognizer.source, OnnxSource)
    generator = np.random.default_rng(2)
    samples, texts = speech(0.5, generator)
    assert joined(listen(recognizer.stream(), samples, generator)).split() == texts


def test_what_cannot_be(tmp_path):
    emitter = random_emitter(deltas=1)
    with pytest.raises(CheckpointError, match="without deltas"):
        export_streaming(saved(emitter, tmp_path / "run"), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="no model for streams"):
        StreamingOnnx(tmp_path / "other.onnx")


def test_the_command(tmp_path):
    run = saved(tone_emitter(), tmp_path / "run")
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--streaming"])
    assert done.exit_code == 0 and "differ from torch's by at most" in done.output
    assert StreamingOnnx(tmp_path / "out" / "streaming.onnx").steps == 2
