"""A bulk job from its inputs to its report, whatever does the work.

    OUT/run-0123456789ab/        for each model and settings, by which the folder is named
        run.json                 which model and settings; groups of recordings
        results/*.jsonl          the records, those of `transcribe --format jsonl` (or *.parquet)
        done/*.json              records of completion
        attempts/*.json          notes of parts that are being done
        failed.jsonl             recordings that could not be transcribed, and why
        report.json              hours, real-time factor, cost, failures by kind

`failed.jsonl` and `report.json` are written when nothing is missing; then results/ holds every
recording once.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctcspeech import __version__
from ctcspeech.bulk.finish import Report, finish
from ctcspeech.bulk.inputs import read_items
from ctcspeech.bulk.missing import PartPlace, Todo, find_missing
from ctcspeech.bulk.plan import Plan, sort_items
from ctcspeech.bulk.results import FORMATS
from ctcspeech.bulk.storage import Storage
from ctcspeech.bulk.work import Shape, digest
from ctcspeech.bulk.worker import Job, Outcome
from ctcspeech.errors import BulkError

__all__ = ["Bulk", "Engine", "Tally"]

FORMAT, VERSION = "ctcspeech bulk run", 1

Engine = Callable[[Job, Todo, Callable[[float], None]], Iterator[tuple[PartPlace, Outcome]]]
"""What does the parts of a Todo; told seconds of audio are reported as they are done."""


@dataclass
class Tally:
    """How a run of the command stands. Seconds of audio."""

    total: int
    total_seconds: float | None
    done: int  # recordings, failed ones included
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)  # of this run, by kind
    parts: int = 0
    messages: list[str] = field(default_factory=list)


@dataclass
class Bulk:
    """A job.

    Args:
        output: the folder, local or in a bucket, for the runs' folders.
        model, settings: what results depend on, as JSON values; each combination has a folder of
            its own.
        format: of the results, jsonl or parquet.
        shards: how many; by default chosen by the amount of work. May differ from run to run.
        part: (index, count): only this part of the shards is done, and no report written.
        retry_failed: whether recordings that failed before are tried again.
    """

    output: str
    model: dict[str, Any]
    settings: dict[str, Any]
    format: str = "jsonl"
    shards: int | None = None
    part: tuple[int, int] = (0, 1)
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        index, count = self.part
        if not 0 <= index < count:
            raise ValueError(f"part must be 0 to {count - 1} of {count}, got {index}")
        self.id = digest(self.model["identity"], self.settings, self.format)[:12]
        self.storage = Storage(self.output).sub(f"run-{self.id}")
        self.plan: Plan | None = None
        self.todo: Todo | None = None
        self.duplicates = 0
        self._folder = tempfile.TemporaryDirectory(prefix="ctcspeech-bulk-")

    def __enter__(self) -> "Bulk":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def prepare(self, inputs: Iterable[str], advance: Callable[[int], None] | None = None) -> Tally:
        """Reads the inputs and finds what is missing; nothing is written to the output but, the
        first time, run.json."""
        folder = Path(self._folder.name)
        found = sort_items(read_items(inputs), folder, advance)
        self.duplicates = found.duplicates
        shape = found.choose(self._group_bits(), self.shards, self.part[1])
        self.plan = Plan(found, shape, self.part)
        self.todo = find_missing(self.plan, self.storage, self.retry_failed, folder / "todo.jsonl")
        known = found.seconds is not None
        return Tally(
            self.plan.items,
            self.plan.seconds if known else None,
            self.todo.done,
            self.todo.done_seconds,
        )

    def run(self, engine: Engine, tally: Tally, changed: Callable[[Tally], None]) -> None:
        """Does what is missing. `changed` is called whenever the tally has changed."""
        assert self.plan is not None and self.todo is not None
        self._save_settings(self.plan.shape)
        job = Job(self.storage, self.format, self.plan.shape, _name())

        def advance(seconds: float) -> None:
            tally.seconds += seconds
            changed(tally)

        if not self.todo.parts:
            return
        for _, outcome in engine(job, self.todo, advance):
            tally.parts += 1
            tally.done += outcome.done + sum(outcome.failed.values())
            for kind, count in outcome.failed.items():
                tally.failures[kind] = tally.failures.get(kind, 0) + count
            tally.messages = outcome.messages
            changed(tally)

    def finish(self, price: float | None = None, wall_seconds: float | None = None) -> Report:
        """The report, written to report.json, when nothing is missing. price: of a worker's
        hour."""
        report = finish(self.storage, self.format, Path(self._folder.name))
        values = report.to_dict(price)
        if wall_seconds is not None:
            values["last_run_seconds"] = round(wall_seconds, 1)
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        self.storage.write("report.json", text.encode())
        return report

    def _settings_of_run(self) -> dict[str, Any] | None:
        data = self.storage.read_or_none("run.json")
        if data is None:
            return None
        where = f"{self.storage.url}/run.json"
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise ValueError(f'it lacks "format": "{FORMAT}"')
            if values["version"] != VERSION:
                raise BulkError(
                    f"{where} has format version {values['version']!r}, this release reads "
                    f"version {VERSION}; go on with a newer ctcspeech"
                )
            Shape(values["group_bits"], 1)
            return values
        except (ValueError, KeyError, TypeError) as error:
            raise BulkError(f"{where} is damaged: {error}") from error

    def _group_bits(self) -> int | None:
        values = self._settings_of_run()
        return None if values is None else values["group_bits"]

    def _save_settings(self, shape: Shape) -> None:
        if self._settings_of_run() is not None:
            return
        values = {
            "format": FORMAT,
            "version": VERSION,
            "ctcspeech": __version__,
            "model": self.model,
            "settings": self.settings,
            "results": self.format,
            "group_bits": shape.group_bits,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n"
        self.storage.write("run.json", text.encode())


def _name() -> str:
    """Of a run of the command."""
    return f"{int(time.time())}-{os.urandom(4).hex()}"
