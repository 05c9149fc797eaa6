"""What every request and connection passes: the prefix of a proxy, limits, keys, the log."""

import json
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctcspeech.serve.errors import ApiError, api_error
from ctcspeech.serve.keys import check_key
from ctcspeech.serve.state import ServerState

__all__ = ["Access"]

# What carries audio, and counts as a connection.
_COUNTED = ("/v1/audio/transcriptions", "/v1/stream", "/v1/realtime", "/vosk")
_OPEN = ("/health", "/ready")  # without a key, in the API
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _POLICY.encode()),
    (b"permissions-policy", b"microphone=(self)"),
]


class Access:
    """The outermost part of the application (ASGI)."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self._strip(scope)
        # ASGI has no word for ending a connection whose client reads no more; uvicorn's does.
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        scope.setdefault("state", {})["abort"] = getattr(transport, "abort", None)
        started, status = time.monotonic(), 0
        counted = scope["path"] in _COUNTED

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = message.setdefault("headers", [])
                if scope["type"] == "http":
                    message["headers"] = [*headers, *_HEADERS]
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000)
            await send(message)

        server = self.server
        if counted:
            server.connections += 1
            server.metrics.connections.set(server.connections)
        try:
            refusal = self._refusal(scope, counted)
            if refusal is None:
                await self.app(scope, receive, watched)
            else:
                await self._refuse(scope, receive, watched, refusal)
        finally:
            if counted:
                server.connections -= 1
                server.metrics.connections.set(server.connections)
            session = scope.get("state", {}).get("session")
            code = status if session is None else session.close_code
            self._log(scope, code, time.monotonic() - started)

    def _strip(self, scope: MutableMapping[str, Any]) -> None:
        """A proxy may hand over its prefix or cut it off: both are served."""
        prefix = self.server.settings.prefix
        if prefix and (scope["path"] + "/").startswith(prefix + "/"):
            scope["path"] = scope["path"][len(prefix) :] or "/"
            scope["raw_path"] = scope["path"].encode()

    def _refusal(self, scope: Scope, counted: bool) -> ApiError | None:
        server, refusals = self.server, self.server.metrics.refusals
        if counted and server.connections > server.settings.max_connections:
            refusals.labels("connections").inc()
            return ApiError(503, "too many connections", "overloaded", headers={"Retry-After": "5"})
        if counted and server.draining:
            refusals.labels("draining").inc()
            return ApiError(503, "the server is ending", "draining", headers={"Retry-After": "5"})
        if scope["type"] == "http" and self._needs_key(scope["path"]):
            if not check_key(HTTPConnection(scope), server.settings.keys):
                refusals.labels("key").inc()
                challenge = {"WWW-Authenticate": "Bearer"}
                return ApiError(401, "a valid key is needed", "invalid_api_key", headers=challenge)
        return None

    @staticmethod
    def _needs_key(path: str) -> bool:
        return path.startswith("/v1/") or path == "/metrics"

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: ApiError) -> None:
        response = api_error(error)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
        await response(scope, receive, send)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        if not self.server.settings.access_log:
            return
        state = scope.get("state", {})
        session = state.get("session")
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": (scope.get("client") or ("",))[0],
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"][:200],  # without the query, which may hold a key
            "status": status,
            "seconds": round(seconds, 3),
        }
        audio = state.get("audio_seconds") if session is None else session.audio_seconds
        if audio is not None:
            line["audio_seconds"] = round(audio, 3)
        if session is not None and session.model is not None:
            line["model"] = session.model.name
        print(json.dumps(line), file=self.server.log_file or sys.stdout, flush=True)
