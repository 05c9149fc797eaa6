"""What the models of other toolkits that torch computes have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import Emitter
from ctcspeech.exchange.onnx_model import log_softmax

__all__ = ["TorchEmitter", "one_thread_each"]


def one_thread_each(in_each: Callable[[Callable[[], None]], None]) -> None:
    """torch computes on one thread in each of an emitter's threads, elsewhere as before."""
    import torch

    def one() -> None:
        torch.get_num_threads()  # a thread's first call takes the program's number
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    in_each(one)
    torch.set_num_threads(before)


class TorchEmitter(Emitter):
    """Each recording is computed alone, since padding changes what many of these models say."""

    padding_changes_output = True
    longest_input = 30.0  # seconds; attention over more takes memory with their square

    device = "cpu"

    @property
    def default_threads(self) -> int:
        return super().default_threads if self.device == "cpu" else 1

    def prepare_threads(self, in_each: Callable[[Callable[[], None]], None]) -> None:
        if self.device == "cpu":
            one_thread_each(in_each)

    @abstractmethod
    def scores(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """Logits or log-probabilities (T, C) of samples (S,)."""

    def compute(self, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = []
        for item in inputs:
            if len(item) < 2 * self.frame_inputs:
                results.append(np.zeros((0, len(self.alphabet)), np.float32))
            else:
                results.append(log_softmax(self.scores(item).astype(np.float32)))
        return results
