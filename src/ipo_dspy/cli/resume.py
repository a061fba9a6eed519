"""Reconstruct the command line that resumes a run, without secrets."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ipo_dspy._internal.secrets import without_path_keys

if TYPE_CHECKING:  # signals are one line only after this module is imported
    from typer import Context

    from ipo_dspy.run.events import CommandEvent

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


def command_event(context: "Context", data: Path, *, has_spare_images: bool) -> "CommandEvent":
    """Return the data and the options that were passed to `optimize`, as far as advised commands repeat them."""
    from ipo_dspy.report.command_lines import ACCEPTED  # loads Jinja

    options: dict[str, list[str]] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            parameter = next(parameter for parameter in context.command.params if parameter.name == name)
            option = (parameter.secondary_opts if value is False else parameter.opts)[0]
            values = [] if isinstance(value, bool) else value if isinstance(value, list | tuple) else [value]
            options[option] = [_without_credentials(str(item)) for item in values]
    options = {option: values for option, values in options.items() if option in ACCEPTED["optimize"]}
    shown = _without_credentials(str(data))
    return {"event": "command", "data": shown, "options": options, "has_spare_images": has_spare_images}


def _without_credentials(argument: str) -> str:
    """Return an argument; in addresses, replace credentials, keys in the path, and values of the query."""
    if "://" not in argument:
        return argument
    return without_path_keys(_QUERY.sub(r"\1=VALUE", _USERINFO.sub("USER:PASSWORD@", argument)), "KEY")
