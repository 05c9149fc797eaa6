"""What there is to do: an item a recording, its key, and the ranges of keys that are done together.

An item's key is a hash of all that its record depends on beside model and settings: where the
recording is, which version of it (size and time, or the bucket's ETag), its part, its id. The
first bits of the key say in which *group* it is: the recordings of a group share the model's
batches, so that they are always computed alike. A *shard* is a range of groups that is written,
and recorded as done, at once. How many groups there are is decided once for a job; how many shards
may change from run to run, and a *part* (of an array of tasks) is a range of shards.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Item",
    "Shape",
    "choose_group_bits",
    "choose_shards",
    "digest",
]

MAX_BITS = 24  # of groups
_GROUP_SECONDS, _GROUP_RECORDINGS, _GROUP_UNKNOWN = 300.0, 256, 64
_GROUPS_AT_LEAST, _RECORDINGS_AT_LEAST = 16, 8  # where there is little, for several workers
_SHARD_SECONDS, _SHARD_RECORDINGS, _SHARD_UNKNOWN = 8 * 3600.0, 4096, 1024
_SHARDS_AT_LEAST, _SHARDS_AT_MOST = 64, 65536


def digest(*values: Any) -> str:
    """32 hexadecimal digits (BLAKE2b) of values as JSON."""
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Item:
    """A recording to transcribe.

    uri: a local path or a URL. fields: what a manifest's line says of it (id, offset, duration,
    ...), None if it was found in a folder. seconds: its length where that is known.
    """

    key: str
    uri: str
    fields: dict[str, Any] | None = None
    seconds: float | None = None

    @classmethod
    def of(
        cls,
        uri: str,
        version: str,
        fields: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> "Item":
        """version: what changes when the recording does."""
        return cls(digest(uri, version, fields), uri, fields, seconds)

    def to_line(self) -> bytes:
        values = [self.key, self.uri, self.fields, self.seconds]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Item":
        return cls(*json.loads(line))


def choose_group_bits(items: int, seconds: float | None) -> int:
    """Bits of the key that name the group: about five minutes of audio in each, at most 256
    recordings; 64 recordings where their lengths are not known. Where there is little to do, 16
    groups of 8 recordings at least."""
    if seconds is None:
        groups = items / _GROUP_UNKNOWN
    else:
        groups = min(max(seconds / _GROUP_SECONDS, items / _GROUP_RECORDINGS), items)
    groups = max(groups, min(items / _RECORDINGS_AT_LEAST, _GROUPS_AT_LEAST))
    return min(MAX_BITS, max(0, math.ceil(math.log2(max(1.0, groups)))))


def choose_shards(items: int, seconds: float | None, group_bits: int, parts: int = 1) -> int:
    """Shards of about eight hours of audio and at most 4096 recordings (1024 where their lengths
    are not known); at least 64 (and 4 for each part), where there are so many groups."""
    if seconds is None:
        wanted = items / _SHARD_UNKNOWN
    else:
        wanted = max(seconds / _SHARD_SECONDS, items / _SHARD_RECORDINGS)
    wanted = min(max(math.ceil(wanted), _SHARDS_AT_LEAST, 4 * parts), _SHARDS_AT_MOST)
    return min(max(wanted, parts), 1 << group_bits)


@dataclass(frozen=True)
class Shape:
    """How keys are cut into groups, groups into shards, shards into parts."""

    group_bits: int
    shards: int

    def __post_init__(self) -> None:
        if not 0 <= self.group_bits <= MAX_BITS:
            raise ValueError(f"group_bits must be 0 to {MAX_BITS}, got {self.group_bits}")
        if not 1 <= self.shards <= 1 << self.group_bits:
            raise ValueError(
                f"shards must be 1 to {1 << self.group_bits} (the groups of this job), got "
                f"{self.shards}"
            )

    def group(self, key: str) -> int:
        return int(key[:8], 16) >> (32 - self.group_bits)

    def shard(self, key: str) -> int:
        return self.group(key) * self.shards >> self.group_bits

    def part(self, key: str, parts: int) -> int:
        """Of the shard's part, when the shards are dealt to so many tasks."""
        return self.shard(key) * parts // self.shards

    def groups(self, shard: int) -> tuple[int, int]:
        """The first group of a shard, and the first after it."""
        groups = 1 << self.group_bits
        first = -(-shard * groups // self.shards)
        return first, -(-(shard + 1) * groups // self.shards)
