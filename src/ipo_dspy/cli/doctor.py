"""`ipo-dspy doctor`: check the environment, one line per check, with a fix for every problem.

Nothing is downloaded, and a language model is only called if an option names it. Every check has a time limit. Keys are
never shown, only the names of their variables.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, TypeAlias

from rich.text import Text
from typer import Exit, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import doctor_environment as machine
from ipo_dspy.cli import doctor_models as models
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli.doctor_environment import Check, State
from ipo_dspy.cli.terminal import Terminal

CheckFunction: TypeAlias = Callable[[], Check | Iterable[Check]]
MARKS: Mapping[State, tuple[str, str]] = {
    "ok": (" ok ", "green"),
    "warn": ("note", "yellow"),
    "fail": ("FAIL", "bold red"),
}
"""Label and style of each state; the label serves pipes and color-blind readers."""


def catch_as_failure(name: str, function: CheckFunction) -> Iterator[Check]:
    """Yield the results of a check; an exception counts as a failure and does not stop the other checks."""
    try:
        result = function()
        yield from (result,) if isinstance(result, Check) else result
    except Exception as error:  # noqa: BLE001
        fact = f"this check failed: {type(error).__name__}"
        with contextlib.suppress(ImportError):  # if DSPy is broken, the message is left out, as it may hold a key
            from ipo_dspy.lms.error_messages import one_line_error

            fact += f": {one_line_error(error)}"
        yield Check(name, "fail", fact, "pip install --force-reinstall ipo_dspy")


def doctor(
    *,
    lms: opt.LanguageModels,
    model: Annotated[str | None, Option(help="CLIP model to check, as for optimize.")] = None,
    pretrained: opt.Pretrained = opt.DEFAULT_PRETRAINED,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> None:
    """Check the environment and suggest a fix for every problem."""
    functions: dict[str, CheckFunction] = {
        "python": machine.python,
        "packages": machine.packages,
        "torchvision": machine.torchvision,
        "device": machine.device,
        "CLIP demo": partial(models.clip, "demo", None, device),
        "default CLIP": models.default_model,
        "folders": machine.folders,
        "keys": machine.keys,
    }
    if model is not None:
        functions.pop("default CLIP")
        functions[f"CLIP {model}"] = partial(models.clip, model, pretrained, device)
    for option, name, settings in lms:
        if name is not None:
            functions[f"{option} {name}"] = partial(models.language_model, option, name, settings)
    functions |= {"terminal": machine.terminal, "extras": machine.extras}
    checks = []
    for name, function in functions.items():
        for check in catch_as_failure(name, function):
            checks.append(check)
            if not as_json:
                _show(check)
    failed = sum(check.state == "fail" for check in checks)
    if as_json:
        show.write_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        notes = sum(check.state == "warn" for check in checks)
        summary = f"{pluralize(failed, 'problem') if failed else 'no problems'} found"
        summary += f", {pluralize(notes, 'note')}" if notes else ""
        _print(Text(summary, style="bold red" if failed else "bold green"))
    raise Exit(1 if failed else 0)


def _show(check: Check) -> None:
    mark, style = MARKS[check.state]
    _print(Text.assemble((mark, style), f"  {check.name:<18}  {check.found}"))
    if check.remedy:
        _print(Text(f"{'':<26}-> {check.remedy}"))


def _print(text: Text) -> None:
    Terminal().print(text, soft_wrap=True)  # commands to copy must not be wrapped
