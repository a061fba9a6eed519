"""Evaluate templates on a set of images, per class, and record the predictions that changed."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy.argument_checks import as_template, invalid
from ipo_dspy.classifier.image_lists import example_list
from ipo_dspy.errors import DataError, Hint
from ipo_dspy.optimizer.trainset import TrainingImages, collect_training_images
from ipo_dspy.optimizer.user_metric import bind_metric, check_objective
from ipo_dspy.run.events import (
    ImageSkippedEvent,
)
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.metrics import per_class
from ipo_dspy.scoring.objectives import DEFAULT, Objective, ObjectiveName, build_objective
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.scoring.multi_label_scorer import MultiLabelScorer
    from ipo_dspy.scoring.scorers import ClipScorer, EncodedSet, ImageScorer, ScoringBackend

logger = logging.getLogger(__name__)

CONFUSIONS = 40
"""Maximum number of pairs of a class and what it is taken for in an evaluation."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A template's score on images, and the class predicted for each.

    Attributes:
        template: the evaluated template.
        score: score on all images.
        predicted: predicted class of each image.
        per_class: correct and total images of each class.
        measures: accuracy, top5, balanced_accuracy, macro_f1 and calibration_error in percent, and the loss; with
            several labels accuracy, loss, and mean_average_precision in percent, the mean over classes with images.
        confusions: the most frequent errors: label, predicted class, and number of images.
        objective: name of the objective, whose value is in the score if it is not the accuracy.
        average_precision: with several labels, the average precision in percent of each class that has images.
        probabilities: probability of each predicted class; empty with several labels, and on a cluster.
        program: template, model, texts, and calibration that `evaluate` scored; see `ClipClassifier.scored_parts`.
    """

    template: Template
    score: Score
    predicted: tuple[str, ...] = field(repr=False)
    per_class: dict[str, tuple[int, int]] = field(repr=False)
    measures: Mapping[str, float] = field(repr=False)
    confusions: tuple[tuple[str, str, int], ...] = field(repr=False)
    objective: str = "accuracy"
    average_precision: Mapping[str, float] = field(default_factory=dict, repr=False)
    probabilities: tuple[float, ...] = field(default=(), repr=False)
    program: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A scorer with its encoded images, a content hash of each image, and the name of the objective."""

    scorer: "ImageScorer"
    images: TrainingImages
    keys: tuple[str, ...]
    objective: str = "accuracy"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images, labels and classes; a run cannot be resumed with a different one."""
        content = [self.keys, self.images.label_sets or self.images.labels, self.images.classes, self.images.choices]
        digest = hashlib.sha256()
        # In pieces, because the choices of a million images are many gigabytes of JSON.
        for piece in json.JSONEncoder().iterencode(content):
            digest.update(piece.encode())
        return digest.hexdigest()

    def with_texts(self, texts: Mapping[str, tuple[str, ...]]) -> "EvaluationSet":
        """Return the same images with other texts of classes, encoded on this machine."""
        from ipo_dspy.scoring.scorers import ClipScorer

        scorer = cast(ClipScorer, self.scorer)
        return replace(self, scorer=scorer.with_texts([texts.get(label, (label,)) for label in scorer.classes]))

    def calibrated(self, classifier: "ClipClassifier") -> "EvaluationSet":
        """Return the same images scored by the classifier's calibrated probabilities, if its calibration holds."""
        if self.images.choices is not None or classifier.multi_label:
            return self
        scaling = classifier.scaling_of(classifier.template, self.images.classes)
        return replace(self, scorer=cast("ClipScorer", self.scorer).scaled(scaling))

    def evaluate(self, template: Template) -> EvaluationResult:
        """Score a template on these images."""
        if self.images.label_sets is not None:
            return self._evaluate_label_sets(template)
        from ipo_dspy.scoring.scorers import ClipScorer

        labels, probabilities = self.images.labels, cast("tuple[float, ...]", ())
        if isinstance(self.scorer, ClipScorer):
            predicted, probabilities = zip(*self.scorer.predict_with_probability(template), strict=True)
        else:
            predicted = tuple(self.scorer.predict(template))
        (score,), (tally,) = self.scorer.score([template]), self.scorer.tally([template], by_class=True)
        errors = Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])
        return EvaluationResult(
            template=template,
            score=score,
            predicted=predicted,
            per_class=per_class(predicted, labels),
            measures=tally.measures,
            confusions=tuple((*pair, count) for pair, count in errors.most_common(CONFUSIONS)),
            objective=self.objective,
            probabilities=probabilities,
        )

    def _evaluate_label_sets(self, template: Template) -> EvaluationResult:
        """Score a template on images with several labels; `per_class` counts the images that have a class."""
        scorer = cast("MultiLabelScorer", self.scorer)
        (score,), found, there = scorer.score([template]), scorer.present(template), scorer.targets
        precisions = scorer.average_precisions(template)
        mean = {"mean_average_precision": sum(precisions.values()) / len(precisions)} if precisions else {}
        counts = zip(scorer.classes, (found & there).sum(dim=0).tolist(), there.sum(dim=0).tolist(), strict=True)
        return EvaluationResult(
            template=template,
            score=score,
            predicted=tuple(scorer.predict(template)),
            per_class={name: (right, images) for name, right, images in counts if images},
            measures={"accuracy": score.accuracy, "loss": score.loss, **mean},
            confusions=(),
            objective=self.objective,
            average_precision=precisions,
        )


def build_evaluation_set(
    classifier: "ClipClassifier",
    images: TrainingImages,
    *,
    recorder: EventRecorder | None = None,
    predictor: str = "self",
    stage: str = "images",
    num_threads: int | None = None,
    skip_unreadable: bool = False,
    checked: bool = False,
    where: "ScoringBackend | None" = None,
    check: Callable[[], None] = lambda: None,
    objective: Objective = DEFAULT,
) -> EvaluationSet:
    """Encode images once; those that cannot be read raise, or are skipped and reported with `skip_unreadable`.

    Args:
        classifier: classifier with the model.
        images: images to encode.
        recorder: is notified of progress and skipped images.
        predictor: name of the classifier in events.
        stage: name of the stage in progress reports.
        num_threads: threads that decode images on this machine.
        skip_unreadable: skip images that cannot be read.
        checked: see `encode_images`.
        where: backend that encodes and scores the images; by default this process.
        check: called repeatedly during encoding; an exception aborts it.
        objective: what scores are by.

    Raises:
        ImageError: an image cannot be read (without `skip_unreadable`).
        DataError: no image can be read.
    """
    recorder = recorder or EventRecorder()

    def progress(done: int, total: int) -> None:
        check()
        recorder.progress(predictor, stage, done, total)

    if where is None:
        encoded = _encode_locally(classifier, images, num_threads, skip_unreadable, checked, progress, objective)
    else:
        encoded = where.hold(
            classifier.backbone,
            images.images,
            images.labels,
            images.classes,
            texts=classifier.texts_of(images.classes),
            choices=images.choices,
            skip_unreadable=skip_unreadable,
            allow_url=classifier.allow_url,
            progress=progress,
            objective=objective,
        )
    log_skipped(recorder, predictor, stage, [message for _, message in encoded.skipped])
    return EvaluationSet(encoded.scorer, images.keep(encoded.kept), encoded.keys, objective.name)


def log_skipped(recorder: EventRecorder, predictor: str, stage: str, messages: Sequence[str]) -> None:
    """Report images that were skipped because they could not be read."""
    for message in messages:
        logger.warning("left out of the %s: %s", stage, message)
        recorder.notify(ImageSkippedEvent(event="image_skipped", predictor=predictor, stage=stage, message=message))


def _encode_locally(
    classifier: "ClipClassifier",
    images: TrainingImages,
    num_threads: int | None,
    skip_unreadable: bool,
    checked: bool,
    progress: Callable[[int, int], None],
    objective: Objective,
) -> "EncodedSet":
    from ipo_dspy.clip.image_features import encode_images
    from ipo_dspy.scoring.half_precision_check import check_precision
    from ipo_dspy.scoring.multi_label_scorer import MultiLabelScorer
    from ipo_dspy.scoring.scorers import ClipScorer, EncodedSet

    encoded = encode_images(
        classifier.backbone,
        images.images,
        num_threads=num_threads,
        skip_unreadable=skip_unreadable,
        allow_url=classifier.allow_url,
        checked=checked,
        on_disk=classifier.cache,
        progress=progress,
    )
    usable = images.keep(encoded.kept)
    backbone, classes, texts = classifier.backbone, usable.classes, classifier.texts_of(usable.classes)
    reading = {"allow_url": classifier.allow_url, "on_disk": classifier.cache}
    if usable.label_sets is not None:
        labeled = [i for i, labels in enumerate(usable.label_sets) if labels]
        if labeled:
            firsts = [usable.label_sets[i][0] for i in labeled]
            shown = [usable.images[i] for i in labeled]
            check_precision(backbone, shown, firsts, classes, texts=texts, **reading)
        several = MultiLabelScorer(
            backbone, encoded.features, usable.label_sets, classes, texts=texts, objective=objective
        )
        return EncodedSet(several, encoded.kept, encoded.keys, encoded.skipped)
    check_precision(backbone, usable.images, usable.labels, classes, texts=texts, **reading)
    scorer = ClipScorer(
        backbone,
        encoded.features,
        usable.labels,
        classes,
        texts=texts,
        choices=usable.choices,
        objective=objective,
        metric=None if objective.metric is None else bind_metric(objective.metric, usable, classifier),
    )
    return EncodedSet(scorer, encoded.kept, encoded.keys, encoded.skipped)


def encode_examples(
    classifier: "ClipClassifier",
    examples: "Sequence[dspy.Example]",
    *,
    recorder: EventRecorder | None = None,
    label_field: str = "label",
    skip_unreadable: bool = False,
    objective: Objective = DEFAULT,
) -> EvaluationSet:
    """Encode labeled examples, to score templates on them; raises as `evaluate` does."""
    if not examples:
        raise DataError("no examples to evaluate on; pass a list of dspy.Example(image=..., label=...)")
    collected = collect_training_images(
        classifier, {"self": classifier}, example_list(examples, "examples"), name="examples", label_field=label_field
    )
    images = collected["self"]
    check_objective(objective, images, classifier, "examples", images.classes)
    return build_evaluation_set(
        classifier, images, recorder=recorder, stage="test images", skip_unreadable=skip_unreadable, objective=objective
    )


def evaluate(
    classifier: "ClipClassifier",
    examples: "Sequence[dspy.Example]",
    *,
    templates: Sequence[str | Template] = (),
    recorder: EventRecorder | None = None,
    label_field: str = "label",
    skip_unreadable: bool = False,
    objective: ObjectiveName = "accuracy",
    costs: Mapping[tuple[str, str], float] | None = None,
    min_recall: Mapping[str, float] | None = None,
    metric: Callable[..., Any] | None = None,
) -> list[EvaluationResult]:
    """Evaluate a classifier with its own template, or with others, on labeled examples.

    Faster than `dspy.Evaluate` with the same accuracy, because images are encoded in batches and class texts once. The
    objective is given as for `IPO`; the other measures are returned with any objective. With its own template a
    calibrated classifier is scored by its calibrated probabilities; its threshold is not applied. A warning is logged
    if a search chose the template on some of these images, which makes the accuracy too high.

    Raises:
        InputError: an objective that `IPO` would reject.
        TemplateError: an invalid template.
        DataError: no examples, or labels outside the classes.
        ImageError: an image cannot be read (without `skip_unreadable`).

    >>> from ipo_dspy import demo
    >>> task = demo.load("faint-places", shots=1)
    >>> evaluate(task.program, task.testset, templates=["pixel art of a <CLASS>."])[0].score.accuracy > 70
    True
    """
    if isinstance(templates, str):
        raise invalid("templates", "a list", templates, Hint("for example {templates}", templates=[templates]))
    evaluation_set = encode_examples(
        classifier,
        examples,
        recorder=recorder,
        label_field=label_field,
        skip_unreadable=skip_unreadable,
        objective=build_objective(objective, costs, min_recall, metric),
    )
    program = classifier.scored_parts
    if not templates:
        _ = classifier.share_that_chose(evaluation_set.keys, "evaluate on other images")
        return [replace(evaluation_set.calibrated(classifier).evaluate(classifier.template), program=program)]
    plain = {**program, "calibration": None}
    return [
        replace(evaluation_set.evaluate(each), program={**plain, "template": str(each)})
        for each in map(as_template, templates)
    ]
