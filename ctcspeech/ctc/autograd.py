"""The CTC loss in torch's autograd: a thin function for eager calls, operators for tracing."""

from typing import Any

import torch

from ctcspeech.ctc.core import LARGE, compute, large_block
from ctcspeech.ctc.differentiable import differentiable_losses
from ctcspeech.ctc.problem import Options, Problem
from ctcspeech.ctc.tensors import Kept, loss_dtype, own, prepare

__all__ = [
    "FunctionalGradient",
    "FunctionalLoss",
    "Gradient",
    "Loss",
    "gradient_like",
    "gradient_of",
    "kept_of",
    "loss_alone",
    "reduce",
    "scaled",
    "second_derivatives",
    "through_op",
    "traced",
]

# ---- eager autograd --------------------------------------------------------------------------


def scaled(kept: Any, gradient: torch.Tensor, grad_losses: torch.Tensor) -> torch.Tensor:
    """gradient times the incoming derivative, in place: (N,) or a single value."""
    if gradient.is_cuda:
        from ctcspeech.ctc import cuda

        return cuda.scaled(kept, gradient, grad_losses)
    mapped = torch._C._functorch
    if mapped.is_batchedtensor(grad_losses) or mapped.is_legacy_batchedtensor(grad_losses):
        # vmap over the derivatives that come in: each has a gradient of its own
        shape = (-1, 1, 1) if kept.batch_first else (1, -1, 1)
        return gradient * (grad_losses if grad_losses.ndim == 0 else grad_losses.view(shape))
    if grad_losses.ndim == 0:
        factor = grad_losses.item()
        return gradient if factor == 1 else gradient.mul_(factor)
    shape = (-1, 1, 1) if kept.batch_first else (1, -1, 1)
    return gradient.mul_(grad_losses.view(shape))


def gradient_like(logits: torch.Tensor) -> torch.Tensor:
    """Memory for the gradient: the logits' layout where that is dense, classes contiguous."""
    if logits.is_cuda:
        return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    count, itemsize = logits.numel(), logits.element_size()
    if count * itemsize < LARGE:
        return torch.empty_like(logits)
    flat = torch.frombuffer(large_block(count * itemsize), dtype=logits.dtype)
    T, N, C = logits.shape
    if logits.stride() == (C, T * C, 1):
        return flat.view(N, T, C).transpose(0, 1)
    return flat.view(T, N, C)


def gradient_of(problem: Problem, reduction: int) -> torch.Tensor:
    """The gradient of the reduced loss."""
    gradient = gradient_like(problem.logits)
    compute(problem, None, None, gradient, reduction, False)
    return gradient


def loss_alone(problem: Problem, reduction: int, zero_infinity: bool) -> torch.Tensor:
    """The reduced loss, without gradient."""
    logits = problem.logits
    if reduction == 0:
        result = torch.empty(problem.batch, dtype=loss_dtype(logits), device=logits.device)
        compute(problem, result, None, None, 0, zero_infinity)
    else:
        result = torch.empty((), dtype=loss_dtype(logits), device=logits.device)
        compute(problem, None, result, None, reduction, zero_infinity)
    return result


def kept_of(problem: Problem, labels: bytes | None) -> Kept | Problem:
    if labels is None:
        return Problem(None, *problem[1:])
    targets, options = problem.targets, problem.options
    return Kept(labels, targets.dtype, targets.shape, problem.batch, problem.batch_first, options)


class Loss(torch.autograd.Function):
    """Loss and gradient in one call of the core; the way back hands the gradient over.

    Thinner than an operator of torch.library: a short utterance costs less than the dispatch.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, problem: Problem, reduction: int,
                zero_infinity: bool) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(logits)
        ctx.gradient = gradient = gradient_like(logits)
        result = torch.empty(
            problem.batch if reduction == 0 else (),
            dtype=torch.float64 if logits.dtype is torch.float64 else torch.float32,
            device=logits.device,
        )
        losses, reduced = (result, None) if reduction == 0 else (None, result)
        labels = compute(problem, losses, reduced, gradient, reduction, zero_infinity, None, True)
        ctx.kept = kept_of(problem, labels)
        ctx.reduction = reduction
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_losses,) = grads
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated
            (logits,) = ctx.saved_tensors
            result = Gradient.apply(grad_losses, logits, ctx.kept, ctx.reduction)
            return result, None, None, None
        if gradient is None:  # a second way back through the same graph
            (logits,) = ctx.saved_tensors
            gradient = gradient_of(ctx.kept.of(logits), ctx.reduction)
        return scaled(ctx.kept, gradient, grad_losses), None, None, None


# What Function.apply calls when no function transform of torch.func looks on.
apply_loss = super(torch.autograd.Function, Loss).apply


class Gradient(torch.autograd.Function):
    """The gradient as a function that can be differentiated again (slowly)."""

    @staticmethod
    def forward(ctx: Any, grad_losses: torch.Tensor, logits: torch.Tensor, kept: Any,
                reduction: int) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(grad_losses, logits)
        ctx.kept, ctx.reduction = kept, reduction
        gradient = gradient_of(kept.of(logits), reduction)
        return scaled(kept, gradient, grad_losses)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_losses, logits = ctx.saved_tensors
        problem = ctx.kept.of(logits)
        second = second_derivatives(grads[0], grad_losses, logits, problem, ctx.reduction)
        return *second, None, None


def second_derivatives(direction: torch.Tensor, grad_losses: torch.Tensor, logits: torch.Tensor,
                        problem: Problem, reduction: int) -> tuple[Any, Any]:  # fmt: skip
    """Derivatives of <direction, gradient> with respect to grad_losses and logits, by autograd
    through a recursion written in torch."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = logits if logits.requires_grad else logits.detach().requires_grad_()
        g = grad_losses if grad_losses.requires_grad else grad_losses.detach().requires_grad_()
        p = problem
        losses = differentiable_losses(
            x.transpose(0, 1) if p.batch_first else x,
            p.targets,
            p.input_lengths,
            p.target_lengths,
            p.options.blank,
            p.options.wildcard_penalty,
            p.options.delay_penalty,
        )
        total = (reduce(losses, p.target_lengths, reduction) * g).sum()
        (first,) = torch.autograd.grad(total, x, create_graph=True)
        return torch.autograd.grad(  # type: ignore[return-value]
            first, (g, x), direction, create_graph=create_graph
        )


def reduce(losses: torch.Tensor, target_lengths: torch.Tensor, reduction: int) -> torch.Tensor:
    if reduction == 0:
        return losses
    if reduction == 1:
        return losses.sum()
    return (losses / target_lengths.clamp(min=1).to(losses)).mean()


# ---- torch.library: for compile, export and every kind of tracing ----------------------------


@torch.library.custom_op("ctcspeech::ctc_loss", mutates_args=(), device_types=("cpu", "cuda"))
def _op(
    logits: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
    zero_infinity: bool,
    batch_first: bool,
    wildcard_penalty: float | None,
    delay_penalty: float,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (N,) and the gradient of their sum, or an empty tensor."""
    options = Options(blank, wildcard_penalty, delay_penalty)
    problem = prepare(logits, targets, input_lengths, target_lengths, batch_first, options)
    problem = own(problem, copy=False)
    device = logits.device
    losses = torch.empty(problem.batch, dtype=loss_dtype(logits), device=device)
    shape = logits.shape if with_gradient else (0,)
    gradient = torch.empty(shape, dtype=logits.dtype, device=device)
    compute(problem, losses, None, gradient if with_gradient else None, 0, zero_infinity)
    return losses, gradient


@_op.register_fake
def _(logits, targets, input_lengths, target_lengths, blank, zero_infinity, batch_first,
      wildcard_penalty, delay_penalty, with_gradient):  # fmt: skip
    losses = logits.new_empty(logits.shape[0 if batch_first else 1], dtype=loss_dtype(logits))
    shape = logits.shape if with_gradient else (0,)
    return losses, torch.empty(shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op(
    "ctcspeech::ctc_loss_backward", mutates_args=(), device_types=("cpu", "cuda")
)
def _backward_op(
    grad_losses: torch.Tensor,
    gradient: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
    batch_first: bool,
    wildcard_penalty: float | None,
    delay_penalty: float,
) -> torch.Tensor:
    """The gradient times the incoming derivative of each loss. What follows `gradient` serves the
    second derivative."""
    return gradient * grad_losses.view((-1, 1, 1) if batch_first else (1, -1, 1)).to(gradient.dtype)


@_backward_op.register_fake
def _(grad_losses, gradient, *rest):
    return torch.empty_like(gradient)


def _op_context(ctx: Any, inputs: Any, output: Any) -> None:
    logits, targets, input_lengths, target_lengths, blank, _, *rest, _ = inputs
    ctx.save_for_backward(output[1], logits, targets, input_lengths, target_lengths)
    ctx.rest = (blank, *rest)


def _op_backward(ctx: Any, grad_losses: torch.Tensor, _: torch.Tensor) -> Any:
    gradient = _backward_op(grad_losses, *ctx.saved_tensors, *ctx.rest)
    return gradient, *([None] * 9)


def _backward_op_context(ctx: Any, inputs: Any, output: Any) -> None:
    grad_losses, _, logits, targets, input_lengths, target_lengths, *rest = inputs
    ctx.save_for_backward(grad_losses, logits, targets, input_lengths, target_lengths)
    ctx.rest = rest


def _backward_op_backward(ctx: Any, direction: torch.Tensor) -> Any:
    grad_losses, logits, targets, input_lengths, target_lengths = ctx.saved_tensors
    blank, batch_first, wildcard, delay = ctx.rest
    options = Options(blank, wildcard, delay)
    problem = Problem(None, targets, input_lengths, target_lengths, batch_first, options)
    grad_grad, grad_logits = second_derivatives(direction, grad_losses, logits, problem, 0)
    return grad_grad, None, grad_logits, *([None] * 7)


_op.register_autograd(_op_backward, setup_context=_op_context)
_backward_op.register_autograd(_backward_op_backward, setup_context=_backward_op_context)


# ---- torch.vmap: what is mapped over becomes part of the batch ---------------------------------


def _into_batch(x: torch.Tensor, dim: int | None, size: int, at: int) -> torch.Tensor:
    """The mapped dimension, `dim` of x or none, in front of dimension `at` and joined with it."""
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, at).flatten(at, at + 1)


def _padded_targets(targets: torch.Tensor, dim: int | None, lengths: torch.Tensor,
                     lengths_dim: int | None, size: int, classes: int) -> torch.Tensor:  # fmt: skip
    """Concatenated labels of each item as rows (size * N, S), wide enough for any lengths. A place
    past the end holds a label that is none, so that the core says what is wrong."""
    labels = targets.unsqueeze(0).expand(size, -1) if dim is None else targets.movedim(dim, 0)
    lengths = lengths.unsqueeze(0) if lengths_dim is None else lengths.movedim(lengths_dim, 0)
    lengths = lengths.expand(size, -1).to(labels.device)  # (size, N)
    places = (lengths.cumsum(1) - lengths)[:, :, None] + torch.arange(
        labels.shape[1], device=labels.device
    )  # (size, N, S)
    inside = (places >= 0) & (places < labels.shape[1])
    places = places.clamp(0, max(labels.shape[1] - 1, 0)).flatten(1)
    rows = labels.gather(1, places).view(*inside.shape)
    return torch.where(inside, rows, classes).flatten(0, 1)


def _fold(size: int, in_dims: Any, arrays: Any, batch_first: bool) -> tuple[torch.Tensor, ...]:
    """The arrays of a mapped call as those of one call with size * N utterances."""
    logits, targets, input_lengths, target_lengths = arrays
    x_dim, y_dim, frames_dim, labels_dim = in_dims
    mapped_labels = targets.ndim - (y_dim is not None) == 1
    if mapped_labels:
        classes = logits.shape[-1] if x_dim != logits.ndim - 1 else logits.shape[-2]
        y = _padded_targets(targets, y_dim, target_lengths, labels_dim, size, classes)
    else:
        y = _into_batch(targets, y_dim, size, 0)
    return (
        _into_batch(logits, x_dim, size, 0 if batch_first else 1),
        y,
        _into_batch(input_lengths, frames_dim, size, 0),
        _into_batch(target_lengths, labels_dim, size, 0),
    )


def _unfold_gradient(gradient: torch.Tensor, size: int, batch_first: bool) -> tuple[Any, int]:
    at = 0 if batch_first else 1
    return gradient.unflatten(at, (size, gradient.shape[at] // size)), at


def _vmap_loss(apply: Any, info: Any, in_dims: Any, *inputs: Any) -> Any:
    blank, zero_infinity, batch_first, *rest = inputs[4:]
    folded = _fold(info.batch_size, in_dims[:4], inputs[:4], batch_first)
    losses, gradient = apply(*folded, blank, zero_infinity, batch_first, *rest)
    losses = losses.unflatten(0, (info.batch_size, losses.shape[0] // info.batch_size))
    if gradient.ndim == 1:  # none was asked for
        return (losses, gradient), (0, None)
    gradient, at = _unfold_gradient(gradient, info.batch_size, batch_first)
    return (losses, gradient), (0, at)


def _vmap_gradient(apply: Any, info: Any, in_dims: Any, *inputs: Any) -> Any:
    grad_losses, gradient, *arrays = inputs[:6]
    blank, batch_first, *rest = inputs[6:]
    size = info.batch_size
    folded = _fold(size, in_dims[2:6], arrays, batch_first)
    result = apply(
        _into_batch(grad_losses, in_dims[0], size, 0),
        _into_batch(gradient, in_dims[1], size, 0 if batch_first else 1),
        *folded,
        blank,
        batch_first,
        *rest,
    )
    return _unfold_gradient(result, size, batch_first)


_op.register_vmap(lambda info, in_dims, *inputs: _vmap_loss(_op, info, in_dims, *inputs))
_backward_op.register_vmap(
    lambda info, in_dims, *inputs: _vmap_gradient(_backward_op, info, in_dims, *inputs)
)


# ---- torch.func: the same two operators as functions that its transforms accept ---------------


class FunctionalLoss(torch.autograd.Function):
    """(losses, gradient of their sum) under torch.func.grad, vjp, jacrev, vmap."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _op_context(ctx, inputs, output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        result = FunctionalGradient.apply(grads[0], *ctx.saved_tensors, *ctx.rest)
        return result, *([None] * 9)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmap_loss(FunctionalLoss.apply, info, in_dims, *inputs)


class FunctionalGradient(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _backward_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _backward_op_context(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_losses, logits, targets, input_lengths, target_lengths = ctx.saved_tensors
        blank, batch_first, wildcard, delay = ctx.rest

        def first(g: torch.Tensor, x: torch.Tensor) -> Any:
            def total(x: torch.Tensor) -> torch.Tensor:
                x = x.transpose(0, 1) if batch_first else x
                lengths = input_lengths, target_lengths
                return (
                    differentiable_losses(x, targets, *lengths, blank, wildcard, delay) * g
                ).sum()

            return torch.func.grad(total)(x)

        pull: Any = torch.func.vjp(first, grad_losses, logits)[1]
        grad_grad, grad_logits = pull(grads[0])
        return grad_grad, None, grad_logits, *([None] * 7)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmap_gradient(FunctionalGradient.apply, info, in_dims, *inputs)


def traced(logits: torch.Tensor) -> bool:
    """Whether something other than plain eager execution looks on."""
    return (
        torch.compiler.is_compiling()
        or type(logits) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def through_op(problem: Problem, reduction: int, zero_infinity: bool) -> torch.Tensor:
    p = problem
    with_gradient = torch.is_grad_enabled() and p.logits.requires_grad
    transformed = torch._C._are_functorch_transforms_active()
    losses, _ = (FunctionalLoss.apply if transformed else _op)(
        p.logits,
        p.targets,
        p.input_lengths,
        p.target_lengths,
        p.options.blank,
        zero_infinity,
        p.batch_first,
        p.options.wildcard_penalty,
        p.options.delay_penalty,
        with_gradient or transformed,
    )
    return reduce(losses, p.target_lengths, reduction)
