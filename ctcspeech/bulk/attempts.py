"""Recordings that kill their worker are found and set aside, whoever runs the workers.

Before a worker begins a part it leaves a note in `attempts/`; when it is done the note goes. Who
finds a note there when beginning knows that the worker before died (or was killed). It then tries
each recording alone, with a note of which one, before it does all of them together: a recording at
which its worker dies again and again is set aside, by its name; what the others give is the same
as if it had not been there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ctcspeech.bulk.storage import Storage
from ctcspeech.bulk.work import Item
from ctcspeech.errors import BulkError

__all__ = ["DEATHS", "Attempt"]

DEATHS = 3
FOLDER = "attempts"


@dataclass
class _Note:
    driver: str  # under which the attempt was begun
    together: int = 0  # deaths while all were done together, under this driver
    suspect: str | None = None  # the key that is tried alone just now
    alone: dict[str, int] = field(default_factory=dict)  # deaths by key
    aside: list[str] = field(default_factory=list)


class Attempt:
    """One worker's attempt at a part. driver: a name of the run of the command, by which deaths
    are told from everything having been stopped."""

    def __init__(self, storage: Storage, part: str, driver: str) -> None:
        self._storage, self._name, self._driver = storage, f"{FOLDER}/{part}.json", driver

    def begin(self, items: Sequence[Item], alone: Callable[[Item], None]) -> set[str]:
        """To be called before the part is done: leaves the note, and returns the keys that are to
        be set aside. `alone` does one recording, and may not come back.

        Raises BulkError when the worker has died DEATHS times although each recording alone does
        not kill it.
        """
        note = self._read()
        if note is None:
            self._write(_Note(self._driver))
            return set()
        if note.suspect is not None:
            note.alone[note.suspect] = note.alone.get(note.suspect, 0) + 1
        elif note.driver == self._driver:
            note.together += 1
            if note.together >= DEATHS:
                self.end()
                raise BulkError(
                    f"the worker was killed {DEATHS} times over the same {len(items)} recordings "
                    f"({items[0].uri}, ...), though it lives through each alone: most likely "
                    "memory is short; give the workers more, or run fewer of them, and run the "
                    "same command again"
                )
        if note.driver != self._driver:
            note.driver, note.together = self._driver, 0
        self._try(note, items, alone)
        note.suspect = None
        self._write(note)
        return set(note.aside)

    def _try(self, note: _Note, items: Sequence[Item], alone: Callable[[Item], None]) -> None:
        passed = note.suspect is not None  # those before the suspect have been tried
        for item in items:
            if item.key == note.suspect:
                passed = False
            if passed or item.key in note.aside:
                continue
            # The first death, of all together, is the first suspect's too.
            first = min(note.together, 1) if not note.aside else 0
            if note.alone.get(item.key, 0) + first >= DEATHS:
                note.aside.append(item.key)
                continue
            note.suspect = item.key
            self._write(note)
            alone(item)

    def end(self) -> None:
        """The part is done: the note goes."""
        self._storage.delete(self._name)

    def _read(self) -> _Note | None:
        data = self._storage.read_or_none(self._name)
        try:
            return None if data is None else _Note(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise BulkError(f"{self._name} is damaged ({error}); delete it") from error

    def _write(self, note: _Note) -> None:
        self._storage.write(self._name, json.dumps(asdict(note)).encode())
