"""The frames of a batch of utterances of several lengths, one after another.

    frames = pack(padded, lengths)                    # (N, T, H), (N,): .data (M, H)
    frames = frames._replace(data=layer(frames.data))
    padded, lengths = unpack(frames)

`pack` gives torch's `PackedSequence`, the M true frames alone. Their number and order depend on
the lengths, which torch.export does not know: while it traces, `pack` gives `Padded`, all frames,
one utterance after another. What lies past an utterance's end reaches no other frame: recurrent
layers stay at 0 there, and `unpack` makes it 0. Batch norm in training would count it, so that only
models in evaluation mode can be exported.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

__all__ = ["Frames", "Padded", "exporting", "flatten", "frame_mask", "pack", "unpack"]


class Padded(NamedTuple):
    """All frames, those past an utterance's end too, in the order of (N, T)."""

    data: Tensor  # (N T, H)
    true: Tensor  # (N, T) bool


Frames = PackedSequence | Padded


def exporting() -> bool:
    """Whether torch.export traces (from torch 2.7 on; releases before cannot tell)."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(N, frames) bool: whether a frame is a true one."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def flatten(padded: Tensor) -> Tensor:
    """(N, T, H) to (N T, H). Times one: what an operation gives lies in one piece, and torch.export
    knows it; of a reshaped view it would ask for sizes for which that is so."""
    return padded.flatten(0, 1) * 1.0


def pack(padded: Tensor, lengths: Tensor) -> Frames:
    """padded (N, T, H), of which lengths (N,) are true. lengths may stand on any device."""
    if exporting():
        return Padded(flatten(padded), frame_mask(lengths.to(padded.device), padded.shape[1]))
    return pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)


def unpack(frames: Frames) -> tuple[Tensor, Tensor]:
    """(N, T, H), 0 past an utterance's end, and the lengths (N,)."""
    if isinstance(frames, Padded):
        padded = frames.data.unflatten(0, frames.true.shape)
        return padded.masked_fill(~frames.true[..., None], 0.0), frames.true.sum(1)
    return pad_packed_sequence(frames, batch_first=True)
