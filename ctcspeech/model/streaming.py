"""Deep Speech 2, forward only, frame by frame: exactly what the whole utterance gives.

    streaming = StreamingModel(model)                  # a DeepSpeech2 with bidirectional = false
    states = streaming.states(3)                       # of three streams, at their beginnings
    emissions, states = streaming(features, states)    # (3, K, F) to (3, K / subsampling, C)

Every layer keeps of each stream what its next output needs: a convolution its last inputs, a
recurrent layer its hidden state, the row convolution its last inputs again. A layer that looks
ahead is late by a fixed number of frames, so that a step of K frames always gives K / subsampling
frames of emissions, whatever the stream: streams at different places are computed together, and the
graph has fixed shapes. The first `delay` frames of emissions of a stream lie before its beginning
and are to be dropped; after its last frame, zeros are put in until the last ones have come out.

Zeros take the place of what lies outside of the utterance at every layer, as padding does in
`DeepSpeech2`: the place of each stream, and its length once it is known, are part of the state.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh

from ctcspeech.model.deepspeech import AcousticModel, ConvolutionLayer, DeepSpeech2
from ctcspeech.model.recurrent import RecurrentLayer

__all__ = ["StreamingModel", "streams_by_state"]

UNKNOWN_LENGTH = 1 << 40  # frames; of a stream that has not ended


def streams_by_state(model: AcousticModel) -> bool:
    """Whether `StreamingModel` takes this model: else it has to hear the whole utterance."""
    return isinstance(model, DeepSpeech2) and not model.config.bidirectional


class Late(NamedTuple):
    """How a layer over time lags behind: by `delay` of its own frames, `cache` inputs being kept.

    stride, width: of the layer. scale: input frames of the model for one of this layer's outputs.
    """

    width: int
    stride: int
    delay: int
    cache: int
    scale: int

    @classmethod
    def of(cls, width: int, stride: int, ahead: int, before: "Late | None") -> "Late":
        """For a layer whose output t sees the inputs up to t * stride + ahead.

        After n inputs of which the last `d` are yet to come, outputs up to (n - d - 1 - ahead) /
        stride are complete; n / stride are asked for.
        """
        late, scale = (before.delay, before.scale) if before else (0, 1)
        delay = (late + ahead) // stride  # ceil((late + 1 + ahead) / stride) - 1
        behind = width - 1 - ahead
        return cls(width, stride, delay, stride * delay + behind - late, scale * stride)


class StreamingModel(nn.Module):
    """A trained model as it runs on streams; it shares the model's parameters.

    delay: frames of emissions by which a stream lags behind its features, chunks left aside.
    subsampling: features for one frame of emissions; a step takes a multiple of these.
    """

    def __init__(self, model: AcousticModel) -> None:
        """Raises ValueError for a model that needs the whole utterance."""
        super().__init__()
        if not isinstance(model, DeepSpeech2) or model.config.bidirectional:
            raise ValueError(
                "model must be a Deep Speech 2 with bidirectional = false, as others need the "
                "whole utterance; recognise streams with it by windows"
            )
        self.model = model.eval()
        self.two_dimensional = model.config.convolution == "2d"
        self.subsampling, self.num_features = model.subsampling, model.num_features
        before: Late | None = None
        self.late: list[Late] = []
        for layer in model.convolutions:
            assert isinstance(layer, ConvolutionLayer)
            width, stride = layer.convolution.kernel_size[0], layer.stride  # type: ignore[index]
            before = Late.of(int(width), stride, int(width) // 2, before)
            self.late.append(before)
        assert before is not None
        self.row_late = None
        if model.row is not None:
            self.row_late = Late.of(model.row.lookahead + 1, 1, model.row.lookahead, before)
        self.conv_delay = before.delay
        self.delay = self.row_late.delay if self.row_late else before.delay

    def states(self, count: int) -> list[Tensor]:
        """The state of `count` streams at their beginnings: tensors (count, ...).

        In their order: frames of features taken (int64), length in frames (int64, UNKNOWN_LENGTH
        until it is known), the inputs that each convolution keeps, each recurrent layer's hidden
        state (and an LSTM's cell), and the inputs of the row convolution.
        """
        return [
            torch.zeros(count, dtype=torch.int64),
            torch.full((count,), UNKNOWN_LENGTH),
            *(torch.zeros(count, *shape) for shape in self.state_shapes()),
        ]

    def state_shapes(self) -> list[tuple[int, ...]]:
        """Of the floating-point parts of one stream's state."""
        model, shapes = self.model, []
        channels, height = (1, self.num_features) if self.two_dimensional else (0, 0)
        if not self.two_dimensional:
            channels = self.num_features
        for i, late in enumerate(self.late):
            size: tuple[int, ...] = (channels, late.cache)
            shapes.append((*size, height) if self.two_dimensional else size)
            channels = model.config.channels[i]
            if self.two_dimensional:
                stride = model.config.frequency_stride[i]
                height = (height + stride - 1) // stride
        hidden = (model.config.hidden,)
        kinds = 2 if model.config.recurrent == "lstm" else 1
        shapes += [hidden] * (kinds * model.config.layers)
        if self.row_late is not None:
            shapes.append((model.config.hidden, self.row_late.cache))
        return shapes

    def forward(self, features: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The next K frames (N, K, F) of N streams; K a multiple of `subsampling`.

        Returns logits (N, K / subsampling, C), `delay` frames late, and the new states. Past a
        stream's length its features must be zero.
        """
        place, length, *caches = states
        new: list[Tensor] = []
        hidden = features[:, None] if self.two_dimensional else features.transpose(1, 2)
        for layer, late in zip(self.model.convolutions, self.late, strict=True):
            hidden, kept = self._convolve(layer, late, hidden, caches.pop(0), place, length)
            new.append(kept)
        if self.two_dimensional:
            hidden = hidden.permute(0, 2, 1, 3).flatten(2)  # (N, T, C * F)
        else:
            hidden = hidden.transpose(1, 2)
        inside = self._inside(self.late[-1], hidden.shape[1], place, length)  # (N, T)
        for norm, layer in zip(self.model.norms, self.model.recurrent, strict=True):
            hidden = self._normalised(norm, hidden)
            assert isinstance(layer, RecurrentLayer)
            hidden = self._recur(layer, hidden, inside, caches, new)
        if self.row_late is not None:
            assert self.model.row is not None
            hidden = (hidden * inside[..., None]).transpose(1, 2)
            joined = torch.cat([caches.pop(0), hidden], 2)
            new.append(joined[..., joined.shape[2] - self.row_late.cache :])
            rows = self.model.row.convolution(joined)
            hidden = hardtanh(rows, 0.0, self.model.row.clip).transpose(1, 2)
        logits = self.model.output(self._normalised(self.model.last_norm, hidden))
        return logits, [place + features.shape[1], length, *new]

    def _convolve(
        self,
        layer: nn.Module,
        late: Late,
        inputs: Tensor,
        cache: Tensor,
        place: Tensor,
        length: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(N, C, T) or (N, C, T, F) through a convolution; its outputs, and what it keeps."""
        assert isinstance(layer, ConvolutionLayer)
        joined = torch.cat([cache, inputs], 2)
        wanted = inputs.shape[2] // late.stride
        convolution, used = layer.convolution, (wanted - 1) * late.stride + late.width
        assert isinstance(convolution, nn.Conv1d | nn.Conv2d)
        window = joined[:, :, :used]
        if self.two_dimensional:
            outputs = nn.functional.conv2d(
                window,
                convolution.weight,
                convolution.bias,
                convolution.stride,  # type: ignore[arg-type]
                (0, int(convolution.padding[1])),
            )
        else:
            outputs = nn.functional.conv1d(
                window, convolution.weight, convolution.bias, late.stride
            )
        normal = layer.norm(outputs.flatten(2)).view_as(
            outputs
        )  # over true frames: by what it learnt
        inside = self._inside(late, wanted, place, length)[:, None]
        mask = inside[..., None] if self.two_dimensional else inside
        kept = joined[:, :, joined.shape[2] - late.cache :]
        return hardtanh(normal, 0.0, layer.clip) * mask, kept

    @staticmethod
    def _inside(late: Late, frames: int, place: Tensor, length: Tensor) -> Tensor:
        """(N, frames) 1 where a layer's output lies in the utterance, else 0."""
        first = place // late.scale - late.delay
        here = first[:, None] + torch.arange(frames, device=place.device)
        end = (length + late.scale - 1) // late.scale
        return ((here >= 0) & (here < end[:, None])).to(torch.float32)

    @staticmethod
    def _normalised(norm: nn.Module, hidden: Tensor) -> Tensor:
        if not isinstance(norm, nn.BatchNorm1d):
            return hidden
        return norm(hidden.transpose(1, 2)).transpose(1, 2)

    def _recur(
        self,
        layer: RecurrentLayer,
        inputs: Tensor,
        inside: Tensor,
        caches: list[Tensor],
        new: list[Tensor],
    ) -> Tensor:
        """(N, T, I) through a recurrent layer, from and to the states.

        Frames before a stream's beginning leave its state at 0. What follows its end need not: the
        row convolution is given zeros in its place.
        """
        early = bool((inside[:, 0] == 0).any())
        kinds = 2 if self.model.config.recurrent == "lstm" else 1
        state = tuple(caches.pop(0) for _ in range(kinds))  # (N, H) each
        if not early:
            outputs, state = _run(layer, inputs, state)
        else:
            parts = []
            for t in range(inputs.shape[1]):
                part, state = _run(layer, inputs[:, t : t + 1], state)
                state = tuple(one * inside[:, t, None] for one in state)
                parts.append(part)
            outputs = torch.cat(parts, 1)
        new.extend(state)
        return outputs


def _run(
    layer: RecurrentLayer, inputs: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(N, T, I) through a forward recurrent layer: outputs (N, T, H) and the state after them."""
    cell = layer.cell
    steps = inputs.transpose(0, 1)  # (T, N, I)
    if isinstance(cell, nn.LSTM):
        outputs, (hidden, memory) = cell(steps, (state[0][None], state[1][None]))
        return outputs.transpose(0, 1), (hidden[0], memory[0])
    if isinstance(cell, nn.GRU):
        outputs, hidden = cell(steps, state[0][None])
        return outputs.transpose(0, 1), (hidden[0],)
    now, clip = state[0], layer.clip
    weight, recurrent, bias, more = layer.weights("")
    rows = nn.functional.linear(steps, weight, bias + more)
    frames = []
    for row in rows:
        now = torch.clamp(row + nn.functional.linear(now, recurrent), 0.0, clip)
        frames.append(now)
    return torch.stack(frames, 1), (now,)
