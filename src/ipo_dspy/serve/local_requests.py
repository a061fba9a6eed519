"""Requests of this machine's own programs and pages, as far as their headers show it."""

from urllib.parse import urlsplit

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names in the `Host` header of a browser on this machine; the port may be that of an SSH tunnel."""


def is_local(host: str, fetch_site: str | None) -> bool:
    """Return whether a request names this machine and does not come from a page of another site.

    A page whose name resolves to this machine (DNS rebinding) has that name in its `Host` header.

    Args:
        host: the header `Host`.
        fetch_site: the header `Sec-Fetch-Site`, which browsers send.

    >>> is_local("localhost:8000", None), is_local("evil.example:8000", None), is_local("127.0.0.1", "cross-site")
    (True, False, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in LOCAL_NAMES and fetch_site != "cross-site"
