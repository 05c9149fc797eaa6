"""What a worker does: the recordings of one part to results, put in place and recorded as done."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctcspeech.bulk.attempts import DEATHS, Attempt
from ctcspeech.bulk.completion import FOLDER, Completion, Failure, part_name
from ctcspeech.bulk.fetch import fetch
from ctcspeech.bulk.results import encode_records
from ctcspeech.bulk.storage import Storage
from ctcspeech.bulk.transcriber import Loader, Transcriber
from ctcspeech.bulk.work import Item, Shape
from ctcspeech.errors import AudioError, CtcSpeechError, FeatureError
from ctcspeech.recognize.recordings import Recording

__all__ = ["Job", "Outcome", "Part", "Worker"]


@dataclass(frozen=True)
class Job:
    """What all workers know. storage: the folder of the run; format: of the results; driver: a
    name of this run of the command."""

    storage: Storage
    format: str
    shape: Shape
    driver: str


@dataclass(frozen=True)
class Part:
    """Recordings that are written and recorded as done at once: those of the groups from `first`
    to before `end` that are still to do, in the order of their keys."""

    first: int
    end: int
    items: Sequence[Item]

    @property
    def name(self) -> str:
        return part_name(self.first, self.end, (item.key for item in self.items))


@dataclass
class Outcome:
    """Of one part: recordings done, failures by kind, seconds of audio, seconds of work."""

    done: int
    failed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    work_seconds: float = 0.0
    messages: list[str] = field(default_factory=list)  # what failed, a few of them

    @classmethod
    def of(cls, completion: Completion) -> "Outcome":
        return cls(
            len(completion.keys),
            dict(Counter(failure.kind for failure in completion.failed)),
            completion.seconds,
            completion.work_seconds,
            [failure.error for failure in completion.failed[:10]],
        )


class Worker:
    """Holds the model, and does one part after another."""

    def __init__(self, job: Job, load: Loader) -> None:
        self.job = job
        self._transcriber: Transcriber = load()

    def do(self, part: Part, advance: Callable[[float], None] | None = None) -> Outcome:
        """Does a part, unless it has been done already. `advance` is told of seconds of audio.

        Whoever does it, and however often, the same bytes are written. Raises StorageError when
        storage fails; what had been written until then is not lost, and nothing is half there.
        """
        storage, name = self.job.storage, part.name
        known = storage.read_or_none(f"{FOLDER}/{name}.json")
        if known is not None:
            return Outcome.of(Completion.parse(known, name))
        started = time.monotonic()
        attempt = Attempt(storage, name, self.job.driver)
        aside = attempt.begin(part.items, self._alone)
        completion = self._transcribe(part, aside, advance)
        completion.work_seconds = round(time.monotonic() - started, 3)
        completion.finished = round(time.time(), 3)
        completion.save(storage, name)
        attempt.end()
        return Outcome.of(completion)

    def _alone(self, item: Item) -> None:
        """Does one recording, to see whether the worker lives through it."""
        for _ in self._records([item], []):
            pass

    def _transcribe(
        self, part: Part, aside: set[str], advance: Callable[[float], None] | None
    ) -> Completion:
        """Transcribes a part and puts the file of its results in place."""
        failed: list[Failure] = []
        records: list[dict[str, Any]] = []
        completion = Completion(None, [], failed)
        for _, group in itertools.groupby(
            part.items, key=lambda item: self.job.shape.group(item.key)
        ):
            items = list(group)
            for item in items:
                if item.key in aside:
                    failed.append(
                        _failure(item, "killed", f"{item.uri}: killed its worker {DEATHS} times")
                    )
            kept = [item for item in items if item.key not in aside]
            for item, record, seconds in self._records(kept, failed):
                completion.keys.append(item.key)
                records.append(record)
                completion.seconds += seconds
                if advance is not None:
                    advance(seconds)
        failed.sort(key=lambda failure: failure.key)
        completion.seconds = round(completion.seconds, 3)
        if records:
            name = part_name(part.first, part.end, completion.keys)
            completion.results = f"{name}.{self.job.format}"
            data = encode_records(records, self.job.format)
            self.job.storage.write(f"results/{completion.results}", data)
        return completion

    def _records(
        self, items: Sequence[Item], failed: list[Failure]
    ) -> Iterator[tuple[Item, dict[str, Any], float]]:
        """The records of recordings that share the model's batches; what fails goes to `failed`."""
        by_recording: dict[int, Item] = {}

        def recordings() -> Iterator[Recording]:
            for item, recording in fetch(items, refuse):
                by_recording[id(recording)] = item
                yield recording

        def refuse(item: Item, error: CtcSpeechError) -> None:
            failed.append(_failure(item, _kind(error), str(error)))

        for recording, result, seconds in self._transcriber(recordings()):
            item = by_recording[id(recording)]
            if isinstance(result, CtcSpeechError):
                reason = str(result)
                if not isinstance(recording.source, str) and str(recording.source) != item.uri:
                    reason = reason.replace(str(recording.source), item.uri)  # not the copy's name
                failed.append(_failure(item, _kind(result), reason))
            else:
                yield item, result, seconds


def _failure(item: Item, kind: str, error: str) -> Failure:
    identity = item.fields["id"] if item.fields is not None else None
    return Failure(item.key, item.uri, identity, kind, error)


_KINDS = {
    "no such file": "missing",
    "access is refused": "refused",
    "Permission denied": "refused",
    "truncated": "truncated",
    "empty": "empty",
    "no samples": "empty",
    "NaN or infinite": "not finite",
}


def _kind(error: CtcSpeechError) -> str:
    """One word for the report; the sentence itself is kept with the recording."""
    if isinstance(error, AudioError | FeatureError):
        text = str(error)
        return next((kind for words, kind in _KINDS.items() if words in text), "unreadable")
    return "not decoded"
