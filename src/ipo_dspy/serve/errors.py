"""The errors of a server: a status, and one sentence as `{"error": ...}`."""

from collections.abc import Mapping

from starlette.responses import JSONResponse


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: the HTTP status.
        message: one sentence for the client.
        headers: further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers

    def response(self) -> JSONResponse:
        """Return the response that reports the error."""
        return JSONResponse({"error": str(self)}, self.status, headers=self.headers)


def busy(reason: str) -> RequestError:
    """Return the error for a request that may succeed when it is sent again."""
    return RequestError(503, f"{reason}; send the request again later", {"Retry-After": "1"})
