"""Errors over HTTP, in OpenAI's shape."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

__all__ = ["ApiError", "api_error"]


class ApiError(HTTPException):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param


def api_error(error: HTTPException) -> JSONResponse:
    """The answer that tells of an error."""
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    body = {
        "message": error.detail,
        "type": kind,
        "param": getattr(error, "param", None),
        "code": getattr(error, "code", None),
    }
    return JSONResponse({"error": body}, error.status_code, error.headers)
