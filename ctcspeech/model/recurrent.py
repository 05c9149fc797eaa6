"""Recurrent layers over packed sequences: simple (clipped ReLU), GRU and LSTM, either direction.

The frames of a batch stand packed, as in `torch.nn.utils.rnn.PackedSequence`: all first frames,
then all second ones, and so on, longest utterance first. Nothing is computed for padding, and the
backward direction starts at each utterance's own last frame. (For torch.export they are padded: see
`model.padded`.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from ctcspeech import _core
from ctcspeech.ctc.core import isa
from ctcspeech.model.padded import Frames, Padded, flatten

__all__ = ["RecurrentLayer", "advance"]


class RecurrentLayer(nn.Module):
    """One recurrent layer.

    initial: hidden states (N, H) with which the utterances begin in the next calls, in place of
    zeros, and `final` (N, H) those with which they end; for a GRU that is forward only, and without
    gradient. None unless someone sets `initial` (`train.carry`).

    kind: "rnn" (h = clip(W x + U h' + b), 0 to `clip`; Hannun et al. 2014, equations 2 and 3),
    "gru" or "lstm". Two directions are summed (as in Deep Speech) or concatenated.

    state_dropout: in training, the share of the units of h' that no product of U sees (Gal and
    Ghahramani 2016, arXiv 1512.05287), the others divided by what is left: the same in all frames
    and, for U is multiplied with all utterances at once, in the whole batch.
    """

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden: int,
        bidirectional: bool = True,
        merge: str = "sum",
        clip: float = 20.0,
        state_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        cells = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.kind, self.hidden, self.clip = kind, hidden, clip
        self.bidirectional, self.merge = bidirectional, merge
        self.state_dropout = state_dropout
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        self.cell: nn.RNNBase = cells[kind](input_size, hidden, bidirectional=bidirectional)
        self.initial: Tensor | None = None
        self.final: Tensor | None = None
        self.output_size = hidden * (2 if bidirectional and merge == "concat" else 1)

    def forward(self, packed: Frames) -> Frames:
        """packed: data (M, input_size) for M frames. Returns data (M, output_size)."""
        if isinstance(packed, Padded):
            output = self._scan(packed)
        elif self.kind == "rnn":
            output = self._clipped(packed)
        elif self.initial is not None:
            output = self._carried(packed, self.initial)
        elif self.kind == "gru" and native(packed.data):
            output = self._gru(packed)
        else:
            output = self._by_torch(packed)
        if self.bidirectional and self.merge == "sum":
            output = output[:, : self.hidden] + output[:, self.hidden :]
        return packed._replace(data=output)

    def weights(self, suffix: str) -> list[Tensor]:
        """W, U and the two biases of the forward ("") or backward ("_reverse") direction."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.cell, f"{name}_l0{suffix}") for name in names]

    def _used(self, suffix: str) -> list[Tensor]:
        """The weights, those of dropped states 0 in training."""
        weights = self.weights(suffix)
        if self.training and self.state_dropout:
            mask = weights[1].new_ones(self.hidden)
            weights[1] = weights[1] * nn.functional.dropout(mask, self.state_dropout)
        return weights

    def _by_torch(self, packed: PackedSequence, *initial: Tensor) -> Tensor:
        if self.training and self.state_dropout:
            used = {f"weight_hh_l0{suffix}": self._used(suffix)[1] for suffix in self.suffixes}
            return functional_call(self.cell, used, (packed, *initial))[0].data
        return self.cell(packed, *initial)[0].data

    def _carried(self, packed: PackedSequence, initial: Tensor) -> Tensor:
        """A forward GRU from the states `initial`; leaves `final`."""
        if packed.sorted_indices is not None and packed.unsorted_indices is not None:
            initial = initial[packed.sorted_indices]
        plain = packed._replace(sorted_indices=None, unsorted_indices=None)
        if native(packed.data):
            output = self._gru(plain, initial)
        else:
            output = self._by_torch(plain, initial[None])
        # Utterance i, from long to short, has a frame t where sizes[t] > i.
        sizes = packed.batch_sizes
        here = torch.arange(len(initial))
        lengths = (sizes[:, None] > here).sum(0)
        last = (sizes.cumsum(0) - sizes)[lengths - 1] + here
        self.final = output.detach()[last.to(output.device)].float()
        if packed.unsorted_indices is not None:
            self.final = self.final[packed.unsorted_indices]
        return output

    def _scan(self, padded: Padded) -> Tensor:
        """(N T, D H): frame by frame, by the one loop whose length torch.export leaves open."""
        from torch._higher_order_ops.scan import scan

        true = padded.true.to(padded.data.dtype)[..., None]  # (N, T, 1)
        outputs = []
        for suffix in self.suffixes:
            weight, recurrent, bias, more = self.weights(suffix)
            gates = nn.functional.linear(padded.data, weight, bias)
            gates = gates.unflatten(0, padded.true.shape)  # (N, T, G)
            # Backwards, padding comes first; there the state stays 0.
            steps = [(x.flip(1) if suffix else x).transpose(0, 1) for x in (gates, true)]

            def step(
                state: list[Tensor],
                now: list[Tensor],
                recurrent: Tensor = recurrent,
                more: Tensor = more,
            ) -> tuple[list[Tensor], Tensor]:
                again = nn.functional.linear(state[0], recurrent, more)
                new = advance(self.kind, self.clip, now[0], again, tuple(state))
                new = tuple(part * now[1] for part in new)
                return list(new), new[0].clone()

            state = [
                gates.new_zeros(gates.shape[0], self.hidden)
                for _ in range(2 if self.kind == "lstm" else 1)
            ]
            hidden = scan(step, state, steps)[1]  # (T, N, H)
            outputs.append(hidden.flip(0) if suffix else hidden)
        return flatten(torch.cat(outputs, 2).transpose(0, 1))

    def _gru(self, packed: PackedSequence, initial: Tensor | None = None) -> Tensor:
        parts = [self._used(suffix) for suffix in self.suffixes]
        weight, recurrent, bias, more = (torch.stack(column) for column in zip(*parts, strict=True))
        # torch's second bias is added to the first, but for the candidate, where r comes between.
        gates = 2 * self.hidden
        bias = torch.cat([bias[:, :gates] + more[:, :gates], bias[:, gates:]], 1)
        hidden = GruRecurrence.apply(
            packed.data, weight, recurrent, bias, more[:, gates:], packed.batch_sizes, initial
        )
        return hidden.flatten(1)  # (M, D * H)

    def _clipped(self, packed: PackedSequence) -> Tensor:
        sizes = packed.batch_sizes.tolist()
        outputs = []
        for suffix in self.suffixes:
            weight, recurrent, bias, more = self._used(suffix)
            inputs = nn.functional.linear(packed.data, weight, bias + more)
            outputs.append(ClippedRecurrence.apply(inputs, recurrent, sizes, self.clip, suffix))
        return torch.cat(outputs, dim=1)


def advance(
    kind: str, clip: float, gates: Tensor, again: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One frame of a layer: gates W x + b and again U h + c (..., G) to the new state.

    state: h, and an LSTM's cell, (..., H) each. Biases may be in either, but for a GRU's candidate.
    """
    if kind == "rnn":
        return (torch.clamp(gates + again, 0.0, clip),)
    if kind == "lstm":
        i, f, g, o = (gates + again).chunk(4, -1)
        memory = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(memory), memory
    size = state[0].shape[-1]
    both = torch.sigmoid(gates[..., : 2 * size] + again[..., : 2 * size])
    reset, update = both[..., :size], both[..., size:]
    candidate = torch.tanh(gates[..., 2 * size :] + reset * again[..., 2 * size :])
    return (candidate + update * (state[0] - candidate),)


def native(inputs: Tensor) -> bool:
    """Whether the core's recurrence serves: single precision on the CPU."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype != torch.float64
        and not torch.compiler.is_compiling()
    )


class GruRecurrence(torch.autograd.Function):
    """A GRU layer over packed frames, in one or two directions, by the core (csrc/gru/gru.h).

    inputs (M, I), weight W (D, 3H, I), recurrent U (D, 3H, H), bias (D, 3H), candidate_bias (D, H);
    the hidden states (M, D, H). torch's own layer records a graph of every frame's operations; here
    the gradients of the weights are products over all frames at once.

    initial: states (N, H) to begin with, of one direction, of which no gradient is taken. The core
    begins with zeros: the states are what one more frame before the first ones gives, of gates that
    take nothing over from before.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        candidate_bias: Tensor,
        sizes: Tensor,
        initial: Tensor | None = None,
    ) -> Tensor:
        directions, gates_size, hidden_size = recurrent.shape
        # Under autocast the products over all frames are of low precision, the recurrence is not.
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        inputs, weight = (x.to(low or torch.float32) for x in (inputs, weight))
        gates = nn.functional.linear(inputs, weight.flatten(0, 1), bias.flatten().to(inputs.dtype))
        gates = gates.float().view(-1, directions, gates_size)
        ctx.before = 0 if initial is None else len(initial)
        if initial is not None:
            gates = torch.cat([_gates_that_give(initial.float())[:, None], gates])
            sizes = torch.cat([sizes.new_tensor([len(initial)]), sizes])
        hidden = gates.new_empty(len(gates), directions, hidden_size)
        learning = any(ctx.needs_input_grad)
        candidate = torch.empty_like(hidden) if learning else None
        _core.gru_forward(
            gates,
            recurrent.detach().contiguous(),
            candidate_bias.detach().contiguous(),
            sizes,
            hidden,
            candidate,
            torch.get_num_threads(),
            isa(),
        )
        if learning:
            ctx.save_for_backward(inputs, weight, recurrent, sizes, gates, hidden, candidate)
        return hidden if initial is None else hidden[len(initial) :].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, recurrent, sizes, gates, hidden, candidate = ctx.saved_tensors
        if ctx.before:
            gradient = torch.cat([gradient.new_zeros(ctx.before, *gradient.shape[1:]), gradient])
        by_gates = torch.empty_like(gates)
        by_candidate, before = torch.empty_like(hidden), torch.empty_like(hidden)
        _core.gru_backward(
            gates,
            recurrent.contiguous(),
            sizes,
            hidden,
            candidate,
            gradient.float().contiguous(),
            by_gates,
            by_candidate,
            before,
            torch.get_num_threads(),
            isa(),
        )
        by_gates, by_candidate, before = (x[ctx.before :] for x in (by_gates, by_candidate, before))
        by_bias, by_candidate_bias = by_gates.sum(0), by_candidate.sum(0)
        by_gates, by_candidate, before = (
            x.to(inputs.dtype) for x in (by_gates, by_candidate, before)
        )
        flat = by_gates.flatten(1)  # (M, D * 3H)
        by_weight = (flat.t() @ inputs).view_as(weight)
        by_recurrent = torch.empty_like(recurrent)
        units = 2 * hidden.shape[2]  # of r and z, whose gradients are those of W x + b
        for d in range(len(recurrent)):
            by_recurrent[d, :units] = by_gates[:, d, :units].t() @ before[:, d]
            by_recurrent[d, units:] = by_candidate[:, d].t() @ before[:, d]
        by_inputs = flat @ weight.flatten(0, 1) if ctx.needs_input_grad[0] else None
        return by_inputs, by_weight, by_recurrent, by_bias, by_candidate_bias, None, None


def _gates_that_give(hidden: Tensor) -> Tensor:
    """W x + b (N, 3H) of r, z, n for which h = n + z (0 - n), n = tanh(gates_n + r c), is `hidden`:
    r and z are 0."""
    off = torch.full_like(hidden, -40.0)
    return torch.cat([off, off, torch.atanh(hidden.clamp(-1 + 1e-6, 1 - 1e-6))], 1)


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
