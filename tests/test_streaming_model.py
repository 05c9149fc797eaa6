"""Deep Speech 2 frame by frame: what the whole utterance gives, for any chunks and neighbours."""

import pytest
import torch

from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config, build_model
from ctcspeech.model.streaming import StreamingModel, streams_by_state

FEATURES, LABELS = 9, 6
FORWARD = dict(layers=2, hidden=8, bidirectional=False)
TWO = dict(frequency_width=[5, 3], frequency_stride=[2, 2])
CONFIGS = {
    "1d gru": dict(
        convolution="1d", channels=[6, 8], time_width=[5, 3], time_stride=[2, 2], lookahead=2
    ),
    "1d lstm": dict(
        convolution="1d",
        channels=[6, 8],
        time_width=[11, 7],
        time_stride=[1, 3],
        recurrent="lstm",
        lookahead=4,
    ),
    "1d rnn, no lookahead": dict(
        convolution="1d",
        channels=[6],
        time_width=[9],
        time_stride=[2],
        recurrent="rnn",
        lookahead=0,
        batch_norm=False,
    ),
    "2d gru": dict(channels=[3, 4], time_width=[5, 3], time_stride=[2, 1], lookahead=3, **TWO),
    "2d rnn, three": dict(
        channels=[3, 4, 2],
        time_width=[3, 5, 7],
        time_stride=[2, 2, 1],
        recurrent="rnn",
        lookahead=1,
        frequency_width=[3, 3, 3],
        frequency_stride=[2, 2, 1],
    ),
    "one frame wide": dict(
        convolution="1d", channels=[6], time_width=[1], time_stride=[1], lookahead=0
    ),
}


def random_model(name):
    torch.manual_seed(1)
    model = build_model(DeepSpeech2Config(**FORWARD, **CONFIGS[name]), FEATURES, LABELS).eval()
    with torch.no_grad():  # so that batch norm is no identity, and biases tell padding from silence
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


class Stream:
    """One stream of a test: hands out its frames, gathers its emissions."""

    def __init__(self, features, streaming):
        self.features, self.streaming = features, streaming
        self.state = [part[0] for part in streaming.states(1)]
        self.taken, self.parts = 0, []

    @property
    def frames(self):  # of emissions, the late ones included
        steps = -(-len(self.features) // self.streaming.subsampling)
        return steps + self.streaming.delay

    @property
    def left(self):
        return self.frames - self.taken

    def next(self, steps):
        first = self.taken * self.streaming.subsampling
        chunk = torch.zeros(steps * self.streaming.subsampling, FEATURES)
        true = self.features[first : first + len(chunk)]
        chunk[: len(true)] = true
        if first + len(chunk) >= len(self.features):
            self.state[1] = torch.tensor(len(self.features))
        self.taken += steps
        return chunk

    def emissions(self):
        return torch.cat(self.parts)[self.streaming.delay :]


@pytest.mark.parametrize("name", CONFIGS)
def test_streams_give_what_the_whole_gives(name):
    model = random_model(name)
    streaming = StreamingModel(model)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([1, 2, 7, 31, 64, 65, 90])
    padded = torch.randn(len(lengths), 90, FEATURES, generator=generator)
    with torch.inference_mode():
        whole, frames = model(padded, lengths)
        waiting = [
            Stream(row[:n], streaming) for row, n in zip(padded, lengths.tolist(), strict=True)
        ]
        streams, active = list(waiting), []
        while waiting or active:
            # Streams begin and end at different times, and are computed in any company.
            while waiting and torch.rand(1, generator=generator) < 0.6:
                active.append(waiting.pop())
            some = [s for s in active if torch.rand(1, generator=generator) < 0.7]
            if not some:
                continue
            steps = int(torch.randint(1, 1 + min(4, *(s.left for s in some), 4), (1,)))
            chunk = torch.stack([stream.next(steps) for stream in some])
            states = [torch.stack(parts) for parts in zip(*(s.state for s in some), strict=True)]
            logits, states = streaming(chunk, states)
            for i, stream in enumerate(some):
                stream.parts.append(logits[i])
                stream.state = [part[i] for part in states]
            active = [stream for stream in active if stream.left > 0]
        for i, stream in enumerate(streams):
            expected = whole[i, : frames[i]]
            assert stream.emissions().shape == expected.shape
            torch.testing.assert_close(stream.emissions(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_delay_is_the_lookahead(name):
    model = random_model(name)
    streaming = StreamingModel(model)
    # Late by the lookahead in whole frames of emissions; the rest is waited for within a step.
    assert streaming.delay == model.lookahead // model.subsampling
    shapes = [tuple(part.shape) for part in streaming.states(2)]
    assert shapes == [(2,), (2,), *((2, *shape) for shape in streaming.state_shapes())]


def test_a_change_within_the_lookahead_is_heard_and_none_beyond():
    model = random_model("1d gru")
    features = torch.randn(1, 40, FEATURES)
    length = torch.tensor([40])
    with torch.inference_mode():
        before = model(features, length)[0]
        changed = features.clone()
        changed[0, 24] += 1.0
        after = model(changed, length)[0]
    differs = (before - after).abs().amax(-1)[0] > 1e-6
    first = int(differs.nonzero()[0])
    assert first * model.subsampling >= 24 - model.lookahead
    assert first * model.subsampling <= 24 - model.lookahead + model.subsampling


def test_models_of_the_whole_utterance_are_refused():
    for config in (DeepSpeech1Config(hidden=8), DeepSpeech2Config(hidden=8, layers=1)):
        model = build_model(config, 81, LABELS)
        assert not streams_by_state(model)
        with pytest.raises(ValueError, match="bidirectional = false"):
            StreamingModel(model)
