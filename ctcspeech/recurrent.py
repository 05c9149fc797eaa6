"""Recurrent layers over packed sequences: simple (clipped ReLU), GRU and LSTM, either direction.

The frames of a batch stand packed, as in `torch.nn.utils.rnn.PackedSequence`: all first frames,
then all second ones, and so on, longest utterance first. Nothing is computed for padding, and the
backward direction starts at each utterance's own last frame.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["RecurrentLayer"]


class RecurrentLayer(nn.Module):
    """One recurrent layer.

    kind: "rnn" (h = clip(W x + U h' + b), 0 to `clip`; Hannun et al. 2014, equations 2 and 3),
    "gru" or "lstm". Two directions are summed (as in Deep Speech) or concatenated.
    """

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden: int,
        bidirectional: bool = True,
        merge: str = "sum",
        clip: float = 20.0,
    ) -> None:
        super().__init__()
        cells = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.kind, self.hidden, self.clip = kind, hidden, clip
        self.bidirectional, self.merge = bidirectional, merge
        self.cell: nn.RNNBase = cells[kind](input_size, hidden, bidirectional=bidirectional)
        self.output_size = hidden * (2 if bidirectional and merge == "concat" else 1)

    def forward(self, packed: PackedSequence) -> PackedSequence:
        """packed: data (M, input_size) for M true frames. Returns data (M, output_size)."""
        output = self._clipped(packed) if self.kind == "rnn" else self.cell(packed)[0].data
        if self.bidirectional and self.merge == "sum":
            output = output[:, : self.hidden] + output[:, self.hidden :]
        return packed._replace(data=output)

    def _clipped(self, packed: PackedSequence) -> Tensor:
        sizes = packed.batch_sizes.tolist()
        outputs = []
        for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
            weight, recurrent, bias, more = (
                getattr(self.cell, f"{name}_l0{suffix}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            inputs = nn.functional.linear(packed.data, weight, bias + more)
            outputs.append(ClippedRecurrence.apply(inputs, recurrent, sizes, self.clip, suffix))
        return torch.cat(outputs, dim=1)


class ClippedRecurrence(torch.autograd.Function):
    """h_t = min(max(z_t + U h_{t-1}, 0), clip) over packed frames.

    Written as a function of its own so that the gradient of U is one product over all frames; the
    graph that autograd would record makes one product, and one sum into U's gradient, a frame.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, sizes: list[int], clip: float, reverse: str
    ) -> Tensor:
        if inputs.dtype in (torch.float16, torch.bfloat16):  # autocast
            inputs = inputs.float()
        weight = weight.to(inputs.dtype)
        output = inputs.clone()  # (M, H); frame by frame z becomes h
        transposed = weight.t()
        steps = frame_slices(sizes)
        if reverse:
            steps.reverse()
        state = output[:0]
        for start, size in steps:
            now = output[start : start + size]
            rows = min(size, len(state))  # those that have a frame before this one
            if rows:
                now[:rows].addmm_(state[:rows], transposed)
            state = now.clamp_(0.0, clip)
        ctx.save_for_backward(output, weight)
        ctx.steps, ctx.clip = steps, clip
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        output, weight = ctx.saved_tensors
        passes = (output > 0) & (output < ctx.clip)
        gradient = gradient.to(output.dtype, copy=True)  # frame by frame dL/dh becomes dL/dz
        before = torch.zeros_like(output)  # h_{t-1} of each frame, 0 for an utterance's first one
        steps = ctx.steps
        for k in range(len(steps) - 1, -1, -1):
            start, size = steps[k]
            now = gradient[start : start + size]
            now.mul_(passes[start : start + size])
            if k:
                previous, rows = steps[k - 1][0], min(size, steps[k - 1][1])
                gradient[previous : previous + rows].addmm_(now[:rows], weight)
                before[start : start + rows] = output[previous : previous + rows]
        return gradient, gradient.t() @ before, None, None, None


def frame_slices(sizes: list[int]) -> list[tuple[int, int]]:
    """(first row, rows) of each frame of packed data whose batch sizes are `sizes`."""
    slices, start = [], 0
    for size in sizes:
        slices.append((start, size))
        start += size
    return slices
