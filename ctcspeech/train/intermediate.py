"""Intermediate CTC (Lee and Watanabe 2021, arXiv 2102.03216): a lower layer has to spell, too.

    L = (1 - w) L_ctc(output) + w L_ctc(what the same output layer makes of the middle layer)

The middle layer is the recurrent layer L / 2 of L. Its states go, normalised and with dropout as
the next layer gets them, through the model's own output layer: there are no weights more, and what
is kept is a model as any other. A step costs one product and one loss more.
"""

from typing import Any

from torch import Tensor, nn

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import AcousticModel, DeepSpeech2

__all__ = ["IntermediateNetwork"]


class IntermediateNetwork(nn.Module):
    """What a step computes, `network`, with the emissions of its model's middle layer added."""

    def __init__(self, network: nn.Module, model: AcousticModel) -> None:
        """network: the model, or what it is computed by (JointNetwork). Raises ConfigError for a
        model without a layer in the middle."""
        super().__init__()
        if not isinstance(model, DeepSpeech2) or len(model.recurrent) < 2:
            raise ConfigError(
                "train.intermediate_ctc needs a model of architecture deepspeech2 with at least 2 "
                "recurrent layers (model.layers)"
            )
        self.network, self.model = network, model
        self.next = model.recurrent[len(model.recurrent) // 2]

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """What `network` returns, and then (N, T', C)."""
        seen = []
        hook = self.next.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            outputs = self.network(*inputs)
        finally:
            hook.remove()
        return *outputs, self.model.emissions_of(seen[0])
