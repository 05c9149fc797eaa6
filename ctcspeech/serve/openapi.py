"""The OpenAPI description of the HTTP part. WebSockets have no place in OpenAPI."""

from typing import Any

from ctcspeech import __version__

__all__ = ["description"]

_ERROR = {
    "description": "Refused; the body says why.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
_KEY: list[dict[str, list[str]]] = [{"bearer": []}]


def description(prefix: str) -> dict[str, Any]:
    """For `/openapi.json`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ctcspeech", "version": __version__, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": prefix or "/"}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/audio/transcriptions": {"post": _transcriptions()},
            "/v1/models": {"get": _get("The models that are served.", key=True)},
            "/v1/models/{name}": {"get": {**_get("One model.", key=True), "parameters": [_NAME]}},
            "/health": {"get": _get("Whether the process works.")},
            "/ready": {"get": _get("Whether new streams are wanted; 503 while not.")},
            "/metrics": {"get": _get("Metrics for Prometheus.", "text/plain", key=True)},
        },
    }


_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _get(summary: str, kind: str = "application/json", key: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": {kind: {}}}},
    }
    if key:
        answer["security"] = _KEY
        answer["responses"]["401"] = _ERROR
    return answer


def _transcriptions() -> dict[str, Any]:
    properties = {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string"},
        "response_format": {"enum": ["json", "text", "srt", "verbose_json", "vtt"]},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"enum": ["word", "segment"]},
        },
        "include[]": {"type": "array", "items": {"enum": ["logprobs"]}},
        "language": {"type": "string"},
        "stream": {"type": "boolean"},
    }
    return {
        "summary": "A recording to text; stream=true answers with server-sent events.",
        "security": _KEY,
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["file"], "properties": properties}
                }
            },
        },
        "responses": {
            "200": {
                "description": "The transcript.",
                "content": {
                    kind: {}
                    for kind in ("application/json", "text/plain", "text/vtt", "text/event-stream")
                },
            },
            **{status: _ERROR for status in ("400", "401", "404", "413", "415", "503")},
        },
    }
