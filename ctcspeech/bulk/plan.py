"""The plan: all items sorted by their keys, on disk, so that a shard is a range of one file.

The sort is external: items go into 1024 files by the first bits of their keys, and each of these is
then sorted alone, so that memory does not grow with the work (100 million items: 100,000 at a
time). An item that occurs twice is done once.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ctcspeech.bulk.work import Item, Shape, choose_group_bits, choose_shards, digest
from ctcspeech.errors import BulkError

__all__ = ["Plan", "Sorted", "sort_items"]

_FILES_BITS = 10
_BUFFER_BYTES = 8 << 20


@dataclass
class Sorted:
    """Items in the order of their keys: `file`, a line each. seconds: None if not all are known."""

    file: Path
    items: int
    duplicates: int
    seconds: float | None

    def choose(self, group_bits: int | None, shards: int | None, parts: int) -> Shape:
        """The shape of the work; what is None is chosen by the amount."""
        bits = choose_group_bits(self.items, self.seconds) if group_bits is None else group_bits
        if shards is not None and shards > 1 << bits:
            raise BulkError(
                f"--shards {shards}: this job has {1 << bits} groups of recordings that are "
                f"computed together, and cannot have more shards; give at most {1 << bits}"
            )
        return Shape(bits, shards or choose_shards(self.items, self.seconds, bits, parts))


def sort_items(
    items: Iterable[Item], folder: Path, advance: Callable[[int], None] | None = None
) -> Sorted:
    """Sorts items into a file in `folder`, whose disk holds them twice for the while."""
    count, seconds, unknown = 0, 0.0, False
    with tempfile.TemporaryDirectory(dir=folder, prefix="sort-") as spools:
        spool = _Spool(Path(spools))
        for item in items:
            spool.put(item)
            count += 1
            if item.seconds is None:
                unknown = True
            if advance is not None and count % 1000 == 0:
                advance(1000)
        spool.flush()
        if advance is not None:
            advance(count % 1000)
        target = folder / "plan.jsonl"
        kept = 0
        with open(target, "wb") as file:
            for lines in spool.sorted():
                for line in lines:
                    file.write(line)
                    kept += 1
                    if not unknown:
                        seconds += Item.from_line(line).seconds or 0.0
    return Sorted(target, kept, count - kept, None if unknown or not kept else seconds)


class _Spool:
    """Files of lines by the first bits of the key; few bytes wait in memory, no file stays open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[int, list[bytes]] = {}
        self._bytes = 0

    def put(self, item: Item) -> None:
        line = item.to_line()
        self._waiting.setdefault(int(item.key[:8], 16) >> (32 - _FILES_BITS), []).append(line)
        self._bytes += len(line)
        if self._bytes > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        for number, lines in self._waiting.items():
            with open(self._folder / str(number), "ab") as file:
                file.writelines(lines)
        self._waiting.clear()
        self._bytes = 0

    def sorted(self) -> Iterator[list[bytes]]:
        """The lines of each file in order, every line once. Lines begin with their keys."""
        for number in range(1 << _FILES_BITS):
            path = self._folder / str(number)
            if path.exists():
                lines = sorted(set(path.read_bytes().splitlines(keepends=True)))
                path.unlink()
                yield _without_equal_keys(lines)


def _without_equal_keys(lines: list[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for line in lines:
        if not kept or line[:36] != kept[-1][:36]:  # `["` and 32 digits, `",`
            kept.append(line)
    return kept


@dataclass(frozen=True)
class ShardOfPlan:
    """Where a shard's items stand in the plan, and what is in it."""

    shard: int
    start: int  # bytes
    end: int
    items: int
    seconds: float
    digest: str  # of its keys


class Plan:
    """The sorted items cut into shards. Holds a few numbers for each shard, and no item."""

    def __init__(self, sorted_items: Sorted, shape: Shape, part: tuple[int, int] = (0, 1)) -> None:
        """part: only the shards of this part of so many."""
        self.file, self.shape = sorted_items.file, shape
        self.items, self.seconds = 0, 0.0
        self.shards: list[ShardOfPlan] = []
        index, parts = part
        for shard, start, lines in _runs(self.file, shape):
            if shard * parts // shape.shards != index:
                continue
            items = [Item.from_line(line) for line in lines]
            seconds = sum(item.seconds or 0.0 for item in items)
            end = start + sum(map(len, lines))
            keys = digest([item.key for item in items])
            self.shards.append(ShardOfPlan(shard, start, end, len(items), seconds, keys))
            self.items += len(items)
            self.seconds += seconds

    def read(self, shard: ShardOfPlan) -> list[Item]:
        with open(self.file, "rb") as file:
            file.seek(shard.start)
            return parse_items(file.read(shard.end - shard.start))


def parse_items(data: bytes) -> list[Item]:
    """Items from their lines."""
    return [Item.from_line(line) for line in data.splitlines()]


def _runs(file: Path, shape: Shape) -> Iterator[tuple[int, int, list[bytes]]]:
    """Each shard with its place in the file and its lines."""
    lines: list[bytes] = []
    current, start, place = -1, 0, 0
    with open(file, "rb") as opened:
        for line in opened:
            shard = shape.shard(line[2:34].decode())
            if shard != current:
                if lines:
                    yield current, start, lines
                current, start, lines = shard, place, []
            lines.append(line)
            place += len(line)
    if lines:
        yield current, start, lines
