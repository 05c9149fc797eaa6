"""Bulk work by real processes: of this machine, of Ray, with a bucket, by the command itself."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from bulk_models import broken, deadly, tones
from test_bulk import MODEL, calls, lines, transcribed  # noqa: F401  (calls is a fixture)
from test_export import MODELS, checkpoint_of, saved
from tone_language import RATE, say, words, write
from typer.testing import CliRunner

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.bulk.job import Bulk, Tally
from ctcspeech.bulk.local import run_processes
from ctcspeech.bulk.on_ray import RayOptions, run_ray
from ctcspeech.cli import app
from ctcspeech.errors import BulkError
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.text.alphabet import Alphabet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint whose weights are random: it says something for every recording."""
    torch.manual_seed(0)
    alphabet = Alphabet(["<blank>", " ", *"abcdefgh"])
    features = FeatureExtractor(FeatureConfig(sample_rate=RATE, normalization="none"))
    config = DeepSpeech2Config(
        convolution="1d", channels=[16], time_width=[5], time_stride=[2], hidden=16, layers=1
    )
    network = build_model(config, features.num_features, len(alphabet)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    folder = tmp_path_factory.mktemp("model") / "model"
    save_checkpoint(folder, Checkpoint(network, features, alphabet))
    return folder


def run(output, inputs, engine, **options):
    with Bulk(str(output), MODEL, {}, **options) as job:
        tally = job.prepare([str(name) for name in inputs])
        job.run(engine, tally, lambda tally: None)
        return job.storage, job.finish()


def processes(load, workers=2, told=None):
    def engine(job, todo, advance):
        yield from run_processes(job, load, todo, told or advance, workers)

    return engine


def command(*arguments, **options):
    """`ctcspeech` in a process group of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "ctcspeech", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_processes_set_poison_aside_and_do_the_rest(tmp_path, calls, monkeypatch):  # noqa: F811
    folder = tmp_path / "in"
    for k in range(8):
        name = "poison" if k == 5 else str(k)
        samples, rate = soundfile.read(calls / f"{k:02}.wav", dtype="float32")
        write(folder / f"{name}.wav", samples, rate)
    kills = tmp_path / "kills"
    monkeypatch.setenv("KILLS", str(kills))
    seconds = []
    engine = processes(deadly, told=seconds.append)
    storage, report = run(tmp_path / "out", [folder], engine, shards=1)
    assert kills.read_text().splitlines() == [str(folder / "poison.wav")] * 3
    assert report.failures == {"killed": 1} and report.recordings == 7
    assert "killed its worker 3 times" in storage.read("failed.jsonl").decode()
    assert sum(seconds) == pytest.approx(report.seconds)  # those of lost attempts taken back


def test_workers_that_never_start_are_told(tmp_path, calls):  # noqa: F811
    with pytest.raises(BulkError, match="3 workers died before the model was loaded .exit code 3"):
        run(tmp_path / "out", [calls / "calls.jsonl"], processes(broken, 1))


def test_the_command_is_killed_and_run_again(tmp_path, calls, model):  # noqa: F811
    manifest = calls / "calls.jsonl"
    plain = command("transcribe", model, manifest, "--format", "jsonl")
    expected = sorted(plain.communicate(timeout=120)[0].splitlines())
    assert len(expected) == 30 and len(set(expected)) == 30

    def bulk(*more):
        return command("bulk", model, manifest, "-o", tmp_path / "out", "--workers", 2, *more)

    def done():
        return list((tmp_path / "out").glob("run-*/done/*.json"))

    killed = bulk("--shards", 4)
    deadline = time.monotonic() + 120
    while not done() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)  # driver and workers, as when the machine goes
    killed.communicate()
    first = {path: path.read_bytes() for path in done()}
    assert first
    again = bulk("--shards", 3, "--price", 0.1)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert all(path.read_bytes() == data for path, data in first.items())  # nothing done twice
    found = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("run-*/results/*.jsonl"))
    assert sorted(found.decode().splitlines()) == expected
    assert "cost per thousand hours of audio" in out and "30/30 recordings" in error
    report = json.loads(next((tmp_path / "out").glob("run-*/report.json")).read_text())
    assert report["recordings"] == 30 and report["cost_per_thousand_hours"] > 0


def test_ctrl_c_ends_cleanly(tmp_path, model):
    generator = np.random.default_rng(1)
    for k in range(20):
        write(tmp_path / "in" / f"{k}.wav", np.tile(say("ab cd", generator), 400))
    running = command("bulk", model, tmp_path / "in", "-o", tmp_path / "out", "--workers", 1)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("run-*/attempts/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "what is done is kept" in error and "Traceback" not in error
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # no worker is left, nor what Python runs beside it
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process is left")


def test_slurm_array_and_parts(tmp_path, calls, model, monkeypatch):  # noqa: F811
    manifest = calls / "calls.jsonl"
    base = ["bulk", str(model), str(manifest), "-o", str(tmp_path / "out"), "--workers", "0"]
    runner = CliRunner()
    result = runner.invoke(app, [*base, "--engine", "slurm-array"])
    assert result.exit_code == 2 and "no task of a Slurm array" in result.stderr
    slurm = {"MIN": 1, "MAX": 2, "COUNT": 2, "STEP": 1}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (2, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        result = runner.invoke(app, [*base, "--engine", "slurm-array"])
        assert result.exit_code == 0 and f"part {task - 1} of 2 is done" in result.stdout
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    result = runner.invoke(app, [*base, "--engine", "slurm-array"])
    assert result.exit_code == 2 and "submit the whole range again" in " ".join(
        result.stderr.replace("│", "").split()
    )
    result = runner.invoke(app, [*base, "--part", "2/3"])
    assert result.exit_code == 0
    for wrong in ("3/3", "x", "1", "1/0"):
        assert runner.invoke(app, [*base, "--part", wrong]).exit_code == 2
    result = runner.invoke(app, [*base, "--dry-run"])
    assert "30 of 30 recordings are done" in result.stdout
    assert not list((tmp_path / "out").glob("run-*/report.json"))
    assert runner.invoke(app, base).exit_code == 0
    assert list((tmp_path / "out").glob("run-*/report.json"))


def test_wrong_usage_of_the_command(tmp_path, calls, model):  # noqa: F811
    base = ["bulk", str(model), str(calls / "calls.jsonl"), "-o", str(tmp_path / "out")]
    for more in (
        ["--engine", "ray", "--workers", "0"],
        ["--decoder", "greedy", "--beam-size", "4"],
        ["--workers", "0", "--metrics", "nowhere"],
    ):
        assert CliRunner().invoke(app, [*base, *more]).exit_code == 2, more
    result = CliRunner().invoke(app, [*base[:-1], "memory://x"])
    assert result.exit_code == 2 and "--workers 0" in result.stderr
    running = command(*base, "--lm-weight", 1, "--workers", 1)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 1 and "has no effect without a language model" in error
    assert "Traceback" not in error


def test_exit_codes_and_the_report_of_failures(tmp_path, calls, model):  # noqa: F811
    manifest = tmp_path / "m.jsonl"
    rows = [{"audio_filepath": str(calls / "00.wav")}, {"audio_filepath": "none.wav"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["bulk", str(model), str(manifest), "-o", str(tmp_path / "out"), "--workers", "0"]
    result = CliRunner().invoke(app, base)
    assert result.exit_code == 1 and "1 recordings failed (1 missing)" in result.stderr
    assert f"{tmp_path / 'none.wav'}: no such file" in result.stderr
    assert CliRunner().invoke(app, [*base, "--allow-failures"]).exit_code == 0
    parquet = CliRunner().invoke(app, [*base, "--format", "parquet", "--n-best", "2"])
    assert parquet.exit_code == 1
    assert len(list((tmp_path / "out").iterdir())) == 2  # other settings, another folder
    file = next((tmp_path / "out").glob("run-*/results/*.parquet"))
    (row,) = pyarrow.parquet.read_table(file).to_pylist()
    assert row["passages"][0]["hypotheses"][0]["text"] == row["text"]


def test_metrics():
    from ctcspeech.bulk.watch import Metrics

    metrics = Metrics("127.0.0.1:0")
    metrics.changed(Tally(10, 100.0, 4, 40.0, {"missing": 2}, 3))
    port = metrics._server.server_address[1]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    metrics.close()
    assert "ctcspeech_bulk_recordings_done 4.0" in text
    assert 'ctcspeech_bulk_failures{kind="missing"} 2.0' in text
    assert "ctcspeech_bulk_audio_seconds_total 100.0" in text


# -- a bucket on loopback


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An S3 server on loopback (moto), its bucket's URL."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    name = tmp_path.name.replace("_", "-")  # the server's buckets are those of the process
    filesystem.mkdir(name)
    yield f"s3://{name}", filesystem
    server.stop()
    type(filesystem).clear_instance_cache()


def test_a_bucket_of_s3(tmp_path, calls, bucket):  # noqa: F811
    url, filesystem = bucket
    for path in calls.glob("*.wav"):
        filesystem.put_file(str(path), f"{url}/calls/{path.name}")
    rows = [{"audio_filepath": f"calls/{k:02}.wav"} for k in range(30)]
    rows.append({"audio_filepath": "calls/none.wav"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    filesystem.pipe_file(f"{url}/calls.jsonl", text.encode())
    storage, report = run(f"{url}/out", [f"{url}/calls.jsonl"], processes(tones), shards=4)
    assert report.recordings == 30 and report.failures == {"missing": 1}
    found = [json.loads(line) for line in lines(storage)]
    expected = [json.loads(line) for line in transcribed(calls / "calls.jsonl")]
    for record in expected:
        record["audio_filepath"] = f"{url}/calls/{Path(record['audio_filepath']).name}"
    assert found == expected
    assert filesystem.ls(f"{url}/out", detail=False) == [storage.root]
    # A prefix, whose listing tells a replaced recording.
    storage, report = run(f"{url}/out2", [f"{url}/calls/"], processes(tones, 1))
    assert report.recordings == 30
    filesystem.put_file(str(calls / "01.wav"), f"{url}/calls/00.wav")
    with Bulk(f"{url}/out2", MODEL, {}) as job:
        tally = job.prepare([f"{url}/calls/"])
    assert tally.total - tally.done == 1


def test_a_bucket_that_is_not_there_is_told(bucket):
    from ctcspeech.bulk.storage import Storage
    from ctcspeech.errors import StorageError

    with pytest.raises(StorageError, match="cannot write s3://other/out/x: .* bucket"):
        Storage("s3://other/out").write("x", b"1")


# -- Ray


def test_ray(tmp_path, calls, monkeypatch):  # noqa: F811
    """Real Ray on this machine: one actor is killed by poison three times, the rest is as by one
    process."""
    pytest.importorskip("ray")
    generator = np.random.default_rng(3)
    folder = tmp_path / "in"
    for k in range(40):
        name = "poison" if k == 7 else f"{k:02}"
        write(folder / f"{name}.wav", say(" ".join(words(3, generator)), generator))
    kills = tmp_path / "kills"
    monkeypatch.setenv("KILLS", str(kills))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")  # on a busy machine
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bulk_models import deadly
from test_bulk_engines import ray_engine, run
storage, report = run({str(tmp_path / "out")!r}, [{str(folder)!r}], ray_engine(deadly), shards=4)
print(json.dumps([report.recordings, report.failures]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [39, {"killed": 1}]
    assert kills.read_text().splitlines() == [str(folder / "poison.wav")] * 3
    (folder / "poison.wav").unlink()
    storage, _ = run(tmp_path / "plain", [folder], processes(tones, 1), shards=4)
    with Bulk(str(tmp_path / "out"), MODEL, {}) as job:
        assert lines(job.storage) == lines(storage)
        assert job.storage.list("plan") == []


def ray_engine(load):
    def engine(job, todo, advance):
        yield from run_ray(job, load, todo, advance, RayOptions(workers=2))

    return engine


def test_threads_do_not_stay(tmp_path, calls):  # noqa: F811
    before = threading.active_count()
    run(tmp_path / "out", [calls / "calls.jsonl"], processes(tones, 1))
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["folder", "file", "hub"])
def test_models_of_onnx_and_of_a_hub(tmp_path, calls, monkeypatch, kind):  # noqa: F811
    """Each line is what `transcribe` says of that recording."""
    from ctcspeech import Recognizer
    from ctcspeech.exchange import hub
    from ctcspeech.exchange.export import export

    folder = tmp_path / "out"
    export(saved(tmp_path, checkpoint_of(MODELS["gru"], num_bins=20)), folder)
    name = {"folder": folder, "file": folder / "model.onnx", "hub": "hf:owner/name"}[kind]
    workers = "2"
    if kind == "hub":  # as fetched before; what fetches it, test_hub.py tries
        monkeypatch.setattr(hub, "fetch", lambda *arguments: folder)
        workers = "0"  # this process, where the hub is
    recordings = sorted(calls.glob("*.wav"))[:6]
    arguments = ["bulk", name, *recordings, "-o", tmp_path / "texts", "--workers", workers]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "texts").glob("run-*/results/*.jsonl")
    found = {
        Path(line["audio_filepath"]).name: line
        for line in map(json.loads, file.read_text().splitlines())
    }
    told = Recognizer.load(folder).transcribe(recordings)
    for path, item in zip(recordings, told, strict=True):
        assert found[path.name]["text"] == item.text and item.text
    # Another file of the same name is another model, whose results are its own.
    (folder / "config.json").write_text("{}")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0 and len(list((tmp_path / "texts").glob("run-*"))) == 2
