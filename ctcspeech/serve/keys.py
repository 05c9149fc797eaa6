"""The keys that clients show."""

import hmac

from starlette.requests import HTTPConnection

__all__ = ["check_key"]

_KEY_PROTOCOLS = ("ctcspeech-key.", "openai-insecure-api-key.")


def check_key(connection: HTTPConnection, keys: tuple[str, ...]) -> bool:
    """Whether a request shows one of the keys, in a time that does not tell how much of it fits.

    `Authorization: Bearer KEY`; a browser's WebSocket, which cannot have that header, offers the
    subprotocol `ctcspeech-key.KEY`.
    """
    if not keys:
        return True
    scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
    shown = shown.strip() if scheme.lower() == "bearer" else ""
    for name in connection.scope.get("subprotocols") or ():
        for start in _KEY_PROTOCOLS:
            if not shown and name.startswith(start):
                shown = name[len(start) :]
    found = False
    for key in keys:  # all of them, whichever fits
        found |= hmac.compare_digest(shown.encode(), key.encode())
    return found
