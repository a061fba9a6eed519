"""Score the start template, the best one, and the prompts for ImageNet on all images of a run, once it has searched."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipo_dspy.cli.data_options import DataSets
from ipo_dspy.errors import DataError, StoppedError, TemplateError
from ipo_dspy.run import choice_sentences
from ipo_dspy.scoring.intervals import Interval, wilson_interval
from ipo_dspy.scoring.score import Score, harmonic_mean

if TYPE_CHECKING:
    from ipo_dspy.data import ImageDataset
    from ipo_dspy.optimizer.config import OptimizerConfig
    from ipo_dspy.optimizer.evaluation import EvaluationSet
    from ipo_dspy.optimizer.imagenet_comparison import ImagenetComparison, ImagenetPrompts
    from ipo_dspy.optimizer.search import SearchResult
    from ipo_dspy.optimizer.search_task import EncodedTask
    from ipo_dspy.run.events import CommandEvent
    from ipo_dspy.run.recorder import EventRecorder
    from ipo_dspy.template import Template


@dataclass(slots=True)
class FinalScores:
    """Scores of templates on each set of images."""

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Score on each set of images by role: `start`, `best`, and, unless the run was stopped, `imagenet_best` and
    `imagenet_ensemble`."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of scored images in each set."""
    test_gains: dict[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """Points by which the best template is more accurate on each set of test images, with the standard error, than the
    template of a role: `start`, `imagenet_best`."""
    imagenet: "ImagenetComparison | None" = None
    """The best template compared with the prompts for ImageNet; None if the run was stopped, or if no prompt fits."""
    floors: str | None = None
    """Sentence on the classes with a floor of recall, if there are any."""

    @property
    def harmonic(self) -> dict[str, float] | None:
        """Harmonic mean of base and novel test accuracy, by role."""
        if not {"test base", "test novel"} <= set(self.scores):
            return None
        base, novel = self.scores["test base"], self.scores["test novel"]
        return {role: harmonic_mean(base[role].accuracy, novel[role].accuracy) for role in base if role in novel}

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % interval of the best template's accuracy on each set of test images."""
        tests = (name for name in self.scores if name.startswith("test") and self.images[name])
        return {name: wilson_interval(self.scores[name]["best"].accuracy, self.images[name]) for name in tests}


@dataclass(frozen=True, slots=True)
class FinalTest:
    """Fills in `result` when `IPO.compile_and_test` calls it.

    `stop` is called while test images are encoded; if true, testing is left to the next session. `command` is recorded,
    if there is one.
    """

    sets: DataSets
    config: "OptimizerConfig"
    stop: Callable[[], bool]
    command: "CommandEvent | None" = None
    result: FinalScores = field(default_factory=FinalScores)

    def __call__(
        self, recorder: "EventRecorder", best: Any, results: "Sequence[SearchResult]", tasks: "Sequence[EncodedTask]"
    ) -> None:
        """Score all images of a program that is one classifier."""
        (found,), (task,) = results, tasks
        if self.command is not None:
            recorder.record(self.command)
        self._add_searched(found, recorder)
        prompts = None if self.stop() else self._compare_with_imagenet(found, task, recorder)
        with contextlib.suppress(StoppedError):
            for part, dataset in self.sets.tests.items():
                encoded = self._encode(best, dataset, part, recorder)
                texts = task.task.classifier.class_texts  # which the run started with
                start = encoded if best.class_texts == texts else encoded.with_texts(texts)
                self._test(part, start, encoded, best.template, found.baseline.template, prompts, recorder)

    def _check(self) -> None:
        if self.stop():
            raise StoppedError

    def _add_searched(self, found: "SearchResult", recorder: "EventRecorder") -> None:
        """Take the scores on the images of the search from its result and its events."""
        search, scores, images = recorder.state.search("self"), self.result.scores, self.result.images
        best, start = found.finalists[0], next(f for f in found.finalists if f.trial == found.baseline)
        scores["train"], images["train"] = _roles(start.trial.score, best.trial.score), search.setup["images"]
        if self.sets.validation is not None:
            scores["validation"] = _roles(start.deciding, best.deciding)
            images["validation"] = search.setup["validation_images"]
        if found.class_texts is not None:  # the scores of the finalists are those of the first words
            for split in scores:
                event = search.evaluations[split, "all", "best"]
                scores[split]["best"] = Score(event["accuracy"], event["loss"])
        self.result.floors = choice_sentences.floors(self.config.min_recall or {}, search.evaluations)

    def _compare_with_imagenet(
        self, found: "SearchResult", task: "EncodedTask", recorder: "EventRecorder"
    ) -> "ImagenetPrompts | None":
        """Score the prompts for ImageNet on the images of the search, and return them; None if no prompt fits."""
        from ipo_dspy.optimizer.imagenet_comparison import ImagenetPrompts

        classes = {name for dataset in (self.sets.train, *self.sets.tests.values()) for name in dataset.classes}
        classifier, setup, scores = task.task.classifier, recorder.state.search("self").setup, self.result.scores
        try:
            prompts = ImagenetPrompts(recorder, classifier.backbone, classifier.texts_of(sorted(classes)))
        except TemplateError:
            return None
        if task.validator is not None:  # the images that decide come first
            scores["validation"] |= prompts.score(
                task.validator,
                split="validation",
                images=setup["validation_images"],
                fingerprint=setup.get("validation_fingerprint") or "",
            )
        scores["train"] |= prompts.score(
            task.scorer, split="train", images=setup["images"], fingerprint=setup.get("data_fingerprint", "")
        )
        choice, decider = found.choice, task.validator or task.scorer
        self.result.imagenet = prompts.compare(
            decider, found.best.template, images=choice.images, optimism=choice.optimism
        )
        return prompts

    def _encode(self, best: Any, dataset: "ImageDataset", part: str, recorder: "EventRecorder") -> "EvaluationSet":
        from ipo_dspy.optimizer.evaluation import build_evaluation_set
        from ipo_dspy.optimizer.trainset import collect_training_images

        if not dataset:
            raise DataError(f"no test images for {part!r} classes; use a smaller --test")
        self._check()
        program = best.deepcopy()
        program.classes = dataset.classes
        return build_evaluation_set(
            program,
            collect_training_images(program, {"self": program}, dataset, name="test images")["self"],
            recorder=recorder,
            stage="test images" if part == "all" else f"test images, {part}",
            skip_unreadable=self.config.skip_unreadable,
            where=self.config.backend,
            check=self._check,
            objective=self.config.goal,
        )

    def _test(
        self,
        part: str,
        before: "EvaluationSet",
        after: "EvaluationSet",
        best: "Template",
        start: "Template",
        prompts: "ImagenetPrompts | None",
        recorder: "EventRecorder",
    ) -> None:
        """Score the start template with the first texts of the classes, and the best one with those that were found."""
        from ipo_dspy.optimizer.evaluation_record import record_comparison

        name, others = "test" if part == "all" else f"test {part}", {"start": start}
        old, new = before.evaluate(start), after.evaluate(best)
        record_comparison(recorder, old, new, after, split="test", class_split=part)
        self.result.scores[name], self.result.images[name] = _roles(old.score, new.score), len(new.predicted)
        if self.result.imagenet is not None:
            others["imagenet_best"] = self.result.imagenet.best
        self.result.test_gains[name] = _gains(before, after, best, others)
        if prompts is not None:
            self.result.scores[name] |= prompts.score(
                before.scorer,
                split="test",
                class_split=part,
                images=len(new.predicted),
                fingerprint=before.fingerprint,
            )


def _gains(
    before: "EvaluationSet", after: "EvaluationSet", best: "Template", others: Mapping[str, "Template"]
) -> dict[str, tuple[float, float]]:
    """Return by how many points a template is more accurate than others, with the standard error, by role."""
    from ipo_dspy.scoring.comparison import Comparison
    from ipo_dspy.scoring.scorers import ClipScorer

    first, last = before.scorer, after.scorer
    if first is not last and isinstance(first, ClipScorer) and isinstance(last, ClipScorer):
        tally = last.tally_variants([(best, last.texts), *((other, first.texts) for other in others.values())])
    else:
        tally = first.tally_pairs([best, *others.values()])
    compared = Comparison(tally)
    points, errors = compared.accuracy[0] - compared.accuracy, compared.accuracy_errors[0]
    return {role: (float(points[i]), float(errors[i])) for i, role in enumerate(others, start=1)}


def _roles(start: Score, best: Score) -> dict[str, Score]:
    return {"start": start, "best": best}
