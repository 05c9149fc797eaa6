"""Recurrent states carried from batch to batch: what a stream's past leaves behind.

    carried = CarriedStates(model, probability)
    with carried.over(len(features)):
        model(features, lengths)

A recording of a corpus lasts for seconds, and a network that always begins with zeros has never
heard what its state becomes in minutes: as a stream goes on it writes fewer and fewer words. Here
an utterance begins, with some probability, where a random one of the batch before has ended, which
began where one before it has ended: streams as long as the training, at no cost (random state
passing, Narayanan et al. 2019, arXiv 1910.11455). No gradient goes from one batch to another.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctcspeech.errors import ConfigError
from ctcspeech.model.deepspeech import AcousticModel, DeepSpeech2
from ctcspeech.model.recurrent import RecurrentLayer

__all__ = ["CarriedStates"]


class CarriedStates:
    """The states (M, H) of each layer with which the last batch of this process has ended."""

    def __init__(self, model: AcousticModel, probability: float) -> None:
        """probability: with which an utterance begins with the state of another, else with zeros.

        Raises ConfigError for a model that is not a forward-only GRU.
        """
        config = model.config
        forward = isinstance(model, DeepSpeech2) and not model.config.bidirectional
        if not forward or getattr(config, "recurrent", None) != "gru":
            raise ConfigError(
                "train.carry_state is for forward-only models of GRUs: set model.bidirectional = "
                'false and model.recurrent = "gru"'
            )
        self.layers = [layer for layer in model.modules() if isinstance(layer, RecurrentLayer)]
        self.probability = probability
        self.states: list[Tensor] = []

    @contextmanager
    def over(self, count: int) -> Iterator[None]:
        """A batch of `count` utterances is computed within, once; draws from torch's generator."""
        if self.states:
            rows = torch.randint(len(self.states[0]), (count,))
            kept = (torch.rand(count) < self.probability)[:, None]
        for i, layer in enumerate(self.layers):
            weight = next(layer.parameters())
            layer.initial = torch.zeros(count, layer.hidden, device=weight.device)
            if self.states:
                drawn = self.states[i][rows].to(weight.device)
                layer.initial = torch.where(kept.to(weight.device), drawn, layer.initial)
        try:
            yield
            self.states = [layer.final for layer in self.layers if layer.final is not None]
        finally:
            for layer in self.layers:
                layer.initial = layer.final = None

    def state_dict(self) -> list[Tensor]:
        return [state.cpu() for state in self.states]

    def load_state_dict(self, states: list[Tensor]) -> None:
        self.states = list(states)
