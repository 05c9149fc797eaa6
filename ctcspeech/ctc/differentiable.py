"""Parts of the CTC loss written in torch: the recursion for second derivatives, and added terms."""

import math

import torch

__all__ = ["differentiable_losses", "label_smoothing_term"]

_NEVER = -1e30  # in place of ln 0: adds and differentiates without NaN


def differentiable_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
    wildcard_penalty: float | None,
    delay_penalty: float,
) -> torch.Tensor:
    """-ln p of each utterance (N,), by operations that autograd can differentiate again and again.

    logits (T, N, C), not empty; targets (N, L) or concatenated. 0 for an impossible utterance.
    Graves et al. 2006, equations 6 to 8, in logarithms; alpha of all N and S in one tensor. Runs on
    the CPU, wherever the logits are.
    """
    device = logits.device
    logits, targets = logits.cpu(), targets.cpu()
    input_lengths, target_lengths = input_lengths.cpu(), target_lengths.cpu()
    frames, batch, _ = logits.shape
    states, wild = _extended(targets, target_lengths, blank)  # (N, S)
    log_probs = logits.double().log_softmax(2).clamp(min=_NEVER)  # (T, N, C)
    emissions = log_probs.gather(2, states.expand(frames, -1, -1))  # (T, N, S)
    emissions = emissions.masked_fill(wild, -(wildcard_penalty or 0.0))
    odd = torch.arange(states.shape[1]) % 2 == 1
    before = states.roll(2, 1)
    skips = odd & ((states != before) | wild | wild.roll(2, 1))  # a blank may be left out
    skips[:, :2] = False
    never = emissions.new_full((batch, 2), _NEVER)
    middle = (input_lengths.double() - 1) / 2

    alpha = emissions.new_full(states.shape, _NEVER)
    alpha[:, 0] = 0
    history = []
    for t in range(frames):
        one = torch.cat([never[:, :1], alpha[:, :-1]], 1)
        two = torch.cat([never, alpha[:, :-2]], 1)[:, : states.shape[1]].where(skips, never[:, :1])
        enter = torch.where(odd, delay_penalty * (middle - t)[:, None], 0.0)
        if t == 0:  # alpha stands for the time before the first frame: state 0 or 1 is entered
            two = torch.full_like(two, _NEVER)
        paths = torch.stack([alpha, enter + one, enter + two])
        alpha = emissions[t] + paths.logsumexp(0)  # logaddexp has no second derivative at -1e30
        history.append(alpha)
    last = torch.stack(history)[(input_lengths - 1).clamp(min=0), torch.arange(batch)]  # (N, S)
    end = 2 * target_lengths[:, None]
    on_label = last.gather(1, (end - 1).clamp(min=0)).where(end > 0, never[:, :1])
    total = torch.cat([last.gather(1, end), on_label], 1).logsumexp(1)
    possible = (total > _NEVER / 2) & (input_lengths > 0)
    return torch.where(possible, -total, 0.0).to(
        device, torch.float64 if logits.dtype == torch.float64 else torch.float32
    )


def _extended(
    targets: torch.Tensor, target_lengths: torch.Tensor, blank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with blanks between them (N, 2 L + 1) for the longest L, and which are wildcards."""
    batch, longest = len(target_lengths), int(target_lengths.max()) if len(target_lengths) else 0
    states = torch.full((batch, 2 * longest + 1), blank, dtype=torch.int64)
    first = 0
    for n, length in enumerate(target_lengths.tolist()):
        row = targets[n, :length] if targets.ndim == 2 else targets[first : first + length]
        states[n, 1 : 2 * length : 2] = row
        first += length
    wild = states < 0
    return states.clamp(min=0), wild


def label_smoothing_term(logits: torch.Tensor, input_lengths: torch.Tensor) -> torch.Tensor:
    """sum_t KL(uniform || softmax_t) over each utterance's own frames: logits (T, N, C) to (N,)."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    divergence = x.logsumexp(2) - x.mean(2) - math.log(x.shape[2])  # (T, N)
    inside = torch.arange(x.shape[0], device=x.device)[:, None] < input_lengths.to(x.device)
    return torch.where(inside, divergence, 0.0).sum(0)
