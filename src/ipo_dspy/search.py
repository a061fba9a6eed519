"""The search loop: propose, check, score, record, and at the end choose.

It asks a proposer and a scorer and decides nothing else, so it runs in a test in milliseconds with toys, and
in a benchmark unchanged. It knows neither tensors nor language models. IPO, Algorithm 1 of the paper, with the
differences listed in docs/decisions.md.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ipo_dspy.errors import LanguageModelError, TemplateError
from ipo_dspy.history import History, Score, Trial
from ipo_dspy.journal import Event
from ipo_dspy.proposers.base import Ask, ProposalError, Proposals, Proposer
from ipo_dspy.signatures import OPEN_TAG
from ipo_dspy.template import Template, has_placeholder

if TYPE_CHECKING:
    from ipo_dspy.scorers import Checked, Scorer

FINALISTS = 10
FAULTS_IN_A_ROW = 3
TOLD_REJECTIONS = 5

Observer = Callable[[Event], None]
"""Called with every event of the journal as it is written, and with passing ones (`progress`) that are not."""


class Keeper(Protocol):
    """Where events go: `journal.Journal`, or `journal.NoJournal`."""

    def append(self, kind: str, **fields: Any) -> None:
        """Keep one event."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to search and with what.

    Attributes:
        steps: questions to the proposer at most.
        prompts_per_step: templates asked for in each.
        history_size: how many of the best trials the proposer is shown.
        patience: stop after this many steps without a better trial; `None` never does.
        seed: of every draw.
    """

    steps: int = 100
    prompts_per_step: int = 8
    history_size: int = 20
    patience: int | None = None
    seed: int = 0


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
        return (-self.deciding.accuracy, self.deciding.loss, self.trial.tokens, self.trial.index)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What one search found.

    Attributes:
        predictor: name of the classifier inside the program; `self` for a bare one.
        trials: all of them, in order; the first is the start template.
        finalists: best first, by validation images where there are any, else by training images.
        rejections: unusable proposals.
        calls, tokens: of language models.
        seconds: wall-clock time of the search.
        status: `finished`, `patience` or `faults`.
    """

    predictor: str
    trials: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    rejections: tuple[Rejection, ...]
    calls: int
    tokens: int
    seconds: float
    status: str

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
    """Sends each event of one predictor to the journal first and then to the observers."""

    predictor: str
    journal: Keeper
    observers: Sequence[Observer] = ()

    def __call__(self, kind: str, **fields: Any) -> None:
        """Keep an event and tell the observers."""
        self.journal.append(kind, predictor=self.predictor, **fields)
        self.tell(kind, **fields)

    def tell(self, kind: str, **fields: Any) -> None:
        """Tell the observers alone, of something that needs no keeping."""
        for observer in self.observers:
            observer({"event": kind, "predictor": self.predictor, **fields})


class Search:
    """One search over the templates of one classifier.

    Args:
        scorer: scores on the training images.
        proposer: writes templates.
        plan: how long and with what.
        record: keeps and tells events.
        descriptions: how some training images look.
        task: one sentence for the proposer.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scorer: "Scorer",
        proposer: Proposer,
        plan: Plan,
        record: Record,
        *,
        descriptions: Sequence[str] = (),
        task: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer, self.proposer, self.plan, self.record = scorer, proposer, plan, record
        self.descriptions, self.task, self.clock = tuple(descriptions), task, clock
        self.history = History()
        self.rejections: list[Rejection] = []
        self.calls = self.tokens = 0
        self._answered = False

    def run(self, initial: Sequence[Template], *, validator: "Scorer | None" = None) -> SearchResult:
        """Search from the initial templates, the first of which is the start template.

        Raises:
            TemplateError: an initial template does not fit the model.
            LanguageModelError: the proposer never answered.
        """
        began = self.clock()
        self._begin(initial)
        status = self._steps()
        finalists = self._choose(validator)
        return SearchResult(
            predictor=self.record.predictor,
            trials=tuple(self.history),
            finalists=finalists,
            rejections=tuple(self.rejections),
            calls=self.calls,
            tokens=self.tokens,
            seconds=self.clock() - began,
            status=status,
        )

    def _begin(self, initial: Sequence[Template]) -> None:
        """Score the initial templates; they are the caller's, so a bad one is an error, not a rejection."""
        fresh: dict[str, tuple[Template, Checked]] = {}
        for template in initial:
            checked = self.scorer.check(template)
            fresh.setdefault(checked.key, (template, checked))
        self._score(list(fresh.values()), step=0)

    def _steps(self) -> str:
        best, best_step, faults = self.history.best, 0, 0
        for step in range(1, self.plan.steps + 1):
            # A step without an answer says nothing about the search, so it is no reason to lose patience.
            if self.plan.patience is not None and not faults and step - best_step > self.plan.patience:
                return "patience"
            fault = self._step(step)
            faults = 0 if fault is None else faults + 1
            if fault is not None and not self._answered and step == min(FAULTS_IN_A_ROW, self.plan.steps):
                raise LanguageModelError(f"{fault}; check the model's name, key and address, then run again") from fault
            if faults == FAULTS_IN_A_ROW:
                return "faults"
            if self.history.best.key != best.key:
                best, best_step = self.history.best, step
        return "finished"

    def _step(self, step: int) -> ProposalError | None:
        """Ask once and try what comes; the fault if nothing came because of one."""
        began = self.clock()
        try:
            proposals = self.proposer.propose(self._ask(step))
        except ProposalError as fault:
            self._pay(fault)
            self.record("fault", step=step, message=str(fault), calls=fault.calls, tokens=fault.tokens)
            return fault
        self._answered = True
        templates = self._read(proposals, step)
        self._score(templates, step=step)
        self._pay(proposals)
        self.record(
            "step",
            step=step,
            proposed=len(proposals.texts),
            accepted=len(templates),
            calls=proposals.calls,
            tokens=proposals.tokens,
            seconds=round(self.clock() - began, 3),
        )
        return None

    def _pay(self, answer: Proposals | ProposalError) -> None:
        self.calls += answer.calls
        self.tokens += answer.tokens

    def _ask(self, step: int) -> Ask:
        told = [r for r in self.rejections if r.reason != "duplicate"][-TOLD_REJECTIONS:]
        return Ask(
            step=step,
            count=self.plan.prompts_per_step,
            shown=tuple(self.history.shown(self.plan.history_size)),
            trials=tuple(self.history),
            rejected=tuple(f"{r.text[:120]} ({r.reason})" for r in told),
            descriptions=self.descriptions,
            task=self.task,
            seed=self.plan.seed,
        )

    def _read(self, proposals: Proposals, step: int) -> list[tuple[Template, "Checked"]]:
        """The usable templates among untrusted texts; the others are recorded as rejections."""
        usable: dict[str, tuple[Template, Checked]] = {}
        for text in map(str, proposals.texts):
            try:
                template = read_proposal(text)
                checked = self.scorer.check(template)
                if checked.key in self.history or checked.key in usable:
                    raise TemplateError(
                        f"template {str(template)!r} was tried before; write another", reason="duplicate"
                    )
            except TemplateError as error:
                self._reject(step, text, error)
            else:
                usable[checked.key] = (template, checked)
        return list(usable.values())

    def _reject(self, step: int, text: str, error: TemplateError) -> None:
        rejection = Rejection(step, text[:1000], error.reason, str(error))
        self.rejections.append(rejection)
        self.record("rejection", step=step, text=rejection.text, reason=error.reason, message=rejection.message)

    def _score(self, templates: Sequence[tuple[Template, "Checked"]], *, step: int) -> None:
        if not templates:
            return
        scores = self.scorer.score([template for template, _ in templates])
        for (template, checked), score in zip(templates, scores, strict=True):
            trial = Trial(template, score, index=len(self.history), step=step, tokens=checked.longest, key=checked.key)
            self.history.add(trial)
            self.record(
                "trial",
                index=trial.index,
                step=step,
                template=str(template),
                accuracy=score.accuracy,
                loss=score.loss,
                tokens=trial.tokens,
                key=trial.key,
            )

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


def read_proposal(text: str) -> Template:
    r"""A template from what a proposer wrote: quotes around it are dropped, a broken line is joined.

    Raises:
        TemplateError: cut off, empty, without `<CLASS>`, or with control characters.

    >>> str(read_proposal('"a blurry photo\nof a <CLASS>."'))
    'a blurry photo of a <CLASS>.'
    """
    text = text.strip().strip("\"'`\u201c\u201d\u2018\u2019").strip()
    if text.startswith(OPEN_TAG):
        raise TemplateError(f"answer {text[:120]!r} has no closing tag; raise the model's max_tokens", reason="cut off")
    lines = text.splitlines()
    if any(not has_placeholder(line) for line in lines if line.strip()):
        text = " ".join(lines)
    return Template.parse(text)


def _finalist_fields(finalist: Finalist) -> dict[str, Any]:
    def fields(score: Score | None) -> dict[str, float] | None:
        return None if score is None else {"accuracy": score.accuracy, "loss": score.loss}

    return {
        "index": finalist.trial.index,
        "template": str(finalist.trial.template),
        "train": fields(finalist.trial.score),
        "validation": fields(finalist.validation),
    }
