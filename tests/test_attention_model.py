"""The attention decoder against plain formulas, finite differences, and its own steps."""

import numpy as np
import pytest
import torch

from ctcspeech.errors import ConfigError
from ctcspeech.model.attention import AttentionConfig, AttentionDecoder, attention_loss
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model

SCORES = ["additive", "dot", "general", "location"]
CELLS = ["lstm", "gru"]


def decoder(score="location", cell="lstm", seed=0, **changes):
    torch.manual_seed(seed)
    values = {"hidden": 6, "embedding": 5, "size": 4, "channels": 3, "width": 5, "dropout": 0.0}
    config = AttentionConfig(score=score, cell=cell, **{**values, **changes})
    return AttentionDecoder(config, states_size=6, num_labels=4).double().eval()


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def array(tensor):
    return tensor.detach().numpy()


def plain_cell(kind, cell, inputs, state):
    """Hochreiter & Schmidhuber's and Cho et al.'s recurrences, as torch orders the gates."""
    w, u, b, c = (array(getattr(cell, n)) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if kind == "lstm":
        h, memory = state
        i, f, g, o = np.split(w @ inputs + b + u @ h + c, 4)
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(memory), memory
    (h,) = state
    (ri, zi, ni), (rh, zh, nh) = np.split(w @ inputs + b, 3), np.split(u @ h + c, 3)
    r, z = sigmoid(ri + rh), sigmoid(zi + zh)
    return ((1 - z) * np.tanh(ni + r * nh) + z * h,)


def plain_score(model, query, states, before):
    score = model.score
    if model.config.score == "dot":
        return np.array([query @ h for h in states])
    if model.config.score == "general":
        return np.array([query @ array(score.of_states.weight) @ h for h in states])
    hidden = states @ array(score.of_states.weight).T + array(score.of_states.bias)
    hidden = hidden + array(score.of_query.weight) @ query
    if model.config.score == "location":
        kernel = array(score.convolution.weight)[:, 0]  # (channels, width)
        half = kernel.shape[1] // 2
        padded = np.pad(before, half)
        place = [kernel @ padded[j : j + kernel.shape[1]] for j in range(len(states))]
        hidden = hidden + np.array(place) @ array(score.of_place.weight).T
    return np.tanh(hidden) @ array(score.vector.weight)[0]


def plain_log_probs(model, states, labels):
    """ln P of every class at every step, and the weights, for one text: loops and formulas."""
    config = model.config
    kinds = 2 if config.cell == "lstm" else 1
    cells = [[np.zeros(config.hidden)] * kinds for _ in range(config.layers)]
    attended, before = np.zeros(config.hidden), np.eye(len(states))[0]
    log_probs, weights = [], []
    for label in [model.end, *labels]:
        hidden = array(model.embedding.weight)[label]
        if config.input_feeding:
            hidden = np.concatenate([hidden, attended])
        for k in range(config.layers):
            cells[k] = plain_cell(config.cell, model.cells[k], hidden, cells[k])
            hidden = cells[k][0]
        before = softmax(plain_score(model, hidden, states, before))
        context = before @ states
        attended = np.tanh(array(model.combine.weight) @ np.concatenate([context, hidden]))
        logits = array(model.output.weight) @ attended + array(model.output.bias)
        log_probs.append(np.log(softmax(logits)))
        weights.append(before)
    return np.array(log_probs), np.array(weights)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("more", [{}, {"input_feeding": False}, {"layers": 2}])
def test_teacher_forcing_is_the_plain_formula(score, cell, more):
    model = decoder(score, cell, **more)
    random = np.random.default_rng(1)
    states = random.standard_normal((2, 7, 6))
    lengths, texts = [7, 4], [[1, 3, 3], [2]]
    targets = torch.tensor([[1, 3, 3], [2, 0, 0]])
    logits, weights = model(torch.from_numpy(states), torch.tensor(lengths), targets)
    losses = attention_loss(logits, targets, torch.tensor([3, 1]))
    for i, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        want, wanted_weights = plain_log_probs(model, states[i, :length], text)
        steps = len(text) + 1
        got = logits[i, :steps].log_softmax(-1)
        np.testing.assert_allclose(array(got), want, atol=1e-12)
        np.testing.assert_allclose(array(weights[i, :steps, :length]), wanted_weights, atol=1e-12)
        assert not weights[i, :steps, length:].any()
        # The loss is the sum of the steps' logarithms, the end's among them.
        expected = -sum(want[k, label] for k, label in enumerate([*text, model.end]))
        np.testing.assert_allclose(float(losses[i].detach()), expected, atol=1e-12)


def test_the_attender_reads_as_the_decoder_does():
    model = decoder()
    states = np.random.default_rng(2).standard_normal((5, 6))
    attender = model.attend(states)
    texts = [[1, 2], [], [3, 3, 1]]
    got, weights = attender.read(texts)
    state, labels = attender.start(), np.array([model.end])
    for i, text in enumerate(texts):
        want, wanted_weights = plain_log_probs(model, states, text)
        for k, label in enumerate([*text, model.end]):
            np.testing.assert_allclose(got[i, k], want[k, label], atol=1e-12)
        assert not got[i, len(text) + 1 :].any()
        np.testing.assert_allclose(weights[i, : len(text) + 1], wanted_weights, atol=1e-12)
    # Step by step, two texts that begin alike.
    log_probs, _, state = attender.step(labels, state)
    state = attender.select(state, np.array([0, 0]))
    second, _, _ = attender.step(np.array([1, 3]), state)
    np.testing.assert_allclose(log_probs[0], plain_log_probs(model, states, [])[0][0], atol=1e-12)
    for row, label in zip(second, (1, 3), strict=True):
        np.testing.assert_allclose(row, plain_log_probs(model, states, [label])[0][1], atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_by_finite_differences(score, cell):
    model = decoder(score, cell, seed=3)
    states = torch.from_numpy(np.random.default_rng(4).standard_normal((2, 5, 6)))
    lengths, targets = torch.tensor([5, 3]), torch.tensor([[1, 2], [3, 0]])

    def loss(values):
        logits, _ = model(values, lengths, targets)
        return attention_loss(logits, targets, torch.tensor([2, 1]), 0.1).sum()

    states.requires_grad_(True)
    loss(states).backward()
    gradients = [(states, states.grad)] + [(p, p.grad) for p in model.parameters()]
    random, checked = np.random.default_rng(5), 0
    for values, gradient in gradients:
        for index in random.integers(0, values.numel(), 3):
            flat = values.detach().view(-1)
            kept, step = float(flat[index]), 1e-6
            ends = []
            for sign in (1, -1):
                flat[index] = kept + sign * step
                with torch.no_grad():
                    ends.append(float(loss(states)))
            flat[index] = kept
            want = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.view(-1)[index]) == pytest.approx(want, rel=1e-5, abs=1e-8)
            checked += 1
    assert checked >= 27
    assert not states.grad[1, 3:].any()  # past its length


def test_label_smoothing_mixes_with_the_mean_over_the_classes():
    logits = torch.from_numpy(np.random.default_rng(6).standard_normal((1, 3, 5)))
    targets = torch.tensor([[2, 0]])
    log_probs = logits[0].log_softmax(-1)
    plain = -(log_probs[0, 2] + log_probs[1, 0] + log_probs[2, 4])
    spread = -log_probs.mean(-1).sum()
    got = attention_loss(logits, targets, torch.tensor([2]), 0.3)
    torch.testing.assert_close(got, (0.7 * plain + 0.3 * spread)[None])


def test_scheduled_sampling():
    model = decoder()
    states = torch.from_numpy(np.random.default_rng(7).standard_normal((64, 5, 6)))
    lengths, targets = torch.full((64,), 5), torch.randint(0, 4, (64, 6))
    plain, _ = model(states, lengths, targets)
    torch.manual_seed(1)
    one, _ = model(states, lengths, targets, 0.5)
    torch.manual_seed(1)
    again, _ = model(states, lengths, targets, 0.5)
    assert torch.equal(one, again)  # by torch's generator alone
    assert torch.equal(one[:, 0], plain[:, 0])  # the beginning is never replaced
    same = (one[:, 1] == plain[:, 1]).all(-1).double().mean()
    # Half are replaced, of which about a fifth are drawn as they were.
    assert 0.4 < float(same) < 0.8
    torch.manual_seed(2)
    drawn, _ = model(states, lengths, targets, 1.0)
    other = torch.randint(0, 4, (64, 6))
    torch.manual_seed(2)
    assert torch.equal(model(states, lengths, other, 1.0)[0], drawn)  # no label of theirs is seen


def test_greedy_takes_the_likeliest_and_never_the_blank():
    model = decoder(seed=9)
    states = np.random.default_rng(8).standard_normal((2, 6, 6))
    got = model.greedy(torch.from_numpy(states), torch.tensor([6, 3]), 5, blank=0)
    for i, length in enumerate((6, 3)):
        text: list[int] = []
        while len(text) < 5:
            row = plain_log_probs(model, states[i, :length], text)[0][-1]
            row[0] = -np.inf
            if row.argmax() == model.end:
                break
            text.append(int(row.argmax()))
        assert got[i] == text


def test_other_labels_keep_their_weights():
    model = decoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.replace_labels(7, torch.tensor([5, 0]), torch.tensor([2, 0]))
    assert model.end == 7
    for name in ("embedding.weight", "output.weight", "output.bias"):
        now = model.state_dict()[name]
        assert len(now) == 8
        for row, old in ((5, 2), (0, 0), (7, 4)):
            assert torch.equal(now[row], before[name][old])


CONFIG = {"convolution": "1d", "channels": [8], "time_width": [3], "time_stride": [2]}


def test_the_ctc_branch_does_not_change():
    values = {**CONFIG, "layers": 1, "hidden": 6, "dropout": 0.0}
    torch.manual_seed(0)
    plain = build_model(DeepSpeech2Config(**values), 5, 4).eval()
    torch.manual_seed(0)
    joint = build_model(DeepSpeech2Config(**values, attention=AttentionConfig()), 5, 4).eval()
    features, lengths = torch.randn(2, 9, 5), torch.tensor([9, 6])
    want, frames = plain(features, lengths)
    got, _ = joint(features, lengths)
    assert torch.equal(got, want)
    emissions, states, frames = joint.states(features, lengths)
    assert torch.equal(emissions, want)
    assert states.shape == (2, 5, 6) and frames.tolist() == [5, 3]
    assert not states[1, 3:].any()
    inside = torch.arange(5) < frames[:, None]
    torch.testing.assert_close(joint.output(states)[inside], want[inside])


def test_symbols_are_looked_up():
    values = {**CONFIG, "time_stride": [1], "layers": 1, "hidden": 6, "symbols": 9, "embedding": 3}
    model = build_model(DeepSpeech2Config(**values), 1, 4).eval()
    numbers = torch.tensor([[3.0, 8.0, 0.0, 1.0]])[:, :, None]
    got, _ = model(numbers, torch.tensor([4]))
    rows = model.symbols.weight[numbers[:, :, 0].long()]
    model.symbols = None  # the rest of the model, on the vectors
    model.num_features = 3
    want, _ = model(rows, torch.tensor([4]))
    assert torch.equal(got, want)


def test_what_cannot_be_is_refused():
    values = {**CONFIG, "layers": 1, "hidden": 6}
    with pytest.raises(ConfigError, match=r"hidden must be 6.*\"dot\", got 256"):
        build_model(DeepSpeech2Config(**values, attention=AttentionConfig(score="dot")), 5, 4)
    with pytest.raises(ValueError, match="width must be odd"):
        AttentionConfig(width=4)
    with pytest.raises(ValueError, match="convolution"):
        DeepSpeech2Config(symbols=4)
    with pytest.raises(ConfigError, match="num_features = 1"):
        build_model(DeepSpeech2Config(**values, symbols=4), 2, 4)
    model = build_model(DeepSpeech2Config(**values, symbols=4), 1, 4)
    with pytest.raises(ValueError, match="0 to 3"):
        model(torch.full((1, 2, 1), 4.0), torch.tensor([2]))
