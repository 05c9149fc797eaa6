"""What is still to do: the plan without what records of completion name."""

from dataclasses import dataclass
from pathlib import Path

from ctcspeech.bulk.completion import Completion, Done, list_completions, read_completions
from ctcspeech.bulk.plan import Plan, ShardOfPlan, parse_items
from ctcspeech.bulk.storage import Storage
from ctcspeech.bulk.worker import Part

__all__ = ["PartPlace", "Todo", "find_missing"]


@dataclass(frozen=True)
class PartPlace:
    """A part in the file of what is to do: bytes `start` to `end`, and what it is of."""

    first: int
    end_group: int
    start: int
    end: int
    items: int
    seconds: float

    def parse(self, data: bytes) -> Part:
        return Part(self.first, self.end_group, parse_items(data))


@dataclass
class Todo:
    """The parts to do, their items in a file, and what was done before (in recordings, seconds)."""

    file: Path
    parts: list[PartPlace]
    done: int
    done_seconds: float

    def read(self, part: PartPlace) -> Part:
        with open(self.file, "rb") as file:
            file.seek(part.start)
            return part.parse(file.read(part.end - part.start))


def find_missing(plan: Plan, storage: Storage, retry_failed: bool, file: Path) -> Todo:
    """Compares the plan with the records of completion, and writes what is missing to `file`.

    A shard whose record has the digest of the shard's keys is done, and nothing is read for it;
    else the records of its groups are read, a few at a time.
    """
    records = list_completions(storage)
    todo = Todo(file, [], 0, 0.0)
    known = _Known(storage, records, retry_failed)
    place = 0
    with open(file, "wb") as opened:
        for shard in plan.shards:
            first, end = plan.shape.groups(shard.shard)
            overlapping = known.overlapping(first, end)
            if not retry_failed and _is_whole(shard, first, end, overlapping):
                todo.done += shard.items
                todo.done_seconds += shard.seconds
                continue
            tried = known.keys(overlapping)
            items = plan.read(shard)
            missing = [item for item in items if item.key not in tried]
            todo.done += len(items) - len(missing)
            missing_seconds = sum(item.seconds or 0.0 for item in missing)
            todo.done_seconds += shard.seconds - missing_seconds
            if missing:
                data = b"".join(item.to_line() for item in missing)
                opened.write(data)
                todo.parts.append(
                    PartPlace(first, end, place, place + len(data), len(missing), missing_seconds)
                )
                place += len(data)
    return todo


def _is_whole(shard: ShardOfPlan, first: int, end: int, records: list[Done]) -> bool:
    return any(
        (record.first, record.end, record.digest) == (first, end, shard.digest)
        for record in records
    )


class _Known:
    """Records of completion, read when they are needed, in the order of the groups."""

    def __init__(self, storage: Storage, records: list[Done], retry_failed: bool) -> None:
        self._storage, self._records, self._retry = storage, records, retry_failed
        self._position = 0
        self._open: list[Done] = []  # those that may overlap this shard or a later one
        self._read: dict[str, Completion] = {}

    def overlapping(self, first: int, end: int) -> list[Done]:
        """The records of any of these groups; asked for in ascending order."""
        records = self._records
        while self._position < len(records) and records[self._position].first < end:
            self._open.append(records[self._position])
            self._position += 1
        for record in self._open:
            if record.end <= first:
                self._read.pop(record.name, None)
        self._open = [record for record in self._open if record.end > first]
        return [record for record in self._open if record.first < end]

    def keys(self, records: list[Done]) -> set[str]:
        """The keys that are not to be tried again."""
        unread = [record.name for record in records if record.name not in self._read]
        self._read.update(read_completions(self._storage, unread))
        done: set[str] = set()
        failed: set[str] = set()
        for record in records:
            completion = self._read.get(record.name)
            if completion is not None:
                done.update(completion.keys)
                failed.update(failure.key for failure in completion.failed)
        return done if self._retry else done | failed
