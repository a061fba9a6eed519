"""The command line that resumes a run."""

import re
import shlex
from pathlib import Path

from ipo_dspy._internal.secrets import without_path_keys

_invoked: list[str] = []
"""The arguments of this process. Options refuse secrets, but not in an address."""
_USERINFO = re.compile(r"(?<=://)[^?#\s]+@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+")


def store_invocation(arguments: list[str]) -> None:
    """Store the arguments of the command line."""
    _invoked[:] = arguments


def command(folder: Path) -> str:
    """Return the command line that resumes the run in a folder, without the secrets in addresses."""
    option = "--out" if "bench" in _invoked else "--log-dir"
    given = any(argument.partition("=")[0] == option for argument in _invoked)
    return shlex.join(["ipo-dspy", *map(_without_credentials, _invoked), *([] if given else [option, str(folder)])])


def _without_credentials(argument: str) -> str:
    """Return an argument; of an address without user, password, keys in its path, and values of its query."""
    if "://" not in argument:
        return argument
    return without_path_keys(_QUERY.sub(r"\1=VALUE", _USERINFO.sub("USER:PASSWORD@", argument)), "KEY")
