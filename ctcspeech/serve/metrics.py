"""What /metrics tells, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_TIMES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)


class Metrics:
    """The server's own registry: two servers of one process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _TIMES) -> Histogram:
            return Histogram(
                f"ctcspeech_{name}", text, ["model"], registry=registry, buckets=buckets
            )

        self.streams = Gauge("ctcspeech_streams", "Open streams.", ["model"], registry=registry)
        self.connections = Gauge("ctcspeech_connections", "Open connections.", registry=registry)
        self.batch_size = histogram(
            "batch_size", "Streams in a batch.", (1, 2, 4, 8, 16, 32, 64, 128)
        )
        self.queue_delay = histogram(
            "queue_delay_seconds", "From the arrival of audio to its computation."
        )
        self.partial_latency = histogram(
            "partial_latency_seconds",
            "From the arrival of the audio that completed it to a partial.",
        )
        self.final_latency = histogram(
            "final_latency_seconds", "From the arrival of the audio that completed it to a final."
        )
        self.busy = Counter(
            "ctcspeech_busy_seconds", "Processor time of the batcher.", ["model"], registry=registry
        )
        self.audio = Counter(
            "ctcspeech_audio_seconds", "Audio recognised.", ["model", "kind"], registry=registry
        )
        self.real_time_factor = Gauge(
            "ctcspeech_real_time_factor",
            "Batcher's processor time for a second of a stream's audio, over the last minute.",
            ["model"],
            registry=registry,
        )
        self.refusals = Counter(
            "ctcspeech_refusals", "Refused or broken off, by reason.", ["reason"], registry=registry
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)
