"""The processes that train together, as torchrun starts them, and the device of each."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed

from ctcspeech.errors import ConfigError, CtcSpeechError, TrainingError
from ctcspeech.train.config import TrainConfig
from ctcspeech.train.rendezvous import Meeting

__all__ = ["Process", "precision", "process_group"]

Decision = TypeVar("Decision")


# How long a process waits for the others in a step, or for rank 0's statistics, before it gives up.
PEER_TIMEOUT = timedelta(minutes=30)

# How gloo, NCCL and their store say that a peer is gone.
_ENDED = re.compile(r"Connection (closed|reset)|[Gg]loo|NCCL|Broken pipe|recvValue", re.I)


class Process:
    """Which of how many processes this is, and its device."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        meeting: Meeting | None = None,
    ) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self._meeting = meeting

    def sum(self, *values: float) -> list[float]:
        """The sums of the values over all processes."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def share(self, value: Any) -> Any:
        """Rank 0's value, in all processes."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=self.device)
        return values[0]

    def agree(self, decide: Callable[[], Decision]) -> Decision:
        """What rank 0's `decide` returns, in all processes; its error is raised in all of them."""
        result: Any = None
        if not self.rank:
            try:
                result = decide()
            except CtcSpeechError as error:
                result = error
        result = self.share(result)
        if isinstance(result, CtcSpeechError):
            raise result
        return result

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def share_weights(self, model: torch.nn.Module) -> None:
        """Rank 0's weights and statistics of batch norm, in the model of every process."""
        if self.world_size == 1:
            return
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)

    @property
    def restarted(self) -> bool:
        """Whether torchrun has started these processes again, after a training had begun."""
        return self._meeting is not None and self._meeting.restarted

    def begun(self) -> None:
        """Notes that the training has begun, for `restarted`."""
        if self._meeting is not None:
            self._meeting.begun()


@contextmanager
def process_group(config: TrainConfig) -> Iterator[Process]:
    """This process among those that torchrun started (alone without torchrun)."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"train.device must be auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device is cuda, but torch finds no CUDA device")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        yield Process(0, 1, device, Meeting(0, 1) if under_torchrun else None)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    rank = int(os.environ["RANK"])
    try:
        meeting = Meeting(rank, world_size)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=meeting.store,
            rank=rank,
            world_size=world_size,
            timeout=PEER_TIMEOUT,
        )
    except RuntimeError as error:  # torch's, of stores and of connections
        raise TrainingError(
            f"process {rank} of {world_size} does not find the others: {error}"
        ) from error
    try:
        yield Process(rank, world_size, device, meeting)
        # gloo's threads may still hold tensors of the last exchange; were they to give them back
        # while Python ends, the process would abort (github.com/pytorch/pytorch/pull/179291).
        distributed.barrier()
    except RuntimeError as error:
        if not _ENDED.search(str(error)):
            raise
        raise TrainingError(
            "another process of this training has ended, see its own message; give the command "
            "again with --resume to go on from the last checkpoint"
        ) from error
    finally:
        distributed.destroy_process_group()


def precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast, None for float32."""
    if name == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "float16" and device.type == "cpu":
        raise ConfigError("train.precision: float16 needs a CUDA device; use bfloat16 or float32")
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
