"""Consistency regularisation (CR-CTC; Yao et al. 2024, arXiv 2410.05101).

A batch goes through the network twice in one, with different masks and dropout; beside the CTC loss
of both views stands what their outputs differ by:

    L = (L_ctc(a) + L_ctc(b)) / 2 + weight * L_cr(a, b)                       (equation 3)
    L_cr = (sum_t KL(sg(b_t) || a_t) + sum_t KL(sg(a_t) || b_t)) / 2          (equation 2)

where a_t and b_t are the views' distributions over the labels at frame t, and no gradient goes
through sg. A step costs twice as much.
"""

import torch
from torch import Tensor

from ctcspeech.data.dataset import Batch
from ctcspeech.model.padded import frame_mask

__all__ = ["disagreement", "two_views"]


def two_views(batch: Batch, second: Tensor) -> Batch:
    """The batch with each utterance twice: as it is, then with the features `second` (N, T, F)."""
    batch.inputs = torch.cat([batch.inputs, second])
    batch.utterances = [*batch.utterances, *batch.utterances]
    for name in ("input_lengths", "targets", "target_lengths"):
        value = getattr(batch, name)
        setattr(batch, name, torch.cat([value, value]))
    return batch


def disagreement(emissions: Tensor, lengths: Tensor) -> Tensor:
    """L_cr of each utterance, for both of its views: (2N,).

    emissions: (2N, T, C), logits; utterance i is in rows i and N + i. lengths: (2N,) frames.
    """
    one, other = emissions.float().log_softmax(-1).chunk(2)  # (N, T, C)
    apart = divergence(other.detach(), one) + divergence(one.detach(), other)  # (N, T)
    true = frame_mask(lengths[: len(one)].to(apart.device), apart.shape[1])
    total = 0.5 * apart.masked_fill(~true, 0.0).sum(1)
    return torch.cat([total, total])


def divergence(of: Tensor, to: Tensor) -> Tensor:
    """KL(of || to) of log-probabilities (..., C), in nats: (...)."""
    return torch.nn.functional.kl_div(to, of, reduction="none", log_target=True).sum(-1)
