"""Models exported for streams: state in and out of the graph, what torch gives."""

import json
import subprocess
import sys

import httpx
import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")

import torch
from serving import TEXT, pcm, spoken
from test_live import HIDDEN_END, in_random_company, joined, listen, random_emitter, speech
from test_without_torch import HIDE
from test_without_torch import verb as without_torch
from tone_language import RATE
from tone_stream import tone_emitter
from typer.testing import CliRunner
from websockets.sync.client import connect

from ctcspeech.cli import app
from ctcspeech.errors import CheckpointError
from ctcspeech.exchange.streaming import StreamingOnnx
from ctcspeech.exchange.streaming_export import export_streaming
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.live.state import OnnxSource
from ctcspeech.live.torch_state import has_state
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model


def saved(emitter, folder):
    save_checkpoint(folder, Checkpoint(emitter.model, emitter.features, emitter.alphabet))
    return folder


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("recurrent", ["gru", "lstm", "rnn", "gru, no end"])
def test_the_graph_gives_what_torch_gives(tmp_path, steps, recurrent):
    emitter = random_emitter(**HIDDEN_END) if recurrent == "gru, no end" else random_emitter()
    if recurrent in ("lstm", "rnn"):
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


def test_features_of_every_kind(tmp_path):
    """Scale, mean, pre-emphasis and window are products in the graph."""
    emitter = random_emitter(
        window_shape="povey", sample_scale=3.0, remove_mean=True, pre_emphasis=0.9,
        floor=1e-5, clamp_floor=True, fft_size=512, filters="kaldi", kind="mel",
    )  # fmt: skip
    assert export_streaming(saved(emitter, tmp_path / "run"), tmp_path / "model.onnx", 1) < 1e-4
    emitter = random_emitter(padding="mirror")
    assert not has_state(emitter)
    with pytest.raises(CheckpointError, match="padding"):
        export_streaming(saved(emitter, tmp_path / "run"), tmp_path / "other.onnx")


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
    (run / "confidence.json").write_text("{}")
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--streaming"])
    assert done.exit_code == 0 and "differ from torch's by at most" in done.output
    assert StreamingOnnx(tmp_path / "out" / "streaming.onnx").steps == 2
    assert (tmp_path / "out" / "confidence.json").read_text() == "{}"  # goes along


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported model in its folder, and a recording."""
    folder = tmp_path_factory.mktemp("exported")
    export_streaming(saved(tone_emitter(), folder / "run"), folder / "streaming.onnx", 2)
    soundfile.write(folder / "a.wav", spoken(TEXT, 1.0), RATE)
    return folder


def test_listens_and_transcribes_without_torch(exported):
    for model in (exported, exported / "streaming.onnx"):
        for verb in ("listen", "transcribe"):
            done = without_torch(verb, model, exported / "a.wav")
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() == TEXT


def test_serves_without_torch(exported):
    command = [sys.executable, "-c", HIDE + "from ctcspeech.cli import main; main()"]
    command += ["serve", f"tones={exported}", "--port", "0", "--silence", "0.5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            told = server.stderr.readline()
            assert told.startswith("serving tones at http://"), told + server.stderr.read()
            url = told.split(" at ")[1].strip()
            files = {"file": ("a.wav", (exported / "a.wav").read_bytes())}
            answer = httpx.post(f"{url}v1/audio/transcriptions", files=files, timeout=30)
            assert answer.json()["text"] == TEXT
            with connect(url.replace("http", "ws") + "v1/stream") as stream:
                stream.send(json.dumps({"type": "start", "sample_rate": RATE}))
                stream.send(pcm(np.concatenate([spoken(TEXT + " ", 1.5)] * 2)))
                stream.send('{"type": "end"}')
                found = [json.loads(message) for message in stream]
            assert [m["text"] for m in found if m["type"] == "final"] == [TEXT] * 2
        finally:
            server.terminate()
            assert server.wait(20) == 0
