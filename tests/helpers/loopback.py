"""The HTTP server under the test servers of this folder."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """Serves on a free port; a client that hangs up before its answer is nothing to report.

    A thread that answers such a client may outlive its test, and what it printed would count for the next one.
    """

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
