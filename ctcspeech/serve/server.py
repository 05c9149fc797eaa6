"""The server: its application (ASGI), and how it begins and ends.

    server = Server(ServeSettings(keys=("secret",)))
    server.models.add("digits", Recognizer.load("runs/digits"))
    server.run(host="127.0.0.1", port=8000)

`Server.app` can stand in any ASGI server; `run` uses uvicorn, and drains on SIGTERM.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ctcspeech.serve.access import Access
from ctcspeech.serve.errors import api_error
from ctcspeech.serve.native import NativeSession
from ctcspeech.serve.openapi import description
from ctcspeech.serve.realtime import RealtimeSession
from ctcspeech.serve.session import Session
from ctcspeech.serve.settings import ServeSettings
from ctcspeech.serve.state import ServerState
from ctcspeech.serve.transcriptions import Transcriptions
from ctcspeech.serve.vosk import VoskSession

__all__ = ["Server"]

_QUEUE = 2048  # connections that wait in the system for their turn
_AT_ONCE = 16  # of them that are taken up before the others are served again
PAGE = Path(__file__).parent / "page"
_TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "page.js": "text/javascript",
    "worklet.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Server:
    """Models, connections and what they share. Add models before it starts."""

    def __init__(
        self, settings: ServeSettings | None = None, log_file: IO[str] | None = None
    ) -> None:
        self.state = ServerState(settings or ServeSettings(), log_file)
        self.settings, self.models = self.state.settings, self.state.models
        self.app = self._application()

    # -- the application ------------------------------------------------------------------------

    def _application(self) -> Any:
        transcriptions = Transcriptions(self.state)
        routes: list[Any] = [
            Route("/v1/audio/transcriptions", transcriptions.create, methods=["POST"]),
            Route("/v1/models", transcriptions.models),
            Route("/v1/models/{name}", transcriptions.models),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            WebSocketRoute("/v1/stream", self._session(NativeSession)),
            WebSocketRoute("/v1/realtime", self._session(RealtimeSession)),
            WebSocketRoute("/vosk", self._session(VoskSession)),
        ]
        if self.settings.page:
            routes += [Route("/", _page("index.html"))]
            routes += [Route(f"/{name}", _page(name)) for name in _TYPES]
        handlers: Any = {HTTPException: _told, Exception: _failed}
        return Access(
            Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan),
            self.state,
        )

    def _session(self, kind: type[Session]) -> Any:
        async def endpoint(websocket: WebSocket) -> None:
            session = kind(self.state, websocket)
            websocket.scope.setdefault("state", {})["session"] = session
            await session.run()

        return endpoint

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.models.start()
        try:
            yield
        finally:
            self.models.stop()

    async def _health(self, request: Request) -> Response:
        """Whether the process works."""
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        """Whether new streams are wanted."""
        state = self.state
        if state.draining or state.overloaded or not self.models.alive:
            status = "draining" if state.draining else "overloaded"
            return JSONResponse({"status": status}, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ready", "models": list(self.models.by_name)})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.state.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(description(self.settings.prefix))

    async def drain(self) -> None:
        """No new streams; the open ones get their final results, and end."""
        state = self.state
        state.draining = True
        for session in list(state.sessions):
            session.drain()
        deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        while (
            state.sessions or state.connections
        ) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    # -- uvicorn --------------------------------------------------------------------------------

    def run(self, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
        """Serves until SIGTERM or SIGINT; a second one ends at once.

        options: of `uvicorn.Config`, such as ssl_keyfile and ssl_certfile.
        """
        _allow_many_files()
        sys.setswitchinterval(0.001)  # a busy event loop lets the batcher wait no longer than this
        config = uvicorn.Config(self.app, host, port, **{**self.uvicorn_options(), **options})
        server = Draining(config, self)
        with config.bind_socket() as bound:
            bound.listen(_QUEUE)  # who reads the line below can connect at once
            scheme = "https" if options.get("ssl_certfile") else "http"
            where = f"{scheme}://{host}:{bound.getsockname()[1]}{self.settings.prefix}/"
            print(
                f"serving {', '.join(self.models.by_name)} at {where}", file=sys.stderr, flush=True
            )
            server.run(sockets=[bound])

    def uvicorn_options(self) -> dict[str, Any]:
        """What the limits ask of uvicorn."""
        largest = max(self.settings.max_message_bytes, (15 << 20) * 4 // 3 + 1000)
        return {
            "log_level": "warning",
            "backlog": _AT_ONCE,  # asyncio takes up as many at once as the system may queue
            "access_log": False,
            "ws_max_size": largest,
            "ws_max_queue": 8,
            "ws_ping_interval": 20.0,
            "ws_ping_timeout": 20.0,
            "ws_per_message_deflate": False,
            "timeout_keep_alive": 10,
            "timeout_graceful_shutdown": 5,
            "h11_max_incomplete_event_size": 64 << 10,
            "server_header": False,
        }


class Draining(uvicorn.Server):
    """uvicorn's server, which drains before it ends."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.served = server
        logging.getLogger("uvicorn.error").addFilter(_worth_telling)
        self._task: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.served.state.draining or not self.started:
            super().handle_exit(sig, frame)
            return
        if sig == signal.SIGINT:
            self._captured_signals.append(sig)  # told to the program once all is done
        self.served.state.draining = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        await self.served.drain()
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(_QUEUE)


def _allow_many_files() -> None:
    """A connection is a file, and the usual limit of 1024 lets idle ones keep others out."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _worth_telling(record: logging.LogRecord) -> bool:
    """uvicorn takes a WebSocket that is answered by an HTTP status for a fault."""
    return "without completing handshake" not in record.getMessage()


def _page(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        return FileResponse(
            PAGE / name, media_type=_TYPES[name], headers={"cache-control": "no-cache"}
        )

    return endpoint


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return api_error(error)


async def _failed(request: Request, error: Exception) -> Response:
    return api_error(HTTPException(500, "the server failed; its log says why"))
