"""The CTC loss: exact, quick on the CPU, the same from torch and from NumPy.

    loss = ctcspeech.ctc_loss(logits, targets, input_lengths, target_lengths)
    loss.backward()

Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006. The frames
are normalised inside, so logits and log-probabilities give the same loss, and the gradient is the
true derivative with respect to what was passed. T frames, N utterances, C classes with the blank,
L labels, S = 2 L + 1 extended labels.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import torch

from ctcspeech import _core
from ctcspeech._ctc_terms import differentiable_losses, label_smoothing_term

__all__ = ["CTCLoss", "WILDCARD", "ctc_loss", "infeasible", "loss_and_grad", "posteriors"]

WILDCARD = -1
"""The target value that stands for one or more frames of which nothing is known."""

_FLOATS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
_INTEGERS = {"int32": 4, "int64": 5}
_REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
_ISAS = {"baseline": 0, "avx2": 1, "avx512": 2, "neon": 3}
_ARITHMETICS = {"float": 0, "double": 1, "extended": 2, "log": 3}

_TORCH_TYPES = {getattr(torch, name): name for name in (*_FLOATS, *_INTEGERS)}


def _forced(variable: str, choices: dict[str, int], default: int) -> int:
    """For tests: CTCSPEECH_ISA forces an instruction set, CTCSPEECH_CTC_ARITHMETIC the first kind
    of number to try (each falls back to the next where its range ends)."""
    name = os.environ.get(variable)
    if not name:
        return default
    if name not in choices:
        raise ValueError(f"{variable} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


class _Array(NamedTuple):
    """What the core needs to know of an array, wherever it comes from."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _view(array: Any) -> _Array:
    if isinstance(array, torch.Tensor):
        name = _TORCH_TYPES.get(array.dtype, str(array.dtype))
        return _Array(array.data_ptr(), name, tuple(array.shape), array.stride())
    strides = tuple(s // array.itemsize for s in array.strides)
    return _Array(array.ctypes.data, array.dtype.name, array.shape, strides)


class _Options(NamedTuple):
    """What else enters the recursion."""

    blank: int
    wildcard_penalty: float | None
    delay_penalty: float


class _Problem(NamedTuple):
    """Checked arguments. The arrays are torch tensors or NumPy arrays, all of one kind."""

    logits: Any  # (T, N, C), or (N, T, C) with batch_first; never (T, C)
    targets: Any  # (N, L) or concatenated; like the lengths contiguous and of one integer type
    input_lengths: Any  # (N,)
    target_lengths: Any  # (N,)
    batch_first: bool
    options: _Options

    def arguments(self) -> tuple[Any, ...]:
        """The leading arguments of the core's functions."""
        x, targets = _view(self.logits), _view(self.targets)
        n, t = (0, 1) if self.batch_first else (1, 0)
        padded = len(targets.shape) == 2
        return (
            x.address,
            _FLOATS[x.dtype],
            x.shape[t],
            x.shape[n],
            x.shape[2],
            x.strides[t],
            x.strides[n],
            targets.address,
            _view(self.input_lengths).address,
            _view(self.target_lengths).address,
            _INTEGERS[targets.dtype],
            targets.shape[1] if padded else -1,
            targets.shape[-1],
            self.options.blank,
            self.options.wildcard_penalty is not None,
            self.options.wildcard_penalty or 0.0,
            self.options.delay_penalty,
        )

    @property
    def batch(self) -> int:
        return self.logits.shape[0 if self.batch_first else 1]


def _raise(problem: _Problem, error: tuple[int, int, int]) -> None:
    """The core's status in words."""
    status, item, position = error
    p = problem
    frames = p.logits.shape[1 if p.batch_first else 0]
    classes = p.logits.shape[2]
    if status == 2:
        raise ValueError(f"blank must be in [0, {classes}), got {p.options.blank}")
    if status == 3:
        raise ValueError(
            f"input_lengths[{item}] must be between 0 and the {frames} frames of logits, "
            f"got {int(p.input_lengths[item])}"
        )
    length = int(p.target_lengths[item]) if status in (4, 5, 6, 7) else 0
    if status == 4:
        most = f" and the {p.targets.shape[1]} columns of targets" if p.targets.ndim == 2 else ""
        between = f"between 0{most}" if most else "at least 0"
        raise ValueError(f"target_lengths[{item}] must be {between}, got {length}")
    if status == 5:
        raise ValueError(
            f"concatenated targets have {p.targets.shape[0]} labels, but target_lengths ask for "
            f"more: they run out in utterance {item}, which has {length}"
        )
    if status in (6, 7):
        if p.targets.ndim == 2:
            label, place = int(p.targets[item, position]), f"targets[{item}, {position}]"
        else:
            first = int(p.target_lengths[:item].sum())
            label = int(p.targets[first + position])
            place = f"targets[{first + position}] (label {position} of utterance {item})"
        if status == 7:
            raise ValueError(f"{place} is {label}, which is the blank: leave blanks out of targets")
        hint = ""
        if label == WILDCARD and p.options.wildcard_penalty is None:
            hint = "; for a wildcard pass wildcard_penalty"
        raise ValueError(f"{place} must be in [0, {classes}), got {label}{hint}")
    if status == 9:
        name = os.environ.get("CTCSPEECH_ISA")
        raise ValueError(
            f"CTCSPEECH_ISA={name}: this machine or build has only "
            f"{', '.join(_core.available_isas())}"
        )
    raise RuntimeError(f"the CTC core failed with status {status}")


def _compute(problem: _Problem, losses: Any, reduced: Any, gradient: Any, reduction: int,
             zero_infinity: bool, arithmetic: Any = None) -> None:  # fmt: skip
    """Losses, their reduction, the gradient, and the kind of number that each utterance took
    (int32) into the given arrays (None: not wanted)."""
    n, t = (0, 1) if problem.batch_first else (1, 0)
    strides = (0, 0, 0) if gradient is None else _view(gradient).strides
    error = _core.ctc_loss(
        *problem.arguments(),
        0 if losses is None else _view(losses).address,
        0 if reduced is None else _view(reduced).address,
        0 if gradient is None else _view(gradient).address,
        strides[t],
        strides[n],
        reduction,
        zero_infinity,
        torch.get_num_threads(),
        _forced("CTCSPEECH_ISA", _ISAS, -1),
        _forced("CTCSPEECH_CTC_ARITHMETIC", _ARITHMETICS, 0),
        0 if arithmetic is None else _view(arithmetic).address,
    )
    if error is not None:
        _raise(problem, error)


# ---- arguments -------------------------------------------------------------------------------


def _check_options(blank: Any, reduction: Any, wildcard_penalty: Any, delay_penalty: Any) -> None:
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)):
        raise TypeError(f"blank must be an int, got {type(blank).__name__}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if wildcard_penalty is not None and not 0 <= wildcard_penalty < float("inf"):
        raise ValueError(
            f"wildcard_penalty must be None or a finite number >= 0, got {wildcard_penalty!r}"
        )
    if not abs(delay_penalty) < float("inf"):
        raise ValueError(f"delay_penalty must be finite, got {delay_penalty!r}")


def _check_shapes(logits: Any, targets: Any, lengths: dict[str, Any], batch_first: bool) -> None:
    shape = tuple(logits.shape)
    batch = shape[0 if batch_first else 1]
    if shape[2] < 1:
        raise ValueError(f"logits must have at least one class, got shape {shape}")
    if targets.ndim not in (1, 2):
        raise ValueError(
            f"targets must be (N, L) padded or 1-D concatenated, got {targets.ndim} dimensions"
        )
    if targets.ndim == 2 and targets.shape[0] != batch:
        raise ValueError(
            f"targets must have a row for each of the {batch} utterances of logits {shape}, "
            f"got shape {tuple(targets.shape)}"
        )
    for name, value in lengths.items():
        if tuple(value.shape) != (batch,):
            raise ValueError(
                f"{name} must be one length for each of the {batch} utterances of logits {shape}, "
                f"got shape {tuple(value.shape)}"
            )


def _integers(name: str, value: Any) -> torch.Tensor:
    """Labels or lengths as an int32 or int64 tensor."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be integers: a tensor, list or int ({error})") from None
        if value.numel() == 0 and value.dtype == torch.float32:  # an empty list
            value = value.to(torch.int64)
    if value.dtype is not torch.int64 and value.dtype is not torch.int32:
        raise TypeError(f"{name} must be int32 or int64, got {value.dtype}")
    return value


def _lengths(name: str, value: Any, batch: int) -> torch.Tensor:
    if isinstance(value, int) and not isinstance(value, bool):
        return torch.full((batch,), value, dtype=torch.int64)
    value = _integers(name, value)
    return value.reshape(1) if value.ndim == 0 and batch == 1 else value


def _prepare(logits: Any, targets: Any, input_lengths: Any, target_lengths: Any,
             batch_first: bool, options: _Options) -> _Problem:  # fmt: skip
    """Checks everything but the values of lengths and labels, which the core looks at."""
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
    if _TORCH_TYPES.get(logits.dtype) not in _FLOATS:
        raise TypeError(f"logits must be float32, float64, float16 or bfloat16, got {logits.dtype}")
    if logits.ndim == 2:
        logits, batch_first = logits.unsqueeze(1), False
    elif logits.ndim != 3:
        raise ValueError(
            f"logits must be (T, N, C), (N, T, C) with batch_first, or (T, C); "
            f"got {logits.ndim} dimensions"
        )
    if logits.device.type != "cpu":
        raise ValueError(
            f"logits are on {logits.device}, but this build computes the CTC loss on the CPU only"
        )
    batch = logits.shape[0 if batch_first else 1]
    targets = _integers("targets", targets)
    input_lengths = _lengths("input_lengths", input_lengths, batch)
    target_lengths = _lengths("target_lengths", target_lengths, batch)
    lengths = {"input_lengths": input_lengths, "target_lengths": target_lengths}
    for name, value in (("targets", targets), *lengths.items()):
        if value.device.type != "cpu":
            raise ValueError(f"{name} are on {value.device}, but logits on {logits.device}")
    _check_shapes(logits, targets, lengths, batch_first)
    return _Problem(logits, targets, input_lengths, target_lengths, batch_first, options)


def _own(problem: _Problem, copy: bool) -> _Problem:
    """As the core wants it: one contiguous integer type, classes contiguous. With `copy` the labels
    and lengths are ours, so that the caller may change theirs before the way back."""
    p = problem
    indices = (p.targets, p.input_lengths, p.target_lengths)
    dtype = torch.int32 if all(i.dtype == torch.int32 for i in indices) else torch.int64
    targets, input_lengths, target_lengths = (
        i.to(dtype, copy=copy, memory_format=torch.contiguous_format) for i in indices
    )
    logits = p.logits if p.logits.stride(2) == 1 else p.logits.contiguous()
    return _Problem(
        logits,
        targets.contiguous(),
        input_lengths.contiguous(),
        target_lengths.contiguous(),
        p.batch_first,
        p.options,
    )


def _loss_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


# ---- eager autograd --------------------------------------------------------------------------


def _scaled(problem: _Problem, gradient: torch.Tensor, grad_losses: torch.Tensor) -> torch.Tensor:
    """gradient times the incoming derivative, in place: (N,) or a single value."""
    if grad_losses.ndim == 0:
        factor = grad_losses.item()
        return gradient if factor == 1 else gradient.mul_(factor)
    shape = (-1, 1, 1) if problem.batch_first else (1, -1, 1)
    return gradient.mul_(grad_losses.view(shape))


def _gradient_of(problem: _Problem, reduction: int) -> torch.Tensor:
    """The gradient of the reduced loss, contiguous, in the logits' layout."""
    logits = problem.logits
    gradient = torch.empty(logits.shape, dtype=logits.dtype)
    _compute(problem, None, None, gradient, reduction, False)
    return gradient


class _Loss(torch.autograd.Function):
    """Loss and gradient in one call of the core; the way back hands the gradient over.

    Thinner than an operator of torch.library: a short utterance costs less than the dispatch.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, problem: _Problem, reduction: int,
                zero_infinity: bool) -> torch.Tensor:  # fmt: skip
        shape = (problem.batch,) if reduction == 0 else ()
        result = torch.empty(shape, dtype=_loss_dtype(logits))
        losses, reduced = (result, None) if reduction == 0 else (None, result)
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty(logits.shape, dtype=logits.dtype)
            ctx.save_for_backward(logits)
            ctx.problem = problem._replace(logits=None)
            ctx.reduction = reduction
            ctx.gradient = gradient
        _compute(problem, losses, reduced, gradient, reduction, zero_infinity)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad_losses,) = grads
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated
            (logits,) = ctx.saved_tensors
            result = _Gradient.apply(grad_losses, logits, ctx.problem, ctx.reduction)
            return result, None, None, None
        if gradient is None:  # a second way back through the same graph
            (logits,) = ctx.saved_tensors
            gradient = _gradient_of(ctx.problem._replace(logits=logits), ctx.reduction)
        return _scaled(ctx.problem, gradient, grad_losses), None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function that can be differentiated again (slowly)."""

    @staticmethod
    def forward(ctx: Any, grad_losses: torch.Tensor, logits: torch.Tensor, problem: _Problem,
                reduction: int) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(grad_losses, logits)
        ctx.problem, ctx.reduction = problem, reduction
        gradient = _gradient_of(problem._replace(logits=logits), reduction)
        return _scaled(problem, gradient, grad_losses)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_losses, logits = ctx.saved_tensors
        second = _second_derivatives(grads[0], grad_losses, logits, ctx.problem, ctx.reduction)
        return *second, None, None


def _second_derivatives(direction: torch.Tensor, grad_losses: torch.Tensor, logits: torch.Tensor,
                        problem: _Problem, reduction: int) -> tuple[Any, Any]:  # fmt: skip
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
        total = (_reduce(losses, p.target_lengths, reduction) * g).sum()
        (first,) = torch.autograd.grad(total, x, create_graph=True)
        return torch.autograd.grad(  # type: ignore[return-value]
            first, (g, x), direction, create_graph=create_graph
        )


def _reduce(losses: torch.Tensor, target_lengths: torch.Tensor, reduction: int) -> torch.Tensor:
    if reduction == 0:
        return losses
    if reduction == 1:
        return losses.sum()
    return (losses / target_lengths.clamp(min=1).to(losses.dtype)).mean()


# ---- torch.library: for compile, export and every kind of tracing ----------------------------


@torch.library.custom_op("ctcspeech::ctc_loss", mutates_args=(), device_types="cpu")
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
    options = _Options(blank, wildcard_penalty, delay_penalty)
    problem = _prepare(logits, targets, input_lengths, target_lengths, batch_first, options)
    problem = _own(problem, copy=False)
    losses = torch.empty(problem.batch, dtype=_loss_dtype(logits))
    gradient = torch.empty(logits.shape if with_gradient else (0,), dtype=logits.dtype)
    _compute(problem, losses, None, gradient if with_gradient else None, 0, zero_infinity)
    return losses, gradient


@_op.register_fake
def _(logits, targets, input_lengths, target_lengths, blank, zero_infinity, batch_first,
      wildcard_penalty, delay_penalty, with_gradient):  # fmt: skip
    losses = logits.new_empty(logits.shape[0 if batch_first else 1], dtype=_loss_dtype(logits))
    shape = logits.shape if with_gradient else (0,)
    return losses, torch.empty(shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("ctcspeech::ctc_loss_backward", mutates_args=(), device_types="cpu")
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
    options = _Options(blank, wildcard, delay)
    problem = _Problem(None, targets, input_lengths, target_lengths, batch_first, options)
    grad_grad, grad_logits = _second_derivatives(direction, grad_losses, logits, problem, 0)
    return grad_grad, None, grad_logits, *([None] * 7)


_op.register_autograd(_op_backward, setup_context=_op_context)
_backward_op.register_autograd(_backward_op_backward, setup_context=_backward_op_context)


def _traced(logits: torch.Tensor) -> bool:
    """Whether something other than plain eager execution looks on."""
    return (
        torch.compiler.is_compiling()
        or type(logits) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def _through_op(problem: _Problem, reduction: int, zero_infinity: bool) -> torch.Tensor:
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
    return _reduce(losses, p.target_lengths, reduction)


# ---- public ----------------------------------------------------------------------------------


def ctc_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    batch_first: bool = False,
    label_smoothing: float = 0.0,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
) -> torch.Tensor:
    """-ln p(targets | logits), a drop-in for `torch.nn.functional.ctc_loss`.

    logits: (T, N, C), (N, T, C) with `batch_first`, or (T, C) for a single utterance; logits or
        log-probabilities of float32, float64, float16 or bfloat16 (the last two are computed in
        float32 and give a float32 loss), any strides.
    targets: labels, (N, L) padded or concatenated in one dimension, int32 or int64, without blanks.
        What stands beyond `target_lengths` is not looked at.
    input_lengths, target_lengths: (N,) as tensor or list, or one int for all.
    reduction: "none" gives the losses (N,); "sum" their sum; "mean" the mean over the batch of
        loss / max(1, L), as in torch.
    zero_infinity: an impossible utterance has loss 0 in place of +inf. Its gradient is zero anyhow.

    Terms for training, each off by default:

    label_smoothing: in [0, 1): (1 - s) loss + s sum_t KL(uniform || softmax_t). Kim, Seltzer, Li,
        Zhao: Improved training for online end-to-end speech recognition systems, Interspeech 2018,
        section 2.2. An impossible utterance gets no such term.
    delay_penalty: adds delay_penalty ((T - 1) / 2 - t) to the log-probability of an alignment for
        each label that begins at frame t, so that early alignments weigh more. Yao et al.:
        Delay-penalized CTC implemented based on finite state transducer, Interspeech 2023.
    wildcard_penalty: allows the label `ctcspeech.ctc.WILDCARD` (-1) in targets, for partly
        transcribed audio: one or more frames of anything, at exp(-wildcard_penalty) a frame.
        Pratap, Hannun, Synnaeve, Collobert: Star temporal classification, NeurIPS 2022; Cai et
        al.: W-CTC, ICLR 2022.

    An utterance with fewer frames than labels and repeats is impossible: loss +inf, gradient zero
    (`infeasible` tells beforehand). NaN or +inf in an utterance makes its loss and gradient NaN and
    no other's. The same bits each run, for any number of threads (`torch.get_num_threads()`) and
    any order in the batch. Second derivatives are right and slow.

    Raises TypeError or ValueError naming the argument and the item.
    """
    _check_options(blank, reduction, wildcard_penalty, delay_penalty)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")
    if isinstance(logits, torch.Tensor) and logits.dtype == torch.float16:
        logits = logits.float()  # a gradient to be scaled later must not underflow before
    options = _Options(blank, wildcard_penalty, delay_penalty)
    problem = _prepare(logits, targets, input_lengths, target_lengths, batch_first, options)
    code = _REDUCTIONS[reduction] if label_smoothing == 0 else 0
    if _traced(logits):
        losses = _through_op(problem, code, zero_infinity)
    else:
        problem = _own(problem, copy=torch.is_grad_enabled() and logits.requires_grad)
        losses = _Loss.apply(problem.logits, problem, code, zero_infinity)
    if label_smoothing != 0:
        x = problem.logits.transpose(0, 1) if problem.batch_first else problem.logits
        term = label_smoothing_term(x, problem.input_lengths).to(losses.dtype)
        possible = losses < float("inf")
        if zero_infinity:
            possible = ~infeasible(problem.targets, problem.input_lengths, problem.target_lengths)
        mixed = (1 - label_smoothing) * losses + label_smoothing * term
        losses = torch.where(possible | losses.isnan(), mixed, losses)
        losses = _reduce(losses, problem.target_lengths, _REDUCTIONS[reduction])
    if logits.ndim == 2 and reduction == "none":
        losses = losses.reshape(())
    return losses


class CTCLoss(torch.nn.Module):
    """`ctc_loss` as a module, a drop-in for `torch.nn.CTCLoss`."""

    def __init__(
        self,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
        *,
        batch_first: bool = False,
        label_smoothing: float = 0.0,
        delay_penalty: float = 0.0,
        wildcard_penalty: float | None = None,
    ) -> None:
        super().__init__()
        _check_options(blank, reduction, wildcard_penalty, delay_penalty)
        self.blank = blank
        self.reduction = reduction
        self.zero_infinity = zero_infinity
        self.batch_first = batch_first
        self.label_smoothing = label_smoothing
        self.delay_penalty = delay_penalty
        self.wildcard_penalty = wildcard_penalty

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, input_lengths: Any, target_lengths: Any
    ) -> torch.Tensor:
        return ctc_loss(
            logits,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
            batch_first=self.batch_first,
            label_smoothing=self.label_smoothing,
            delay_penalty=self.delay_penalty,
            wildcard_penalty=self.wildcard_penalty,
        )

    def extra_repr(self) -> str:
        return f"blank={self.blank}, reduction={self.reduction!r}"


def infeasible(targets: torch.Tensor, input_lengths: Any, target_lengths: Any) -> torch.Tensor:
    """Which utterances have no alignment: more labels and repeats than frames. (N,) bool.

    Two equal labels in a row need a blank between them, so an utterance needs L + repeats frames.
    Arguments as for `ctc_loss`.
    """
    targets = _integers("targets", targets)
    batch = targets.shape[0] if targets.ndim == 2 else None
    if not isinstance(target_lengths, int):
        target_lengths = _integers("target_lengths", target_lengths).reshape(-1)
        batch = len(target_lengths) if batch is None else batch
    target_lengths = _lengths("target_lengths", target_lengths, batch or 1)
    input_lengths = _lengths("input_lengths", input_lengths, len(target_lengths))
    labels = targets if targets.ndim == 2 else _padded(targets, target_lengths)
    inside = torch.arange(1, labels.shape[1], device=labels.device) < target_lengths[:, None]
    repeats = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != WILDCARD) & inside
    return target_lengths + repeats.sum(1) > input_lengths


def _padded(targets: torch.Tensor, target_lengths: torch.Tensor) -> torch.Tensor:
    """Concatenated labels as (N, L)."""
    rows = torch.split(targets[: int(target_lengths.sum())], target_lengths.tolist())
    if not rows:
        return targets.new_zeros(0, 0)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


# ---- NumPy and DLPack ------------------------------------------------------------------------


def _numpy(name: str, value: Any) -> np.ndarray:
    """A NumPy view of anything on the CPU: an array, a DLPack producer, a list, an int."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{name} cannot be read as a CPU array: {error}") from None
    return np.asarray(value)


def _numpy_integers(name: str, value: Any) -> np.ndarray:
    array = _numpy(name, value)
    if array.size == 0 and array.dtype == np.float64:  # an empty list
        array = array.astype(np.int64)
    if array.dtype not in (np.int32, np.int64):
        raise TypeError(f"{name} must be int32 or int64, got {array.dtype}")
    return np.ascontiguousarray(array, np.int64).reshape(array.shape)


def _numpy_problem(logits: Any, targets: Any, input_lengths: Any, target_lengths: Any,
                   batch_first: bool, options: _Options) -> _Problem:  # fmt: skip
    x = _numpy("logits", logits)
    if x.dtype.name not in _FLOATS:
        raise TypeError(f"logits must be float32, float64 or float16, got {x.dtype}")
    if x.ndim == 2:
        x, batch_first = x[:, None], False
    elif x.ndim != 3:
        raise ValueError(
            f"logits must be (T, N, C), (N, T, C) with batch_first, or (T, C); "
            f"got {x.ndim} dimensions"
        )
    if x.strides[2] != x.itemsize or any(s % x.itemsize for s in x.strides) or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    batch = x.shape[0 if batch_first else 1]
    lengths = {}
    for name, value in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        array = _numpy_integers(name, value)
        whole = isinstance(value, int) or (array.ndim == 0 and batch == 1)
        lengths[name] = np.full(batch, array, np.int64) if whole else array
    labels = _numpy_integers("targets", targets)
    _check_shapes(x, labels, lengths, batch_first)
    frames, counts = lengths["input_lengths"], lengths["target_lengths"]
    return _Problem(x, labels, frames, counts, batch_first, options)


def loss_and_grad(
    logits: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    batch_first: bool = False,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and its gradient with respect to the logits, without autograd, as NumPy arrays.

    Takes NumPy arrays and anything on the CPU that speaks DLPack (torch, JAX). Arguments as for
    `ctc_loss`. Returns the loss, () or (N,) with reduction "none", and the gradient, of the logits'
    shape and type; with "none" that of the sum.
    """
    _check_options(blank, reduction, wildcard_penalty, delay_penalty)
    options = _Options(blank, wildcard_penalty, delay_penalty)
    problem = _numpy_problem(logits, targets, input_lengths, target_lengths, batch_first, options)
    x = problem.logits
    code = _REDUCTIONS[reduction]
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    result = np.empty(problem.batch if code == 0 else (), dtype)
    gradient = np.empty(x.shape, x.dtype)
    losses, reduced = (result, None) if code == 0 else (None, result)
    _compute(problem, losses, reduced, gradient, code, zero_infinity)
    if _numpy("logits", logits).ndim == 2:
        gradient = gradient[:, 0]
        result = result.reshape(())
    return result, gradient


def posteriors(
    logits: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    *,
    batch_first: bool = False,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
) -> np.ndarray:
    """gamma[n, t, s]: the probability that state s of the extended labels is occupied at frame t.

    Arguments as for `ctc_loss`. Returns float64 (N, T, S), or (T, S) for (T, C) logits, S = 2 L + 1
    for the longest target; state s is the blank where s is even, label (s - 1) / 2 where odd. Each
    frame within its utterance sums to 1; beyond the lengths, and for an impossible utterance, gamma
    is 0. Graves et al. 2006, the product alpha beta of equation 14, normalised.
    """
    _check_options(blank, "none", wildcard_penalty, delay_penalty)
    options = _Options(blank, wildcard_penalty, delay_penalty)
    problem = _numpy_problem(logits, targets, input_lengths, target_lengths, batch_first, options)
    longest = int(problem.target_lengths.max(initial=0))
    frames = problem.logits.shape[1 if problem.batch_first else 0]
    gamma = np.zeros((problem.batch, frames, 2 * max(longest, 0) + 1))
    error = _core.ctc_posteriors(
        *problem.arguments(),
        gamma.ctypes.data,
        gamma.shape[1] * gamma.shape[2],
        gamma.shape[2],
        torch.get_num_threads(),
    )
    if error is not None:
        _raise(problem, error)
    return gamma[0] if _numpy("logits", logits).ndim == 2 else gamma
