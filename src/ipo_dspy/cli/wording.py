"""Messages of the package in the words of the command line.

A message of the package names what to write as one does in Python: `pretrained='openai'`. On the command line that is
an option of the command that was called: `--pretrained openai`. All messages are written in the first form, so each
argument that the command has an option for is told as the option here, in one place. The options are read off the
commands, so a new one needs nothing.
"""

import ast
import contextlib
import functools
import re
import shlex
from collections.abc import Mapping

ROLES = {"prompt_model": "--lm", "description_model": "--vlm"}
"""Language models; their settings are `--lm-arg NAME=VALUE`."""
ARGUMENTS = {
    **ROLES,
    "initial_templates": "--initial",
    "log_dir": "--out",
    "store": "--ray-store",
    "skip_unreadable": "--skip-bad",
    "allow_config_changes": "--allow-changes",
    "max_consecutive_errors": "--max-errors",
    "max_described_images": "--max-descriptions",
    "request_mode": "--asking",
}
"""Arguments whose option has another name."""
PHRASES = {
    "--ray": ("RayScorer(cpus_per_worker=1, gpus_per_worker=0)", "--ray-cpus 1 --ray-gpus 0"),
    "--data-classes": ("add it: ClipClassifier(classes=[...])", "score on the classes of the data: --data-classes"),
    "--vlm": ("write describer='clip', which needs none", "leave --vlm out: CLIP then describes"),
}
"""What is done otherwise on the command line, by the option that the command must have for that."""
DEMO = "--model demo"

_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_VALUE = rf"{_TEXT}|\.\.\.|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan\b|inf\b"
_MODEL = re.compile(rf"\b({'|'.join(ROLES)})=dspy\.LM\(({_TEXT})((?:, \w+=(?:{_VALUE}))*)\)")
_KEY = re.compile(rf"pass ({'|'.join(ROLES)})=dspy\.LM\((?:{_TEXT}), api_key=\.\.\., engine='litellm'\)")
"""A key on the command line could be read in the list of processes."""
_BEGIN = r"(?<![^\s(])(?<!-arg )"
"""An argument begins a word: within one, e.g. `runs/seed=0`, it is the user's own text."""
_BOTH = r"(?:, or --[\w-]+,?| \(--[\w-]+\))?"
"""Some messages name a flag in both languages."""


def in_options(text: str, command: str) -> str:
    """A message with the options of a command where it names arguments.

    >>> in_options("no weights 'x'; write e.g. pretrained='openai'", "optimize")
    "no weights 'x'; write e.g. --pretrained openai"
    >>> in_options("write prompt_model=dspy.LM('a/b', input_cost_per_token=..., engine='litellm')", "optimize")
    'write --lm a/b --lm-arg input_cost_per_token=...'
    """
    options = _options(command)
    for option, (said, instead) in PHRASES.items():
        text = text.replace(said, instead) if option in options.values() else text
    text = _KEY.sub(
        lambda found: f"name a server of your own: {ROLES[found[1]]}-arg api_base=http://HOST:PORT/v1", text
    )
    text = _MODEL.sub(_model, text)
    for name, option in options.items():
        text = re.sub(rf"{_BEGIN}{name}=True{_BOTH}", option, text)
        text = re.sub(rf"{_BEGIN}{name}=({_VALUE})", rf"{option}=\1", text)
        text = re.sub(rf"{_BEGIN}{name}(?= was .* and is )", option, text)
    for name in {*ROLES, "log_dir"} & options.keys():  # a place told by its argument, e.g. "log_dir 'runs/1' holds"
        text = re.sub(rf"\b{name}(?= ')", options[name], text)
    text = re.sub(rf"(--[\w-]+)=({_VALUE})", lambda found: f"{found[1]} {_word(found[2])}", text)
    if "cannot be fetched" in text and "--model" in options.values() and DEMO not in text:
        text += f", or {DEMO}, which needs no download"
    return text


@functools.cache
def _options(command: str) -> Mapping[str, str]:
    """The option of each argument that a command has one for."""
    import typer.main

    from ipo_dspy.cli.app import app

    commands = getattr(typer.main.get_command(app), "commands", {})
    known = {
        str(one.name): opts[0]
        for one in (commands[command].params if command in commands else ())
        if (opts := [opt for opt in one.opts if opt.startswith("--")])
    }
    return {**known, **{name: option for name, option in ARGUMENTS.items() if option in known.values()}}


def _model(found: "re.Match[str]") -> str:
    """`prompt_model=dspy.LM('NAME', a=...)` as `--lm NAME --lm-arg a=...`."""
    option = ROLES[found[1]]
    settings = [one for one in found[3].split(", ") if one and not one.startswith("engine=")]
    return " ".join([f"{option} {_word(found[2])}", *(f"{option}-arg {one}" for one in settings)])


def _word(value: str) -> str:
    """A Python literal as a word of a shell; what only looks like one stays."""
    with contextlib.suppress(SyntaxError, ValueError):
        return shlex.quote(ast.literal_eval(value)) if value[0] in "'\"" else value
    return value
