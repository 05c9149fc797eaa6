"""Workers as processes of this machine; one that dies is replaced, and its part done again."""

import contextlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ctcspeech.bulk.missing import PartPlace, Todo
from ctcspeech.bulk.transcriber import Loader
from ctcspeech.bulk.worker import Job, Outcome, Part, Worker
from ctcspeech.errors import BulkError, CtcSpeechError

__all__ = ["run_here", "run_processes"]

_STARTS = 3  # deaths of workers that never became ready, in a row

Advance = Callable[[float], None]


def run_here(
    job: Job, load: Loader, todo: Todo, advance: Advance
) -> Iterator[tuple[PartPlace, Outcome]]:
    """Does all parts in this process."""
    worker = Worker(job, load)
    for part in todo.parts:
        yield part, worker.do(todo.read(part), advance)


@dataclass
class _Process:
    process: BaseProcess
    connection: Connection
    part: PartPlace | None = None
    ready: bool = False
    advanced: float = 0.0  # seconds of audio of its part that were told


def run_processes(
    job: Job, load: Loader, todo: Todo, advance: Advance, workers: int
) -> Iterator[tuple[PartPlace, Outcome]]:
    """Does all parts by so many processes, in any order.

    A process that dies is replaced, and its part is done first by the next that is free. An error
    of a worker (storage fails, the model cannot be loaded) is raised here, after the others have
    been stopped.
    """
    pool = _Pool(job, load, todo, advance)
    try:
        yield from pool.run(min(workers, len(todo.parts)))
    finally:
        pool.stop()


class _Pool:
    def __init__(self, job: Job, load: Loader, todo: Todo, advance: Advance) -> None:
        self._job, self._load, self._todo, self._advance = job, load, todo, advance
        self._context = multiprocessing.get_context("spawn")
        self._waiting = deque(todo.parts)
        self._processes: list[_Process] = []
        self._dead_before_ready = 0

    def run(self, workers: int) -> Iterator[tuple[PartPlace, Outcome]]:
        for _ in range(workers):
            self._start()
        while any(item.part for item in self._processes) or self._waiting:
            ready = wait([item.connection for item in self._processes])
            for item in [item for item in self._processes if item.connection in ready]:
                try:
                    message = item.connection.recv()
                except (EOFError, OSError):
                    self._replace(item)
                    continue
                outcome = self._take(item, message)
                if outcome is not None:
                    yield outcome

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._job, self._load, theirs), name="ctcspeech-worker", daemon=True
        )
        process.start()
        theirs.close()
        self._processes.append(_Process(process, ours))

    def _take(self, item: _Process, message: Any) -> tuple[PartPlace, Outcome] | None:
        """What a worker says: that it is ready, seconds done, its outcome, or an error."""
        kind, value = message
        if kind == "error":
            raise value
        if kind == "seconds":
            item.advanced += value
            self._advance(value)
            return None
        done = item.part
        item.part, item.ready = None, True
        self._dead_before_ready = 0
        advanced, item.advanced = item.advanced, 0.0
        self._give(item)
        if kind == "ready":
            return None
        assert done is not None
        self._advance(value.seconds - advanced)
        return done, value

    def _give(self, item: _Process) -> None:
        if not self._waiting:
            return
        item.part = self._waiting.popleft()
        try:
            item.connection.send(self._todo.read(item.part))
        except OSError:
            pass  # it has died: its end of file is next

    def _replace(self, item: _Process) -> None:
        item.process.join()
        self._processes.remove(item)
        self._advance(-item.advanced)
        if item.part is not None:
            self._waiting.appendleft(item.part)
        if not item.ready:
            self._dead_before_ready += 1
            if self._dead_before_ready >= _STARTS:
                raise BulkError(
                    f"{_STARTS} workers died before the model was loaded (exit code "
                    f"{item.process.exitcode}): most likely memory is short; run fewer workers"
                )
        if self._waiting:
            self._start()

    def stop(self) -> None:
        for item in self._processes:
            item.connection.close()
            item.process.terminate()
        for item in self._processes:
            item.process.join(10)
            if item.process.exitcode is None:
                item.process.kill()


def _work(job: Job, load: Loader, connection: Connection) -> None:
    """The life of a worker's process: it ends with its parent."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        worker = Worker(job, load)
        connection.send(("ready", None))
        while True:
            part: Part = connection.recv()
            outcome = worker.do(part, lambda seconds: connection.send(("seconds", seconds)))
            connection.send(("done", outcome))
    except (EOFError, ConnectionError):
        return  # the parent has gone
    except BaseException as error:
        told = error if isinstance(error, CtcSpeechError) else BulkError(_told(error))
        with contextlib.suppress(OSError):
            connection.send(("error", told))


def _follow(parent: BaseProcess) -> None:
    """Ends this process when the parent has ended, however it did."""
    parent.join()
    os._exit(1)


def _told(error: BaseException) -> str:
    import traceback

    return "a worker failed: " + "".join(traceback.format_exception(error)).rstrip()
