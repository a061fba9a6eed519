"""Middleware of the endpoints: it checks the token, adds the headers of each response, and counts requests."""

import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipo_dspy.serve.errors import RequestError
from ipo_dspy.serve.local_requests import is_local
from ipo_dspy.serve.monitoring import Monitor
from ipo_dspy.serve.static_files import HEADERS

_ENCODED_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_ENDPOINTS = frozenset({"/classify", "/v1/systemone", "/program", "/healthz", "/metrics", "/openapi.json", "/"})
"""Names under which requests are counted; the others are one, because each name is kept."""


class Gate:
    """ASGI middleware; paths in `open_paths` need no token."""

    def __init__(self, app: ASGIApp, *, monitor: Monitor, token: str | None, open_paths: frozenset[str]) -> None:
        self._app, self._monitor, self._open_paths = app, monitor, open_paths
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_ENCODED_HEADERS]
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (self._app if refusal is None else refusal.response())(scope, receive, send_noted)
        finally:
            endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
            self._monitor.note_request(endpoint, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if self._token is None:
            if is_local(headers.get, scope["method"]):
                return None
            return RequestError(
                403, "without a token, only requests from this machine to localhost are answered; set a token"
            )
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_given = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)
        if is_given or scope["path"] in self._open_paths:
            return None
        fact = "the token is not the server's" if given else "a token is required"
        message = f"{fact}; send the header Authorization: Bearer TOKEN"
        return RequestError(401, message, {"WWW-Authenticate": "Bearer"})
