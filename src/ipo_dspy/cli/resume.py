"""Stopping a run and going on with it: Ctrl-C, and the command that takes the run up again."""

import contextlib
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

_invoked: list[str] = []
"""The arguments of this process, for the command to go on with. Options refuse secrets, but not in an address."""
_USERINFO = re.compile(r"(?<=://)[^?#\s]+@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+")


def remember(arguments: list[str]) -> None:
    """Keep the arguments that the command line was called with."""
    _invoked[:] = arguments


def command(folder: Path) -> str:
    """The command line that goes on with the run in a folder; password and query of an address are left to the user."""
    told = [] if "--out" in _invoked or any(a.startswith("--out=") for a in _invoked) else ["--out", str(folder)]
    return shlex.join(["ipo-dspy", *map(_without_credentials, _invoked), *told])


def _without_credentials(argument: str) -> str:
    """An argument; of an address neither user and password nor what its query says."""
    if "://" not in argument:
        return argument
    return _QUERY.sub(r"\1=VALUE", _USERINFO.sub("USER:PASSWORD@", argument))


@contextlib.contextmanager
def stopping(
    stop: Callable[[], None], tell: Callable[[str], None], said: str = "stopping after this step"
) -> Iterator[None]:
    """Ctrl-C calls `stop`, which ends the search as is `said`; a second one interrupts at once."""

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()
        tell(f"{said}; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
