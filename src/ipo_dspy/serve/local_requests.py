"""Requests of this machine's own programs and pages, as far as their headers show it."""

from collections.abc import Callable
from urllib.parse import urlsplit

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names in the `Host` header of a browser on this machine; the port may be that of an SSH tunnel."""


def is_local(header: Callable[[str], str | None], method: str) -> bool:
    """Return whether a request names this machine, and is not one that a page of another site makes.

    A page whose name resolves to this machine (DNS rebinding) has that name in its `Host` header. A link of another
    site may be followed: that site cannot read what it leads to.

    Args:
        header: returns a header by its name.
        method: method of the request.

    >>> is_local({"Host": "localhost:8000"}.get, "POST"), is_local({"Host": "evil.example:8000"}.get, "GET")
    (True, False)
    >>> foreign = {"Host": "127.0.0.1", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    >>> is_local(foreign.get, "GET"), is_local(foreign.get, "POST")
    (True, False)
    """
    try:
        name = urlsplit(f"//{header('Host') or ''}").hostname
    except ValueError:
        return False
    is_link = method == "GET" and header("Sec-Fetch-Mode") == "navigate"
    return name in LOCAL_NAMES and (is_link or header("Sec-Fetch-Site") != "cross-site")
