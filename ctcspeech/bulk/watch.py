"""How a job stands, for people (a line) and for Prometheus (metrics)."""

import time
from typing import IO, Any

from ctcspeech.bulk.job import Tally
from ctcspeech.errors import BulkError
from ctcspeech.progress import Progress, format_duration

__all__ = ["BulkProgress", "Metrics"]

_LOG_SECONDS = 600.0  # between lines where there is no terminal


class BulkProgress(Progress):
    """The whole job: what was done by earlier runs counts as done, speed and time left are of
    this one."""

    def __init__(self, tally: Tally, stream: IO[str] | None = None) -> None:
        super().__init__("bulk", tally.total, "recording", tally.total_seconds, stream)
        self.tally = tally
        self._done_before, self._seconds_before = tally.done, tally.seconds
        self._logged = self.started

    def changed(self, tally: Tally) -> None:
        """To be called when the tally has changed."""
        self.tally = tally
        self.advance(0)
        now = time.monotonic()
        if not self.live and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self.message(self.line())

    def line(self) -> str:
        tally = self.tally
        elapsed = max(time.monotonic() - self.started, 1e-9)
        seconds = tally.seconds - self._seconds_before
        parts = [f"bulk: {tally.done}/{tally.total} recordings"]
        hours = f"{tally.seconds / 3600:.2f}"
        if tally.total_seconds:
            hours += f"/{tally.total_seconds / 3600:.2f}"
        parts.append(f"{hours} hours of audio")
        if seconds > 0:
            parts.append(f"{seconds / elapsed:.1f}x real time")
        left = self._left(seconds, elapsed)
        parts.append(
            f"{format_duration(elapsed)} elapsed"
            if left is None
            else f"{format_duration(left)} left"
        )
        failed = sum(tally.failures.values())
        if failed:
            parts.append(f"{failed} failed")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def share(self) -> float | None:
        if self.tally.total_seconds:
            return self.tally.seconds / self.tally.total_seconds
        return self.tally.done / self.tally.total if self.tally.total else None

    def _left(self, seconds: float, elapsed: float) -> float | None:
        tally = self.tally
        if tally.done >= tally.total:
            return None
        if tally.total_seconds and seconds > 0:
            return max(0.0, tally.total_seconds - tally.seconds) * elapsed / seconds
        done = tally.done - self._done_before
        return (tally.total - tally.done) * elapsed / done if done else None


class Metrics:
    """Serves the tally to Prometheus at http://HOST:PORT/metrics, by prometheus-client."""

    def __init__(self, address: str) -> None:
        """address: HOST:PORT. Raises BulkError if nothing can listen there."""
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"must be HOST:PORT, got {address!r}")
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise BulkError(
                f"metrics need prometheus-client ({error}); pip install 'ctcspeech[bulk]'"
            ) from error
        registry = prometheus.CollectorRegistry()

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Any:
            return prometheus.Gauge(f"ctcspeech_bulk_{name}", text, labels, registry=registry)

        self._total = gauge("recordings_total", "Recordings in the job.")
        self._done = gauge("recordings_done", "Recordings done, failed ones included.")
        self._all = gauge("audio_seconds_total", "Seconds of audio in the job, where known.")
        self._seconds = gauge("audio_seconds_done", "Seconds of audio done.")
        self._failed = gauge("failures", "Recordings that failed in this run.", ("kind",))
        self._parts = gauge("parts_done", "Parts done in this run.")
        try:
            self._server, _ = prometheus.start_http_server(int(port), host, registry)
        except (OSError, OverflowError) as error:
            raise BulkError(f"metrics cannot be served at {address}: {error}") from error

    def changed(self, tally: Tally) -> None:
        self._total.set(tally.total)
        self._done.set(tally.done)
        if tally.total_seconds is not None:
            self._all.set(tally.total_seconds)
        self._seconds.set(tally.seconds)
        self._parts.set(tally.parts)
        for kind, count in tally.failures.items():
            self._failed.labels(kind).set(count)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
