"""The search loop: propose, check, score, record; `final_stage` selects the result.

It depends only on the interfaces of a proposer and a scorer, so the same code runs in milliseconds with toys in a test
and in a benchmark. It is IPO, Algorithm 1 of the paper, with the differences listed in docs/decisions.md.

The search reads its progress from the state of its recorder, so a search can be resumed. A step that was interrupted is
repeated with the same responses, and only templates that were not scored yet are scored.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ipo_dspy.errors import BudgetError, ProposalError, TemplateError
from ipo_dspy.history import Trial
from ipo_dspy.lms.proposal_parsing import read_proposal
from ipo_dspy.lms.signatures import Mistake
from ipo_dspy.lms.template_text import repaired
from ipo_dspy.optimizer.ensemble import EnsembleLine
from ipo_dspy.optimizer.final_stage import FinalChoice, Finalist
from ipo_dspy.optimizer.prefetch import Prefetcher
from ipo_dspy.optimizer.request_builder import RequestBuilder
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.optimizer.template_choice import ChoiceReport, PhraseWorth, Selection
from ipo_dspy.proposers.base import REWORDINGS, SHOWN_TO_POLISH, Polisher, Proposals
from ipo_dspy.run.events import LimitReachedEvent, StepEvent, TrialEvent
from ipo_dspy.run.state import Rejection
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.clip.template_tokens import TemplateTokens
    from ipo_dspy.optimizer.class_text_search import ClassTextsResult
    from ipo_dspy.scoring.scorers import Scorer

COMPLETE = frozenset({"finished", "patience", "exhausted"})
"""Statuses of a search that ended by itself; any other status is the reason for a stop."""
STEPS_WITHOUT_TRIAL = 10
"""The search ends after this many steps without a new template, because each may cost money.

If something was proposed in each and nothing was new, it ends after `max_consecutive_errors` steps.
"""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of one search.

    Attributes:
        predictor: name of the classifier inside the program; `self` for a bare one.
        baseline: the trial of the start template.
        trials: all trials, in order.
        finalists: the selected one, then the best by validation images if there are any, else by training images.
        choice: what is known about the selected template on new images.
        tied: the plainest templates that cannot be told apart from the best one.
        phrases: what each phrase of the selected template is worth.
        ensemble: lines that were added to it, or would be if `ensemble` were larger than 1; None if that was not tried
            because there are many images.
        rejections: rejected proposals.
        seconds: wall-clock time of the search, in this session.
        status: reason for the end: `finished`, `patience`, `exhausted` (nothing new was proposed), `errors` (too many
            in a row, or never a usable template), `interrupted` (by the user), or the name of the limit that was
            reached.
        fault: error message if the status is `errors`.
        class_texts: the result of the search for words of the classes, if they were searched.
        encoders: scores of the finalists under each model, on the images that decided, if there are several models.
        texts: the texts of every label, after a search for them.
        fingerprint: fingerprint of the model.
        images, validation_images: number of training and validation images.
    """

    predictor: str
    baseline: Trial
    trials: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    choice: ChoiceReport
    tied: tuple[Finalist, ...]
    phrases: tuple[PhraseWorth, ...]
    ensemble: tuple[EnsembleLine, ...] | None
    rejections: tuple[Rejection, ...]
    seconds: float
    status: str
    fault: str | None = None
    class_texts: "ClassTextsResult | None" = None
    encoders: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fingerprint: str | None = None
    images: int = 0
    validation_images: int = 0

    @property
    def best(self) -> Trial:
        """The selected trial: never worse than the baseline on the images that decided."""
        return self.finalists[0].trial

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


class Search:
    """One search over the templates of one classifier.

    Args:
        scorer: scores templates on the training images.
        context: the proposer, the configuration and the record of the run.
        descriptions: descriptions of training images.
        mistakes: returns the training images that a template gets wrong, for the proposer.
        max_tokens: longest template that the model takes, filled with a class name.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        scorer: "Scorer",
        context: SearchContext,
        *,
        descriptions: Sequence[str] = (),
        mistakes: Callable[[Template], tuple[Mistake, ...]] = lambda template: (),
        max_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer, self.context, self.clock = scorer, context, clock
        self.config, self.recorder, self.state = context.config, context.recorder, context.state
        self._requests = RequestBuilder(scorer, context, tuple(descriptions), mistakes, max_tokens)
        messages = [event["message"] for event in self.state.errors if event["step"] > 0]
        self.fault = ProposalError(messages[-1]) if messages else None
        self._ahead = Prefetcher(context.proposer.propose, prefetch=self.config.prefetch)

    def run(self, initial: Sequence[Template], *, validator: "Scorer | None" = None) -> SearchResult:
        """Search from the initial templates, the first of which is the start template.

        Raises:
            TemplateError: an initial template does not fit the model.
            JournalError: a result cannot be recorded.
        """
        began = self.clock()
        start = self._begin(initial)
        wait_for_request = True
        try:
            status = self._steps()
            failure = self._failure() if status in COMPLETE else None
        except KeyboardInterrupt:
            wait_for_request = False  # the user wants to abort immediately
            raise
        finally:
            self._ahead.close(wait=wait_for_request)
        choice = FinalChoice(
            self.scorer,
            self.config,
            self.recorder,
            self.state,
            score=lambda templates: self._score(templates, step=self.state.steps, stage="refine"),
            start=start,
            validator=validator,
        )
        selection = choice.select()
        has_proposals = any(trial.step > 0 for trial in self.state.history)
        if self.config.choose == "plainest" and status != "interrupted" and has_proposals:
            reworded = self._reworded(selection) if self.config.polish and status in COMPLETE else ()
            selection = choice.refine(selection, reworded)
        return SearchResult(
            predictor=self.context.predictor,
            baseline=start,
            **choice.record(selection),
            trials=tuple(self.state.history),
            rejections=tuple(self.state.rejections),
            seconds=self.clock() - began,
            status="errors" if failure else status,
            fault=failure or (str(self.fault) if status == "errors" else None),
            fingerprint=self.state.setup["model"].get("fingerprint"),
            images=self.state.setup["images"],
            validation_images=self.state.setup["validation_images"],
        )

    def _begin(self, initial: Sequence[Template]) -> Trial:
        """Score the initial templates, and return the trial of the first; an invalid one raises."""
        fresh: dict[str, tuple[Template, TemplateTokens]] = {}
        for template in initial:
            checked = self.scorer.check(template)
            fresh.setdefault(checked.key, (template, checked))
        if any(key not in self.state.history for key in fresh):
            self._score(list(fresh.values()), step=0)
        return next(trial for trial in self.state.history if trial.key == next(iter(fresh)))

    def _steps(self) -> str:
        step = self.state.steps + 1
        faults = rejected if (rejected := len(self._rejected_steps())) < self.config.max_consecutive_errors else 0
        while step <= self.config.num_steps:
            if not self._ahead.has_begun(step) and (reason := self._reason_to_end(step)):
                return reason
            try:
                self.context.ledger.check_time()
                self.fault = self._step(step)
            except BudgetError as spent:
                self.recorder.record(
                    LimitReachedEvent(
                        event="limit_reached",
                        predictor=self.context.predictor,
                        limit=spent.limit,
                        limit_value=spent.allowed,
                        spent=spent.spent,
                    )
                )
                return spent.limit
            faults = 0 if self.fault is None else faults + 1
            if self.fault is not None and (self.fault.fatal or faults == self.config.max_consecutive_errors):
                return "exhausted" if self._is_exhausted() else "errors"
            if self.state.steps == step:
                step += 1
        return "finished"

    def _reason_to_end(self, step: int) -> str | None:
        """Return the reason to end before a step, or None to continue."""
        if self.context.stop():
            return "interrupted"
        if self.config.patience is not None and step - self.state.history.best.step > self.config.patience:
            return "patience"
        if self._is_exhausted() or step - max(trial.step for trial in self.state.history) > STEPS_WITHOUT_TRIAL:
            return "exhausted"
        return None

    def _is_exhausted(self) -> bool:
        last = self._rejected_steps()[: self.config.max_consecutive_errors]
        return len(last) == self.config.max_consecutive_errors and set().union(*last) == {"duplicate"}

    def _rejected_steps(self) -> list[set[str]]:
        """Return the reasons of rejection in each of the last steps in which everything was rejected, latest first."""
        accepted = {trial.step for trial in self.state.history}
        reasons: dict[int, set[str]] = {}
        for rejection in self.state.rejections:
            reasons.setdefault(rejection.step, set()).add(rejection.reason)
        steps = itertools.takewhile(
            lambda step: step in reasons and step not in accepted, range(self.state.steps, 0, -1)
        )
        return [reasons[step] for step in steps]

    def _failure(self) -> str | None:
        """Return the error if no proposal was ever usable, else None."""
        if any(trial.step > 0 for trial in self.state.history):
            return None
        if self.state.rejections:
            return _rejected(Counter(r.reason for r in self.state.rejections))
        return str(self.fault) if self.fault is not None else None

    def _step(self, step: int) -> ProposalError | None:
        """Request proposals once and score them; return the error, if there was one.

        A step without a response stays open and is retried, so a temporary outage of a server changes no result.
        """
        began = self.clock()
        proposals = Proposals(())
        fault: ProposalError | None = None
        try:
            proposals = self._ahead.take(self._requests.build(step))
        except ProposalError as error:
            fault = error
            self.context.error(step, str(fault))
            if not fault.answered:
                return fault
        templates = self._read(proposals.texts, step)
        if proposals.texts and not templates:
            reasons = Counter(r.reason for r in self.state.rejections if r.step == step)
            fault = ProposalError(_rejected(reasons), answered=True)
        if self._may_ask_ahead(step, fault, proposals):
            self._ahead.begin(self._requests.build(step + 1, [template for template, _ in templates]))
        self._score(templates, step=step)
        if proposals.ended is not None:
            raise proposals.ended  # the step stays open: a resumed run requests the missing proposals
        spent = self.context.ledger.cost_of(self.context.predictor, f"step {step}/")
        self.recorder.record(
            StepEvent(
                event="step",
                predictor=self.context.predictor,
                step=step,
                proposed=len(proposals.texts),
                accepted=len(templates),
                calls=spent.calls,
                tokens=spent.tokens,
                seconds=round(self.clock() - began, 3),
                run_seconds=round(self.context.ledger.elapsed, 3),
                repaired=sum(text != repaired(text) for text in map(str, proposals.texts)),
            )
        )
        return fault

    def _may_ask_ahead(self, step: int, fault: ProposalError | None, proposals: Proposals) -> bool:
        is_possible = (
            bool(self.config.prefetch) and step < self.config.num_steps and fault is None and proposals.ended is None
        )
        return is_possible and not self._reason_to_end(step + 1)

    def _read(self, texts: Sequence[str], step: int, stage: str = "search") -> list[tuple[Template, "TemplateTokens"]]:
        """Return the usable templates among untrusted texts; the others are recorded as rejections."""
        usable: dict[str, tuple[Template, TemplateTokens]] = {}
        # Recorded by a session that was interrupted in this step.
        recorded = sum((r.step, r.stage) == (step, stage) for r in self.state.rejections)
        tried = {trial.key for trial in self.state.history if (trial.step, trial.stage) != (step, stage)}
        for text in map(str, texts):
            try:
                template = read_proposal(text)
                checked = self.scorer.check(template)
                if checked.key in tried or checked.key in usable:
                    raise TemplateError(
                        f"template {str(template)!r} was tried before; propose another", reason="duplicate"
                    )
            except TemplateError as error:
                if recorded:
                    recorded -= 1
                else:
                    self.context.reject(step, text[:1000], error, stage=stage)
            else:
                usable[checked.key] = (template, checked)
        return list(usable.values())

    def _score(
        self, templates: Sequence[tuple[Template, "TemplateTokens"]], *, step: int, stage: str = "search"
    ) -> None:
        """Score templates and record them in one write, except those that an interrupted session recorded."""
        if not templates:
            return
        scores = self.scorer.score([template for template, _ in templates])
        rows = [(*row, score) for row, score in zip(templates, scores, strict=True)]
        fresh = [row for row in rows if row[1].key not in self.state.history]
        self.recorder.record(
            *(
                TrialEvent(
                    event="trial",
                    predictor=self.context.predictor,
                    index=index,
                    step=step,
                    template=str(template),
                    **score.fields,
                    tokens=info.longest,
                    key=info.key,
                    stage=stage,
                )
                for index, (template, info, score) in enumerate(fresh, start=len(self.state.history))
            )
        )

    def _reworded(self, selection: Selection) -> list[tuple[Template, "TemplateTokens"]]:
        """Return usable rewordings of the tied templates; after an error or at a limit, which is recorded, none."""
        step = self.state.steps
        if not isinstance(self.context.proposer, Polisher) or self.context.stop():
            return []
        tied = tuple(selection.candidates.trials[k] for k in selection.tied[:SHOWN_TO_POLISH])
        try:
            proposals = self.context.proposer.polish(replace(self._requests.build(step), count=REWORDINGS, shown=tied))
        except (ProposalError, BudgetError) as error:
            self.context.error(step, f"the result is not reworded: {error}")
            return []
        return self._read(proposals.texts, step, "refine")


def _rejected(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"all {reasons.total()} proposals were rejected: {listed}"
