"""Live progress in a terminal; elsewhere nothing but what went wrong."""

import contextlib
import logging
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ipo_dspy.cli.terminal import Terminal
from ipo_dspy.cli.wording import in_options
from ipo_dspy.events import Event, TrialEvent

_log = logging.getLogger("ipo_dspy.optimizer")
"""Says what goes wrong where nobody observes; here it would say it a second time, in words for Python."""


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on stderr while something runs whose length is unknown; silent when not a terminal."""
    console = Terminal(stderr=True)
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield


class LiveProgress:
    """An observer that shows stages and steps as bars where stderr is a terminal, and tells faults in any case."""

    def __init__(self, *, steps: int = 0) -> None:
        self.steps = steps
        console = Terminal(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._best: tuple[float, float] | None = None

    def __enter__(self) -> "LiveProgress":
        self._level = _log.level
        _log.setLevel(logging.ERROR)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        _log.setLevel(self._level)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event["event"] == "progress":
            self.show(event["stage"], event["done"], event["total"])
        elif event["event"] == "trial":
            self._note(event)
        elif event["event"] == "step":
            self.show("steps", event["step"], self.steps)
        elif event["event"] == "chosen":
            self.show("steps", self.steps, self.steps)
        elif event["event"] == "fault":
            owner = "" if event["predictor"] == "self" else f" of {event['predictor']}"
            self.say(in_options(f"step {event['step']}{owner}: {event['message']}", "optimize"))

    def say(self, text: str) -> None:
        """A line for people on stderr, above the bars."""
        self._progress.console.print(Text(text), soft_wrap=True)

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage, which appears when it is first named."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, note="")
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def _note(self, trial: TrialEvent) -> None:
        """A line for each template that is better than all before it; the bar keeps its accuracy."""
        row = (-trial["accuracy"], trial["loss"])
        better = self._best is None or row < self._best
        self.show("steps", trial["step"], self.steps)
        if better and not self._progress.disable:
            self._best = row
            text = trial["template"].replace("\n", " | ")
            self._progress.console.print(Text(f"step {trial['step']:>3}  {trial['accuracy']:6.2f} %  {text}"))
            self._progress.update(self._tasks["steps"], note=f"best {trial['accuracy']:.2f} %")
