"""Dropout across time, noise on the weights, intermediate CTC: against what is computed by hand."""

import itertools

import numpy as np
import pytest
import torch
from tone_training import differences, metrics, silent, train_in_parts, write_training
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config, build_model
from ctcspeech.model.dropout import PackedDropout
from ctcspeech.model.recurrent import RecurrentLayer
from ctcspeech.train.config import load_config
from ctcspeech.train.intermediate import IntermediateNetwork
from ctcspeech.train.learner import Learner
from ctcspeech.train.trainer import train
from ctcspeech.train.weight_noise import noisy

LENGTHS = [3, 7, 5, 7]
OPTIONS = [
    ["model.dropout=0.3", "model.dropout_per=utterance", "model.state_dropout=0.3"],
    ["train.weight_noise=0.02"],
    ["model.layers=2", "train.intermediate_ctc=0.3"],
]


def packed_frames(values: torch.Tensor):
    return pack_padded_sequence(values, torch.tensor(LENGTHS), True, enforce_sorted=False)


# -- dropout ----------------------------------------------------------------------------------


def test_a_mask_is_an_utterances_and_of_all_its_frames():
    torch.manual_seed(0)
    layer, ones = PackedDropout(0.25, "utterance"), torch.ones(4, 7, 4000)
    found, lengths = pad_packed_sequence(layer(packed_frames(ones)), batch_first=True)
    assert lengths.tolist() == LENGTHS
    masks = [item[0] for item in found]
    for item, mask, length in zip(found, masks, LENGTHS, strict=True):
        assert torch.equal(item[:length], mask.expand(length, -1))
        assert set(mask.tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
        # Unbiased: the mean of 4000 draws of variance p / (1 - p) = 1/3, within five deviations.
        assert abs(float(mask.mean()) - 1) < 5 * (1 / 3 / 4000) ** 0.5
    for one, other in itertools.combinations(masks, 2):
        assert not torch.equal(one, other)
    again, _ = pad_packed_sequence(layer(packed_frames(ones)), batch_first=True)
    assert not torch.equal(again, found)  # other masks in the next step


def test_a_mask_for_each_frame_is_torchs_own_dropout():
    packed = packed_frames(torch.randn(4, 7, 5))
    torch.manual_seed(3)
    found = PackedDropout(0.4)(packed).data
    torch.manual_seed(3)
    assert torch.equal(found, torch.nn.Dropout(0.4)(packed.data))
    for per in ("frame", "utterance"):
        assert torch.equal(PackedDropout(0.4, per).eval()(packed).data, packed.data)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrence(kind, weights, frames, mask):
    """The states (T, H) of one utterance by the equations of torch's documentation, in double
    precision; every product of U sees mask * h'."""
    weight, recurrent, bias, more = (w.detach().double().numpy() for w in weights)
    size = recurrent.shape[1]
    h, c, states = np.zeros(size), np.zeros(size), []
    for x in frames:
        a, b = weight @ x + bias, recurrent @ (mask * h) + more
        if kind == "rnn":
            h = np.clip(a + b, 0, 20)
        elif kind == "lstm":
            i, f, g, o = np.split(a + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
            z = sigmoid(az + bz)
            h = (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_dropped_states_are_the_same_in_all_frames(kind):
    """Each direction's output is that of exactly one of the 2^H masks, for all utterances."""
    torch.manual_seed(5)
    layer = RecurrentLayer(kind, 4, 3, merge="concat", state_dropout=0.5)
    values = torch.randn(4, 7, 4)
    masks = [2.0 * np.array(bits) for bits in itertools.product((0, 1), repeat=3)]
    seen = set()
    for _ in range(4):
        found, _ = pad_packed_sequence(layer(packed_frames(values)), batch_first=True)
        found = found.detach().numpy()
        for suffix, part in (("", slice(0, 3)), ("_reverse", slice(3, 6))):
            matching = []
            for number, mask in enumerate(masks):
                expected = []
                for item, length in zip(values.double().numpy(), LENGTHS, strict=True):
                    order = slice(None, None, -1 if suffix else 1)
                    states = recurrence(kind, layer.weights(suffix), item[:length][order], mask)
                    expected.append(states[order])
                if all(
                    np.allclose(found[i, : len(e), part], e, atol=1e-5)
                    for i, e in enumerate(expected)
                ):
                    matching.append(number)
            assert len(matching) == 1
            seen.add(matching[0])
    assert len(seen) > 1
    plain = RecurrentLayer(kind, 4, 3, merge="concat")
    plain.load_state_dict(layer.state_dict())
    packed = packed_frames(values)
    assert torch.equal(layer.eval()(packed).data, plain(packed).data)


# -- noise on the weights ---------------------------------------------------------------------


def test_noise_is_gone_afterwards_and_has_its_deviation():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(KeyError), noisy(model, 0.1):
        noise = (model[0].weight - before["0.weight"]).detach()
        assert float(noise.std()) == pytest.approx(0.1, rel=0.02)  # of 60,000
        assert abs(float(noise.mean())) < 5 * 0.1 / 60_000**0.5
        for name in ("0.bias", "1.weight", "1.bias"):
            assert torch.equal(model.state_dict()[name], before[name])
        raise KeyError
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_gradient_is_that_of_the_noisy_weights():
    """Of 0.5 |W x|^2 it is (W + noise) x x', and the step starts from W."""
    model = torch.nn.Linear(3, 2, bias=False)
    start, x = model.weight.detach().clone(), torch.tensor([1.0, -2.0, 0.5])
    torch.manual_seed(7)
    with noisy(model, 0.5):
        used = model.weight.detach().clone()
        (0.5 * model(x).square().sum()).backward()
    assert not torch.equal(used, start)
    torch.testing.assert_close(model.weight.grad, torch.outer(used @ x, x))
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    torch.testing.assert_close(model.weight.detach(), start - torch.outer(used @ x, x))


# -- intermediate CTC -------------------------------------------------------------------------


def small_model(**more):
    config = DeepSpeech2Config(
        convolution="1d", channels=[4], time_width=[3], time_stride=[1], hidden=4, **more
    )
    return build_model(config, 5, 3)


def test_the_middle_layer_goes_through_the_output_layer():
    """Of three layers, by hand: the first one's states, the second one's batch norm, the output."""
    torch.manual_seed(2)
    model = small_model(layers=3, dropout=0.0).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.9)  # the statistics of batch norm, too
    features, lengths = torch.randn(4, 7, 5), torch.tensor(LENGTHS)
    emissions, frames, middle = IntermediateNetwork(model, model)(features, lengths)
    assert torch.equal(emissions, model(features, lengths)[0])
    for i, length in enumerate(LENGTHS):
        alone = features[i : i + 1, :length]
        hidden, _ = model.convolutions[0](alone.transpose(1, 2), torch.tensor([length]))
        one = pack_padded_sequence(hidden.transpose(1, 2), torch.tensor([length]), True)
        states = model.recurrent[0](one).data  # (T, H)
        norm = model.norms[1]
        scaled = (states - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        scaled = scaled * norm.weight + norm.bias
        expected = scaled @ model.output.weight.t() + model.output.bias
        torch.testing.assert_close(middle[i, :length], expected)
        assert not middle[i, length:].any()
        assert not torch.allclose(middle[i, :length], emissions[i, :length])
    assert not model.recurrent[1]._forward_pre_hooks


def test_the_loss_is_the_weighted_sum_of_both(tmp_path, monkeypatch):
    """torch's own CTC on the emissions of both layers; what is reported is the output's."""
    config = write_training(tmp_path, 12, 6)
    overrides = ["model.layers=2", "train.intermediate_ctc=0.3", "train.epochs=1"]
    forward, losses, seen = Learner._forward, Learner.losses, []

    def watched_forward(self, item):
        seen.append(forward(self, item))
        return seen[-1]

    def watched(self, item):
        before = self.sums.loss
        found = losses(self, item)
        emissions, lengths, logits, middle = seen[-1]
        assert logits is None
        one, other = (
            torch.nn.functional.ctc_loss(
                x.log_softmax(-1).transpose(0, 1),
                item.targets,
                lengths,
                item.target_lengths,
                self.alphabet.blank,
                reduction="none",
            )
            for x in (emissions, middle)
        )
        torch.testing.assert_close(found, 0.7 * one + 0.3 * other, rtol=1e-4, atol=1e-4)
        assert self.sums.loss - before == pytest.approx(float(one.detach().sum()), rel=1e-4)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "_forward", watched_forward)
        patched.setattr(Learner, "losses", watched)
        train(load_config(config, overrides), tmp_path / "run", report=silent)
    assert seen


def test_a_model_without_a_middle_is_refused(tmp_path):
    for model in (small_model(layers=1), build_model(DeepSpeech1Config(hidden=4), 5, 3)):
        with pytest.raises(ConfigError, match="at least 2"):
            IntermediateNetwork(model, model)
    config = write_training(tmp_path, 6, 6)
    with pytest.raises(ConfigError, match="no effect with ctc_weight = 0"):
        load_config(config, ["train.intermediate_ctc=0.3", "train.ctc_weight=0"])


# -- all of them in a training ----------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_a_training_resumes_bit_by_bit(options, tmp_path):
    path = write_training(tmp_path, 24, 6)
    config = load_config(path, ["train.epochs=3", *options])
    train(config, tmp_path / "whole", report=silent)
    train_in_parts(config, tmp_path / "parts", 5)
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_training_learns_and_is_fine_tuned_without_the_option(options, tmp_path):
    path = write_training(tmp_path, 48, 6)
    train(load_config(path, ["train.epochs=8", *options]), tmp_path / "run", report=silent)
    losses = [line["loss"] for line in metrics(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.6 * losses[0]
    again = [f"train.init_from={tmp_path / 'run'}", "train.epochs=1", *options[:1]]
    again = [x for x in again if "dropout" not in x and "noise" not in x]
    train(load_config(path, again), tmp_path / "tuned", report=silent)
    (tuned,) = (line["loss"] for line in metrics(tmp_path / "tuned", "epoch"))
    assert tuned < 0.8 * losses[0]
