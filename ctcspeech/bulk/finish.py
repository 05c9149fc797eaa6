"""The end of a job: what was done is counted, failures are listed, what is left over is removed.

Records are gone through in the order of their groups, those that overlap together, so that memory
does not grow with the work.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ctcspeech.bulk.attempts import FOLDER as ATTEMPTS
from ctcspeech.bulk.completion import (
    Completion,
    Done,
    list_completions,
    part_name,
    read_completions,
)
from ctcspeech.bulk.results import decode_records, encode_records
from ctcspeech.bulk.storage import Storage

__all__ = ["Report", "finish"]


@dataclass
class Report:
    """What is in the results. Seconds of audio and of workers' work, all runs of the command in
    sum."""

    recordings: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by kind
    seconds: float = 0.0
    work_seconds: float = 0.0
    parts: int = 0

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of a worker's work for a second of audio."""
        return self.work_seconds / self.seconds if self.seconds else None

    def cost_per_thousand_hours(self, price: float) -> float | None:
        """price: of a worker's hour."""
        factor = self.real_time_factor
        return None if factor is None else 1000 * factor * price

    def to_dict(self, price: float | None = None) -> dict[str, Any]:
        factor = self.real_time_factor
        values: dict[str, Any] = {
            "recordings": self.recordings,
            "failed": sum(self.failures.values()),
            "failures": dict(sorted(self.failures.items())),
            "hours": round(self.seconds / 3600, 4),
            "worker_hours": round(self.work_seconds / 3600, 4),
            "real_time_factor": None if factor is None else round(factor, 6),
            "parts": self.parts,
        }
        if price is not None:
            cost = self.cost_per_thousand_hours(price)
            values["price_per_worker_hour"] = price
            values["cost_per_thousand_hours"] = None if cost is None else round(cost, 4)
        return values


def finish(storage: Storage, format: str, folder: Path) -> Report:
    """To be called when nothing is missing and no worker is at work. `folder`: a local one.

    Recordings that were done twice (by two commands at the same time, with different shards) are
    left once; files of results that no record names, and notes of attempts, are removed; the
    failures are written to failed.jsonl.
    """
    report = Report()
    named: set[str] = set()
    failed_file = folder / "failed.jsonl"
    with open(failed_file, "w", encoding="utf-8") as failed:
        for cluster in _clusters(list_completions(storage)):
            completions = dict(read_completions(storage, [record.name for record in cluster]))
            if len(completions) > 1:
                _once(storage, format, cluster, completions)
            named.update(item.results for item in completions.values() if item.results)
            _count(report, list(completions.values()), failed)
    for name in storage.list("results"):
        if name not in named:
            storage.delete(f"results/{name}")
    for name in storage.list(ATTEMPTS):
        storage.delete(f"{ATTEMPTS}/{name}")
    storage.upload(failed_file, "failed.jsonl")
    return report


def _clusters(records: list[Done]) -> Iterator[list[Done]]:
    """Records whose groups overlap, together."""
    cluster: list[Done] = []
    end = 0
    for record in records:
        if cluster and record.first >= end:
            yield cluster
            cluster = []
        cluster.append(record)
        end = max(end, record.end) if len(cluster) > 1 else record.end
    if cluster:
        yield cluster


def _count(report: Report, completions: list[Completion], file: IO[str]) -> None:
    done = {key for completion in completions for key in completion.keys}
    failures = {}
    for completion in sorted(completions, key=lambda item: item.finished):
        failures.update({failure.key: failure for failure in completion.failed})
        report.seconds += completion.seconds
        report.work_seconds += completion.work_seconds
        report.parts += completion.results is not None
    report.recordings += len(done)
    for key in sorted(failures.keys() - done):
        report.failures[failures[key].kind] += 1
        file.write(json.dumps(failures[key].to_record(), ensure_ascii=False) + "\n")


def _once(
    storage: Storage, format: str, cluster: list[Done], completions: dict[str, Completion]
) -> None:
    """Takes out of the later records' results what an earlier one has."""
    seen: set[str] = set()
    for record in cluster:
        completion = completions.get(record.name)
        if completion is None:
            continue
        kept = [i for i, key in enumerate(completion.keys) if key not in seen]
        seen.update(completion.keys)
        if len(kept) == len(completion.keys):
            continue
        keys = [completion.keys[i] for i in kept]
        share = len(keys) / len(completion.keys)
        changed = replace(
            completion, keys=keys, results=None, seconds=round(completion.seconds * share, 3)
        )
        if keys:
            changed.results = f"{part_name(record.first, record.end, keys)}.{format}"
            records = list(decode_records(storage.read(f"results/{completion.results}"), format))
            data = encode_records([records[i] for i in kept], format)
            storage.write(f"results/{changed.results}", data)
        changed.save(storage, record.name)
        completions[record.name] = changed
