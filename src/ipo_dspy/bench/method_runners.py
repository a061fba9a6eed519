"""Run a method on a split: learn on shots of the base classes, and score on the test images of both halves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dspy

from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, FittedClassifier, evaluate
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import BaseNovelSplit
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import NoAnswerError, StoppedError
from ipo_dspy.lms import build_lm
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.endpoints import check_port_open
from ipo_dspy.optimizer.ipo import IPO
from ipo_dspy.proposers import EvolutionProposer, LMProposer, Proposer
from ipo_dspy.run.events import Observer
from ipo_dspy.run.ledger import Usage
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import DEFAULT_TEMPLATE, Template

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone


class StopSignal:
    """Ends a sweep after the current step; `stop` may be called from any thread or signal handler."""

    def __init__(self) -> None:
        self._wanted = False  # without a lock, because a signal handler sets it
        self._current: Callable[[], None] | None = None

    def stop(self) -> None:
        """Request the stop."""
        self._wanted = True
        if self._current is not None:
            self._current()

    def check(self) -> None:
        """Raise `StoppedError` after a stop was requested."""
        if self._wanted:
            raise StoppedError

    def during(self, stop: Callable[[], None] | None) -> None:
        """Set an additional callback for a stop; it is called at once if the stop was already requested."""
        self._current = stop
        if stop is not None and self._wanted:
            stop()


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Result of a method; see `Row`. In a transfer, `base` is the source and `novel` is None."""

    base: Score
    novel: Score | None
    template: str | None = None
    trials: int | None = None
    evaluations: int | None = None
    spent: Usage = field(default_factory=Usage)
    targets: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CellContext:
    """Inputs of a method.

    Attributes:
        method: its name.
        split: training and test images.
        backbone: the CLIP model.
        settings: of the sweep.
        arguments: hyper-parameters of the method on this data set.
        seed: of all random choices.
        folder: working directory, from which an interrupted job resumes.
        observer: receives events as they happen.
        stopper: may end the job between two steps.
    """

    method: str
    split: BaseNovelSplit
    backbone: "Backbone"
    settings: Settings
    arguments: Mapping[str, Any]
    seed: int
    folder: Path
    observer: Observer = field(repr=False)
    stopper: StopSignal = field(repr=False)

    def program(self) -> ClipClassifier:
        """Return the initial program of the base classes."""
        return ClipClassifier(self.split.base.classes, template=self.split.template, model=self.backbone)

    def progress(self, done: int, total: int) -> None:
        """Report the progress of a method, and stop it if requested."""
        self.observer({"event": "progress", "predictor": "self", "stage": "steps", "done": done, "total": total})
        self.stopper.check()

    def score(self, fitted: FittedClassifier, **values: Any) -> MethodResult:
        """Return loss and accuracy on the test images of both halves, each with the class names of its half."""
        base, novel = (
            evaluate(fitted, images_of(half), half.labels(), half.classes)
            for half in (self.split.base, self.split.novel)
        )
        return MethodResult(base, novel, **values)


class MethodRunner(Protocol):
    """Function that runs a method."""

    def __call__(self, job: CellContext) -> MethodResult:
        """Learn and score.

        Raises:
            StoppedError: the user stopped the sweep; the cell has no result.
            IPOError: the method failed.
        """


def fit_and_score(job: CellContext) -> MethodResult:
    """Fit and score a method of `baselines`."""
    method = build_method(job.method, **job.arguments)
    classifier = method.fit(few_shot(job), seed=job.seed, progress=job.progress)
    lines = classifier.template.lines if isinstance(classifier, TemplateClassifier) else ()
    return job.score(classifier, template=lines[0] if len(lines) == 1 else None)


def few_shot(job: CellContext) -> FewShotTask:
    """Return the training task of the methods of `baselines`."""
    train = job.split.train
    return FewShotTask(job.backbone, images_of(train), train.labels(), train.classes, job.split.template)


def ipo(job: CellContext) -> MethodResult:
    """Run IPO from the hand-written template; the paper's `a photo of a <CLASS>` is always scored as well."""
    optimizer = build_ipo(job.settings, job.split, job.seed, log_dir=job.folder, observers=[job.observer])
    job.stopper.during(optimizer.stop)
    try:
        best = optimizer.compile(job.program(), job.split.train)
    finally:
        job.stopper.during(None)
    details = best.detailed_results
    if details.status == "interrupted":
        raise StoppedError
    if details.status == "errors":
        fault = next((search.fault for search in details.searches if search.fault), "no usable answer")
        raise NoAnswerError(f"the language model failed: {fault}")
    trials = len(details.trials)
    return job.score(
        TemplateClassifier(job.backbone, best.template),
        template=str(best.template),
        trials=trials,
        evaluations=trials * len(job.split.train),
        spent=details.spent,
    )


def build_ipo(given: Settings, split: BaseNovelSplit, seed: int, **options: Any) -> IPO:
    """Build the optimizer with the settings of a sweep."""
    vlm = given.vlm and build_lm(given.vlm, role="description_model", settings=given.vlm_kwargs)
    start = Template.parse(DEFAULT_TEMPLATE)
    return IPO(
        proposer=build_proposer(given),
        description_model=vlm or None,
        describer="auto" if given.descriptions else None,
        steps=given.steps,
        prompts_per_step=given.prompts_per_step,
        history_size=given.history_size,
        max_described_images=given.max_described_images,
        initial_templates=() if start == split.template else (start,),
        seed=seed,
        progress=False,  # the sweep shows its progress
        **options,
    )


def check_models(given: Settings) -> None:
    """Check that the language models of a sweep are available, before the first cell.

    Raises:
        LanguageModelError: a model is unknown, has no key, or its server does not respond.
    """
    models = {
        "prompt_model": (given.lm, given.lm_kwargs),
        "description_model": (given.vlm, given.vlm_kwargs),
    }
    for role, (name, lm_kwargs) in models.items():
        if name is not None:
            lm = build_lm(name, role=role, settings=lm_kwargs)
            check_key(lm, role=role)
            check_port_open(lm, role=role)


def build_proposer(given: Settings) -> Proposer:
    """Build the embedded proposer, or that of the language model in the settings."""
    if given.lm is None:
        return EvolutionProposer(feedback=given.feedback, history_only=given.history_only)
    lm = build_lm(given.lm, role="prompt_model", settings=given.lm_kwargs)
    return LMProposer(lm, request_mode=given.request_mode, feedback=given.feedback)  # type: ignore[arg-type]  # any text


def images_of(examples: Sequence[dspy.Example]) -> list[object]:
    """Return the images of examples."""
    return [example.image for example in examples]
