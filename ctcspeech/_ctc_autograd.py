"""The CTC loss in torch's autograd: a thin function for eager calls, operators for tracing."""

from typing import Any

import torch

from ctcspeech._ctc_arguments import Options, Problem, compute, loss_dtype, own, prepare
from ctcspeech._ctc_terms import differentiable_losses

__all__: list[str] = []

# ---- eager autograd --------------------------------------------------------------------------


def scaled(problem: Problem, gradient: torch.Tensor, grad_losses: torch.Tensor) -> torch.Tensor:
    """gradient times the incoming derivative, in place: (N,) or a single value."""
    if gradient.is_cuda:
        from ctcspeech import _ctc_cuda

        return _ctc_cuda.scaled(problem, gradient, grad_losses)
    if grad_losses.ndim == 0:
        factor = grad_losses.item()
        return gradient if factor == 1 else gradient.mul_(factor)
    shape = (-1, 1, 1) if problem.batch_first else (1, -1, 1)
    return gradient.mul_(grad_losses.view(shape))


def gradient_of(problem: Problem, reduction: int) -> torch.Tensor:
    """The gradient of the reduced loss, contiguous, in the logits' layout."""
    logits = problem.logits
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    compute(problem, None, None, gradient, reduction, False)
    return gradient


def loss_alone(problem: Problem, reduction: int, zero_infinity: bool) -> torch.Tensor:
    """The reduced loss, without gradient."""
    shape = (problem.batch,) if reduction == 0 else ()
    logits = problem.logits
    result = torch.empty(shape, dtype=loss_dtype(logits), device=logits.device)
    losses, reduced = (result, None) if reduction == 0 else (None, result)
    compute(problem, losses, reduced, None, reduction, zero_infinity)
    return result


class Loss(torch.autograd.Function):
    """Loss and gradient in one call of the core; the way back hands the gradient over.

    Thinner than an operator of torch.library: a short utterance costs less than the dispatch.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, problem: Problem, reduction: int,
                zero_infinity: bool) -> torch.Tensor:  # fmt: skip
        shape = (problem.batch,) if reduction == 0 else ()
        result = torch.empty(shape, dtype=loss_dtype(logits), device=logits.device)
        losses, reduced = (result, None) if reduction == 0 else (None, result)
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        ctx.save_for_backward(logits)
        ctx.problem = Problem(None, *problem[1:])
        ctx.reduction = reduction
        ctx.gradient = gradient
        compute(problem, losses, reduced, gradient, reduction, zero_infinity)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_losses,) = grads
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated
            (logits,) = ctx.saved_tensors
            result = Gradient.apply(grad_losses, logits, ctx.problem, ctx.reduction)
            return result, None, None, None
        if gradient is None:  # a second way back through the same graph
            (logits,) = ctx.saved_tensors
            gradient = gradient_of(ctx.problem._replace(logits=logits), ctx.reduction)
        return scaled(ctx.problem, gradient, grad_losses), None, None, None


class Gradient(torch.autograd.Function):
    """The gradient as a function that can be differentiated again (slowly)."""

    @staticmethod
    def forward(ctx: Any, grad_losses: torch.Tensor, logits: torch.Tensor, problem: Problem,
                reduction: int) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(grad_losses, logits)
        ctx.problem, ctx.reduction = problem, reduction
        gradient = gradient_of(problem._replace(logits=logits), reduction)
        return scaled(problem, gradient, grad_losses)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_losses, logits = ctx.saved_tensors
        second = second_derivatives(grads[0], grad_losses, logits, ctx.problem, ctx.reduction)
        return *second, None, None


def second_derivatives(direction: torch.Tensor, grad_losses: torch.Tensor, logits: torch.Tensor,
                        problem: Problem, reduction: int) -> tuple[Any, Any]:  # fmt: skip
    """Derivatives of <direction, gradient> with respect to grad_losses and logits, by autograd
    through a recursion written in torch. It runs on the CPU, wherever the logits are."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = logits if logits.requires_grad else logits.detach().requires_grad_()
        g = grad_losses if grad_losses.requires_grad else grad_losses.detach().requires_grad_()
        p = problem
        losses = differentiable_losses(
            (x.transpose(0, 1) if p.batch_first else x).cpu(),
            p.targets.cpu(),
            p.input_lengths.cpu(),
            p.target_lengths.cpu(),
            p.options.blank,
            p.options.wildcard_penalty,
            p.options.delay_penalty,
        ).to(x.device)
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


def traced(logits: torch.Tensor) -> bool:
    """Whether something other than plain eager execution looks on."""
    return (
        torch.compiler.is_compiling()
        or type(logits) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._len_torch_dispatch_stack() > 0
    )


def through_op(problem: Problem, reduction: int, zero_infinity: bool) -> torch.Tensor:
    p = problem
    with_gradient = torch.is_grad_enabled() and p.logits.requires_grad
    losses, _ = _op(
        p.logits,
        p.targets,
        p.input_lengths,
        p.target_lengths,
        p.options.blank,
        zero_infinity,
        p.batch_first,
        p.options.wildcard_penalty,
        p.options.delay_penalty,
        with_gradient,
    )
    return reduce(losses, p.target_lengths, reduction)
