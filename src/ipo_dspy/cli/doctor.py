"""Is everything there that a run needs? One line a check, and what to write where something is missing.

Each check is a small function; one that fails in a way nobody thought of becomes a red line and stops no other. Nothing
is downloaded, no language model is asked unless it is named, every wait has an end, and of keys only names are told.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, TypeAlias

import typer
from rich.text import Text

from ipo_dspy._internal.counts import counted
from ipo_dspy.cli import doctor_environment as machine
from ipo_dspy.cli import doctor_models as models
from ipo_dspy.cli.doctor_environment import Check, State
from ipo_dspy.cli.options import DEFAULT_PRETRAINED, Device, Json, Lm, LmArg, Pretrained, Vlm, VlmArg, settings
from ipo_dspy.cli.terminal import Terminal

Look: TypeAlias = Callable[[], Check | Iterable[Check]]

MARKS: Mapping[State, tuple[str, str]] = {
    "ok": (" ok ", "green"),
    "warn": ("note", "yellow"),
    "fail": ("FAIL", "bold red"),
}
"""How a state is shown: a word too, since a pipe and some eyes have no colours."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user named, besides what is looked at in any case.

    Attributes:
        model, pretrained: another CLIP than the bundled one.
        device: to load models on.
        lm, vlm: language models to ask once.
        lm_settings, vlm_settings: of each, e.g. `api_base`.
    """

    model: str | None = None
    pretrained: str | None = None
    device: str = "auto"
    lm: str | None = None
    vlm: str | None = None
    lm_settings: Mapping[str, Any] = field(default_factory=dict)
    vlm_settings: Mapping[str, Any] = field(default_factory=dict)


def examine(wanted: Wanted) -> Iterator[Check]:
    """All checks, each as soon as it is done."""
    for name, look in _looks(wanted):
        yield from guarded(name, look)


def _looks(wanted: Wanted) -> Iterator[tuple[str, Look]]:
    yield "python", machine.python
    yield "packages", machine.packages
    yield "torch build", machine.torch_build
    yield "torchvision", machine.torchvision
    yield "device", machine.device
    yield "CLIP demo", partial(models.demo_model, wanted.device)
    if wanted.model is None:
        yield "CLIP by default", models.default_model
    if wanted.model is not None and wanted.model != "demo":
        yield f"CLIP {wanted.model}", partial(models.other_model, wanted.model, wanted.pretrained, wanted.device)
    yield "folders", machine.folders
    yield "keys", machine.keys
    asked = (("--lm", wanted.lm, wanted.lm_settings), ("--vlm", wanted.vlm, wanted.vlm_settings))
    for option, name, given in asked:
        if name is not None:
            yield f"{option} {name}", partial(models.language_model, option, name, given)
    yield "terminal", machine.terminal
    yield "extras", machine.extras


def guarded(name: str, look: Look) -> Iterator[Check]:
    """What a look finds; whatever it raises becomes a red line, since a doctor who falls over helps nobody."""
    try:
        found = look()
        yield from (found,) if isinstance(found, Check) else found
    except Exception as error:  # noqa: BLE001
        said = f"this check failed: {type(error).__name__}{_said(error)}"
        yield Check(name, "fail", said, "pip install --force-reinstall ipo_dspy")


def _said(error: Exception) -> str:
    try:
        from ipo_dspy.lms.error_messages import brief
    except ImportError:
        return ""  # DSPy itself is broken, and an error's words may hold a key
    return f": {brief(error)}"


def doctor(
    lm: Lm = None,
    vlm: Vlm = None,
    lm_arg: LmArg = None,
    vlm_arg: VlmArg = None,
    model: Annotated[str | None, typer.Option(help="Another CLIP to load, as for optimize.")] = None,
    pretrained: Pretrained = DEFAULT_PRETRAINED,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Check that everything a run needs is there, and say what to write where it is not."""
    from ipo_dspy.cli.output import as_json

    given = settings(lm_arg, "--lm-arg"), settings(vlm_arg, "--vlm-arg")
    wanted = Wanted(model, pretrained, device, lm, vlm, *given)
    done = []
    for check in examine(wanted):
        done.append(check)
        if not json:
            _show(check)
    red = sum(check.state == "fail" for check in done)
    if json:
        as_json({"ok": not red, "checks": [asdict(check) for check in done]})
    else:
        notes = sum(check.state == "warn" for check in done)
        summary = f"{red or 'nothing'} to mend" + (f", {counted(notes, 'note')}" if notes else "")
        _print(Text(summary, style="bold red" if red else "bold green"))
    raise typer.Exit(1 if red else 0)


def _show(check: Check) -> None:
    mark, style = MARKS[check.state]
    _print(Text.assemble((mark, style), f"  {check.name:<18}  {check.found}"))
    if check.remedy:
        _print(Text(f"{'':<26}-> {check.remedy}"))


def _print(text: Text) -> None:
    Terminal().print(text, soft_wrap=True)  # lines to copy are not broken
