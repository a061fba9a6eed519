"""The state of a run, folded from the events of its journal one by one: what `ipo-dspy watch` draws.

Texts in it may be shown: characters that hide or turn round text are written by number.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from ipo_dspy.history import Trial
from ipo_dspy.report.journal_fields import Fields
from ipo_dspy.run.events import Event
from ipo_dspy.run.ledger import Answer, Spent

WHY = {
    "patience": "no better template for as many steps as --patience allows",
    "exhausted": "the proposer had nothing new any more",
    "faults": "too many faults in a row",
    "stopped": "it was told to stop",
}
"""Statuses of an `end` event in words; the others are names of limits."""


class SearchState:
    """One search so far.

    Attributes:
        trials: by key; a trial that is journalled twice counts once.
        better: each trial that was better than all before it, the start template first.
        steps: the last one that is done.
        chosen: index of the trial that the search ended with.
        rejected: rejections by reason.
        faults: what went wrong, in order.
        described: images whose description is there.
    """

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}
        self.better: list[Trial] = []
        self.steps = self.described = 0
        self.chosen: int | None = None
        self.rejected: Counter[str] = Counter()
        self.faults: list[str] = []

    @property
    def start(self) -> Trial | None:
        """The start template's trial."""
        return min(self.trials.values(), key=lambda trial: trial.index, default=None)

    @property
    def best(self) -> Trial | None:
        """The chosen trial, or the best so far."""
        chosen = next((trial for trial in self.trials.values() if trial.index == self.chosen), None)
        return chosen or (self.better[-1] if self.better else None)

    @property
    def curve(self) -> list[float]:
        """Best accuracy after each step, from step 0 on."""
        known = {trial.step: trial.score.accuracy for trial in self.better}
        values: list[float] = []
        for step in range(self.steps + 1 if known else 0):
            values.append(known.get(step, values[-1] if values else 0.0))
        return values

    def fold(self, event: Fields) -> None:
        """Take in an event of this search."""
        match event.kind:
            case "trial":
                self._try(event)
            case "step":
                self.steps = max(self.steps, event.whole("step"))
            case "chosen":
                self.chosen = event.whole("index")
            case "rejection":
                self.rejected[event.text("reason")] += 1
            case "fault":
                self.faults.append(" ".join(event.text("message").split()))
            case "description":
                self.described += 1

    def _try(self, event: Fields) -> None:
        trial = Trial(
            event.template("template"),
            event.score(),
            index=event.whole("index"),
            step=event.whole("step"),
            tokens=event.whole("tokens"),
            key=event.raw("key"),
        )
        if trial.key not in self.trials:
            self.trials[trial.key] = trial
            if not self.better or trial.rank < self.better[-1].rank:
                self.better.append(trial)


class RunState:
    """A run so far: fold its events in, in order.

    Attributes:
        planned: steps of each search, if known.
        searches: by the classifier's name.
        spent: on language models.
        seconds: of the run when it last told.
        end: status of its `end` event, until it is taken up again.
        budget: the limit that was reached.

    >>> state = RunState()
    >>> state.fold({"event": "end", "status": "patience", "seconds": 3.0, "calls": 0, "tokens": 0})
    >>> state.status(held=False)
    'stopped: no better template for as many steps as --patience allows'
    """

    def __init__(self) -> None:
        self.planned: int | None = None
        self.searches: dict[str, SearchState] = {}
        self.spent, self.seconds = Spent(), 0.0
        self.end: str | None = None
        self.begun = False
        self._answered: set[tuple[str, str]] = set()

    def fold(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            JournalError: a field of another type than `events` says.
        """
        self.begun = True
        fields = Fields(cast(Mapping[str, Any], event))
        self.seconds = max(self.seconds, _number(event.get("elapsed")))
        match fields.kind:
            case "run":
                self._plan(event.get("settings"), "steps")
            case "resume":
                self._take_up(event.get("changed"))
            case "end":
                self.end, self.seconds = fields.text("status"), fields.number("seconds")
            case "answer":
                self._count(fields)
            case _:
                self.searches.setdefault(fields.text("predictor"), SearchState()).fold(fields)

    def status(self, *, held: bool | None, folder: str = "FOLDER") -> str:
        """What the run in a folder does, given whether a process holds its journal (None: that cannot be told)."""
        if self.end is None:
            if not self.begun:
                return "waiting for its journal"
            left = f"stopped: no process is writing it; run the same command again with --out {folder} to go on"
            return left if held is False else "running"
        if self.end == "finished":
            return "finished; its test images are scored" if held else "finished"
        limit = f"--{self.end.replace('_', '-')} is reached"
        return f"stopped: {WHY.get(self.end, limit)}"

    def _plan(self, settings: Any, name: str) -> None:
        steps = settings.get(name) if isinstance(settings, Mapping) else None
        self.planned = steps if isinstance(steps, int) else self.planned

    def _take_up(self, changed: Any) -> None:
        """How it had ended no longer counts."""
        self.end = None
        for search in self.searches.values():
            search.chosen = None
        was_is = changed.get("steps") if isinstance(changed, Mapping) else None
        if isinstance(was_is, list) and len(was_is) == 2:
            self._plan({"steps": was_is[1]}, "steps")

    def _count(self, event: Fields) -> None:
        key = event.raw("predictor"), event.raw("question")
        if key in self._answered:
            return
        self._answered.add(key)
        answer = Answer(
            (),
            calls=event.whole("calls"),
            prompt_tokens=event.whole("prompt_tokens"),
            completion_tokens=event.whole("completion_tokens"),
            cost=event.counted("cost"),
            estimated=int(event.counted("estimated") or 0),
        )
        self.spent = self.spent.plus(answer)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else 0.0
