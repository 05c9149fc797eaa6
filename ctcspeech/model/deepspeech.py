"""Acoustic models: features (N, T, F) in, emissions (N, T', C) out.

    model = build_model(DeepSpeech2Config(), num_features=81, num_labels=29)
    emissions, lengths = model(features, lengths)

Deep Speech 1 is that of Hannun et al. 2014 (arXiv 1412.5567), Deep Speech 2 that of Amodei et al.
2016 (arXiv 1512.02595). What a model answers for an utterance does not depend on its padding nor,
outside training, on the other utterances of its batch: padding is zeroed before every convolution,
as if the utterance stood alone, is not seen by recurrent layers, and does not count in batch norm.
"""

import os
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import hardtanh

from ctcspeech.errors import ConfigError
from ctcspeech.model.attention import AttentionConfig, AttentionDecoder
from ctcspeech.model.dropout import PackedDropout
from ctcspeech.model.padded import Frames, exporting, frame_mask, pack, unpack
from ctcspeech.model.recurrent import RecurrentLayer

__all__ = [
    "AcousticModel",
    "DeepSpeech1",
    "DeepSpeech1Config",
    "DeepSpeech2",
    "DeepSpeech2Config",
    "ModelConfig",
    "build_model",
    "describe",
]

LARGEST = 16_384  # units of a layer
Positive = Annotated[int, Field(ge=1, le=LARGEST)]


class DeepSpeech1Config(BaseModel):
    """Three dense layers on a window of frames, one bidirectional simple recurrent layer, dense."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    architecture: Literal["deepspeech1"] = "deepspeech1"
    hidden: int = Field(2048, ge=1, le=LARGEST)
    context: int = Field(9, ge=0, le=1000)  # frames seen at each side (published: 5, 7 or 9)
    stride: Positive = 2  # one output for so many frames (section 3.3 of the paper: 2)
    clip: float = Field(20.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)  # in the dense layers (published: 0.05 to 0.1)


class DeepSpeech2Config(BaseModel):
    """Strided convolutions, recurrent layers with sequence-wise batch norm, output layer.

    The lists have an entry for each convolution. "2d" convolves over time and frequency, "1d" over
    time with the frequencies as channels: far cheaper, and the right one for cepstra.

    A model that is forward only hears `lookahead` frames of emissions, and half the convolutions,
    ahead. Past the end of a recording there is nothing to hear: the zeros that stand there tell
    that it ends, and a model trained on them learns to write the last word where it sees them, in
    the frames of emissions that look beyond the end. A stream has no end while someone pauses, and
    the word is late. With `hide_end` those frames are left out, in training and in recognition:
    emissions are given for as much as is heard together with all that is ahead of it.

    With `symbols` the features are not sounds but numbers of symbols, one a frame (num_features =
    1), 0 <= number < symbols, which an embedding turns into vectors before a convolution "1d".
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    architecture: Literal["deepspeech2"] = "deepspeech2"
    convolution: Literal["2d", "1d"] = "2d"
    channels: list[Positive] = Field([32, 32], min_length=1, max_length=3)
    time_width: list[Positive] = [11, 11]  # odd
    time_stride: list[Positive] = [2, 1]
    frequency_width: list[Positive] = [41, 21]  # odd; for "2d" only
    frequency_stride: list[Positive] = [2, 2]  # for "2d" only
    recurrent: Literal["gru", "lstm", "rnn"] = "gru"
    layers: int = Field(5, ge=1, le=100)
    hidden: int = Field(800, ge=1, le=LARGEST)
    bidirectional: bool = True
    merge: Literal["sum", "concat"] = "sum"  # of the two directions
    lookahead: int = Field(20, ge=0, le=10_000)  # frames of the row convolution, when forward only
    hide_end: bool = False  # forward only: no emissions that look beyond the end
    batch_norm: bool = True
    clip: float = Field(20.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    # One mask for all frames of an utterance, and of the recurrent layers' states (Gal and
    # Ghahramani 2016; there both, at the same rate). The states' is shared by a batch.
    dropout_per: Literal["frame", "utterance"] = "frame"
    state_dropout: float = Field(0.0, ge=0, lt=1)
    symbols: int | None = Field(None, ge=1, le=10_000_000)
    embedding: Positive = 128  # of the symbols
    attention: AttentionConfig | None = None  # a decoder beside the CTC output

    @model_validator(mode="after")
    def _symbols_are_a_sequence(self) -> "DeepSpeech2Config":
        if self.symbols is not None and self.convolution != "1d":
            raise ValueError(f'symbols need convolution = "1d", got "{self.convolution}"')
        return self

    @model_validator(mode="after")
    def _hears_no_end(self) -> "DeepSpeech2Config":
        if self.hide_end and self.bidirectional:
            raise ValueError(
                "hide_end is for forward-only models, as others hear the whole utterance: set "
                "bidirectional = false"
            )
        return self

    @model_validator(mode="after")
    def _one_entry_each(self) -> "DeepSpeech2Config":
        lists = ["time_width", "time_stride"]
        if self.convolution == "2d":
            lists += ["frequency_width", "frequency_stride"]
        for name in lists:
            values = getattr(self, name)
            if len(values) != len(self.channels):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self.channels)} entries of "
                    f"channels, but has {len(values)}"
                )
            if name.endswith("width") and any(width % 2 == 0 for width in values):
                raise ValueError(f"{name} must be odd numbers, got {values}")
        return self


ModelConfig = Annotated[
    DeepSpeech1Config | DeepSpeech2Config,
    Field(discriminator="architecture"),
]


class AcousticModel(nn.Module):
    """What all models have in common.

    subsampling: input frames for one frame of emissions. receptive_field: input frames that the
    layers before the first recurrent one join in a frame. lookahead: future input frames needed
    for a frame of emissions, None when the whole utterance is. hidden_end: input frames at the end
    that are only looked ahead to, 0 or `lookahead`. attention: the decoder that some models have
    beside the CTC output.
    """

    config: DeepSpeech1Config | DeepSpeech2Config
    num_features: int
    num_labels: int
    subsampling: int
    receptive_field: int
    lookahead: int | None
    hidden_end: int = 0
    output: nn.Linear
    attention: AttentionDecoder | None

    def __init__(self) -> None:
        super().__init__()
        self.attention = None

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features (N, T, F), of which lengths (N,) frames are true: emissions (N, T', C), lengths.

        Emissions past an utterance's length are 0. Raises ValueError for a wrong shape or length.
        """
        self._check_input(features, lengths)
        hidden = self.encode(features, lengths)
        lengths = self.output_lengths(lengths)
        return self._heard(self.emissions_of(hidden), lengths), lengths

    def states(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The emissions, and what an attention decoder looks at: the states (N, T', H) of the last
        layer but the output, 0 past an utterance's length; and the lengths."""
        self._check_input(features, lengths)
        hidden = self.encode(features, lengths)
        states, _ = unpack(hidden)
        lengths = self.output_lengths(lengths)
        emissions = self._heard(self.emissions_of(hidden), lengths)
        return emissions, self._heard(states, lengths), lengths

    def _check_input(self, features: Tensor, lengths: Tensor) -> None:
        if exporting() and self.training:
            raise ValueError(
                "the model is in training mode, where batch norm depends on the batch; call "
                "model.eval() before torch.export"
            )
        check_input(features, lengths, self.num_features)

    def _heard(self, values: Tensor, lengths: Tensor) -> Tensor:
        """(N, T', ...) without the frames that look beyond the end, where these are left out."""
        if not self.hidden_end:
            return values
        if not exporting():
            values = values[:, : int(lengths.max())]
        mask = frame_mask(lengths.to(values.device), values.shape[1])
        return values.masked_fill(~mask[:, :, None], 0.0)

    def emissions_of(self, hidden: Frames) -> Tensor:
        """(N, T', C) of states: data (M, H), for the M true frames."""
        return unpack(hidden._replace(data=self.output(hidden.data)))[0]

    def encode(self, features: Tensor, lengths: Tensor) -> Frames:
        """All layers but the last: data (M, H), for the M true frames."""
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of emissions for so many frames of features: ceil(lengths / subsampling), where
        lengths are counted without `hidden_end`."""
        lengths = (lengths - self.hidden_end).clamp(min=0)
        return (lengths + self.subsampling - 1) // self.subsampling

    def replace_output(self, num_labels: int) -> None:
        """A new, untrained output layer, for an alphabet of num_labels."""
        old = self.output
        self.output = nn.Linear(old.in_features, num_labels).to(old.weight.device)
        self.num_labels = num_labels


class DeepSpeech1(AcousticModel):
    """Hannun et al. 2014, section 2, with the dropout of 3.1 and the striding of 3.3."""

    def __init__(self, config: DeepSpeech1Config, num_features: int, num_labels: int) -> None:
        super().__init__()
        self.config: DeepSpeech1Config = config
        self.num_features, self.num_labels = num_features, num_labels
        self.subsampling, self.lookahead = config.stride, None
        self.receptive_field = 2 * config.context + 1
        # A dense layer on a window of frames is a convolution.
        self.window = nn.Conv1d(
            num_features,
            config.hidden,
            self.receptive_field,
            stride=config.stride,
            padding=config.context,
        )
        self.dense = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(2))
        self.recurrent = RecurrentLayer("rnn", config.hidden, config.hidden, clip=config.clip)
        self.last = nn.Linear(config.hidden, config.hidden)
        self.output = nn.Linear(config.hidden, num_labels)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, features: Tensor, lengths: Tensor) -> Frames:
        inputs = mask_time(features.transpose(1, 2), lengths)
        hidden = self.window(inputs).transpose(1, 2)  # (N, T', H)
        packed = pack(hidden, self.output_lengths(lengths))
        data = self._activate(packed.data)  # (M, H)
        for layer in self.dense:
            data = self._activate(layer(data))
        packed = self.recurrent(packed._replace(data=data))
        return packed._replace(data=self._activate(self.last(packed.data)))

    def _activate(self, values: Tensor) -> Tensor:
        return self.dropout(hardtanh(values, 0.0, self.config.clip))


class DeepSpeech2(AcousticModel):
    """Amodei et al. 2016, section 3.

    Batch norm stands before a recurrent layer, on its input rather than on W times its input
    (section 3.2), so that the fused recurrent kernels of torch serve.
    """

    def __init__(self, config: DeepSpeech2Config, num_features: int, num_labels: int) -> None:
        super().__init__()
        self.config: DeepSpeech2Config = config
        self.num_features, self.num_labels = num_features, num_labels
        self.convolutions = nn.ModuleList()
        self.subsampling, self.receptive_field = 1, 1
        channels, height = (1, num_features) if config.convolution == "2d" else (num_features, 1)
        self.symbols = None
        if config.symbols is not None:
            if num_features != 1:
                raise ConfigError(
                    f"model.symbols: the features must be one number a frame, got {num_features}; "
                    "set features.num_features = 1, without deltas"
                )
            self.symbols = nn.Embedding(config.symbols, config.embedding)
            channels = config.embedding
        for i, out_channels in enumerate(config.channels):
            width, stride = config.time_width[i], config.time_stride[i]
            frequency = (
                (config.frequency_width[i], config.frequency_stride[i])
                if config.convolution == "2d"
                else None
            )
            layer = ConvolutionLayer(channels, out_channels, width, stride, frequency, config)
            self.convolutions.append(layer)
            self.receptive_field += (width - 1) * self.subsampling
            self.subsampling *= stride
            channels = out_channels
            if frequency:
                height = (height + frequency[1] - 1) // frequency[1]
        self.norms, self.recurrent = nn.ModuleList(), nn.ModuleList()
        size = channels * height
        for i in range(config.layers):
            # The first one's input was normalised by the convolution.
            normalize = config.batch_norm and i > 0
            self.norms.append(nn.BatchNorm1d(size) if normalize else nn.Identity())
            recurrent = RecurrentLayer(
                config.recurrent,
                size,
                config.hidden,
                config.bidirectional,
                config.merge,
                config.clip,
                config.state_dropout,
            )
            self.recurrent.append(recurrent)
            size = recurrent.output_size
        self.row = None
        self.lookahead = None
        if not config.bidirectional:
            self.lookahead = (self.receptive_field - 1) // 2 + config.lookahead * self.subsampling
            if config.hide_end:
                self.hidden_end = self.lookahead
            if config.lookahead:
                self.row = RowConvolution(size, config.lookahead, config.clip)
        self.last_norm = nn.BatchNorm1d(size) if config.batch_norm else nn.Identity()
        self.dropout = PackedDropout(config.dropout, config.dropout_per)
        self.output = nn.Linear(size, num_labels)
        if config.attention is not None:  # last, so that the rest begins with the same weights
            self.attention = AttentionDecoder(config.attention, size, num_labels)

    def encode(self, features: Tensor, lengths: Tensor) -> Frames:
        if self.symbols is not None:
            features = self.symbols(symbol_numbers(features, self.symbols.num_embeddings))
        hidden = features[:, None] if self.config.convolution == "2d" else features.transpose(1, 2)
        for layer in self.convolutions:  # (N, C, F, T) or (N, C, T)
            hidden, lengths = layer(hidden, lengths)
        if hidden.dim() == 4:
            hidden = hidden.permute(0, 2, 1, 3).flatten(2)
        else:
            hidden = hidden.transpose(1, 2)
        packed = pack(hidden, lengths)
        for norm, layer in zip(self.norms, self.recurrent, strict=True):
            packed = layer(self.dropout(packed._replace(data=norm(packed.data))))
        if self.row is not None:
            packed = self.row(packed)
        return self.dropout(packed._replace(data=self.last_norm(packed.data)))


class ConvolutionLayer(nn.Module):
    """Convolution, batch norm over true frames, clipped ReLU.

    Over time and frequency: (N, C, T, F) to (N, C', T', F'); over time: (N, C, T) to (N, C', T').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        stride: int,
        frequency: tuple[int, int] | None,  # width and stride
        config: DeepSpeech2Config,
    ) -> None:
        super().__init__()
        self.stride, self.clip = stride, config.clip
        bias = not config.batch_norm
        self.convolution: nn.Module
        if frequency:
            self.convolution = nn.Conv2d(
                in_channels,
                out_channels,
                (width, frequency[0]),
                (stride, frequency[1]),
                (width // 2, frequency[0] // 2),
                bias=bias,
            )
        else:
            self.convolution = nn.Conv1d(
                in_channels, out_channels, width, stride, width // 2, bias=bias
            )
        self.norm = nn.BatchNorm1d(out_channels) if config.batch_norm else nn.Identity()

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.convolution(mask_time(inputs, lengths))
        lengths = (lengths + self.stride - 1) // self.stride
        frames = outputs.transpose(1, 2)  # (N, T', C, F') or (N, T', C)
        mask = frame_mask(lengths.to(frames.device), frames.shape[1])
        if exporting():  # all frames: the next layer zeroes what is past the end
            every = hardtanh(self.norm(frames.flatten(0, 1)), 0.0, self.clip)
            return every.unflatten(0, mask.shape).transpose(1, 2), lengths
        true = hardtanh(self.norm(frames[mask]), 0.0, self.clip)  # (M, C, F') or (M, C)
        padded = true.new_zeros(frames.shape)
        padded[mask] = true
        return padded.transpose(1, 2), lengths


class RowConvolution(nn.Module):
    """r_t,i = sum over j = 0..lookahead of W_i,j h_t+j,i, then clipped ReLU (Amodei, eq. 10)."""

    def __init__(self, size: int, lookahead: int, clip: float) -> None:
        super().__init__()
        self.lookahead, self.clip = lookahead, clip
        self.convolution = nn.Conv1d(size, size, lookahead + 1, groups=size, bias=False)

    def forward(self, packed: Frames) -> Frames:
        padded, lengths = unpack(packed)  # zeros past the end
        future = nn.functional.pad(padded.transpose(1, 2), (0, self.lookahead))
        rows = hardtanh(self.convolution(future), 0.0, self.clip).transpose(1, 2)
        return pack(rows, lengths)


def build_model(
    config: DeepSpeech1Config | DeepSpeech2Config, num_features: int, num_labels: int
) -> AcousticModel:
    """The untrained model that `config` describes; num_labels counts the blank.

    Raises ConfigError, before anything is allocated, if its weights need more than the machine's
    memory.
    """

    def make() -> AcousticModel:
        if isinstance(config, DeepSpeech1Config):
            return DeepSpeech1(config, num_features, num_labels)
        try:
            return DeepSpeech2(config, num_features, num_labels)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        needed = sum(p.numel() * p.element_size() for p in make().parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"model: its weights need {needed / 2**30:.0f} GiB and this machine has "
            f"{memory / 2**30:.0f} GiB of memory; lower model.hidden or model.layers"
        )
    return make()


def describe(model: AcousticModel, frame_shift_ms: float | None = None) -> str:
    """Lines that tell a model's parameters by part, its receptive field and its delay."""

    def time(frames: int) -> str:
        shown = f"{frames} frame{'' if frames == 1 else 's'}"
        return shown if frame_shift_ms is None else f"{shown} ({frames * frame_shift_ms:g} ms)"

    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    width = len(f"{sum(counts.values()):,}")
    lines = [f"{sum(counts.values()):>{width},} parameters"]
    lines += [f"{count:>{width},}   {name}" for name, count in counts.items() if count]
    lines.append(f"receptive field before the recurrent layers: {time(model.receptive_field)}")
    lines.append(f"one frame of emissions for {time(model.subsampling)}")
    if model.lookahead is None:
        lines.append("needs the whole utterance (bidirectional)")
    else:
        lines.append(f"looks ahead {time(model.lookahead)}")
    return "\n".join(lines)


def check_input(features: Tensor, lengths: Tensor, num_features: int) -> None:
    """Raises ValueError unless features are (N, T, num_features) and lengths N numbers in 1..T."""
    if features.dim() != 3 or features.shape[2] != num_features:
        raise ValueError(
            f"features must have shape (N, T, {num_features}), got {tuple(features.shape)}"
        )
    if lengths.shape != features.shape[:1]:
        raise ValueError(
            f"lengths must have shape ({len(features)},), one for each utterance, got "
            f"{tuple(lengths.shape)}"
        )
    if exporting():  # only the shapes are known
        return
    for i, length in enumerate(lengths.tolist()):
        if not 1 <= length <= features.shape[1]:
            raise ValueError(f"lengths[{i}] must be in 1..{features.shape[1]}, got {length}")


def symbol_numbers(features: Tensor, count: int) -> Tensor:
    """(N, T) whole numbers of features (N, T, 1). Raises ValueError for one that is no symbol's."""
    numbers = features[:, :, 0].long()
    if exporting():  # and the embedding will refuse it
        return numbers
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise ValueError(
            f"features must be numbers of symbols, 0 to {count - 1} (model.symbols), got "
            f"{int(numbers.min())} to {int(numbers.max())}"
        )
    return numbers


def mask_time(values: Tensor, lengths: Tensor) -> Tensor:
    """values (N, C, T) or (N, C, T, F) with zeros in place of padding."""
    mask = frame_mask(lengths.to(values.device), values.shape[2])[:, None]
    return values.masked_fill(~(mask if values.dim() == 3 else mask[..., None]), 0.0)
