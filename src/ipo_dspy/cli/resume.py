"""Reconstruct the command line that resumes a run, without secrets."""

import re
import shlex
from pathlib import Path

from ipo_dspy._internal.secrets import without_path_keys

_invoked: list[str] = []
"""Arguments of this process. Options refuse secrets, except within addresses."""
_USERINFO = re.compile(r"(?<=://)[^?#\s]+@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+")


def store_invocation(arguments: list[str]) -> None:
    """Store the arguments of the command line."""
    _invoked[:] = arguments


def command(folder: Path) -> str:
    """Return the command line that resumes the run in a folder, without the secrets in addresses."""
    option = "--out" if "bench" in _invoked else "--log-dir"
    is_passed = any(argument.partition("=")[0] == option for argument in _invoked)
    return shlex.join(["ipo-dspy", *map(_without_credentials, _invoked), *([] if is_passed else [option, str(folder)])])


def _without_credentials(argument: str) -> str:
    """Return an argument; in addresses, replace credentials, keys in the path, and values of the query."""
    if "://" not in argument:
        return argument
    return without_path_keys(_QUERY.sub(r"\1=VALUE", _USERINFO.sub("USER:PASSWORD@", argument)), "KEY")
