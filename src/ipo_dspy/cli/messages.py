"""Show command-line options instead of Python arguments in error messages, and accept renamed options."""

import functools
import shlex
from collections.abc import Mapping, Sequence

from ipo_dspy._internal.renames import OLD_REQUEST_MODES
from ipo_dspy.errors import Argument, IPOError, LMCall

WITHOUT = {("describer", "clip"): "description_model", ("proposer", "evolution"): "prompt_model"}
"""Argument values that correspond to omitting an option on the command line."""
ARGUMENTS = {"backend": "ray"}
"""Arguments that are set by a parameter of another name."""
RENAMED = {
    "--lm": "--prompt-model",
    "--vlm": "--description-model",
    "--lm-arg": "--prompt-model-kwargs",
    "--vlm-arg": "--description-model-kwargs",
    "--asking": "--request-mode",
    "--initial": "--initial-template",
    "--max-descriptions": "--max-described-images",
    "--max-errors": "--max-consecutive-errors",
    "--allow-changes": "--allow-config-changes",
    "--skip-bad": "--skip-unreadable",
}
"""Former names of options, accepted for one release."""


def render(error: IPOError, command: str) -> str:
    """Return the message of an error with a command's options instead of argument names."""
    options = _options(command)

    def spell(argument: Argument) -> str:
        if other := options.get(WITHOUT.get((argument.name, str(argument.value)), "")):
            return f"no {other}"
        if argument.name == "classes" and argument.value is ... and "data_classes" in options:
            return options["data_classes"]  # the classes are those of the saved program
        name, value = ARGUMENTS.get(argument.name, argument.name), argument.value
        option = options.get(f"no_{name}" if value is False else name)
        if option is None:
            return str(argument)
        if argument == Argument(argument.name) or isinstance(value, bool):
            return option
        if isinstance(value, LMCall):
            settings = " ".join(f"{option}-kwargs {str(setting).replace(chr(39), '')}" for setting in value.settings)
            return f"{option} {shlex.quote(value.model)} {settings}"
        if isinstance(value, list | tuple):
            return " ".join(f"{option} {shlex.quote(str(item))}" for item in value)
        return f"{option} {'...' if value is ... else shlex.quote(str(value))}"

    return error.render(spell)


@functools.cache
def _options(command: str) -> Mapping[str, str]:
    """Return the option of each parameter of a command, and that of `no_NAME` which turns it off."""
    import typer.main

    from ipo_dspy.cli.app import app

    commands = getattr(typer.main.get_command(app), "commands", {})
    parameters = commands[command].params if command in commands else ()
    on = {str(p.name): p.opts[0] for p in parameters if p.opts[0].startswith("--")}
    return on | {f"no_{p.name}": p.secondary_opts[0] for p in parameters if p.secondary_opts}


def modernize(arguments: Sequence[str], command: str) -> tuple[list[str], str]:
    """Return arguments with the current names of options, and a deprecation notice if any was renamed.

    >>> modernize(["demo", "--lm", "openai/toy", "--asking=draws"], "demo")[0]
    ['demo', '--prompt-model', 'openai/toy', '--request-mode=samples']
    >>> modernize(["report", "runs/1", "--out", "page.html"], "report")
    (['report', 'runs/1', '--out', 'page.html'], '')
    """
    names = RENAMED | ({"--out": "--log-dir"} if command in ("demo", "optimize") else {})
    renamed: dict[str, str] = {}
    modern: list[str] = []
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names and "--" not in arguments[:at]:
            renamed[name] = names[name]
            modern.append(names[name] + equals + (OLD_REQUEST_MODES.get(value, value) if name == "--asking" else value))
        elif argument == "list" and arguments[at - 1 : at] == ["demo"]:
            renamed["demo list"] = "demo --list"
            modern.append("--list")
        else:
            is_mode = arguments[at - 1 : at] == ["--asking"]
            modern.append(OLD_REQUEST_MODES.get(argument, argument) if is_mode else argument)
    listed = ", ".join(f"{before} is now {now}" for before, now in renamed.items())
    return modern, f"deprecated: {listed}" if listed else ""
