"""Recurrent states carried from batch to batch: a stream that is as long as the training."""

import pytest
import torch
from tone_training import differences, silent, train_in_parts, write_training
from torch.nn.utils.rnn import pack_padded_sequence

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.model.recurrent import RecurrentLayer
from ctcspeech.train.carry import CarriedStates
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD = ["model.bidirectional=false", "model.lookahead=0", 'model.merge="sum"', "train.epochs=3"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the core's recurrence, torch's
def test_a_layer_begins_with_a_state_as_torch_s_does(dtype):
    torch.manual_seed(0)
    layer = RecurrentLayer("gru", 5, 7, bidirectional=False).to(dtype)
    lengths = torch.tensor([4, 9, 1, 6])
    inputs = torch.randn(4, 9, 5, dtype=dtype, requires_grad=True)
    initial = torch.tanh(2 * torch.randn(4, 7, dtype=dtype))
    initial[0, 0] = 1.0  # a unit that is saturated
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    expected, last = layer.cell(packed, initial[None])
    layer.initial = initial
    found = layer(packed)
    torch.testing.assert_close(found.data, expected.data, atol=2e-6, rtol=0)
    torch.testing.assert_close(layer.final, last[0].float(), atol=2e-6, rtol=0)
    upstream = torch.randn_like(expected.data)
    variables = [inputs, *layer.parameters()]
    wanted = torch.autograd.grad(expected.data, variables, upstream, retain_graph=True)
    for gradient, other in zip(
        torch.autograd.grad(found.data, variables, upstream), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


def forward_model(**options):
    torch.manual_seed(1)
    config = DeepSpeech2Config(
        convolution="1d", channels=[6], time_width=[1], time_stride=[1], layers=2, hidden=8,
        **{"bidirectional": False, "lookahead": 0, "dropout": 0.0, **options},
    )  # fmt: skip
    return build_model(config, 5, 4)


def test_a_batch_after_another_is_one_recording():
    model = forward_model().eval()
    carried = CarriedStates(model, 1.0)
    parts = [torch.randn(1, length, 5) for length in (7, 4, 9)]
    with torch.no_grad():
        whole = model(torch.cat(parts, 1), torch.tensor([20]))[0]
        found = []
        for part in parts:
            with carried.over(1):
                found.append(model(part, torch.tensor([part.shape[1]]))[0])
        alone = model(parts[1], torch.tensor([4]))[0]  # and outside nothing is carried
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, whole[:, 7:11], atol=1e-3)


def test_utterances_begin_where_random_ones_have_ended_or_anew():
    model = forward_model().eval()
    carried = CarriedStates(model, 0.7)
    lengths = torch.tensor([3, 6, 2, 5])
    with torch.no_grad():
        with carried.over(4):
            assert not any(layer.initial.any() for layer in carried.layers)
            model(torch.randn(4, 6, 5), lengths)
        before = [state.clone() for state in carried.states]
        assert all(state.shape == (4, 8) for state in before)
        with carried.over(500):
            drawn = [layer.initial.clone() for layer in carried.layers]
            model(torch.randn(500, 3, 5), torch.full((500,), 3))
    anew = ~drawn[0].any(1)
    assert 0.2 < anew.float().mean() < 0.4
    rows = []
    for states, initial in zip(before, drawn, strict=True):
        equal = (initial[~anew][:, None] == states).all(2)
        assert (equal.sum(1) == 1).all()
        assert equal.any(0).all()  # of all four
        rows.append(equal.int().argmax(1))
        assert not initial[anew].any()
    assert torch.equal(*rows)  # all layers of the same utterance
    assert all(layer.initial is None and layer.final is None for layer in carried.layers)


def test_a_stopped_run_goes_on_exactly(tmp_path):
    folder = write_training(tmp_path / "tones").parent
    config = load_config(folder / "tones.toml", [*FORWARD, "train.carry_state=0.8"])
    train(config, tmp_path / "whole", report=silent)
    train_in_parts(config, tmp_path / "parts", 5)
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))
    # And it is not what is learned without.
    plain = load_config(folder / "tones.toml", FORWARD)
    train(plain, tmp_path / "plain", report=silent)
    assert list(differences(tmp_path / "whole", tmp_path / "plain"))


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"recurrent": "lstm"}])
def test_other_models_are_refused(options):
    with pytest.raises(ConfigError, match="forward-only models of GRUs"):
        CarriedStates(forward_model(**options), 0.5)
