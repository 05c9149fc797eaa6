"""Training end to end on tones: it learns, resumes exactly, reports what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import torch
from tone_training import differences, metrics, silent, train_in_parts, write_training

from ctcspeech.errors import ConfigError, ManifestError, TrainingError
from ctcspeech.model.checkpoint import load_checkpoint, load_training
from ctcspeech.train import learner
from ctcspeech.train import trainer as train_module
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_training(folder)
    return folder


def configured(corpus, *overrides):
    return load_config(corpus / "tones.toml", overrides)


def test_it_learns_and_the_result_transcribes(corpus, tmp_path):
    lines = []
    config = configured(corpus, "train.epochs=14")
    result = train(config, tmp_path / "run", report=lines.append)
    epochs = metrics(tmp_path / "run", "epoch")
    assert [line["epoch"] for line in epochs] == list(range(1, 15))
    assert epochs[-1]["validation_cer"] < 0.1 < epochs[0]["validation_cer"]
    checkpoint = load_checkpoint(result)
    assert result == tmp_path / "run" / "model"
    assert checkpoint.info["wer"] <= min(line["validation_wer"] for line in epochs)
    assert checkpoint.frame_shift_ms == 20
    # What was said to be kept is kept: the best three, by the metric of choice.
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch-*")}
    ranked = sorted(
        epochs,
        key=lambda e: (
            e["validation_wer"],
            e["validation_wer"],
            e["validation_cer"],
            e["validation_loss"],
        ),
    )
    assert kept == {f"epoch-{line['epoch']:04d}" for line in ranked[:3]}
    # An independent look: decode a recording with nothing but the checkpoint.
    from ctcspeech.audio.read import load
    from ctcspeech.data.manifest import read_manifest

    utterance = read_manifest(corpus / "validation.jsonl")[0]
    samples, _ = load(utterance.audio_filepath, checkpoint.features.config.sample_rate)
    with torch.no_grad():
        features, lengths = checkpoint.features(
            torch.from_numpy(samples)[None], torch.tensor([len(samples)])
        )
        path = checkpoint.model(features, lengths)[0][0].argmax(-1).tolist()
    alphabet = checkpoint.alphabet
    # Releases of torch round differently: one letter may be wrong after so short a training.
    assert jiwer.cer(utterance.text, alphabet.decode(alphabet.collapse(path))) < 0.2
    text = "\n".join(lines)
    assert "48 utterances" in text and "WER" in text and "where the time went" in text
    profile = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert {"data", "features", "forward", "loss", "backward"} <= profile["parts"].keys()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core
@pytest.mark.parametrize(
    ("stops", "workers"), [([2], 0), ([5, 6, 11], 0), ([2, 7], 1), ([3, 11], 2)]
)
def test_a_stopped_run_goes_on_exactly(corpus, tmp_path, stops, workers):
    """Stopped by a signal after some steps, in mid-epoch: same weights, bit for bit, same log."""
    config = configured(corpus, "train.epochs=3", f"data.workers={workers}")
    train(config, tmp_path / "whole", report=silent)
    steps = len(metrics(tmp_path / "whole", "step"))
    assert steps > 11 and steps % 3 == 0

    lines = []
    train_in_parts(config, tmp_path / "parts", *stops, report=lines.append)
    assert any("--resume" in line for line in lines)
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))


def test_a_killed_run_goes_on_exactly_from_its_last_checkpoint(corpus, tmp_path, monkeypatch):
    """Ended without warning: what came after the last checkpoint is done, and logged, again."""
    config = configured(corpus, "train.epochs=3", "train.accumulate=2", "data.workers=1")
    train(config, tmp_path / "whole", report=silent)
    take_step = train_module.Trainer._step

    def dying(self, batches, progress):
        if batches and self.step == 5:
            raise MemoryError
        return take_step(self, batches, progress)

    with monkeypatch.context() as patched:
        patched.setattr(train_module.Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "parts", report=silent)
    train(config, tmp_path / "parts", resume=True, report=silent)
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))


def test_a_loss_that_is_no_number_names_the_utterance(corpus, tmp_path, monkeypatch):
    config = configured(corpus, "train.epochs=2")
    spoiled = {}

    compute = learner.ctc_loss

    def poisoned(emissions, *arguments, **options):
        losses = compute(emissions, *arguments, **options)
        if spoiled.get("now"):
            losses = losses * torch.where(torch.arange(len(losses)) == 1, float("nan"), 1.0)
        return losses

    prepare = learner.Learner.prepare

    def watched(self, batch, epoch):
        spoiled["now"] = epoch == 1
        spoiled["path"] = batch.utterances[1].path
        spoiled["good"] = batch.utterances[0].path
        return prepare(self, batch, epoch)

    monkeypatch.setattr(learner, "ctc_loss", poisoned)
    monkeypatch.setattr(learner.Learner, "prepare", watched)
    with pytest.raises(TrainingError) as caught:
        train(config, tmp_path / "run", report=silent)
    message = str(caught.value)
    assert str(spoiled["path"]) in message and str(spoiled["good"]) not in message
    assert "(nan)" in message and str(tmp_path / "run" / "checkpoints" / "last") in message
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last")
    assert last.info["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in last.model.state_dict().values())


def test_infeasible_and_unreadable_utterances_are_reported_and_left_out(corpus, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(corpus, folder)
    lines = (folder / "train.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["text"] = "ab" * 200
    second = json.loads(lines[1])
    (folder / second["audio_filepath"]).write_bytes(b"no audio at all")
    (folder / "train.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    reported = []
    train(configured(folder, "train.epochs=1"), tmp_path / "run", report=reported.append)
    text = "\n".join(reported)
    assert "left out 1 of 48 utterances: text too long for the recording" in text
    assert first["audio_filepath"] in text and "400 labels" in text
    assert f"left out {folder / second['audio_filepath']}" in text
    assert "training on 47 utterances" in text


def test_an_untrained_model_prefers_the_blank(corpus, tmp_path):
    """A step of almost no learning rate leaves the weights as they were drawn."""

    def begun(name, *overrides):
        still = ["train.epochs=1", "train.learning_rate=1e-12", "train.weight_decay=0"]
        config = configured(corpus, *still, *overrides)
        return load_checkpoint(train(config, tmp_path / name, report=silent))

    even, preferring = begun("even", "train.blank_bias=0"), begun("preferring")
    assert preferring.config["train"]["blank_bias"] == 3
    blank = even.alphabet.blank
    expected = even.model.output.bias.detach().clone()
    expected[blank] += 3
    torch.testing.assert_close(preferring.model.output.bias.detach(), expected, atol=1e-6, rtol=0)
    weights = even.model.output.weight, preferring.model.output.weight
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)
    # A model that has been trained keeps what it has learnt of the blank.
    tuned = begun("tuned", f"train.init_from={tmp_path / 'even'}", "train.blank_bias=7")
    torch.testing.assert_close(tuned.model.output.bias, even.model.output.bias, atol=1e-6, rtol=0)


def test_fine_tuning_with_another_alphabet(corpus, tmp_path):
    start = train(configured(corpus, "train.epochs=1"), tmp_path / "first", report=silent)
    folder = tmp_path / "more"
    shutil.copytree(corpus, folder)
    manifest = (folder / "train.jsonl").read_text().replace('"text": "a', '"text": "e')
    (folder / "train.jsonl").write_text(manifest)
    # Without [model] and [features] those of the checkpoint are taken.
    (folder / "tune.toml").write_text(
        '[data]\ntrain = "train.jsonl"\nbatch_seconds = 8\n'
        f'[train]\nepochs = 1\ntensorboard = false\nlearning_rate = 1e-9\ninit_from = "{start}"\n'
    )
    tuned = load_checkpoint(
        train(load_config(folder / "tune.toml"), tmp_path / "second", report=silent)
    )
    before = load_checkpoint(start)
    assert tuned.alphabet.labels == [*before.alphabet.labels, "e"]
    assert tuned.model.config == before.model.config
    rows = tuned.model.output.weight[: len(before.alphabet)]
    torch.testing.assert_close(rows, before.model.output.weight, atol=1e-6, rtol=1e-5)
    assert torch.equal(tuned.features.statistics.mean, before.features.statistics.mean)
    with pytest.raises(ConfigError, match=r"another \[model\] \(\['hidden'\]\)"):
        config = load_config(
            folder / "tune.toml",
            [
                "model.convolution=1d",
                "model.channels=[32]",
                "model.time_width=[5]",
                "model.time_stride=[2]",
                "model.layers=1",
                "model.hidden=16",
                "model.merge=concat",
            ],
        )
        train(config, tmp_path / "third", report=silent)


def test_what_is_missing_or_inconsistent_is_said(corpus, tmp_path):
    with pytest.raises(ManifestError, match="data.train: there is no manifest .*nothing.jsonl"):
        train(configured(corpus, "data.train=nothing.jsonl"), tmp_path / "run", report=silent)
    train(configured(corpus, "train.epochs=1"), tmp_path / "run", report=silent)
    with pytest.raises(TrainingError, match="already holds a run: go on with --resume"):
        train(configured(corpus, "train.epochs=1"), tmp_path / "run", report=silent)
    with pytest.raises(ConfigError, match="train.learning_rate changed"):
        config = configured(corpus, "train.epochs=1", "train.learning_rate=1")
        train(config, tmp_path / "run", resume=True, report=silent)
    with pytest.raises(ConfigError, match="train.device: must be auto, cpu or cuda"):
        configured(corpus, "train.device=abacus")


def test_resuming_with_other_data(corpus, tmp_path):
    """Refused with what differs; forced, the run goes on with them."""
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    short = configured(folder, "train.epochs=1")
    train(short, tmp_path / "run", report=silent)
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])["audio_filepath"]
    with open(folder / "train.jsonl", "a") as file:
        file.write(json.dumps({"audio_filepath": first, "duration": 0.2, "text": "a"}) + "\n")
    longer = configured(folder, "train.epochs=2")
    with pytest.raises(TrainingError, match=r"train\.jsonl .* 48 utterances then, 49 now.*--force"):
        train(longer, tmp_path / "run", resume=True, report=silent)
    lines = []
    train(longer, tmp_path / "run", resume=True, report=lines.append, force=True)
    assert any("going on with other data" in line for line in lines)
    assert [e["utterances"] for e in metrics(tmp_path / "run", "epoch")] == [48, 49]
    # Now they are the run's data.
    train(longer, tmp_path / "run", resume=True, report=silent)


def test_early_stopping(corpus, tmp_path):
    lines = []
    config = configured(corpus, "train.patience=1", "train.learning_rate=1e-12")
    train(config, tmp_path / "run", report=lines.append)
    assert len(metrics(tmp_path / "run", "epoch")) < 8
    assert any("training stops early" in line for line in lines)


def test_a_budget_of_minutes_ends_training_with_the_schedule_at_its_end(
    corpus, tmp_path, monkeypatch
):
    # A clock by which each step takes a tenth of a second.
    monkeypatch.setattr(train_module.Trainer, "elapsed", property(lambda self: self.step / 10))
    config = configured(corpus, "train.epochs=10000", "train.max_minutes=0.05")
    train(config, tmp_path / "run", report=silent)
    steps = metrics(tmp_path / "run", "step")
    assert len(steps) == 30  # 3 seconds
    rates = [line["learning_rate"] for line in steps]
    assert max(rates) == pytest.approx(1e-2, rel=1e-3) and rates[-1] < 1e-4
    last = metrics(tmp_path / "run", "epoch")[-1]
    assert last["step"] == 30 and "validation_wer" in last


PROGRAM = """
import sys
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train
train(load_config(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


def test_two_processes_train_together(corpus, tmp_path):
    """DistributedDataParallel over gloo: both see all steps, one writes the run."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(program), str(corpus / "tones.toml"), str(run), "train.epochs=6"),
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/6: 48 utterances") == 1
    epochs = metrics(run, "epoch")
    assert [line["utterances"] for line in epochs] == [48] * 6
    assert epochs[-1]["validation_cer"] < epochs[0]["validation_cer"]


def test_the_command(corpus, tmp_path):
    """The verb itself: SIGINT ends with 130 and says how to go on; unknown keys end with 1."""
    command = [sys.executable, "-m", "ctcspeech", "train", str(corpus / "tones.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = dict(env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wrong = subprocess.run([*command, "model.hiden=3"], check=False, timeout=60, **options)
    assert wrong.returncode == 1
    assert "model.hiden is unknown; did you mean model.hidden?" in wrong.stderr
    run = ["--run", str(tmp_path / "run"), "train.epochs=5000"]
    with subprocess.Popen([*command, *run], **options) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in output
    assert load_training(tmp_path / "run" / "checkpoints" / "last")["step"] > 0
