"""Run a method on a split: learn on shots of the base classes, and score on the test images of both halves."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, FittedClassifier, evaluate
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import BaseNovelSplit, FullDataset
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.data import ImageDataset
from ipo_dspy.errors import NoAnswerError, StoppedError
from ipo_dspy.lms import build_lm
from ipo_dspy.optimizer.ipo import IPO
from ipo_dspy.proposers import EvolutionProposer, LMProposer, Proposer
from ipo_dspy.run.events import Observer
from ipo_dspy.run.ledger import Usage
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import DEFAULT_TEMPLATE, Template

if TYPE_CHECKING:
    import dspy

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

    @contextlib.contextmanager
    def during(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` as well if a stop is requested in the block or was requested before."""
        self._current = stop
        if self._wanted:
            stop()
        try:
            yield
        finally:
            self._current = None


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Result of a method; see `Row`. In a transfer, `base` is the source; `novel` is None there, and if unknown."""

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

    In a transfer, it learns on k shots of all classes of one data set and is tested on all classes of others. Zero-shot
    CLIP then uses the hand-written template of each data set; other methods keep what they learned, and the template of
    the source if they learn with one. Source: the cross-dataset transfer and domain generalization of Zhou et al. 2022,
    "Conditional Prompt Learning for Vision-Language Models".

    Attributes:
        cell: the measurement.
        split: training and test images.
        targets: in a transfer, the other data sets by name.
        backbone: the CLIP model.
        folder: working directory, from which an interrupted job resumes.
        observer: receives events as they happen.
        stopper: may end the job between two steps.
    """

    cell: Cell
    split: BaseNovelSplit
    targets: Mapping[str, FullDataset]
    backbone: "Backbone"
    folder: Path
    observer: Observer = field(repr=False)
    stopper: StopSignal = field(repr=False)

    @property
    def task(self) -> FewShotTask:
        """Training task of the methods of `baselines`."""
        train = self.split.train
        validation = self.split.validation
        return FewShotTask(
            self.backbone,
            _images(train),
            train.labels(),
            train.classes,
            self.split.template,
            _images(validation),
            validation.labels(),
        )

    def program(self) -> ClipClassifier:
        """Return the initial program of the base classes."""
        return ClipClassifier(self.split.base.classes, template=self.split.template, model=self.backbone)

    def progress(self, done: int, total: int) -> None:
        """Report the progress of a method, and stop it if requested."""
        self.observer({"event": "progress", "predictor": "self", "stage": "steps", "done": done, "total": total})
        self.stopper.check()

    def score(self, fitted: FittedClassifier, **values: Any) -> MethodResult:
        """Return loss and accuracy on the test images of both halves, or of the source and each target.

        A half or data set is scored with its own class names. It is not scored if the method cannot classify them.
        """
        base, novel = _score(fitted, self.split.base), None
        if not self.targets and self._classifies(self.split.novel):
            novel = _score(fitted, self.split.novel)
        targets = {
            name: _score(self._fitted_to(target, fitted), target.test)
            for name, target in self.targets.items()
            if self._classifies(target.test)
        }
        return MethodResult(base, novel, targets=targets, **values)

    def _classifies(self, images: ImageDataset) -> bool:
        return find_kind(self.cell.method).any_classes or set(images.classes) <= set(self.split.train.classes)

    def _fitted_to(self, target: FullDataset, fitted: FittedClassifier) -> FittedClassifier:
        if find_kind(self.cell.method).learns:
            return fitted
        return build_method(self.cell.method, **self.cell.arguments).fit(replace(self.task, template=target.template))


def fit_and_score(job: CellContext) -> MethodResult:
    """Fit and score a method of `baselines`."""
    method = build_method(job.cell.method, **job.cell.arguments)
    classifier = method.fit(job.task, seed=job.cell.seed, progress=job.progress)
    lines = classifier.template.lines if isinstance(classifier, TemplateClassifier) else ()
    return job.score(classifier, template=lines[0] if len(lines) == 1 else None)


def ipo(job: CellContext) -> MethodResult:
    """Run IPO from the hand-written template; the paper's `a photo of a <CLASS>` is always scored as well."""
    optimizer = build_ipo(job.cell, job.split, log_dir=job.folder, observers=[job.observer])
    with job.stopper.during(optimizer.stop):
        best = optimizer.compile(job.program(), job.split.train)
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


def build_ipo(cell: Cell, split: BaseNovelSplit, **options: Any) -> IPO:
    """Build the optimizer with the settings of a cell."""
    given = cell.settings
    models = language_models(given)
    start = Template.parse(DEFAULT_TEMPLATE)
    return IPO(
        proposer=_build_proposer(given, models.get("prompt_model")),
        description_model=models.get("description_model") if given.descriptions else None,
        describer="auto" if given.descriptions else None,
        steps=given.steps,
        prompts_per_step=given.prompts_per_step,
        history_size=given.history_size,
        max_described_images=given.max_described_images,
        initial_templates=() if start == split.template else (start,),
        seed=cell.seed,
        progress=False,  # the sweep shows its progress
        **find_kind(cell.method).options,
        **options,
    )


def language_models(given: Settings) -> dict[str, "dspy.BaseLM"]:
    """Return the language models of a cell by their role."""
    named = (("prompt_model", given.lm, given.lm_kwargs), ("description_model", given.vlm, given.vlm_kwargs))
    return {role: build_lm(name, role=role, settings=settings) for role, name, settings in named if name is not None}


def _build_proposer(given: Settings, lm: "dspy.BaseLM | None") -> Proposer:
    if lm is None:
        return EvolutionProposer(feedback=given.feedback, history_only=given.history_only)
    return LMProposer(lm, request_mode=given.request_mode, feedback=given.feedback)  # type: ignore[arg-type]  # any text


def _score(fitted: FittedClassifier, images: ImageDataset) -> Score:
    return evaluate(fitted, _images(images), images.labels(), images.classes)


def _images(examples: ImageDataset) -> list[object]:
    return [example.image for example in examples]
