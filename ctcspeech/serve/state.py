"""What the parts of a server share."""

from typing import IO, Any

from starlette.requests import HTTPConnection

from ctcspeech.serve.keys import check_key
from ctcspeech.serve.metrics import Metrics
from ctcspeech.serve.models import Models
from ctcspeech.serve.settings import ServeSettings

__all__ = ["ServerState"]


class ServerState:
    """Settings, models, what is open. Belongs to the event loop."""

    def __init__(self, settings: ServeSettings, log_file: IO[str] | None = None) -> None:
        self.settings, self.log_file = settings, log_file
        self.metrics = Metrics()
        self.models = Models(settings, self.metrics)
        self.sessions: set[Any] = set()  # Session
        self.connections = 0
        self.draining = False

    def allowed(self, connection: HTTPConnection) -> bool:
        """Whether a connection shows a key that is wanted."""
        return check_key(connection, self.settings.keys)

    @property
    def overloaded(self) -> bool:
        """Whether audio waits too long for its computation."""
        limit = self.settings.overload_seconds
        return any(model.batcher.delay > limit for model in self.models.by_name.values())
