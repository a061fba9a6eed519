"""Versions of installed packages."""

import importlib.metadata
from collections.abc import Iterable


def package_version(name: str) -> str | None:
    """Return the version of an installed package, or None.

    >>> package_version("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return package versions by name; 'unknown' for a package without metadata, such as one run from its source."""
    return {name: package_version(name) or "unknown" for name in names}
