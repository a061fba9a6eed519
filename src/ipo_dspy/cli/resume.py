"""The command that takes a run up again."""

import re
import shlex
from pathlib import Path

from ipo_dspy._internal.secrets import without_path_keys

_invoked: list[str] = []
"""The arguments of this process, for the command to go on with. Options refuse secrets, but not in an address."""
_USERINFO = re.compile(r"(?<=://)[^?#\s]+@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+")


def remember(arguments: list[str]) -> None:
    """Keep the arguments that the command line was called with."""
    _invoked[:] = arguments


def command(folder: Path) -> str:
    """The command line that goes on with the run in a folder; what is secret in an address is left to the user."""
    told = [] if "--out" in _invoked or any(a.startswith("--out=") for a in _invoked) else ["--out", str(folder)]
    return shlex.join(["ipo-dspy", *map(_without_credentials, _invoked), *told])


def _without_credentials(argument: str) -> str:
    """An argument; of an address neither user and password, nor keys in its path, nor what its query says."""
    if "://" not in argument:
        return argument
    return without_path_keys(_QUERY.sub(r"\1=VALUE", _USERINFO.sub("USER:PASSWORD@", argument)), "KEY")
