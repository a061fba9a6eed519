"""The page of a run, which updates itself: a small server on this machine that only reads the run's folder.

It needs nothing besides the standard library, so that a run can be watched in any installation. Only this machine can
connect. A page of another site that resolves its name to this machine (DNS rebinding) is rejected by the `Host` header.
"""

import json
import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ipo_dspy.errors import InputError, JournalError
from ipo_dspy.report import render_report
from ipo_dspy.serve.local_requests import is_local
from ipo_dspy.serve.run_state import RunJSON
from ipo_dspy.serve.static_files import HEADERS, static_files

LOOPBACK = "127.0.0.1"
_REPORT_HEADERS = HEADERS | {"Content-Security-Policy": "frame-ancestors 'none'"}
"""The report has its own policy, which permits its inline style and its one script."""

_log = logging.getLogger(__name__)


class RunPageServer(ThreadingTCPServer):
    """Serves the page of a run until `serve_forever` is interrupted.

    Args:
        run: folder of a run, which may not have begun yet.
        port: port on the loopback interface; 0 takes a free one.

    Raises:
        InputError: the port is in use, or may not be used.

    >>> import tempfile
    >>> with RunPageServer(Path(tempfile.mkdtemp())) as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    allow_reuse_address = True
    daemon_threads = True  # an open connection does not delay the end
    block_on_close = False

    def __init__(self, run: Path, *, port: int = 0) -> None:
        self.run, self.files, self.reading = RunJSON(run), static_files("run"), threading.Lock()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            fact, hint = f"must be a port that can be used ({error.strerror})", "pass another one, or 0 for a free one"
            raise InputError(fact, argument="port", value=port, hint=hint) from error

    @property
    def url(self) -> str:
        """The URL of the page."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of a request, unless the browser closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.exception("a request for the page of the run failed")


class _Handler(BaseHTTPRequestHandler):
    server: RunPageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ipo_dspy", ""
    timeout = 30
    """Seconds that a connection may be silent."""

    def do_GET(self) -> None:
        """Answer a request of this machine's browser."""
        url = urlsplit(self.path)
        path = url.path.removeprefix("/")
        if not is_local(self.headers.get, self.command):
            self._send(HTTPStatus.FORBIDDEN, b"Open this page by its address on this machine.\n", "text/plain")
        elif file := self.server.files.get(path):
            self._send(HTTPStatus.OK, file.content, file.media_type)
        elif path in ("state", "report"):
            self._send_run(path, parse_qs(url.query).get("seen", [""])[0])
        else:
            self._send(HTTPStatus.NOT_FOUND, b"This page does not exist.\n", "text/plain")

    def _send_run(self, path: str, seen: str) -> None:
        """Send the state or the report, made one at a time: the journal's reader and matplotlib are not thread-safe."""
        status, media_type = HTTPStatus.OK, "application/json"
        try:
            with self.server.reading:
                if path == "state":
                    body = _json(self.server.run.look(seen))
                else:
                    page = render_report(self.server.run.watched.folder)
                    body, media_type = page.encode(), "text/html; charset=utf-8"
        except JournalError as error:
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": str(error)})
        self._send(status, body, media_type, _REPORT_HEADERS if media_type.startswith("text/html") else HEADERS)

    def _send(self, status: HTTPStatus, body: bytes, media_type: str, headers: dict[str, str] = HEADERS) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Type": media_type, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no requests: the page sends one each second."""


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()
