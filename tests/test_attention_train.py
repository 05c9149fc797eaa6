"""Training with an attention decoder, on tones: it learns beside CTC and alone, resumes exactly, is
averaged, exchanged between processes, kept in checkpoints, and fine-tuned."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tone_training import metrics, silent, train_in_parts
from tones import write_corpus

from ctcspeech.data.dataset import SpeechDataset, collate
from ctcspeech.data.manifest import read_manifest
from ctcspeech.errors import ConfigError
from ctcspeech.model.attention import attention_loss
from ctcspeech.model.checkpoint import load_checkpoint
from ctcspeech.train.config import load_config
from ctcspeech.train.ema import MovingAverage
from ctcspeech.train.trainer import train

SIZES = "hidden = 32, embedding = 16, size = 16, channels = 4, width = 7, dropout = 0.0"
HEAD = f"model.attention={{{SIZES}}}"
JOINT = [HEAD, "train.ctc_weight=0.5", "train.scheduled_sampling=0.2"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_corpus(folder / "data", "train", 48, 1)
    write_corpus(folder / "data", "dev", 12, 2)
    (folder / "tones.toml").write_text((Path(__file__).parent / "tones.toml").read_text())
    return folder


def configured(corpus, *overrides):
    return load_config(corpus / "tones.toml", overrides)


def greedy(checkpoint, manifest):
    """Errors of CTC's and of the attention decoder's greedy texts, in labels of the reference."""
    utterances = read_manifest(manifest)
    dataset = SpeechDataset(utterances, checkpoint.alphabet, checkpoint.features.config)
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        features, lengths = checkpoint.features(batch.inputs, batch.input_lengths)
        emissions, states, frames = checkpoint.model.states(features, lengths)
        texts = checkpoint.model.attention.greedy(states, frames, 40, checkpoint.alphabet.blank)
    right = {"ctc": 0, "attention": 0}
    for i, utterance in enumerate(utterances):
        path = emissions[i, : frames[i]].argmax(-1).tolist()
        ctc = checkpoint.alphabet.decode(checkpoint.alphabet.collapse(path))
        right["ctc"] += ctc == utterance.text
        right["attention"] += checkpoint.alphabet.decode(texts[i]) == utterance.text
    return {name: count / len(utterances) for name, count in right.items()}


LEARNING = ["data.batch_seconds=3", "train.epochs=12", "train.attention_smoothing=0"]


def test_both_learn(corpus, tmp_path):
    config = configured(corpus, *JOINT, *LEARNING)
    result = train(config, tmp_path / "run", report=silent)
    right = greedy(load_checkpoint(result), corpus / "data" / "dev.jsonl")
    assert right["ctc"] > 0.5
    lines = metrics(tmp_path / "run", "epoch")
    assert lines[-1]["attention_loss"] < 0.5 * lines[0]["attention_loss"]


def test_attention_alone_is_validated_by_its_own_texts(corpus, tmp_path):
    changes = [HEAD, "train.ctc_weight=0", *LEARNING]
    result = train(configured(corpus, *changes), tmp_path / "run", report=silent)
    checkpoint = load_checkpoint(result)
    right = greedy(checkpoint, corpus / "data" / "dev.jsonl")
    assert right["ctc"] == 0 and right["attention"] > 0.1
    assert checkpoint.info["cer"] < 0.6  # untrained it is above 10: it does not end


def test_a_stopped_run_goes_on_exactly(corpus, tmp_path):
    config = configured(corpus, *JOINT, "train.epochs=3", "train.ema=0.9")
    train(config, tmp_path / "whole", report=silent)
    train_in_parts(config, tmp_path / "parts", 2, 7)
    for place in ("checkpoints/last", "model"):  # the weights, and their moving average
        one, other = (
            load_checkpoint(tmp_path / run / place).model.state_dict() for run in ("whole", "parts")
        )
        assert any(name.startswith("attention.") for name in one)
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    wanted, got = (metrics(tmp_path / run, "epoch") for run in ("whole", "parts"))
    assert [line["attention_loss"] for line in got] == [line["attention_loss"] for line in wanted]


def test_the_moving_average_has_the_decoder(corpus, tmp_path):
    result = train(configured(corpus, *JOINT, "train.epochs=1"), tmp_path / "run", report=silent)
    model = load_checkpoint(result).model
    average = MovingAverage(model, 0.5)
    before = model.attention.output.weight.clone()
    average.update(model)
    with torch.no_grad():
        model.attention.output.weight += 1.0
    average.update(model)
    # d_2 = min(0.5, 2 / 11)
    want = before + (1 - 2 / 11)
    torch.testing.assert_close(average.model.attention.output.weight, want)


def test_a_checkpoint_round_trip_and_its_loss(corpus, tmp_path):
    changes = [*JOINT, "train.epochs=2", "train.attention_smoothing=0", "train.average=false"]
    result = train(configured(corpus, *changes), tmp_path / "run", report=silent)
    checkpoint = load_checkpoint(result)
    assert checkpoint.model.config.attention.width == 7
    dataset = SpeechDataset(
        read_manifest(corpus / "data" / "dev.jsonl"), checkpoint.alphabet,
        checkpoint.features.config,
    )  # fmt: skip
    # The validation's loss is that of the two, each computed on its own, one by one.
    total = labels = 0.0
    for i in range(len(dataset)):
        item = collate([dataset[i]])
        with torch.no_grad():
            features, lengths = checkpoint.features(item.inputs, item.input_lengths)
            emissions, states, frames = checkpoint.model.states(features, lengths)
            logits, _ = checkpoint.model.attention(states, frames, item.targets)
        ctc = torch.nn.functional.ctc_loss(
            emissions.log_softmax(-1).transpose(0, 1), item.targets, frames, item.target_lengths,
            checkpoint.alphabet.blank, reduction="sum",
        )  # fmt: skip
        attention = attention_loss(logits, item.targets, item.target_lengths)
        total += 0.5 * float(ctc) + 0.5 * float(attention)
        labels += int(item.target_lengths)
    assert checkpoint.info["loss"] == pytest.approx(total / labels, rel=1e-4)


def test_fine_tuning_with_and_without_the_decoder(corpus, tmp_path):
    plain = train(configured(corpus, "train.epochs=1"), tmp_path / "plain", report=silent)
    base = load_checkpoint(plain).model
    short = ["train.epochs=1", "train.learning_rate=1e-12"]
    added = train(
        configured(corpus, *JOINT, *short, f"train.init_from={plain}"),
        tmp_path / "joint", report=silent,
    )  # fmt: skip
    joint = load_checkpoint(added).model
    torch.testing.assert_close(joint.output.weight, base.output.weight)
    assert joint.attention is not None
    again = train(
        configured(corpus, *short, f"train.init_from={added}"), tmp_path / "again", report=silent
    )
    dropped = load_checkpoint(again).model
    assert dropped.attention is None
    torch.testing.assert_close(dropped.output.weight, base.output.weight)
    other = HEAD.replace("hidden = 32", "hidden = 16")
    with pytest.raises(ConfigError, match=r"attention\.hidden"):
        train(
            configured(corpus, other, f"train.init_from={added}"),
            tmp_path / "other", report=silent,
        )  # fmt: skip


def test_keys_without_effect_are_refused(corpus, tmp_path):
    for key in ("ctc_weight=0.7", "scheduled_sampling=0.1", "attention_smoothing=0"):
        with pytest.raises(ConfigError, match=rf"train\.{key.split('=')[0]} has no effect"):
            train(configured(corpus, f"train.{key}"), tmp_path / "run", report=silent)
    with pytest.raises(ConfigError, match=r"train\.ctc_weight.*less than 1"):
        configured(corpus, "train.ctc_weight=1")
    with pytest.raises(ConfigError, match=r"model\.attention\.sise is unknown.*attention\.size"):
        configured(corpus, "model.attention.sise=3")


def test_the_run_keeps_its_configuration(corpus, tmp_path):
    config = configured(corpus, *JOINT, "train.epochs=1")
    train(config, tmp_path / "run", report=silent)
    assert load_config(tmp_path / "run" / "config.toml").model == config.model


PROGRAM = """
import sys, torch
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train
torch.set_num_threads(1)
train(load_config(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


def test_two_processes_train_together(corpus, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(program), str(corpus / "tones.toml"), str(tmp_path / "run"), "train.epochs=3"),
        *JOINT,
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = metrics(tmp_path / "run", "epoch")
    assert [line["utterances"] for line in lines] == [48] * 3
    assert lines[-1]["attention_loss"] < lines[0]["attention_loss"]
