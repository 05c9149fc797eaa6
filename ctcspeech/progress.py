"""Progress of long work: a bar that rich draws on a terminal, one line at the end in a log."""

import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]

_Self = TypeVar("_Self", bound="Progress")


class Progress:
    """Counts finished items and hours of audio; shows both, the speed and the time left.

    On a terminal one line is redrawn in place, a bar before it; elsewhere (a log, a pipe) only
    `close` prints, one line, so that a log stays readable. rich is imported when a bar is drawn.

        with Progress("transcribing", len(files), "file", total_seconds=seconds) as progress:
            for file in files:
                ...
                progress.advance(1, seconds=duration)
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        unit: str = "item",
        total_seconds: float | None = None,
        stream: IO[str] | None = None,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.total_seconds = total_seconds  # of audio
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.done, self.seconds, self.note = 0, 0.0, ""
        self.started = time.monotonic()
        self._drawn = 0.0
        self._bar: rich.progress.Progress | None = None

    def advance(self, count: int = 1, seconds: float = 0.0, note: str | None = None) -> None:
        """`count` more items are done, which held `seconds` of audio; `note` ends the line."""
        self.done += count
        self.seconds += seconds
        if note is not None:
            self.note = note
        now = time.monotonic()
        if self.live and now - self._drawn >= 0.1:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _bar(self.stream)
            self._bar.add_task("", total=None)
            self._bar.start()
        share = self.share()
        self._bar.update(
            self._bar.task_ids[0],
            description=self.line(),
            total=None if share is None else 1.0,
            completed=share or 0.0,
            refresh=True,
        )

    def message(self, text: str) -> None:
        """Prints a line (a warning about one item, say) above the bar."""
        if self._bar is None:
            self.stream.write(text + "\n")
            self.stream.flush()
        else:
            from rich.text import Text

            self._bar.console.print(Text(text), soft_wrap=True)

    def share(self) -> float | None:
        """How much of the work is done, 0 to 1; None where the whole is not known."""
        if self.total_seconds:
            return self.seconds / self.total_seconds
        return self.done / self.total if self.total else None

    def line(self) -> str:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{self.description}: {count} {self.unit}s"]
        if self.seconds:
            parts.append(f"{format_duration(self.seconds)} of audio")
            parts.append(f"{self.seconds / elapsed:.1f}x real time")
        elif self.done:
            parts.append(f"{self.done / elapsed:.1f} {self.unit}s/s")
        share = self.share()
        finished = self.total is not None and self.done >= self.total
        if finished or not share:
            parts.append(f"{format_duration(elapsed)} elapsed")
        else:
            parts.append(f"{format_duration(elapsed * (1 - share) / share)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def clear(self) -> None:
        """Takes the bar away, and leaves nothing in its place."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        """Leaves one line, which says what was done."""
        self.clear()
        self.stream.write(self.line() + "\n")
        self.stream.flush()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _bar(stream: IO[str]) -> "rich.progress.Progress":
    """A bar and the line behind it, which vanish at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    return Progress(
        BarColumn(20),
        line,
        console=Console(file=stream, highlight=False),
        transient=True,
        auto_refresh=False,  # no thread: work forks while a bar stands
        redirect_stdout=False,  # results may go there, and must not come to the bar's stream
        redirect_stderr=False,
    )


def format_duration(seconds: float) -> str:
    """`0:05`, `12:34`, `1:02:03`."""
    total = int(round(max(seconds, 0.0)))
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
