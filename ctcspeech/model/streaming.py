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

The weights are prepared for small batches of few frames, where the overhead of a call counts more
than its work: batch norm goes into the weights beside it, convolutions over time are products.

Zeros take the place of what lies outside of the utterance at every layer, as padding does in
`DeepSpeech2`: the place of each stream, and its length once it is known, are part of the state.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from ctcspeech.model.deepspeech import AcousticModel, ConvolutionLayer, DeepSpeech2, RowConvolution
from ctcspeech.model.recurrent import RecurrentLayer, advance

__all__ = ["StreamingModel", "streams_by_state"]

UNKNOWN_LENGTH = 1 << 40  # frames; of a stream that has not ended


def streams_by_state(model: AcousticModel) -> bool:
    """Whether `StreamingModel` takes this model: else it has to hear the whole utterance."""
    if not isinstance(model, DeepSpeech2) or model.symbols is not None:
        return False
    return not model.config.bidirectional


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
    """A trained model as it runs on streams, with weights of its own.

    delay: frames of emissions by which a stream lags behind its features, chunks left aside.
    settled: frames of features after which no layer is before a stream's beginning.
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
        self.config = config = model.config
        self.two_dimensional = config.convolution == "2d"
        self.subsampling, self.num_features = model.subsampling, model.num_features
        with torch.no_grad():
            convolutions = [_Convolution(layer, config.clip) for layer in model.convolutions]
            self.convolutions = nn.ModuleList(convolutions)
            self.recurrent = nn.ModuleList(
                _Recurrent(layer, norm)
                for layer, norm in zip(model.recurrent, model.norms, strict=True)
            )
            self.row = _Row(model.row) if model.row is not None else None
            self.output = _Product(model.output.weight, model.output.bias, model.last_norm)
        before: Late | None = None
        self.late: list[Late] = []
        for layer in convolutions:
            before = Late.of(layer.width, layer.stride, layer.width // 2, before)
            self.late.append(before)
        assert before is not None
        self.row_late = None
        if self.row is not None:
            self.row_late = Late.of(config.lookahead + 1, 1, config.lookahead, before)
        self.delay = self.row_late.delay if self.row_late else before.delay
        self.settled = max(late.delay * late.scale for late in self.late)
        self.eval().requires_grad_(False)

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
        config = self.config
        shapes: list[tuple[int, ...]] = []
        channels, height = 1, self.num_features
        for i, late in enumerate(self.late):
            if self.two_dimensional:
                shapes.append((channels, late.cache, height))
                stride = config.frequency_stride[i]
                channels, height = config.channels[i], (height + stride - 1) // stride
            else:
                shapes.append((late.cache, channels * height))
                channels, height = config.channels[i], 1
        kinds = 2 if config.recurrent == "lstm" else 1
        shapes += [(config.hidden,)] * (kinds * config.layers)
        if self.row_late is not None:
            shapes.append((self.row_late.cache, config.hidden))
        return shapes

    def forward(
        self, features: Tensor, states: list[Tensor], inside: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The next K frames (N, K, F) of N streams; K a multiple of `subsampling`.

        Past a stream's length its features must be zero. inside: the caller knows that all streams
        have taken at least `settled` frames and that none has ended.

        Returns logits (N, K / subsampling, C), `delay` frames late, and the new states.
        """
        place, length, *caches = states
        new: list[Tensor] = []
        axis = 2 if self.two_dimensional else 1
        hidden = features[:, None] if self.two_dimensional else features
        for layer, late in zip(self.convolutions, self.late, strict=True):
            frames = int(hidden.shape[axis])  # integers, so that a traced graph has fixed shapes
            joined = torch.cat([caches.pop(0), hidden], axis)
            new.append(joined.narrow(axis, frames, late.cache))
            used = (frames // late.stride - 1) * late.stride + late.width
            hidden = layer(joined.narrow(axis, 0, used))
            if not inside:
                mask = _inside(late, int(hidden.shape[axis]), place, length)
                hidden = hidden * (mask[:, None, :, None] if axis == 2 else mask[..., None])
        if self.two_dimensional:
            hidden = hidden.permute(0, 2, 1, 3).flatten(2)  # (N, T, C * F)
        frames = int(hidden.shape[1])
        valid = None if inside else _inside(self.late[-1], frames, place, length)
        for layer in self.recurrent:
            count = 2 if self.config.recurrent == "lstm" else 1
            state = tuple(caches.pop(0) for _ in range(count))
            hidden, state = layer(hidden, state, valid)
            new.extend(state)
        if self.row is not None and self.row_late is not None:
            if valid is not None:
                hidden = hidden * valid[..., None]
            joined = torch.cat([caches.pop(0), hidden], 1)
            new.append(joined.narrow(1, frames, self.row_late.cache))
            hidden = self.row(joined)
        return self.output(hidden), [place + int(features.shape[1]), length, *new]


def _inside(late: Late, frames: int, place: Tensor, length: Tensor) -> Tensor:
    """(N, frames) 1 where a layer's output lies in the utterance, else 0."""
    first = torch.div(place, late.scale, rounding_mode="floor") - late.delay
    here = first[:, None] + torch.arange(frames, device=place.device)
    end = torch.div(length + late.scale - 1, late.scale, rounding_mode="floor")
    return ((here >= 0) & (here < end[:, None])).to(torch.float32)


def _of_norm(norm: nn.Module, size: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (size,) that batch norm applies once it is trained."""
    if not isinstance(norm, nn.BatchNorm1d):
        return torch.ones(size), torch.zeros(size)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _windows(inputs: Tensor, width: int, stride: int) -> Tensor:
    """(N, T, C) to (N, T', C, width)."""
    if not torch.jit.is_tracing():
        return inputs.unfold(1, width, stride)
    last = int(inputs.shape[1]) - width + 1  # the exporter to ONNX has no unfold of what it cut
    return torch.stack([inputs[:, k : k + last : stride] for k in range(width)], -1)


class _Product(nn.Module):
    """W norm(x) + b as one product."""

    def __init__(self, weight: Tensor, bias: Tensor, norm: nn.Module) -> None:
        super().__init__()
        scale, shift = _of_norm(norm, weight.shape[1])
        self.weight = nn.Parameter(weight * scale)
        self.bias = nn.Parameter(bias + weight @ shift)

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)


class _Convolution(nn.Module):
    """A convolution without padding in time, batch norm and clipped ReLU: (N, T, C), or with
    frequencies (N, C, T, F)."""

    def __init__(self, layer: nn.Module, clip: float) -> None:
        super().__init__()
        assert isinstance(layer, ConvolutionLayer)
        convolution = layer.convolution
        assert isinstance(convolution, nn.Conv1d | nn.Conv2d)
        self.clip, self.stride, self.width = clip, layer.stride, int(convolution.kernel_size[0])
        scale, shift = _of_norm(layer.norm, convolution.out_channels)
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        self.frequency: tuple[int, int] | None = None  # stride and padding
        if isinstance(convolution, nn.Conv2d):
            self.frequency = int(convolution.stride[1]), int(convolution.padding[1])
            self.weight = nn.Parameter(convolution.weight * scale[:, None, None, None])
        else:
            weight = convolution.weight * scale[:, None, None]  # (C', C, width)
            self.weight = nn.Parameter(weight.flatten(1))
        self.bias = nn.Parameter(shift)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.frequency is not None:
            stride, padding = self.frequency
            outputs = conv2d(inputs, self.weight, self.bias, (self.stride, stride), (0, padding))
        else:
            windows = _windows(inputs, self.width, self.stride).flatten(2)  # (N, T', C * width)
            outputs = linear(windows, self.weight, self.bias)
        return outputs.clamp_(0.0, self.clip)


class _Row(nn.Module):
    """The row convolution without padding: (N, T + lookahead, H) to (N, T, H)."""

    def __init__(self, row: RowConvolution) -> None:
        super().__init__()
        self.clip, self.width = row.clip, row.lookahead + 1
        self.weight = nn.Parameter(row.convolution.weight[:, 0].clone())  # (H, width)

    def forward(self, inputs: Tensor) -> Tensor:
        windows = _windows(inputs, self.width, 1)  # (N, T, H, width)
        return (windows * self.weight).sum(-1).clamp_(0.0, self.clip)


class _Recurrent(nn.Module):
    """A forward recurrent layer with the batch norm before it, from a state to a state."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, RecurrentLayer)
        self.kind, self.clip, self.hidden = layer.kind, layer.clip, layer.hidden
        weight, recurrent, bias, more = layer.weights("")
        added = more.clone()
        if self.kind == "gru":
            added[2 * self.hidden :] = 0.0  # r comes between the candidate's two biases
        self.inputs = _Product(weight, bias + added, norm)
        self.weight = nn.Parameter(recurrent.clone())
        self.bias = nn.Parameter(more - added)

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, ...], valid: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """inputs (N, T, I), state (N, H) each: outputs (N, T, H) and the state after them.

        valid: (N, T), 0 where a frame lies outside of its stream; there the state stays 0.
        """
        gates = self.inputs(inputs)
        bias = self.bias if self.kind == "gru" else None
        outputs = []
        for t in range(inputs.shape[1]):
            again = linear(state[0], self.weight, bias)
            state = advance(self.kind, self.clip, gates[:, t], again, state)
            if valid is not None:
                state = tuple(part * valid[:, t, None] for part in state)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state
