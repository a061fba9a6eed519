"""How a method is run on a split: learned on shots of the base classes, scored on test images of both halves."""

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
    """Ends a sweep after the step that is under way; `stop` may be called from any thread or signal handler."""

    def __init__(self) -> None:
        self._wanted = False  # no lock is taken: a signal handler sets it
        self._current: Callable[[], None] | None = None

    def stop(self) -> None:
        """Ask for the end."""
        self._wanted = True
        if self._current is not None:
            self._current()

    def check(self) -> None:
        """Raise `StoppedError` once the end was asked for."""
        if self._wanted:
            raise StoppedError

    def during(self, stop: Callable[[], None] | None) -> None:
        """What to call, too, when the end is asked for."""
        self._current = stop
        if stop is not None and self._wanted:
            stop()


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What a method came to; see `Row`. Of a transfer, `base` is the source, and `novel` is none."""

    base: Score
    novel: Score | None
    template: str | None = None
    trials: int | None = None
    evaluations: int | None = None
    spent: Usage = field(default_factory=Usage)
    targets: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CellContext:
    """What a method is given.

    Attributes:
        method: its name.
        split: images to learn from and to be tested on.
        backbone: the CLIP model.
        settings: of the sweep.
        arguments: hyper-parameters of the method on this data set.
        seed: of every draw.
        folder: for what is written on the way; a killed job goes on from there.
        observer: told of events as they happen.
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
        """The start program of the base classes."""
        return ClipClassifier(self.split.base.classes, template=self.split.template, model=self.backbone)

    def progress(self, done: int, total: int) -> None:
        """Tell how far a method is, and stop it if that was asked for."""
        self.observer({"event": "progress", "predictor": "self", "stage": "steps", "done": done, "total": total})
        self.stopper.check()

    def score(self, fitted: FittedClassifier, **told: Any) -> MethodResult:
        """Loss and accuracy on the test images of both halves, each against its own class names."""
        base, novel = (
            evaluate(fitted, images_of(half), half.labels(), half.classes)
            for half in (self.split.base, self.split.novel)
        )
        return MethodResult(base, novel, **told)


class RunView(Protocol):
    """A way to run a method."""

    def __call__(self, job: CellContext) -> MethodResult:
        """Learn and score.

        Raises:
            StoppedError: the user has ended the sweep; the cell has no result.
            IPOError: it cannot be done.
        """


def fit_and_score(job: CellContext) -> MethodResult:
    """A method of `baselines`."""
    method = build_method(job.method, **job.arguments)
    found = method.fit(few_shot(job), seed=job.seed, progress=job.progress)
    lines = found.template.lines if isinstance(found, TemplateClassifier) else ()
    return job.score(found, template=lines[0] if len(lines) == 1 else None)


def few_shot(job: CellContext) -> FewShotTask:
    """What methods of `baselines` are fitted to."""
    train = job.split.train
    return FewShotTask(job.backbone, images_of(train), train.labels(), train.classes, job.split.template)


def ipo(job: CellContext) -> MethodResult:
    """IPO with the hand-written template as its start; the paper's `a photo of a <CLASS>` is always scored, too."""
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
    """The optimizer with the settings of a sweep."""
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
        progress=False,  # the sweep shows its own
        **options,
    )


def check_models(given: Settings) -> None:
    """See that the language models of a sweep can be asked, before the first cell.

    Raises:
        LanguageModelError: one is unknown, has no key, or nothing listens at its address.
    """
    named = {
        "prompt_model": (given.lm, given.lm_kwargs),
        "description_model": (given.vlm, given.vlm_kwargs),
    }
    for role, (name, own) in named.items():
        if name is not None:
            lm = build_lm(name, role=role, settings=own)
            check_key(lm, role=role)
            check_port_open(lm, role=role)


def build_proposer(given: Settings) -> Proposer:
    """The embedded proposer, or the language model that is named."""
    if given.lm is None:
        return EvolutionProposer(feedback=given.feedback, history_only=given.history_only)
    lm = build_lm(given.lm, role="prompt_model", settings=given.lm_kwargs)
    return LMProposer(lm, request_mode=given.request_mode, feedback=given.feedback)  # type: ignore[arg-type]  # any text


def images_of(examples: Sequence[dspy.Example]) -> list[object]:
    """What is looked at in examples."""
    return [example.image for example in examples]
