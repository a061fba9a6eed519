"""Command lines to copy, with the options that the run used and that the command accepts."""

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import PureWindowsPath
from types import MappingProxyType

from ipo_dspy.clip.model_spec import name_alone
from ipo_dspy.run.state import RunState

GOAL = ("--objective", "--costs", "--min-recall")
ACCEPTED = {
    "optimize": (
        *("--prompt-model", "--description-model", "--request-mode", "--task-description"),
        *("--device", "--also", "--across", "--template", "--initial-template"),
        *("--shots", "--test", "--val", "--test-data", "--min-images", "--multi-label", "--base-novel"),
        *("--image-column", "--label-column", "--base", "--classes", "--split", "--skip-unreadable"),
        *("--class-texts", *GOAL, "--optimize", "--candidates", "--max-recall-drop"),
        *("--steps", "--auto", "--prompts-per-step", "--history-size", "--patience", "--seed"),
        *("--choose", "--tolerance", "--ensemble", "--polish", "--no-polish", "--images-in-request"),
        *("--max-lm-calls", "--max-tokens", "--max-cost", "--max-seconds", "--max-consecutive-errors"),
        *("--max-described-images", "--prefetch", "--no-prefetch", "--num-threads"),
    ),
    "calibrate": (*GOAL, "--device"),
    "evaluate": (*GOAL, "--device"),
}
"""The options of `optimize` that each command takes, other commands `--device` alone; `calibrate` and `evaluate` need
other images than the search had, so they take none that say how to read those.

Left out are the model, which the journal names, the folder of the run, and what may be an address or a secret: the
settings of language models, and a cluster.
"""


def command_line(
    run: RunState,
    command: str,
    *arguments: str,
    replaced: Mapping[str, str] = MappingProxyType({}),
    omitted: Collection[str] = (),
) -> str:
    """Return a command line, quoted for a shell.

    Args:
        run: its options are taken over, as far as the command accepts them.
        command: name of the command.
        arguments: the files and folders before the options.
        replaced: options with another value, and those that the run did not have; empty ones are left out.
        omitted: options of the run that are left out.
    """
    accepted = set(ACCEPTED.get(command, ("--device",))) - replaced.keys() - set(omitted)
    options = {option: values for option, values in _options(run).items() if option in accepted}
    options |= {option: [value] for option, value in replaced.items() if value}
    parts = [[option, value] for option, values in options.items() for value in values]
    flags = [option for option, values in options.items() if not values]
    files = [f"./{file}" if file.startswith("-") else file for file in arguments]
    return shlex.join(["ipo-dspy", command, *files, *flags, *chain.from_iterable(parts)])


def data_of(run: RunState) -> str:
    """Return the data of the run for commands; `photos` if its name is unknown."""
    if run.command is not None:
        return _path(run.command["data"]) or "photos"
    return next((search.setup.get("data_name") for search in run.searches.values()), "") or "photos"


def _options(run: RunState) -> Mapping[str, Sequence[str]]:
    """Return the options of a run with their values; of a run in Python or of an older one, those that are known."""
    if run.command is not None:
        passed = run.command["options"].items()
        return {option: [_SHOWN.get(option, str)(value) for value in values] for option, values in passed}
    search, settings = next(iter(run.searches.values())), run.settings
    measured = [evaluation.get("measures", {}) for evaluation in search.evaluations.values()]
    goal = settings.get("objective")
    known: dict[str, list[str]] = {
        "--class-texts": ["texts.json"] * bool(search.setup.get("class_texts")),
        "--objective": [goal] if goal and isinstance(goal, str) else [],
        "--costs": ["costs.json"] * bool(settings.get("costs")),
        "--min-recall": [f"{name}={floor}" for name, floor in run.min_recall.items()],
    }
    several: dict[str, list[str]] = (
        {"--multi-label": []} if any("mean_average_precision" in measures for measures in measured) else {}
    )
    return several | {option: values for option, values in known.items() if values}


def _path(value: str) -> str:
    """Return a path; its last part alone if the path might show where a user's files are."""
    path = PureWindowsPath(value)  # reads the slashes of all systems
    is_below = not path.anchor and ".." not in path.parts and not value.lower().startswith(("~", "file:"))
    return value if is_below else path.name


def _language_model(name: str) -> str:
    """Return the name of a language model; of one in a folder, its provider and the folder's name."""
    return re.sub(r"\A([\w-]+/|)(.*)", lambda match: match[1] + name_alone(match[2]), name, flags=re.DOTALL)


_PATHS = ("--val", "--test-data", "--base", "--classes", "--class-texts", "--costs", "--candidates")
_SHOWN: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(_PATHS, _path),
    **dict.fromkeys(("--prompt-model", "--description-model"), _language_model),
    "--also": name_alone,
}
"""The functions that shorten the values of options; others are shown as they are."""
