"""The CTC loss: exact, quick on the CPU, the same from torch and from NumPy.

    loss = ctcspeech.ctc_loss(logits, targets, input_lengths, target_lengths)
    loss.backward()

Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006. The frames
are normalised inside, so logits and log-probabilities give the same loss, and the gradient is the
true derivative with respect to what was passed. T frames, N utterances, C classes with the blank,
L labels, S = 2 L + 1 extended labels.
"""

from typing import Any

import torch

from ctcspeech.ctc.arguments import check_options
from ctcspeech.ctc.autograd import apply_loss, loss_alone, reduce, through_op, traced
from ctcspeech.ctc.differentiable import label_smoothing_term
from ctcspeech.ctc.problem import REDUCTIONS, WILDCARD, Options
from ctcspeech.ctc.tensors import integers, lengths_of, own, prepare

__all__ = ["CTCLoss", "ctc_loss", "infeasible"]


def ctc_loss(
    logits: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    batch_first: bool = False,
    label_smoothing: float = 0.0,
    delay_penalty: float = 0.0,
    wildcard_penalty: float | None = None,
    log_probs: torch.Tensor | None = None,
) -> torch.Tensor:
    """-ln p(targets | logits), a drop-in for `torch.nn.functional.ctc_loss`.

    logits: (T, N, C), (N, T, C) with `batch_first`, or (T, C) for a single utterance; logits or
        log-probabilities of float32, float64, float16 or bfloat16 (the last two are computed in
        float32 and give a float32 loss), any strides.
    targets: labels, (N, L) padded or concatenated in one dimension, integers of any width, without
        blanks. What stands beyond `target_lengths` is not looked at.
    input_lengths, target_lengths: (N,) as tensor or list, or one int for all.
    log_probs: the logits by the name that torch gives them; one of the two.
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
    any order in the batch. Second derivatives are right and slow. `torch.vmap` over it or over its
    gradient, `torch.func.grad` and their like, and `torch.compile` work.

    CUDA tensors are computed on their device and the current stream, without waiting for it where
    targets and lengths are there too (or lengths are ints). Values on the host are checked; a wrong
    label or length on the device makes its utterance's loss and gradient NaN. A log-probability of
    a frame below -1.8e8 / (T + 2) counts as that (float64: -7.8e14 / (T + 2)).

    Raises TypeError or ValueError naming the argument and the item.
    """
    logits = the_logits(logits, log_probs)
    if targets is None or input_lengths is None or target_lengths is None:
        raise TypeError("ctc_loss needs logits, targets, input_lengths and target_lengths")
    check_options(blank, reduction, wildcard_penalty, delay_penalty)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")
    if isinstance(logits, torch.Tensor) and logits.dtype == torch.float16:
        logits = logits.float()  # a gradient to be scaled later must not underflow before
    options = Options(blank, wildcard_penalty, delay_penalty)
    problem = prepare(logits, targets, input_lengths, target_lengths, batch_first, options)
    code, drop = REDUCTIONS[reduction], zero_infinity
    if label_smoothing != 0:  # the term is for each possible utterance, so reduce and drop later
        code, zero_infinity = 0, False
    if traced(logits):
        losses = through_op(problem, code, zero_infinity)
    elif logits.requires_grad and torch.is_grad_enabled():
        problem = own(problem, copy=True)
        losses = apply_loss(problem.logits, problem, code, zero_infinity)
    else:
        problem = own(problem, copy=False)
        losses = loss_alone(problem, code, zero_infinity)
    if label_smoothing != 0:
        x = problem.logits.transpose(0, 1) if problem.batch_first else problem.logits
        term = label_smoothing_term(x, problem.input_lengths).to(losses.dtype)
        impossible = losses == float("inf")
        mixed = (1 - label_smoothing) * losses + label_smoothing * term
        losses = torch.where(impossible, torch.zeros_like(losses) if drop else losses, mixed)
        losses = reduce(losses, problem.target_lengths, REDUCTIONS[reduction])
    if logits.ndim == 2 and reduction == "none":
        losses = losses.reshape(())
    return losses


def the_logits(logits: Any, log_probs: Any) -> Any:
    """The one that is given of two names for the same."""
    if (logits is None) == (log_probs is None):
        raise TypeError("one of logits and log_probs must be given: they are normalised alike")
    return logits if log_probs is None else log_probs


class CTCLoss(torch.nn.modules.loss._Loss):
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
        super().__init__(reduction=reduction)
        check_options(blank, reduction, wildcard_penalty, delay_penalty)
        self.blank = blank
        self.zero_infinity = zero_infinity
        self.batch_first = batch_first
        self.label_smoothing = label_smoothing
        self.delay_penalty = delay_penalty
        self.wildcard_penalty = wildcard_penalty

    def forward(
        self,
        logits: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        input_lengths: Any = None,
        target_lengths: Any = None,
        *,
        log_probs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return ctc_loss(
            the_logits(logits, log_probs),
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
    targets = integers("targets", targets)
    batch = targets.shape[0] if targets.ndim == 2 else None
    if not isinstance(target_lengths, int):
        target_lengths = integers("target_lengths", target_lengths).reshape(-1)
        batch = len(target_lengths) if batch is None else batch
    target_lengths = lengths_of("target_lengths", target_lengths, batch or 1).to(targets.device)
    input_lengths = lengths_of("input_lengths", input_lengths, len(target_lengths))
    input_lengths = input_lengths.to(targets.device)
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
