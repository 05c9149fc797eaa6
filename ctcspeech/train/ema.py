"""The exponential moving average of a model's weights over the steps of training.

    average = MovingAverage(model, 0.999)
    average.update(model)           # after every step
    average.model                   # what is validated and kept

The mean of many late weights is a better model than the last of them (Polyak & Juditsky 1992;
Tarvainen & Valpola 2017, arXiv 1703.01780), at the cost of a copy of the weights.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ctcspeech.model.deepspeech import AcousticModel

__all__ = ["MovingAverage"]


class MovingAverage:
    """The mean over steps t of a model's weights w_t, the statistics of batch norm among them:

        m_1 = w_1,  m_t = d_t m_{t-1} + (1 - d_t) w_t,  d_t = min(decay, t / (t + 9))

    The decay rises with the steps, so that the first weights, which know nothing, are soon
    forgotten, also in a short run. decay: 0 to 1, exclusive; 1 / (1 - decay) steps count late on.
    """

    def __init__(self, model: AcousticModel, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}")
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def model(self) -> AcousticModel:
        """The model whose weights are the average."""
        return cast(AcousticModel, self._averaged.module)

    def update(self, model: AcousticModel) -> None:
        """Takes in the weights after a step."""
        self._averaged.update_parameters(model)

    @torch.no_grad()
    def _mix(self, means: Any, weights: Any, count: Any) -> None:
        steps = int(count) + 1  # with this one
        decay = min(self.decay, steps / (steps + 9))
        if means[0].is_floating_point():  # torch hands over tensors of one type at a time
            torch._foreach_lerp_(means, weights, 1 - decay)
            return
        for mean, weight in zip(means, weights, strict=True):  # counters of batch norm
            mean.copy_(weight)

    def state_dict(self) -> dict[str, Tensor]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._averaged.load_state_dict(state)
