"""What a server allows, and what it was told to be."""

from dataclasses import dataclass

__all__ = ["ServeSettings"]


@dataclass
class ServeSettings:
    """Limits are per connection unless said otherwise; times are in seconds.

    keys: that a client may show; without any, all are served.
    max_connections: WebSockets and requests with audio, of all clients together.
    max_upload_bytes: of one request. max_upload_seconds: of audio in it, once decoded.
    max_message_bytes: of one WebSocket message.
    max_session_seconds: of a WebSocket. idle_seconds: without a message of the client.
    send_seconds: that a client may take to read what it is sent.
    queue_seconds: of audio that waits for the model before the client is made to wait.
    overload_seconds: of delay in the batcher from which new streams are refused.
    max_batch: streams computed at once. max_wait_seconds: that a batch waits for more of them.
    drain_seconds: given to open streams when the server is told to end.
    uploads: computed at the same time; twice as many more may wait.
    """

    keys: tuple[str, ...] = ()
    max_connections: int = 200
    max_upload_bytes: int = 200 << 20
    max_upload_seconds: float = 2 * 3600.0
    max_message_bytes: int = 1 << 20
    max_session_seconds: float = 4 * 3600.0
    idle_seconds: float = 60.0
    send_seconds: float = 10.0
    queue_seconds: float = 5.0
    overload_seconds: float = 3.0
    max_batch: int = 64
    max_wait_seconds: float = 0.010
    drain_seconds: float = 10.0
    uploads: int = 1
    prefix: str = ""
    page: bool = True
    access_log: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.prefix and (not self.prefix.startswith("/") or self.prefix.endswith("/")):
            raise ValueError(f"prefix must look like /speech, got {self.prefix!r}")
        if any(not key.strip() for key in self.keys):
            raise ValueError("keys must not be empty")
