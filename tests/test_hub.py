"""Models of a hub, by a server here that speaks its protocol; and models of transformers, tiny,
with random weights, of several families."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from test_export import MODELS, RATE, checkpoint_of, saved, signals

from ctcspeech.errors import ModelError
from ctcspeech.exchange.export import export
from ctcspeech.exchange.hub import fetch

hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories of files: {name: {path: bytes}}. `cut`: files of which half is sent."""

    def __init__(self):
        self.repositories, self.cut, self.asked = {}, set(), []
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        self.hub.asked.append(path)
        parts = path.split("/")
        name = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        files = self.hub.repositories.get(name)
        if name == "owner/gated":
            return self.fail(403, "GatedRepo", "ask for access")
        if files is None:
            return self.fail(401, "RepoNotFound", "Repository not found")
        if parts[:2] == ["api", "models"]:
            if len(parts) > 5 and parts[5] not in ("main", "v1", COMMIT):
                return self.fail(404, "RevisionNotFound", "no such revision")
            if len(parts) > 4 and parts[4] == "tree":
                listed = [
                    {"type": "file", "path": k, "size": len(v), "oid": etag(v)}
                    for k, v in files.items()
                ]
                return self.send(200, json.dumps(listed).encode())
            listed = [{"rfilename": k} for k in files]
            about = {"id": name, "modelId": name, "sha": COMMIT, "siblings": listed}
            about |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
            return self.send(200, json.dumps(about).encode())
        file = "/".join(parts[4:])
        if file not in files:
            return self.fail(404, "EntryNotFound", "no such file")
        data = files[file]
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT}
        self.send(200, data, headers, half=file in self.hub.cut)

    def fail(self, status, code, message):
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status, data, headers=None, half=False):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self.close_connection = True


def etag(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    export(saved(folder, checkpoint_of(MODELS["gru"], num_bins=20)), folder / "out", int8=True)
    soundfile.write(folder / "a.wav", signals()[-1], RATE)
    made = Hub()
    files = {file.name: file.read_bytes() for file in (folder / "out").iterdir()}
    made.repositories["owner/ours"] = files | {"run_me.py": b"raise SystemExit(9)", ".git": b""}
    made.repositories["owner/pickled"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    made.repositories["owner/nothing"] = {"README.md": b"hello"}
    made.folder = folder
    yield made
    made.server.shutdown()
    made.server.server_close()


def transcribe(server, cache, name, **environment):
    variables = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(cache), **environment}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "ctcspeech", "transcribe", name, server.folder / "a.wav"]
    return subprocess.run(
        list(map(str, command)), env=variables, capture_output=True, text=True, timeout=120
    )


def test_fetched_once_then_from_the_cache(server, tmp_path):
    done = transcribe(server, tmp_path, "hf:owner/ours")
    assert done.returncode == 0, done.stderr
    offline = transcribe(server, tmp_path, "hf:owner/ours", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, done.stdout), offline.stderr
    # A hub that cannot be reached: what is in the cache is used.
    away = transcribe(server, tmp_path, "hf:owner/ours", HF_ENDPOINT="http://127.0.0.1:9")
    assert (away.returncode, away.stdout) == (0, done.stdout), away.stderr
    fetched = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    assert "model.onnx" in fetched and "run_me.py" not in fetched


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:owner/missing", "no such model"),
        ("hf:owner/ours@v9", "no revision v9"),
        ("hf:owner/gated", "access must be asked for"),
        ("hf:owner/pickled", "pickles only"),
        ("hf:owner/nothing", "neither safetensors nor"),
        ("hf:ours", "hf:owner/name"),
    ],
)
def test_what_cannot_be_had_is_told(server, tmp_path, name, message):
    done = transcribe(server, tmp_path, name)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_no_network_and_no_cache(server, tmp_path):
    done = transcribe(server, tmp_path, "hf:owner/ours", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "cannot be reached" in done.stderr or "cannot be fetched" in done.stderr
    done = transcribe(server, tmp_path, "hf:owner/ours", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "not in the cache" in done.stderr


def test_a_full_disk_in_mid_download(monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *a, **k: ["model.onnx"])
    with pytest.raises(ModelError, match="No space left"):
        fetch("hf:owner/ours")


# -- transformers -----------------------------------------------------------------------------


def pretrained(folder, family):
    """A model of random weights, saved as its users find it."""
    import torch
    import transformers

    folder.mkdir()
    labels = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C", "'"]
    (folder / "vocab.json").write_text(json.dumps({k: i for i, k in enumerate(labels)}))
    processor = transformers.Wav2Vec2Processor(
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000),
        tokenizer=transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")),
    )
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(labels), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, conv_dim=(16, 16, 16), conv_stride=(5, 4, 4), conv_kernel=(10, 4, 4),
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForCTC")(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM"])
def test_folders_of_transformers(tmp_path, family):
    pytest.importorskip("transformers")
    import torch

    from ctcspeech.recognize.recognizer import Recognizer

    model, processor = pretrained(tmp_path / "model", family)
    recognizer = Recognizer.load(tmp_path / "model", threads=1)
    assert recognizer.sample_rate == 16000 and recognizer.frame_shift_ms == pytest.approx(5)
    assert recognizer.alphabet.blank == 0 and recognizer.normalizer("a b") == "A B"
    samples = 0.1 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    inputs = processor(samples, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    (found,) = recognizer.emissions([samples])
    np.testing.assert_allclose(found, logits.log_softmax(-1).numpy(), atol=1e-4)
    text = processor.batch_decode(logits.argmax(-1)[None])[0]
    ((hypothesis,),) = recognizer.greedy_decoder().decode([found])
    assert hypothesis.text.split() == text.split()


def test_pickles_are_never_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    from ctcspeech.recognize.recognizer import Recognizer

    model, _ = pretrained(tmp_path / "model", "Wav2Vec2")
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        Recognizer.load(tmp_path / "model")
    assert transformers.__version__
