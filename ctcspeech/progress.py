"""Progress of long work: a live line on a terminal, nothing but start and end in a log."""

import sys
import time
from types import TracebackType
from typing import IO, TypeVar

__all__ = ["Progress"]

_Self = TypeVar("_Self", bound="Progress")


class Progress:
    """Counts finished items and hours of audio; shows both, the speed and the time left.

    On a terminal one line is redrawn in place; elsewhere (a log, a pipe) only `close` prints, one
    line, so that a log stays readable.

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

    def advance(self, count: int = 1, seconds: float = 0.0, note: str | None = None) -> None:
        """`count` more items are done, which held `seconds` of audio; `note` ends the line."""
        self.done += count
        self.seconds += seconds
        if note is not None:
            self.note = note
        now = time.monotonic()
        if self.live and now - self._drawn >= 0.1:
            self._drawn = now
            self.stream.write("\r\x1b[2K" + self.line())
            self.stream.flush()

    def message(self, text: str) -> None:
        """Prints a line (a warning about one item, say) without disturbing the live line."""
        if self.live:
            self.stream.write("\r\x1b[2K")
        self.stream.write(text + "\n")
        self.stream.flush()

    def line(self) -> str:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{self.description}: {count} {self.unit}s"]
        if self.seconds:
            parts.append(f"{format_duration(self.seconds)} of audio")
            parts.append(f"{self.seconds / elapsed:.1f}x real time")
        elif self.done:
            parts.append(f"{self.done / elapsed:.1f} {self.unit}s/s")
        share = 0.0
        if self.total_seconds:
            share = self.seconds / self.total_seconds
        elif self.total:
            share = self.done / self.total
        finished = self.total is not None and self.done >= self.total
        if finished or not share:
            parts.append(f"{format_duration(elapsed)} elapsed")
        else:
            parts.append(f"{format_duration(elapsed * (1 - share) / share)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def close(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[2K")
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


def format_duration(seconds: float) -> str:
    """`0:05`, `12:34`, `1:02:03`."""
    total = int(round(max(seconds, 0.0)))
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
