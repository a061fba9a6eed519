"""The tasks of searches: a classifier with its images, before and after they are encoded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.run.events import SearchStartedEvent
from ipo_dspy.scoring.objectives import DEFAULT, Objective
from ipo_dspy.scoring.template_lists import published_templates
from ipo_dspy.template import Template, display_class_name

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.optimizer.evaluation import EvaluationSet
    from ipo_dspy.scoring.scorers import RemoteImageSet, Scorer

logger = getLogger(__name__)

CLASSES_NAMED = 100
"""Maximum number of class names in the description of a task."""


@dataclass(frozen=True, slots=True)
class SearchTask:
    """A classifier with its training and validation images.

    `also` holds the same classifier with other models, on which templates are scored, too.
    """

    name: str
    classifier: "ClipClassifier"
    initial: tuple[Template, ...]
    train: TrainingImages
    validation: TrainingImages | None
    also: "tuple[ClipClassifier, ...]" = ()

    @property
    def by_encoder(self) -> "dict[str, ClipClassifier]":
        """The classifier with each of its models, by name of the model.

        Raises:
            InputError: two of the models are the same.
        """
        classifiers = (self.classifier, *self.also)
        fingerprints = [one.backbone.fingerprint for one in classifiers]
        names = [" ".join(filter(None, (one.model_name, one.backbone.pretrained))) for one in classifiers]
        for number, (name, fingerprint) in enumerate(zip(names, fingerprints, strict=True)):
            if fingerprint in fingerprints[:number] or name in names[:number]:
                raise InputError(f"also must hold other models than the classifier's, got {name!r} twice; remove it")
        return dict(zip(names, classifiers, strict=True))

    def sentence(self, given: str | None) -> str:
        """Return the user's description of the task, or a sentence with its class names."""
        names = self.classifier.spoken_names(self.train.classes)
        return given or describe_task(names, several_labels=self.classifier.multi_label)

    def with_published(self, lists: Iterable[str]) -> "SearchTask":
        """Return the task with those templates of published lists that fit all of its models as initial ones, too.

        Raises:
            TemplateError: none of the templates of a list fits.
        """
        from ipo_dspy.scoring.imagenet_prompts import fitting_lines

        task, classes = self, self.classifier.texts_of(self.train.classes)
        for name in lists:
            published = lines = published_templates(name)
            for encoder in self.by_encoder.values():
                lines = fitting_lines(encoder.backbone, lines, classes)
            if left_out := len(published.lines) - len(lines.lines):
                fact = "%s: %d of %d templates of %r are longer than the model reads and are left out"
                logger.warning(fact, self.name, left_out, len(published.lines), name)
            task = replace(task, initial=(*task.initial, *(Template((line,)) for line in lines.lines)))
        return task

    def check_candidates(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Check that the words of the classes can be searched, and return the texts that the user gave for some.

        Whether the model can read them in full is not checked.

        Raises:
            InputError: the classes differ from image to image, or a text cannot stand for its label.
        """
        from ipo_dspy.class_texts import check_texts

        if self.train.choices is not None or (self.validation is not None and self.validation.choices is not None):
            raise InputError(
                "must be 'template' for classes that are passed with each image",
                argument="optimize",
                value="class_texts",
                hint="pass ClipClassifier(classes=[...]), and images without classes",
            )
        own = {label: texts for label, texts in candidates.items() if label in self.train.classes}
        return check_texts(self.train.classes, own)


@dataclass(frozen=True, slots=True)
class EncodedTask:
    """A task whose images are encoded.

    Attributes:
        task: the task.
        train: training images of the task.
        validation: images that select the template, if they are not the training images.
        scorer: the scorer of the search.
        validator: scores on the validation images, if there are any.
        wide: larger image set for scoring candidates, if it is not `train`.
        across: how scores under several models are combined, if there are several.
        objective: the objective.
    """

    task: SearchTask
    train: "EvaluationSet"
    validation: "EvaluationSet | None"
    scorer: "Scorer"
    validator: "Scorer | None"
    wide: "RemoteImageSet | None" = None
    across: str | None = None
    objective: Objective = DEFAULT

    @property
    def images(self) -> int:
        """Number of images that a candidate is scored on."""
        return len(self.train.images.labels) if self.wide is None else self.wide.images

    @property
    def event(self) -> SearchStartedEvent:
        """The setup of the search, which can only be resumed with the same images and the same model."""
        data = self.train.fingerprint
        classes = self.train.images.classes
        texts = zip(classes, self.task.classifier.texts_of(classes), strict=True)
        setup = SearchStartedEvent(
            event="search_started",
            predictor=self.task.name,
            classes=list(classes),
            class_texts={name: list(given) for name, given in texts if given != (name,)},
            model=_identity(self.task.classifier),
            images=self.images,
            validation_images=0 if self.validation is None else len(self.validation.images.labels),
            start=str(self.task.initial[0]),
            data_name=self.train.images.data_name,
            data_fingerprint=data if self.wide is None else f"{data} {self.wide.fingerprint}",
            validation_fingerprint=None if self.validation is None else self.validation.fingerprint,
        )
        if self.across is not None:
            setup |= {"also": [_identity(other) for other in self.task.also], "across": self.across}
        if self.objective.name != "accuracy":
            setup |= {"objective": self.objective.name}
        if self.objective.digest is not None:
            setup |= {"objective_digest": self.objective.digest}
        return setup


def _identity(classifier: "ClipClassifier") -> dict[str, Any]:
    return {**classifier.backbone.identity, "model": canonical_model_name(classifier.backbone.name)}


def describe_task(classes: Sequence[str], *, several_labels: bool = False) -> str:
    """Return a sentence with the class names, at most a hundred of them.

    >>> describe_task(["cat", "polar_bear"])
    'Tell apart images of 2 classes: cat, polar bear.'
    >>> describe_task(["cat"], several_labels=True)
    'Say for each of 1 class whether an image shows it: cat.'
    """
    shown = [display_class_name(name) for name in evenly_spaced(classes, CLASSES_NAMED)]
    part = f", {len(shown)} of which are" if len(classes) > len(shown) else ":"
    if several_labels:
        each = pluralize(len(classes), "class")
        return f"Say for each of {each} whether an image shows it{part} {', '.join(shown)}."
    return f"Tell apart images of {len(classes)} classes{part} {', '.join(shown)}."
