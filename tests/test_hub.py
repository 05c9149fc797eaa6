"""Models of a hub, by a server here that speaks its protocol; and models of transformers, tiny,
with random weights, of several families."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from test_export import MODELS, RATE, checkpoint_of, saved, signals
from tiny_wav2vec2 import TINY_WAV2VEC2

from ctcspeech.errors import ModelError
from ctcspeech.exchange.export import export
from ctcspeech.exchange.hub import fetch

hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories of files: {name: {path: bytes}}. `cut`: files of which half is sent, at most."""

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
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send(206 if start else 200, data, headers, start, half=file in self.hub.cut)

    def fail(self, status, code, message):
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status, data, headers=None, start=0, half=False):
        self.send_response(status)
        headers = {"Content-Length": str(len(data) - start), **(headers or {})}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[start : len(data) // 2] if half else data[start:])
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
    files["lm.bin"] = bytes(5000)  # beside the model; greedy decoding does not open it
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


def test_a_full_disk_in_mid_download(monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename="model.onnx")])
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *a, **k: info)
    with pytest.raises(ModelError, match="No space left"):
        fetch("hf:owner/ours")


@pytest.mark.parametrize("cut", ["model.onnx", "lm.bin"])
def test_of_a_download_that_was_cut_nothing_is_used(server, tmp_path, cut):
    server.cut.add(cut)
    try:
        done = transcribe(server, tmp_path, "hf:owner/ours")
    finally:
        server.cut.clear()
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    # Without the hub: also where the model itself is whole, and only its language model is not.
    offline = transcribe(server, tmp_path, "hf:owner/ours", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "Traceback" not in offline.stderr
    assert "a download was cut before" in offline.stderr and cut in offline.stderr
    whole = transcribe(server, tmp_path, "hf:owner/ours")
    assert whole.returncode == 0, whole.stderr
    (kept,) = tmp_path.rglob(f"snapshots/*/{cut}")
    assert kept.read_bytes() == server.repositories["owner/ours"][cut]
    again = transcribe(server, tmp_path, "hf:owner/ours", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, whole.stdout), again.stderr


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


def with_adapter(folder, language, labels):
    """A model in the manner of MMS: labels by language, and one more language's adapter."""
    import safetensors.torch
    import torch
    import transformers

    folder.mkdir()
    vocabulary = {"eng": ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"], language: labels}
    tables = {key: {k: i for i, k in enumerate(value)} for key, value in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(tables))
    processor = transformers.Wav2Vec2Processor(
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000),
        tokenizer=transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang="eng"),
    )
    torch.manual_seed(0)

    def model(size):
        return transformers.Wav2Vec2ForCTC(
            transformers.Wav2Vec2Config(
                vocab_size=size, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=32, conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 4),
                num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
                adapter_attn_dim=8, do_stable_layer_norm=True,
            )
        ).eval()  # fmt: skip

    made, other = model(len(tables["eng"])), model(len(labels))
    other.load_state_dict(
        {k: v for k, v in made.state_dict().items() if "lm_head" not in k}, strict=False
    )
    for name, weights in other._get_adapters().items():
        if "lm_head" not in name:
            torch.nn.init.normal_(weights, std=0.5)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    adapter = {k: v.detach().contiguous() for k, v in other._get_adapters().items()}
    safetensors.torch.save_file(adapter, folder / f"adapter.{language}.safetensors")
    return made, other, processor


def test_a_language_of_mms_is_chosen(tmp_path):
    pytest.importorskip("transformers")
    import torch

    from ctcspeech.recognize.recognizer import Recognizer

    labels = ["<pad>", "<s>", "</s>", "<unk>", "|", "é", "C", "D", "'"]
    english, french, processor = with_adapter(tmp_path / "mms", "fra", labels)
    samples = 0.1 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    inputs = processor(samples, sampling_rate=16000, return_tensors="pt")
    for name, model in (("mms", english), ("mms#fra", french)):
        recognizer = Recognizer.load(str(tmp_path / name), threads=1)
        with torch.inference_mode():
            wanted = model(**inputs).logits[0].log_softmax(-1).numpy()
        np.testing.assert_allclose(recognizer.emissions([samples])[0], wanted, atol=1e-4)
        assert ("é" in recognizer.alphabet.labels) == (model is french)
    with pytest.raises(ModelError, match="no adapter for the language 'deu'; it has fra"):
        Recognizer.load(str(tmp_path / "mms#deu"))


def test_adapters_of_other_languages_are_not_fetched():
    from ctcspeech.exchange.hub import _wanted

    adapters = [f"adapter.{language}.safetensors" for language in ("deu", "eng", "fra")]
    files = ["config.json", "vocab.json", "model.safetensors", "adapter.fra.bin", *adapters]
    plain = ["config.json", "vocab.json", "model.safetensors"]
    assert _wanted("a/b", files, None) == plain
    assert _wanted("a/b", files, "fra") == [*plain, "adapter.fra.safetensors"]
    with pytest.raises(ModelError, match="'rus'; it has deu, eng, fra"):
        _wanted("a/b", files, "rus")


def test_only_transformers_have_languages(server):
    from ctcspeech.recognize.recognizer import Recognizer

    with pytest.raises(ModelError, match="only models of transformers"):
        Recognizer.load(f"{server.folder / 'out'}#fra")


# -- torchaudio -------------------------------------------------------------------------------


def tiny_bundle(pipelines, monkeypatch, normalize, kind="Wav2Vec2ASRBundle", **more):
    """A real bundle, random weights in place of those that it would fetch."""
    import torch
    from torchaudio.models import wav2vec2_model
    from torchaudio.pipelines._wav2vec2 import utils

    torch.manual_seed(0)
    state = wav2vec2_model(**TINY_WAV2VEC2).state_dict()
    monkeypatch.setattr(utils, "_get_state_dict", lambda *a, **k: state)
    labels = ("|", "A", "B", "C") if kind == "Wav2Vec2ASRBundle" else ("a", "b", "c", "d")
    bundle = getattr(pipelines, kind)(
        "tiny.pth", TINY_WAV2VEC2, 16000, normalize, "Wav2Vec2", _labels=labels, **more
    )
    monkeypatch.setattr(pipelines, "TINY", bundle, raising=False)
    return bundle


@pytest.mark.parametrize("normalize", [False, True])
def test_pipelines_of_torchaudio(monkeypatch, normalize):
    pipelines = pytest.importorskip("torchaudio.pipelines")
    import torch

    from ctcspeech.recognize.recognizer import Recognizer

    bundle = tiny_bundle(pipelines, monkeypatch, normalize)
    recognizer = Recognizer.load("torchaudio:TINY", threads=1)
    assert (recognizer.sample_rate, recognizer.frame_shift_ms) == (16000, 20)
    assert recognizer.alphabet.labels == ["-", " ", "A", "B", "C"]
    samples = 0.1 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    with torch.inference_mode():
        wanted = bundle.get_model()(torch.from_numpy(samples)[None])[0][0].log_softmax(-1)
    found, short = recognizer.emissions([samples, samples[:300]])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    assert short.shape == (0, 5)


def test_a_pipeline_for_alignment_is_without_its_star(monkeypatch):
    pipelines = pytest.importorskip("torchaudio.pipelines")
    from ctcspeech.recognize.recognizer import Recognizer

    tiny_bundle(pipelines, monkeypatch, False, "Wav2Vec2FABundle")
    recognizer = Recognizer.load("torchaudio:TINY", threads=1)
    assert recognizer.alphabet.labels == ["-", "a", "b", "c", "d"]
    (found,) = recognizer.emissions([np.zeros(9000, np.float32)])
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)


def test_pipelines_that_cannot_be_had(monkeypatch):
    pipelines = pytest.importorskip("torchaudio.pipelines")
    from torchaudio.pipelines._wav2vec2 import utils

    from ctcspeech.recognize.recognizer import Recognizer

    def away(*arguments, **options):
        raise OSError("no route to host")

    tiny_bundle(pipelines, monkeypatch, False)
    monkeypatch.setattr(utils, "_get_state_dict", away)
    with pytest.raises(ModelError, match="cannot fetch TINY: no route"):
        Recognizer.load("torchaudio:TINY")
    for name in ("NOTHING", "Wav2Vec2ASRBundle"):
        with pytest.raises(ModelError, match=f"no CTC pipeline '{name}'; it has .*TINY"):
            Recognizer.load(f"torchaudio:{name}")
    with pytest.raises(ModelError, match="CPU alone"):
        Recognizer.load("torchaudio:TINY", device="cuda")


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
