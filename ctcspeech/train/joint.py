"""What a step of training computes of a model with an attention decoder beside its CTC output.

    L = lambda L_ctc + (1 - lambda) L_attention                (Kim et al. 2017, arXiv 1609.06773,
                                                                equation 9)

in nats, summed over the labels of an utterance; the attention's over the end of the text, too.
"""

import torch
from torch import Tensor, nn

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.train.config import TrainConfig

__all__ = ["JointNetwork", "ctc_share"]


class JointNetwork(nn.Module):
    """Encoder, CTC output and attention decoder as one module, with the model's own parameters:
    what several processes exchange their gradients over.

    The decoder is always computed in single precision: its products are small, and what a step
    leaves for the next is summed up over a text.
    """

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, lengths: Tensor, targets: Tensor, sampling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Emissions (N, T', C), their lengths, and logits (N, L + 1, C + 1); see
        `AttentionDecoder.forward`."""
        emissions, states, frames = self.model.states(features, lengths)
        assert self.model.attention is not None
        with torch.autocast(states.device.type, enabled=False):
            logits, _ = self.model.attention(states.float(), frames, targets, sampling)
        return emissions, frames, logits


def ctc_share(config: TrainConfig, model: AcousticModel) -> float:
    """Lambda of this training: 1 where the model has no attention decoder.

    Raises ConfigError where the configuration is for a decoder that the model does not have.
    """
    if model.attention is not None:
        return config.ctc_weight
    unused = [name for name in _OF_ATTENTION if getattr(config, name) != _DEFAULTS[name]]
    if unused:
        raise ConfigError(
            f"train.{unused[0]} has no effect: the model has no attention decoder; give it one "
            "with a section [model.attention], or leave the key out"
        )
    return 1.0


_OF_ATTENTION = ("ctc_weight", "scheduled_sampling", "attention_smoothing")
_DEFAULTS = {name: TrainConfig.model_fields[name].default for name in _OF_ATTENTION}
