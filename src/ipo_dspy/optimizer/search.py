"""The search loop: propose, check, score, record, and at the end choose.

It asks a proposer and a scorer and decides nothing else, so it runs in a test in milliseconds with toys, and
in a benchmark unchanged. It knows neither tensors nor language models. IPO, Algorithm 1 of the paper, with the
differences listed in docs/decisions.md.

A run that was cut off goes on from its journal: trials and rejections are taken from there, and a step that was cut in
the middle is done again with the same answers, of which only what is missing is tried.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy._internal.threads import start
from ipo_dspy.errors import BudgetError, InputError, JournalError, ProposalError, TemplateError
from ipo_dspy.history import History, Trial
from ipo_dspy.lms.proposal_parsing import read_proposal
from ipo_dspy.proposers.base import Ask, Proposals, Proposer
from ipo_dspy.run.events import Event, Keeper, Observer, TrialEvent
from ipo_dspy.run.ledger import Ledger
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.scoring.scorers import Checked, Scorer

FINALISTS = 10
TOLD_REJECTIONS = 5
COMPLETE = frozenset({"finished", "patience", "exhausted"})
"""How a search ends by itself; any other status says what stopped it."""
BARREN_STEPS = 10
"""A proposer that has had nothing new for so many steps has nothing left to say, and may cost money."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to search and with what.

    Attributes:
        steps: questions to the proposer at most.
        prompts_per_step: templates asked for in each.
        history_size: how many of the best trials the proposer is shown.
        patience: stop after this many steps without a better trial; `None` never does.
        seed: of every draw.
        max_errors: stop after this many questions in a row without a usable answer.
        overlap: ask the next question while the last answers are scored; the proposer then sees scores a step late.
    """

    steps: int = 100
    prompts_per_step: int = 8
    history_size: int = 20
    patience: int | None = None
    seed: int = 0
    max_errors: int = 3
    overlap: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposed text that did not become a trial, and why."""

    step: int
    text: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Finalist:
    """One of the best trials; `validation` is its score on the validation images, if there are any."""

    trial: Trial
    validation: Score | None = None

    @property
    def deciding(self) -> Score:
        """The score on the set that decides."""
        return self.validation or self.trial.score

    @property
    def rank(self) -> tuple[float, float, int, int]:
        """As `Trial.rank`, by the deciding score."""
        return (*self.deciding.rank, self.trial.tokens, self.trial.index)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What one search found.

    Attributes:
        predictor: name of the classifier inside the program; `self` for a bare one.
        trials: all of them, in order; the first is the start template.
        finalists: best first, by validation images where there are any, else by training images.
        rejections: unusable proposals.
        seconds: wall-clock time of the search, in this session.
        status: why it ended: `finished`, `patience`, `exhausted` (nothing new for ten steps), `faults` (too many in a
            row, or never a usable template), `stopped` (by the user), or the name of the limit that was reached.
        fault: what went wrong, where the status is `faults`.
    """

    predictor: str
    trials: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    rejections: tuple[Rejection, ...]
    seconds: float
    status: str
    fault: str | None = None

    @property
    def best(self) -> Trial:
        """The chosen trial: never worse than the baseline on the set that decided."""
        return self.finalists[0].trial

    @property
    def baseline(self) -> Trial:
        """The start template's trial."""
        return self.trials[0]

    @property
    def decided_by(self) -> str:
        """`validation` or `train`."""
        return "validation" if self.finalists[0].validation is not None else "train"

    @property
    def rejected(self) -> Mapping[str, int]:
        """Rejections by reason, most frequent first."""
        return dict(Counter(r.reason for r in self.rejections).most_common())

    def __repr__(self) -> str:
        return (
            f"SearchResult({self.predictor!r}, {len(self.trials)} trials, {len(self.rejections)} rejections, "
            f"{self.baseline.score} -> {self.best.score}, best={str(self.best.template)!r})"
        )


@dataclass(frozen=True, slots=True)
class Record:
    """Sends each event of one predictor to the journal first and then to the observers.

    Args:
        predictor: name of the predictor.
        journal: keeps the events.
        observers: hear of them, in the order of the journal.
        order: held while an event is kept and told, where events come from several threads.
    """

    predictor: str
    journal: Keeper
    observers: Sequence[Observer] = ()
    order: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def __call__(self, kind: str, **fields: Any) -> None:
        """Keep an event and tell the observers."""
        self.extend([(kind, fields)])

    def extend(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep several events at once, then tell the observers of each."""
        with self.order:
            self.journal.extend([(kind, {"predictor": self.predictor, **fields}) for kind, fields in events])
            for kind, fields in events:
                self.tell(kind, **fields)

    def tell(self, kind: str, **fields: Any) -> None:
        """Tell the observers alone, of something that needs no keeping."""
        event = cast(Event, {"event": kind, "predictor": self.predictor, **fields})
        with self.order:
            for observer in self.observers:
                observer(event)


class Ahead:
    """Asks, and where it may, asks the next question while the caller is busy with the last answer."""

    def __init__(self, propose: Callable[[Ask], Proposals], *, overlap: bool) -> None:
        self._propose, self._overlap = propose, overlap
        self._begun: tuple[int, Future[Proposals]] | None = None

    def begin(self, ask: Ask) -> None:
        """Ask in the background, if it may."""
        if self._overlap:
            self._begun = ask.step, start(partial(self._propose, ask))

    def has_begun(self, step: int) -> bool:
        """Whether the question of a step is on its way; its answer will have been paid for."""
        return self._begun is not None and self._begun[0] == step

    def take(self, ask: Ask) -> Proposals:
        """The answer that was begun for this step, or else one asked for now."""
        begun, self._begun = self._begun, None
        return begun[1].result() if begun is not None and begun[0] == ask.step else self._propose(ask)

    def close(self, *, wait: bool) -> None:
        """Let go of the thread; with `wait`, once the question on its way is answered, which will be paid for."""
        if self._begun is not None and wait:
            self._begun[1].exception()


class Search:
    """One search over the templates of one classifier.

    Args:
        scorer: scores on the training images.
        proposer: writes templates.
        plan: how long and with what.
        record: keeps and tells events.
        ledger: what the proposer's questions go through.
        past: events of the run's earlier sessions.
        descriptions: how some training images look.
        task: one sentence for the proposer.
        stop: asked before each step; true ends the search there.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scorer: "Scorer",
        proposer: Proposer,
        plan: Plan,
        record: Record,
        *,
        ledger: Ledger | None = None,
        past: Iterable[Event] = (),
        descriptions: Sequence[str] = (),
        task: str = "",
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer, self.proposer, self.plan, self.record = scorer, proposer, plan, record
        self.ledger = ledger or Ledger()
        self.descriptions, self.task, self.stop, self.clock = tuple(descriptions), task, stop, clock
        self.history = History()
        self.rejections: list[Rejection] = []
        self.done = 0
        self.fault: ProposalError | None = None
        for event in past:
            self._restore(event)
        self._ahead = Ahead(proposer.propose, overlap=plan.overlap)

    def run(self, initial: Sequence[Template], *, validator: "Scorer | None" = None) -> SearchResult:
        """Search from the initial templates, the first of which is the start template.

        Raises:
            TemplateError: an initial template does not fit the model.
            JournalError: what was found cannot be kept.
        """
        began = self.clock()
        self._begin(initial)
        patient = True
        try:
            status = self._steps()
            barren = self._barren() if status in COMPLETE else None
        except KeyboardInterrupt:
            patient = False  # somebody wants to stop at once
            raise
        finally:
            self._ahead.close(wait=patient)
        return SearchResult(
            predictor=self.record.predictor,
            finalists=self._choose(validator),
            trials=tuple(self.history),
            rejections=tuple(self.rejections),
            seconds=self.clock() - began,
            status="faults" if barren else status,
            fault=barren or (str(self.fault) if status == "faults" else None),
        )

    def _restore(self, event: Event) -> None:
        """Take over what an earlier session did."""
        if event.get("predictor") != self.record.predictor:
            return
        if event["event"] == "trial" and event["key"] not in self.history:
            self.history.add(_trial(event))
        elif event["event"] == "rejection":
            row = Rejection(event["step"], event["text"], event["reason"], event["message"])
            self.rejections.append(row)
        elif event["event"] == "fault" and event["step"] > 0:
            self.fault = ProposalError(event["message"])
        elif event["event"] == "step":
            self.done = max(self.done, event["step"])

    def _begin(self, initial: Sequence[Template]) -> None:
        """Score the initial templates; they are the caller's, so a bad one is an error, not a rejection."""
        fresh: dict[str, tuple[Template, Checked]] = {}
        for template in initial:
            checked = self.scorer.check(template)
            fresh.setdefault(checked.key, (template, checked))
        if any(key not in self.history for key in fresh):
            self._score(list(fresh.values()), step=0)

    def _steps(self) -> str:
        step, faults = self.done + 1, 0
        while step <= self.plan.steps:
            if not self._ahead.has_begun(step) and (enough := self._enough(step)):
                return enough
            try:
                self.ledger.check_time()
                self.fault = self._step(step)
            except BudgetError as spent:
                self.record("budget", limit=spent.limit, allowed=spent.allowed, spent=spent.spent)
                return spent.limit
            faults = 0 if self.fault is None else faults + 1
            if self.fault is not None and (self.fault.fatal or faults == self.plan.max_errors):
                return "faults"
            if self.done == step:
                step += 1
        return "finished"

    def _enough(self, step: int) -> str | None:
        """Why not to take a step; `None` to take it."""
        if self.stop():
            return "stopped"
        if self.plan.patience is not None and step - self.history.best.step > self.plan.patience:
            return "patience"
        if step - max(trial.step for trial in self.history) > BARREN_STEPS:
            return "exhausted"
        return None

    def _barren(self) -> str | None:
        """What went wrong in a search that came to its end without one usable proposal; nothing if there was one."""
        if any(trial.step > 0 for trial in self.history):
            return None
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in self.rejections).items())
        rejected = f"none of its {len(self.rejections)} proposals could be used: {reasons}"
        return rejected if self.rejections else str(self.fault) if self.fault is not None else None

    def _step(self, step: int) -> ProposalError | None:
        """Ask once and try what comes; what went wrong if something did.

        A step without an answer is not over: it is tried again, so a server that was away for a while changes nothing.
        """
        began = self.clock()
        proposals = Proposals(())
        fault: ProposalError | None = None
        try:
            proposals = self._ahead.take(self._ask(step))
        except ProposalError as error:
            fault = error
            self.record("fault", step=step, message=str(fault))
            if not fault.answered:
                return fault
        templates = self._read(proposals.texts, step)
        if self._may_ask_ahead(step, fault, proposals):
            self._ahead.begin(self._ask(step + 1))
        self._score(templates, step=step)
        if proposals.ended is not None:
            raise proposals.ended  # the step stays open: what is missing is asked for when the run goes on
        spent = self.ledger.cost_of(self.record.predictor, f"step {step}/")
        self.record(
            "step",
            step=step,
            proposed=len(proposals.texts),
            accepted=len(templates),
            calls=spent.calls,
            tokens=spent.tokens,
            seconds=round(self.clock() - began, 3),
            elapsed=round(self.ledger.elapsed, 3),
        )
        self.done = step
        return fault

    def _may_ask_ahead(self, step: int, fault: ProposalError | None, proposals: Proposals) -> bool:
        wanted = self.plan.overlap and step < self.plan.steps and fault is None and proposals.ended is None
        return wanted and not self._enough(step + 1)

    def _ask(self, step: int) -> Ask:
        # What a step is shown must not depend on when it was asked, or a run taken up again would go another way.
        seen = step - 1 if self.plan.overlap else step
        trials = [trial for trial in self.history if trial.step == 0 or trial.step < seen]
        told = [r for r in self.rejections if r.reason != "duplicate" and r.step < step][-TOLD_REJECTIONS:]
        return Ask(
            step=step,
            count=self.plan.prompts_per_step,
            shown=tuple(History(trials).shown(self.plan.history_size)),
            trials=tuple(trials),
            rejected=tuple(f"{r.text[:120]} ({r.reason})" for r in told),
            descriptions=self.descriptions,
            task=self.task,
            seed=self.plan.seed,
            once=lambda question, ask: self.ledger.once(self.record.predictor, question, ask),
            tell=lambda message: self.record("fault", step=step, message=message),
        )

    def _read(self, texts: Sequence[str], step: int) -> list[tuple[Template, "Checked"]]:
        """The usable templates among untrusted texts; the others are recorded as rejections."""
        usable: dict[str, tuple[Template, Checked]] = {}
        recorded = sum(r.step == step for r in self.rejections)  # by a session that was cut off in this step
        tried = {trial.key for trial in self.history if trial.step != step}
        for text in map(str, texts):
            try:
                template = read_proposal(text)
                checked = self.scorer.check(template)
                if checked.key in tried or checked.key in usable:
                    raise TemplateError(
                        f"template {str(template)!r} was tried before; write another", reason="duplicate"
                    )
            except TemplateError as error:
                if recorded:
                    recorded -= 1
                else:
                    self._reject(step, text, error)
            else:
                usable[checked.key] = (template, checked)
        return list(usable.values())

    def _reject(self, step: int, text: str, error: TemplateError) -> None:
        rejection = Rejection(step, text[:1000], error.reason, str(error))
        self.rejections.append(rejection)
        self.record("rejection", step=step, text=rejection.text, reason=error.reason, message=rejection.message)

    def _score(self, templates: Sequence[tuple[Template, "Checked"]], *, step: int) -> None:
        """Score together and keep together; what a session that was cut off had kept already stays as it is."""
        if not templates:
            return
        scores = self.scorer.score([template for template, _ in templates])
        fresh = []
        for (template, checked), score in zip(templates, scores, strict=True):
            if checked.key not in self.history:
                index = len(self.history)
                fresh.append(Trial(template, score, index=index, step=step, tokens=checked.longest, key=checked.key))
                self.history.add(fresh[-1])
        self.record.extend([("trial", _trial_fields(trial)) for trial in fresh])

    def _choose(self, validator: "Scorer | None") -> tuple[Finalist, ...]:
        """The best trials and the start template, ranked by the set that decides."""
        chosen = {trial.key: trial for trial in [*self.history.top(FINALISTS), self.history.start]}
        trials = list(chosen.values())
        scores = [None] * len(trials) if validator is None else validator.score([t.template for t in trials])
        finalists = sorted((Finalist(t, s) for t, s in zip(trials, scores, strict=True)), key=lambda f: f.rank)
        winner = finalists[0].trial
        self.record(
            "chosen",
            index=winner.index,
            template=str(winner.template),
            decided_by="train" if validator is None else "validation",
            finalists=[_finalist_fields(f) for f in finalists],
        )
        return tuple(finalists)


def _trial_fields(trial: Trial) -> dict[str, Any]:
    return {
        "index": trial.index,
        "step": trial.step,
        "template": str(trial.template),
        "accuracy": trial.score.accuracy,
        "loss": trial.score.loss,
        "tokens": trial.tokens,
        "key": trial.key,
    }


def _trial(event: TrialEvent) -> Trial:
    try:
        score, template = Score(event["accuracy"], event["loss"]), Template.parse(event["template"])
    except InputError as error:
        raise JournalError(
            f"trial {event['index']} of the journal cannot be used ({error}); restore the journal from a backup or "
            "start a run in another folder"
        ) from error
    return Trial(template, score, index=event["index"], step=event["step"], tokens=event["tokens"], key=event["key"])


def _finalist_fields(finalist: Finalist) -> dict[str, Any]:
    def fields(score: Score | None) -> dict[str, float] | None:
        return None if score is None else {"accuracy": score.accuracy, "loss": score.loss}

    return {
        "index": finalist.trial.index,
        "template": str(finalist.trial.template),
        "train": fields(finalist.trial.score),
        "validation": fields(finalist.validation),
    }
