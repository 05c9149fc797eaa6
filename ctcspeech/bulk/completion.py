"""Records of completion: what has been done, by key, so that nothing is done twice or forgotten.

Format version 1. In the folder of a run, `done/FFFFFF-LLLLLL-DIGEST.json` says that the items of
groups F up to but without L whose keys have that digest have been tried:

    {"format": "ctcspeech bulk completion", "version": 1,
     "results": "FFFFFF-LLLLLL-DIGEST.jsonl",   the file in results/, null if all failed
     "keys": [...],                             of the lines of that file, in their order
     "failed": [{"key": ..., "audio_filepath": ..., "kind": ..., "error": ...}, ...],
     "seconds": ...,                            of audio
     "work_seconds": ...,                       that a worker took
     "finished": ...}                           seconds since 1970

A file in results/ that no record names is not (or no longer) part of the results.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ctcspeech.bulk.storage import Storage
from ctcspeech.bulk.work import digest
from ctcspeech.errors import BulkError

__all__ = ["Completion", "Failure", "list_completions", "part_name", "read_completions"]

FORMAT, VERSION = "ctcspeech bulk completion", 1
FOLDER = "done"


@dataclass
class Failure:
    """A recording that could not be transcribed. kind: one word for the report."""

    key: str
    audio_filepath: str
    id: str | None
    kind: str
    error: str

    def to_record(self) -> dict[str, Any]:
        """As failed.jsonl has it."""
        values: dict[str, Any] = {"audio_filepath": self.audio_filepath}
        if self.id is not None:
            values["id"] = self.id
        return {**values, "kind": self.kind, "error": self.error}


@dataclass
class Completion:
    """See the module."""

    results: str | None
    keys: list[str]
    failed: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    work_seconds: float = 0.0
    finished: float = 0.0

    def save(self, storage: Storage, name: str) -> None:
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        storage.write(f"{FOLDER}/{name}.json", text.encode())

    @classmethod
    def parse(cls, data: bytes, name: str) -> "Completion":
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            version = values.pop("version")
            if version != VERSION:
                raise BulkError(
                    f"{name} has format version {version!r}, this release reads version {VERSION}; "
                    "go on with a newer ctcspeech"
                )
            values["failed"] = [Failure(**item) for item in values["failed"]]
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BulkError(
                f"{name} is no record of completion, or damaged ({error}); delete it, and its "
                "recordings are done again"
            ) from error


def part_name(first: int, end: int, keys: Iterable[str]) -> str:
    """The name of a part of the results: the groups it is of, and the digest of the keys tried."""
    return f"{first:06x}-{end:06x}-{digest(list(keys))}"


@dataclass(frozen=True, slots=True)
class Done:
    """The name of a record, taken apart."""

    name: str
    first: int
    end: int
    digest: str


def list_completions(storage: Storage) -> list[Done]:
    """The records of a run, sorted by groups."""
    found = []
    for file in storage.list(FOLDER):
        name, dot, ending = file.rpartition(".")
        pieces = name.split("-")
        if ending != "json" or len(pieces) != 3:
            continue
        found.append(Done(name, int(pieces[0], 16), int(pieces[1], 16), pieces[2]))
    return sorted(found, key=lambda item: (item.first, item.end, item.name))


def read_completions(storage: Storage, names: Iterable[str]) -> Iterator[tuple[str, Completion]]:
    """The records of these names; one that is no longer there is left out."""
    for file, data in storage.read_many(f"{FOLDER}/{name}.json" for name in names):
        if data is not None:
            yield file[len(FOLDER) + 1 : -len(".json")], Completion.parse(data, file)
