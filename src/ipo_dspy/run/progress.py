"""Progress of a run on stderr: bars, and a line for each better template.

Bars need a terminal, or a notebook with ipywidgets. A notebook without it, and a log for which progress is enabled, get
lines only. This is the only observer that prints, and the only such module outside the command line.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ipo_dspy._internal.untrusted import printable
from ipo_dspy.run.events import Event, TrialEvent
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.objectives import ObjectiveText

_LINES_PER_RUN = 10
"""Number of lines for the steps of a search without bars."""
_SHOWN_CLASSES = 3


def is_watched() -> bool:
    """Return True if progress can be seen: stderr is a terminal, or this is a notebook."""
    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter


class _Bars(Progress):
    """Bars, and below them the request to a language model that is waited for."""

    def __init__(self, state: RunState, *columns: ProgressColumn, **options: Any) -> None:
        self._state = state
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for request in self._state.pending[:1]:
            if request.seconds >= 1:  # no line that only flickers
                yield Text(printable(str(request)))


class ProgressDisplay:
    """An observer that shows stages and steps as bars, and a line for each better template.

    Args:
        steps: planned steps, the length of the search bar.
        lines: write lines where bars cannot be shown; by default nothing is written there.
    """

    def __init__(self, *, steps: int = 0, lines: bool = False) -> None:
        self.steps, self.state = steps, RunState()
        console = Console(stderr=True)
        notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        self.bars = console.is_terminal or notebook
        self._lines = lines or self.bars
        self._progress = _Bars(
            self.state,
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not self.bars,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:  # before rich 14.3, a disabled display ends with an empty line
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self.state.fold(event)
        if event["event"] == "progress":
            self.show(event["stage"], event["done"], event["total"])
        elif event["event"] == "search_started":
            self._tenths.clear()
        elif event["event"] == "trial":
            self._note(event)
        elif event["event"] == "step":
            self.show("steps", event["step"], self.steps)
        elif event["event"] == "selected":
            self.show("steps", self.steps, self.steps)

    def say(self, text: str) -> None:
        """Write a line to stderr, above the bars."""
        self._progress.console.print(Text(printable(text)), soft_wrap=True)

    def show(self, stage: str, done: int, total: int) -> None:
        """Update the bar of a stage, which is added on first use."""
        if self.bars:
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=total, note="")
            self._progress.update(self._tasks[stage], completed=done, total=total)
        elif self._lines:  # when a stage is complete, and at each tenth of the steps
            tenth = done * _LINES_PER_RUN // max(1, total)
            if tenth > self._tenths.get(stage, 0) and (stage == "steps" or done == total):
                self.say(f"{stage}: {done} of {total}")
            self._tenths[stage] = tenth

    def _note(self, trial: TrialEvent) -> None:
        """Write a line for each template that is better than all earlier ones; the bar shows its accuracy."""
        search = self.state.search(trial["predictor"])
        if self.bars:
            self.show("steps", max(0, trial["step"] - 1), self.steps)  # its step is not finished
        if self._lines and search.better[-1].index == trial["index"]:
            text = trial["template"].replace("\n", " | ")
            goal = ObjectiveText.of(search.objective)
            value = goal.number(trial.get("value", trial["accuracy"]))
            label = "" if goal.label == "accuracy" else f"{goal.label} "
            self.say(f"step {trial['step']:>3}  {label}{value:>8}  {text}")
            if self.bars:
                self._progress.update(self._tasks["steps"], note=f"best {value}")


def data_line(
    classifiers: Iterable[tuple[str, Sequence[str] | None, str]], images: int, validation_images: int | None
) -> str:
    """Return a summary of the inputs: class names and model of each classifier, and the number of images.

    >>> data_line([("self", ["bee", "cat", "dog", "elk"], "demo")], 64, 16)
    '4 classes (bee, cat, dog, ...), model demo; 64 training images, 16 validation images'
    """
    owners = (("" if name == "self" else f"{name}: ", names, model) for name, names, model in classifiers)
    parts = [f"{owner}{_classes(names)}, model {model}" for owner, names, model in owners]
    validation = "" if validation_images is None else f", {validation_images} validation images"
    return "; ".join([*parts, f"{images} training images{validation}"])


def _classes(names: Sequence[str] | None) -> str:
    if names is None:
        return "classes given with each image"
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    return f"{len(names)} classes ({', '.join(names[:_SHOWN_CLASSES])}{more})"
