"""The acoustic models: independence of padding and neighbours, shapes, gradients, accounts."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ctcspeech import _core
from ctcspeech.model.deepspeech import (
    DeepSpeech1Config,
    DeepSpeech2Config,
    build_model,
    describe,
)
from ctcspeech.model.recurrent import ClippedRecurrence, RecurrentLayer

FEATURES, LABELS = 9, 6
LENGTHS = torch.tensor([23, 40, 7, 31])

SMALL_2D = dict(
    channels=[3, 4],
    time_width=[5, 3],
    time_stride=[2, 1],
    frequency_width=[5, 3],
    frequency_stride=[2, 2],
    layers=2,
    hidden=8,
)
SMALL_1D = dict(
    convolution="1d", channels=[6, 8], time_width=[5, 3], time_stride=[2, 2], layers=2, hidden=8
)
CONFIGS = {
    "deepspeech1": DeepSpeech1Config(hidden=12, context=3, stride=2, dropout=0.2),
    "2d gru": DeepSpeech2Config(**SMALL_2D, dropout=0.2),
    "1d lstm": DeepSpeech2Config(**SMALL_1D, recurrent="lstm", merge="concat"),
    "1d rnn": DeepSpeech2Config(**SMALL_1D, recurrent="rnn"),
    "forward gru": DeepSpeech2Config(**SMALL_1D, bidirectional=False, lookahead=2),
    "forward gru, no end": DeepSpeech2Config(
        **SMALL_1D, bidirectional=False, lookahead=1, hide_end=True
    ),
    "forward rnn": DeepSpeech2Config(
        **SMALL_1D, recurrent="rnn", bidirectional=False, lookahead=0, batch_norm=False
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(1)
    model = build_model(CONFIGS[request.param], FEATURES, LABELS)
    with torch.no_grad():  # so that batch norm is no identity in evaluation
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LENGTHS), int(LENGTHS.max()), FEATURES, generator=generator)


def test_an_utterance_does_not_depend_on_padding_or_neighbours(model):
    model.eval()
    inputs = features()
    padded = torch.full((len(LENGTHS), 57, FEATURES), float("nan"))  # padding is never looked at
    for i, length in enumerate(LENGTHS):
        padded[i, :length] = inputs[i, :length]
    with torch.no_grad():
        together, lengths = model(padded, LENGTHS)
        for i, length in enumerate(LENGTHS):
            alone, alone_length = model(inputs[i : i + 1, :length], LENGTHS[i : i + 1])
            assert alone_length == lengths[i] == alone.shape[1]
            torch.testing.assert_close(together[i, : lengths[i]], alone[0], atol=1e-5, rtol=1e-5)
            assert not together[i, lengths[i] :].any()


def test_training_does_not_depend_on_padding_either(model):
    """Neither emissions, nor gradients, nor the running statistics of batch norm."""
    results = []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for width, garbage in ((40, 0.0), (61, 1000.0)):
        model.load_state_dict(state)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # its noise may be drawn for other elements
        padded = torch.full((len(LENGTHS), width, FEATURES), garbage)
        for i, length in enumerate(LENGTHS):
            padded[i, :length] = features()[i, :length]
        emissions, lengths = model(padded, LENGTHS)
        model.zero_grad()
        sum(
            emissions[i, : lengths[i]].log_softmax(-1)[:, i].sum() for i in range(len(LENGTHS))
        ).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        results.append(
            (emissions.detach(), gradients, {k: v.clone() for k, v in model.state_dict().items()})
        )
    torch.testing.assert_close(results[0], results[1], atol=2e-5, rtol=2e-5)
    if any("running_mean" in name for name in state):
        moved = [name for name in state if "running" in name]
        assert all(not torch.equal(state[name], results[0][2][name]) for name in moved)


def test_output_lengths(model):
    model.eval()
    for frames in range(1, 12):
        emissions, lengths = model(torch.randn(1, frames, FEATURES), torch.tensor([frames]))
        assert emissions.shape == (1, int(lengths), LABELS)
        heard = max(0, frames - model.hidden_end)
        assert int(lengths) == -(-heard // model.subsampling)


def reach(model, frames=80, at=None):
    """First and last input frame on which a frame of the emissions (or of `at`) depends."""
    model.eval()
    inputs = torch.randn(1, frames, FEATURES, requires_grad=True)
    lengths = torch.tensor([frames])
    outputs = model(inputs, lengths)[0] if at is None else at(inputs, lengths)
    middle = outputs.shape[1] // 2
    (gradient,) = torch.autograd.grad(outputs[0, middle].sum(), inputs)
    rows = gradient[0].abs().sum(1).nonzero()
    return int(rows.min()), int(rows.max()), middle * model.subsampling


def test_receptive_field_and_lookahead_are_what_gradients_say():
    torch.manual_seed(3)
    for name in ("forward gru", "1d rnn"):
        model = build_model(CONFIGS[name], FEATURES, LABELS)

        def convolutions(inputs, lengths, model=model):
            hidden = inputs.transpose(1, 2)
            for layer in model.convolutions:
                layer.clip = 1e9
                hidden, lengths = layer(hidden + 0.0, lengths)
            return hidden.transpose(1, 2)

        with torch.no_grad():  # keep every unit of the clipped ReLU in its linear part
            for layer in model.convolutions:
                layer.norm.bias.fill_(100.0)
        first, last, centre = reach(model, at=convolutions)
        assert last - first + 1 == model.receptive_field
        assert last - centre == centre - first
        first, last, centre = reach(model)
        if model.lookahead is None:
            assert (first, last) == (0, 79)
        else:
            assert first == 0 and last - centre <= model.lookahead
    # With the row convolution before its clipping forced open, the bound is reached.
    model = build_model(CONFIGS["forward gru"], FEATURES, LABELS)
    with torch.no_grad():
        for layer in model.convolutions:
            layer.norm.bias.fill_(1.0)
        model.row.convolution.weight.fill_(0.1)
        model.row.clip = 1e9
        for bias in ("bias_ih_l0", "bias_hh_l0"):
            getattr(model.recurrent[-1].cell, bias)[2 * 8 :].fill_(2.0)
    first, last, centre = reach(model)
    assert last - centre == model.lookahead


def clipped_reference(inputs, weight, lengths, clip, reverse):
    """Utterance by utterance, frame by frame."""
    outputs = []
    for z, length in zip(inputs, lengths, strict=True):
        state, states = z.new_zeros(z.shape[1]), {}
        order = range(length - 1, -1, -1) if reverse else range(length)
        for t in order:
            state = (z[t] + weight @ state).clamp(0.0, clip)
            states[t] = state
        outputs.append(torch.stack([states[t] for t in range(length)]))
    return outputs


@pytest.mark.parametrize("reverse", ["", "_reverse"])
def test_clipped_recurrence_equals_a_loop_and_its_gradient(reverse):
    torch.manual_seed(0)
    lengths = torch.tensor([5, 3, 6, 1])
    inputs = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    weight = (0.9 * torch.randn(3, 3, dtype=torch.float64)).requires_grad_()

    def ours(inputs, weight):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        data = ClippedRecurrence.apply(
            packed.data, weight, packed.batch_sizes.tolist(), 1.5, reverse
        )
        return pad_packed_sequence(packed._replace(data=data), batch_first=True)[0]

    outputs = ours(inputs, weight)
    expected = clipped_reference(inputs, weight, lengths.tolist(), 1.5, bool(reverse))
    for i, length in enumerate(lengths):
        torch.testing.assert_close(outputs[i, :length], expected[i])
    assert (outputs == 1.5).any() and (outputs[0, :5] == 0).any()  # both ends are clipped
    assert torch.autograd.gradcheck(ours, (inputs, weight))


def test_simple_recurrence_without_clipping_is_torch_s():
    torch.manual_seed(0)
    ours = RecurrentLayer("rnn", 4, 5, merge="concat", clip=1e9)
    theirs = torch.nn.RNN(4, 5, nonlinearity="relu", bidirectional=True)
    theirs.load_state_dict(ours.cell.state_dict())
    packed = pack_padded_sequence(torch.randn(9, 3, 4), torch.tensor([9, 4, 2]))
    torch.testing.assert_close(ours(packed).data, theirs(packed)[0].data)


def ragged(directions_input, lengths, seed=0):
    torch.manual_seed(seed)
    padded = torch.randn(len(lengths), max(lengths), directions_input)
    packed = pack_padded_sequence(
        padded, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    return packed._replace(data=packed.data.clone().requires_grad_())


@pytest.mark.parametrize("hidden", [1, 16, 37, 96])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_native_gru_is_torch_s(hidden, bidirectional):
    """States and all gradients, in single precision against torch in double."""
    lengths = [7, 12, 1, 12, 5, 9, 3, 8, 12, 2, 6]
    packed = ragged(10, lengths, hidden)
    ours = RecurrentLayer("gru", 10, hidden, bidirectional, merge="concat")
    theirs = torch.nn.GRU(10, hidden, bidirectional=bidirectional).double()
    theirs.load_state_dict(ours.cell.state_dict())
    inputs = packed.data.detach().double().requires_grad_()
    output = ours(packed).data
    expected = theirs(packed._replace(data=inputs))[0].data
    torch.testing.assert_close(output.double(), expected, atol=2e-6, rtol=1e-5)
    direction = torch.randn_like(output)
    output.backward(direction)
    expected.backward(direction.double())
    torch.testing.assert_close(packed.data.grad.double(), inputs.grad, atol=1e-5, rtol=1e-4)
    for name, parameter in theirs.named_parameters():
        mine = getattr(ours.cell, name).grad.double()
        torch.testing.assert_close(mine, parameter.grad, atol=5e-5, rtol=1e-4)


def test_the_native_gru_is_the_same_on_all_instruction_sets_and_threads():
    torch.manual_seed(0)
    hidden, sizes = 20, torch.tensor([9, 9, 7, 4, 4, 1])
    frames = int(sizes.sum())
    start = torch.randn(frames, 2, 3 * hidden)
    weight, bias = torch.randn(2, 3 * hidden, hidden) / 4, torch.randn(2, hidden)
    gradient = torch.randn(frames, 2, hidden)

    def run(isa, threads):
        gates, states = start.clone(), torch.empty(frames, 2, hidden)
        candidate = torch.empty_like(states)
        _core.gru_forward(gates, weight, bias, sizes, states, candidate, threads, isa)
        outputs = [torch.empty_like(gates), torch.empty_like(states), torch.empty_like(states)]
        _core.gru_backward(
            gates, weight, sizes, states, candidate, gradient, *outputs, threads, isa
        )
        return [states, *outputs]

    numbers = {"baseline": 0, "avx2": 1, "avx512": 2, "neon": 3}
    expected = run(0 if "baseline" in _core.available_isas() else -1, 1)
    for name in _core.available_isas():
        once = run(numbers[name], 1)
        torch.testing.assert_close(once, expected, atol=1e-5, rtol=1e-4)
        for threads in (2, 3, 8):  # the same bits, however the sequences are shared out
            for one, other in zip(once, run(numbers[name], threads), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_bfloat16_on_the_cpu_is_near_single_precision(recurrent):
    torch.manual_seed(0)
    config = DeepSpeech2Config(**SMALL_1D, recurrent=recurrent, dropout=0.0)
    model = build_model(config, FEATURES, LABELS)
    results = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            emissions, _ = model(features(), LENGTHS)
        emissions.float().square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad.norm() > 1e-3]
        results.append([emissions.detach().float(), *gradients])
    for single, low in zip(*results, strict=True):
        assert 0 < (single - low).norm() < 0.1 * single.norm()


def test_the_native_gru_checks_what_it_is_given():
    shapes = torch.zeros(3, 1, 6), torch.zeros(1, 6, 2), torch.zeros(1, 2)
    states = torch.zeros(3, 1, 2)
    for sizes in ([2, 2], [1, 2], [3, 0], [-1, 4]):
        with pytest.raises(ValueError, match="gru:"):
            _core.gru_forward(*shapes, torch.tensor(sizes), states, None, 1)
    with pytest.raises(ValueError, match="gru: weight"):
        _core.gru_forward(
            shapes[0], torch.zeros(3, 6, 2), shapes[2], torch.tensor([2, 1]), states, None, 1
        )


def test_parameter_counts_are_those_of_the_formulas():
    hidden, window = 12, 7
    model = build_model(CONFIGS["deepspeech1"], FEATURES, LABELS)
    recurrent = 2 * (2 * hidden * hidden + 2 * hidden)  # torch keeps two biases
    expected = (
        (FEATURES * window + 1) * hidden
        + 3 * (hidden + 1) * hidden
        + recurrent
        + (hidden + 1) * LABELS
    )
    assert sum(p.numel() for p in model.parameters()) == expected
    text = describe(model, frame_shift_ms=10)
    assert f"{expected:,} parameters" in text
    assert "7 frames (70 ms)" in text and "whole utterance" in text
    assert "looks ahead" in describe(build_model(CONFIGS["forward gru"], FEATURES, LABELS))


def test_replace_output_keeps_the_rest():
    model = build_model(CONFIGS["1d rnn"], FEATURES, LABELS)
    before = model.convolutions[0].convolution.weight.clone()
    model.replace_output(11)
    emissions, _ = model(features(), LENGTHS)
    assert emissions.shape[2] == model.num_labels == 11
    assert torch.equal(before, model.convolutions[0].convolution.weight)


def test_wrong_input_is_named():
    model = build_model(CONFIGS["1d rnn"], FEATURES, LABELS)
    with pytest.raises(ValueError, match=r"features must have shape \(N, T, 9\)"):
        model(torch.zeros(2, 5, 8), torch.tensor([5, 5]))
    with pytest.raises(ValueError, match=r"lengths must have shape \(2,\)"):
        model(torch.zeros(2, 5, 9), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"lengths\[1\] must be in 1..5, got 0"):
        model(torch.zeros(2, 5, 9), torch.tensor([5, 0]))


def test_wrong_configuration_is_named():
    with pytest.raises(ValidationError, match="time_width must have one entry for each of the 3"):
        DeepSpeech2Config(channels=[4, 4, 4])
    with pytest.raises(ValidationError, match="time_width must be odd"):
        DeepSpeech2Config(time_width=[10, 11])
