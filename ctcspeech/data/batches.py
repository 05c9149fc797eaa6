"""Which utterances are trained on together, and in what order; the loader that reads them.

    sampler = DurationBatchSampler(dataset.durations, max_seconds=120)
    loader = BatchLoader(dataset, sampler, workers=2)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            ...

The batches follow from (seed, epoch) alone: not from workers, nor from what was read before.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ctcspeech.data.dataset import Batch, Failure, SpeechDataset, collate
from ctcspeech.data.manifest import Utterance
from ctcspeech.data.shards import ShardBatchSampler

__all__ = ["BatchLoader", "DurationBatchSampler"]

logger = logging.getLogger(__name__)


class DurationBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of utterances of like length, each as full as `max_seconds` allows.

    The utterances are sorted by duration and cut into buckets, each of whole batches (two at
    least) of utterances at most a quarter shorter than the bucket's longest, as far as there are
    such. In an epoch each bucket is shuffled and dealt out to its batches, and the batches are
    shuffled. A batch of N utterances, the longest of d seconds, keeps N * d <= max_seconds (what
    the padded batch holds) and N <= max_utterances; an utterance longer than max_seconds is a batch
    of its own. Every epoch has the same number of batches.

    With `sorta_grad` epoch 0 goes from the shortest to the longest, unshuffled (Amodei et al. 2016,
    section 3.3). With `shuffle=False` every epoch does.

    With `world_size` processes, the one of `rank` gets every world_size-th batch, and what they get
    at the same step is of like length. Each utterance is in one batch of one rank. All ranks get
    equally many batches as far as batches can be split; else the last ranks get one less.

    The batches depend on (seed, epoch) and the number of processes for which they were planned. To
    go on in the middle of an epoch, `set_epoch(epoch, skip=done, planned_for=world)`, where `done`
    counts the batches of all ranks; the rest is dealt out to however many processes there are now.
    Where to begin is part of what is iterated over, not of what an iterator uses up: every `iter`
    until the next `set_epoch` begins there. (A DataLoader with workers asks for two and takes the
    second.) No skipped batch is made.
    """

    def __init__(
        self,
        durations: Sequence[float] | np.ndarray,
        max_seconds: float,
        *,
        max_utterances: int | None = None,
        shuffle: bool = True,
        sorta_grad: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.durations = np.asarray(durations, dtype=np.float64)
        if self.durations.ndim != 1 or not np.all(self.durations > 0):
            raise ValueError("durations must be a sequence of seconds, each above 0")
        if not max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, got {max_seconds}")
        if max_utterances is not None and max_utterances < 1:
            raise ValueError(f"max_utterances must be at least 1, got {max_utterances}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be at least 0 and below world_size {world_size}: {rank}")
        self.max_seconds, self.max_utterances = max_seconds, max_utterances
        self.shuffle, self.sorta_grad, self.seed = shuffle, sorta_grad, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.skip = 0
        self.planned_for = world_size
        self._order = np.argsort(self.durations, kind="stable")
        self._buckets, self._uneven = self._make_buckets()
        self._sizes: dict[int, np.ndarray] = {}  # by the number of processes

    def set_epoch(self, epoch: int, skip: int = 0, planned_for: int | None = None) -> None:
        """Which epoch is iterated over, without the first `skip` batches (of all ranks together)
        of the plan for `planned_for` processes (None: for as many as there are now)."""
        self.epoch, self.skip = epoch, skip
        self.planned_for = planned_for or self.world_size

    def total(self, planned_for: int | None = None) -> int:
        """The batches of all ranks in an epoch."""
        return len(self._planned(planned_for or self.world_size))

    def __len__(self) -> int:
        """The batches of rank 0 in a whole epoch; no rank has more."""
        return -(-self.total() // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        return self._iterate(self.epoch, self.skip, self.planned_for)

    def batches(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch: lists of indices into `durations`."""
        return list(self._iterate(epoch, 0, self.world_size))

    def _planned(self, world_size: int) -> np.ndarray:
        """The sizes of the batches in ascending order of duration."""
        if world_size not in self._sizes:
            self._sizes[world_size] = np.asarray(_split_evenly(self._uneven, world_size), np.int64)
        return self._sizes[world_size]

    def _iterate(self, epoch: int, skip: int, world: int) -> Iterator[list[int]]:
        shuffle = self.shuffle and not (self.sorta_grad and epoch == 0)
        random = np.random.default_rng([self.seed, epoch])
        order = self._order.copy()
        if shuffle:
            for start, end in self._buckets:
                random.shuffle(order[start:end])
        sizes = self._planned(world)
        ends = np.cumsum(sizes)
        # Steps: what `world` ranks do at the same time; the longest may have less than one each.
        steps: np.ndarray = np.arange(-(-len(sizes) // world))
        if shuffle:
            steps = random.permutation(steps)
        numbers: np.ndarray = (steps[:, None] * world + np.arange(world)).reshape(-1)
        numbers = numbers[numbers < len(sizes)]
        for number in numbers[skip + self.rank :: self.world_size].tolist():
            yield order[ends[number] - sizes[number] : ends[number]].tolist()

    def _per_batch(self, longest: float) -> int:
        """How many utterances go into a batch when the longest of them has that many seconds."""
        count = max(1, int(self.max_seconds / longest + 1e-9))
        return count if self.max_utterances is None else min(count, self.max_utterances)

    def _make_buckets(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Ranges of the sorted order, and the sizes of the batches in them, both ascending.

        Made from the longest downwards, so that all batches are full but that of the shortest.
        The sizes hold for every epoch: a batch fits whichever of its bucket's utterances it gets.
        """
        buckets: list[tuple[int, int]] = []
        sizes: list[int] = []
        durations = self.durations[self._order]
        end = len(durations)
        while end:
            longest = durations[end - 1]
            size = self._per_batch(longest)
            alike = end - int(np.searchsorted(durations[:end], 0.8 * longest))
            count = min(max(2, alike // size) * size, end)
            buckets.append((end - count, end))
            sizes += [size] * (count // size) + [count % size] * (count % size > 0)
            end -= count
        return buckets[::-1], sizes[::-1]


def _split_evenly(sizes: list[int], world_size: int) -> list[int]:
    """Splits the largest batches until their number is a multiple of world_size, if that can be."""
    sizes = list(sizes)
    while len(sizes) % world_size:
        largest = int(np.argmax(sizes))
        if sizes[largest] == 1:
            break
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [sizes[largest] - half, half]
    return sizes


class BatchLoader:
    """Batches of a dataset, read ahead by `workers` processes (0: read when asked for).

    An utterance that cannot be read is reported once, by `report` (default: a warning in the log),
    left out and kept in `failures`, by id. A batch of which nothing is left is passed over; where
    several processes train together it comes empty, so that they stay in step.

    `position` counts the batches read since `set_epoch`, those passed over too.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        sampler: DurationBatchSampler | ShardBatchSampler,
        workers: int = 0,
        *,
        report: Callable[[str], None] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.report = report or logger.warning
        self.failures: dict[str, str] = {}
        self.position = 0
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    def set_epoch(self, epoch: int, skip: int = 0, planned_for: int | None = None) -> None:
        """Sets the epoch of sampler and augmentation; what is left out, see the sampler."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, skip, planned_for)
        self.position = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        self.position = 0
        for batch in self._loader:
            self.position += 1
            for failure in batch.failures:
                self._note(failure)
            if len(batch) or self.sampler.world_size > 1:
                yield batch

    def _note(self, failure: Failure) -> None:
        key = f"{failure.utterance.path}@{failure.utterance.offset:g}"
        if key not in self.failures:
            self.failures[key] = failure.reason
            self.report(f"left out {_name(failure.utterance)}: {failure.reason}")


def _name(utterance: Utterance) -> str:
    path: Path = utterance.path
    return f"{path} at {utterance.offset:g} s" if utterance.offset else str(path)
