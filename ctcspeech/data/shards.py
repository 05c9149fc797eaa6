"""Tar shards read from their beginnings to their ends, and shuffled on the way.

    sampler = ShardBatchSampler(manifest, max_seconds=120, buffer=500, streams=8)
    dataset.reader = ShardReader(manifest, buffer=500, streams=8)
    loader = BatchLoader(dataset, sampler, workers=2)

An epoch deals the shards, in an order of its own, to `streams`. A stream goes through its shards
one after the other with a buffer of `buffer` utterances; a batch is drawn from one stream's buffer,
which then is filled again. Which utterances are in which batch follows from the manifest and
(seed, epoch) alone, so that a run goes on in the middle of an epoch as if it had not stopped, with
any number of processes and workers; no audio is read for what is skipped.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ctcspeech.data.indexed import IndexedManifest
from ctcspeech.data.inputs import open_archive
from ctcspeech.errors import AudioError, ConfigError

__all__ = ["ShardBatchSampler", "ShardReader"]


class ShardBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches in the order of the shards, each utterance in one batch of one rank.

    A full buffer is sorted by duration and divided into batches that hold at most `max_seconds`,
    padding included, and `max_utterances`; half of them are drawn, then it is filled again. The
    streams take turns, a batch of each at the same rank of duration; rank r of W processes gets
    every W-th batch. So the processes of a step have batches of like length, and where `streams` is
    a multiple of W times the loader's workers, a stream is read by one worker only (until the
    first streams end).

    The number of batches differs a little from epoch to epoch. Interface and way to resume are
    DurationBatchSampler's; the plan is the same for any number of processes.

    Raises ConfigError where an utterance is no member of a tar file.
    """

    def __init__(
        self,
        manifest: IndexedManifest,
        max_seconds: float,
        *,
        buffer: int,
        streams: int,
        max_utterances: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be at least 0 and below world_size {world_size}: {rank}")
        if buffer < 1 or streams < 1:
            raise ValueError(f"buffer and streams must be at least 1, got {buffer} and {streams}")
        self.durations, self.max_seconds = manifest.durations, max_seconds
        self.max_utterances = max_utterances
        self.buffer, self.seed, self.rank, self.world_size = buffer, seed, rank, world_size
        self.epoch = self.skip = 0
        self._shards = _by_shard(manifest)
        self.streams = min(streams, len(self._shards))
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None  # epoch, utterances, ends

    def set_epoch(self, epoch: int, skip: int = 0, planned_for: int | None = None) -> None:
        """Which epoch is iterated over, without the first `skip` batches of all ranks together."""
        self.epoch, self.skip = epoch, skip

    def total(self, planned_for: int | None = None) -> int:
        """The batches of all ranks in this epoch."""
        return len(self._planned()[1])

    def __len__(self) -> int:
        """The batches of rank 0 in this epoch; no rank has more."""
        return -(-self.total() // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order, ends = self._planned()
        for number in range(self.skip + self.rank, len(ends), self.world_size):
            yield order[ends[number - 1] if number else 0 : ends[number]].tolist()

    def _planned(self) -> tuple[np.ndarray, np.ndarray]:
        """All utterances of the epoch in the order of their batches, and where batches end."""
        if self._plan is None or self._plan[0] != self.epoch:
            sizes, parts = [], []
            for batch in self._batches(self.epoch):
                parts.append(batch)
                sizes.append(len(batch))
            self._plan = (self.epoch, np.concatenate(parts).astype(np.int64), np.cumsum(sizes))
        return self._plan[1:]

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        streams = [_Pool(items, self) for items in self._dealt(random)]
        while streams:
            place = random.random()  # the same rank of duration for all
            for stream in streams:
                yield stream.take(place)
            streams = [stream for stream in streams if len(stream)]

    def _dealt(self, random: np.random.Generator) -> list[np.ndarray]:
        """The utterances of each stream in the order of reading; each next shard goes to the
        stream with the fewest seconds."""
        streams: list[list[np.ndarray]] = [[] for _ in range(self.streams)]
        seconds = np.zeros(self.streams)
        for number in random.permutation(len(self._shards)).tolist():
            least = int(np.argmin(seconds))
            streams[least].append(self._shards[number])
            seconds[least] += self.durations[self._shards[number]].sum()
        return [np.concatenate(items) for items in streams if items]


class _Pool:
    """The buffer of one stream: batches of like length, ascending. When half of them are gone, the
    buffer is filled and divided anew, so that each utterance in it is as likely as any other to be
    next."""

    def __init__(self, items: np.ndarray, sampler: ShardBatchSampler) -> None:
        self.items, self.next, self.sampler = items, 0, sampler
        self.batches: list[np.ndarray] = []
        self._fill()

    def __len__(self) -> int:
        return len(self.batches)

    def take(self, place: float) -> np.ndarray:
        """The batch at `place` (0: the shortest, to 1)."""
        batch = self.batches.pop(int(place * len(self.batches)))
        if len(self.batches) <= self.refill:
            self._fill()
        return batch

    def _fill(self) -> None:
        sampler, held = self.sampler, sum(map(len, self.batches))
        end = min(len(self.items), self.next + sampler.buffer - held)
        if end == self.next:
            self.refill = 0
            return
        pool = np.concatenate([*self.batches, self.items[self.next : end]])
        self.next = end
        pool = pool[np.argsort(sampler.durations[pool], kind="stable")]
        durations = sampler.durations[pool]
        self.batches, last = [], len(pool)
        while last:  # from the longest, so that all are full but that of the shortest
            count = int(sampler.max_seconds / durations[last - 1] + 1e-9)
            count = min(max(1, count), sampler.max_utterances or len(pool), last)
            self.batches.append(pool[last - count : last])
            last -= count
        self.batches.reverse()
        self.refill = len(self.batches) // 2


def _by_shard(manifest: IndexedManifest) -> list[np.ndarray]:
    """The utterances of each shard, in the order of their bytes."""
    members = manifest.members
    if members is None or (members[:, 0] < 0).any():
        index = 0 if members is None else int(np.argmax(members[:, 0] < 0))
        raise ConfigError(
            f"data.shuffle_buffer is for members of tar files, but {manifest[index].path} is a "
            "file of its own; leave the option out, or make shards"
        )
    order = np.lexsort((members[:, 1], members[:, 0]))
    borders = np.flatnonzero(np.diff(members[order, 0])) + 1
    return np.split(order, borders)


class ShardReader:
    """The bytes of utterances, read sequentially: a shard's members up to the one that is asked
    for are read in one go, and kept until their turn comes.

    What was passed over (a run that goes on in the middle of an epoch has to come back for what
    its buffers held) is read by itself. At most buffer * streams members are kept.
    """

    def __init__(self, manifest: IndexedManifest, buffer: int, streams: int) -> None:
        assert manifest.members is not None  # ShardBatchSampler has seen to that
        self.shards, self.members = manifest.shards, manifest.members
        self.buffer = buffer
        shards = _by_shard(manifest)
        self._kept_at_most = buffer * min(streams, len(shards))
        self._order = {int(self.members[items[0], 0]): items for items in shards}
        self._position = np.empty(len(self.members), np.int64)  # of a member in its shard
        for items in shards:
            self._position[items] = np.arange(len(items))
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """A new epoch reads each shard from its beginning again."""
        self.close()
        self.epoch = epoch
        self._next: dict[int, int] = {}  # by shard: the member that comes next
        self._files: dict[int, Any] = {}
        self._kept: dict[int, bytes] = {}

    def close(self) -> None:
        for file in getattr(self, "_files", {}).values():
            file.close()

    __del__ = close

    def read(self, index: int, epoch: int) -> bytes:
        """The bytes of an utterance. Raises AudioError when the shard cannot be read."""
        if epoch != self.epoch:
            self.begin(epoch)
        if index in self._kept:
            return self._kept.pop(index)
        shard, start, count = self.members[index].tolist()
        try:
            return self._read(shard, index)
        except (OSError, ValueError, _Short) as error:
            name = f"{self.shards[shard]}:{start}:{count}"
            if (file := self._files.pop(shard, None)) is not None:
                file.close()
            if isinstance(error, _Short):
                raise AudioError(
                    f"{name}: the tar file ends before this member does; copy it again"
                ) from None
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{name}: cannot be read: {reason}") from error

    def _read(self, shard: int, index: int) -> bytes:
        position = int(self._position[index])
        first = self._next.get(shard, 0)
        if position >= first + self.buffer:  # the first one after a resume, in mid-shard
            first = position
        items = self._order[shard][min(first, position) : position + 1]
        if position < first:
            items = items[-1:]
        begin = int(self.members[items[0], 1])
        end = int(self.members[items[-1], 1:].sum())
        if shard not in self._files:
            self._files[shard] = open_archive(self.shards[shard])
        file = self._files[shard]
        file.seek(begin)
        data = memoryview(file.read(end - begin))
        if len(data) < end - begin:
            raise _Short
        for item in items.tolist():
            start, count = self.members[item, 1:].tolist()
            self._kept[item] = bytes(data[start - begin : start - begin + count])
        self._next[shard] = max(self._next.get(shard, 0), position + 1)
        if self._next[shard] == len(self._order[shard]):
            self._files.pop(shard).close()
        own = self._kept.pop(index)
        while len(self._kept) > self._kept_at_most:  # others read them: see the streams
            del self._kept[next(iter(self._kept))]
        return own

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_kept": {}, "_next": {}}


class _Short(Exception):
    """A file has fewer bytes than the manifest says."""
