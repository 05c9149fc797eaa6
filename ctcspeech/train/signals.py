"""A wish to stop, as SIGTERM and SIGINT tell it."""

import signal
from typing import Any

__all__ = ["StopSignal"]


class StopSignal:
    """Within `with` SIGTERM and SIGINT set `came`; a second SIGINT is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: the caller's business
                pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = True
