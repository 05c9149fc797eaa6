"""Dropout between layers, a mask for each frame or one for all frames of an utterance.

Gal and Ghahramani 2016 (arXiv 1512.05287) draw one mask for all steps of a sequence: what is left
of a recurrent network is then one network for the whole of it. The states' mask stands with the
recurrence (recurrent.py).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from ctcspeech.model.padded import Frames, Padded

__all__ = ["PackedDropout"]


class PackedDropout(nn.Dropout):
    """Values of packed frames are 0 with probability p in training, the others divided by 1 - p.

    per: "frame" draws for each value; "utterance" for each unit of an utterance, alike in all of
    its frames.
    """

    def __init__(self, p: float, per: str = "frame") -> None:
        super().__init__(p)
        self.per = per

    def forward(self, packed: Frames) -> Frames:  # type: ignore[override]
        """packed: data (M, H) for M true frames; so is what is returned."""
        if not self.training or not self.p or isinstance(packed, Padded):
            return packed
        if self.per == "frame":
            return packed._replace(data=dropout(packed.data, self.p))
        masks = packed.data.new_ones(int(packed.batch_sizes[0]), packed.data.shape[1])
        rows = utterances(packed.batch_sizes).to(masks.device)
        return packed._replace(data=packed.data * dropout(masks, self.p)[rows])


def utterances(sizes: Tensor) -> Tensor:
    """(M,): which of the sorted utterances each packed frame is of; sizes (T,), of the frames."""
    starts = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) - starts.repeat_interleave(sizes)
