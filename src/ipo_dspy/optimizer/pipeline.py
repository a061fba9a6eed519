"""The stages of a run: check, encode, describe, search.

They run in the order of their cost, so that cheap checks fail first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.errors import InputError
from ipo_dspy.lms.preflight import ping_once
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.factories import build_describer
from ipo_dspy.optimizer.results import found_texts
from ipo_dspy.optimizer.search import Search, SearchResult
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.run.events import DescriptionEvent, ErrorEvent, SearchStartedEvent
from ipo_dspy.run.ledger import LMResponse
from ipo_dspy.run.session import Session
from ipo_dspy.scoring.objectives import DEFAULT, Objective
from ipo_dspy.scoring.template_lists import published_templates
from ipo_dspy.template import Template, display_class_name

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Descriptions
    from ipo_dspy.optimizer.evaluation import EvaluationSet
    from ipo_dspy.proposers import Proposer
    from ipo_dspy.scoring.scorers import ClipScorer, RemoteImageSet, Scorer

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


def run_tasks(
    session: Session,
    tasks: Sequence[SearchTask],
    proposer: "Proposer",
    config: OptimizerConfig,
    *,
    models: Mapping[str, "dspy.BaseLM"],
    settings: Mapping[str, Any],
    allow_config_changes: bool,
) -> tuple[list[EncodedTask], tuple[SearchResult, ...]]:
    """Run all tasks through the stages, and return the encoded tasks and the results; stages without cost come first.

    `settings` are the recorded settings; `models` are the language models of the run, by role.
    """
    from ipo_dspy.clip.machine import machine  # imports torch

    tasks = [validate_task(session, task, config) for task in tasks]
    session.start(
        seed=config.seed,
        settings=settings,
        machine=machine(str(tasks[0].classifier.backbone.device)),
        allow_config_changes=allow_config_changes,
    )
    for role, lm in models.items():
        session.check_stop()
        ping_once(session.ledger, lm, role=role, with_image=role == "prompt_model" and config.images_in_request > 0)
    encoded = [encode(session, task, config) for task in tasks]
    session.check_stop()
    session.start_searches([task.event for task in encoded])
    return encoded, tuple(search(session, task, proposer, config) for task in encoded)


def validate_task(session: Session, task: SearchTask, config: OptimizerConfig) -> SearchTask:
    """Check the templates and the images before anything is billed or encoded, and add templates of published lists.

    Raises:
        InputError: a template that does not fit the model, or an image that cannot be read.
        StoppedError: the run was asked to stop.
    """
    from ipo_dspy.clip.image_features import check_images
    from ipo_dspy.clip.template_tokens import template_tokens

    session.check_stop()
    session.recorder.progress(task.name, "model", 0, 1)
    for encoder in task.by_encoder.values():
        for template in task.initial:
            template_tokens(encoder.backbone, template, task.classifier.texts_of(task.train.classes))
    task = with_published(task, config.template_lists)
    if config.searches_class_texts:
        check_candidates(task, config.candidates or {})
    session.recorder.progress(task.name, "model", 1, 1)
    if config.backend is not None:
        config.backend.check(task.classifier.backbone)
        return task  # its workers read the images, which may not exist on this machine
    if not config.skip_unreadable:  # both sets together, to report all unreadable images at once
        check_images(
            [image for images in (task.train, task.validation) if images is not None for image in images.images],
            backbone=task.classifier.backbone,
            num_threads=config.num_threads,
            progress=lambda _done, _total: session.check_stop(),
        )
    return task


def with_published(task: SearchTask, lists: Iterable[str]) -> SearchTask:
    """Return a task with the templates of published lists that fit all of its models as further initial templates.

    Raises:
        TemplateError: none of the templates of a list fits.
    """
    from ipo_dspy.scoring.imagenet_prompts import fitting_lines

    classes = task.classifier.texts_of(task.train.classes)
    for name in lists:
        published = lines = published_templates(name)
        for encoder in task.by_encoder.values():
            lines = fitting_lines(encoder.backbone, lines, classes)
        if left_out := len(published.lines) - len(lines.lines):
            fact = "%s: %d of %d templates of %r are longer than the model reads and are left out"
            logger.warning(fact, task.name, left_out, len(published.lines), name)
        task = replace(task, initial=(*task.initial, *(Template((line,)) for line in lines.lines)))
    return task


def check_candidates(task: SearchTask, candidates: Mapping[str, Sequence[str]]) -> None:
    """Check that the words of a task's classes can be searched, and the texts that the user gave for some of them.

    Raises:
        InputError: the classes differ from image to image, or a text cannot stand for its label.
    """
    from ipo_dspy.class_texts import check_texts
    from ipo_dspy.clip.template_tokens import template_tokens

    if task.train.choices is not None or (task.validation is not None and task.validation.choices is not None):
        raise InputError(
            "must be 'template' for classes that are passed with each image",
            argument="optimize",
            value="class_texts",
            hint="pass ClipClassifier(classes=[...]), and images without classes",
        )
    own = {label: texts for label, texts in candidates.items() if label in task.train.classes}
    for texts in check_texts(task.train.classes, own).values():
        template_tokens(task.classifier.backbone, task.initial[0], texts)


def encode(session: Session, task: SearchTask, config: OptimizerConfig) -> EncodedTask:
    """Encode the images, each once.

    Raises:
        ImageError: an image cannot be read (without `skip_unreadable`).
        StoppedError: the run was asked to stop.
    """
    train = _judge(session, task, task.train, config, "training images")
    validation = (
        None if task.validation is None else _judge(session, task, task.validation, config, "validation images")
    )
    wide = _encode_remotely(session, task, config)
    if task.also:
        scorer = _score_across(session, task, train, config, "training images")
        validator = (
            None if validation is None else _score_across(session, task, validation, config, "validation images")
        )
        return EncodedTask(task, train, validation, scorer, validator, across=config.across, objective=config.goal)
    scorer = train.scorer if wide is None else wide.scorer
    validator = None if validation is None else validation.scorer
    return EncodedTask(task, train, validation, scorer, validator, wide, objective=config.goal)


def search(session: Session, encoded: EncodedTask, proposer: "Proposer", config: OptimizerConfig) -> SearchResult:
    """Describe images, search for a template and for words, and record the comparison of the start and the best."""
    from ipo_dspy.optimizer.class_text_search import ClassTextSearch
    from ipo_dspy.optimizer.evaluation_record import compare
    from ipo_dspy.optimizer.mistakes import Mistakes  # imports torch
    from ipo_dspy.scoring.scorers import ClipScorer

    task, validation = encoded.task, encoded.validation
    shown: dict[str, Any] = {}
    about = config.task_description or describe_task(
        task.classifier.spoken_names(encoded.train.images.classes), several_labels=task.classifier.multi_label
    )
    scorer = encoded.train.scorer

    def mistakes(scorer: ClipScorer) -> Mistakes:
        allow_url = task.classifier.allow_url
        return Mistakes(scorer, encoded.train.images, config.images_in_request, allow_url=allow_url)

    if config.images_in_request and isinstance(scorer, ClipScorer):
        shown["mistakes"] = mistakes(scorer).of
    described = describe(session, task, encoded.train.images, config)
    engine = Search(
        encoded.scorer,
        proposer,
        config,
        session.recorder,
        predictor=task.name,
        ledger=session.ledger,
        descriptions=[text for text in described.texts if text],
        task=about,
        max_tokens=min(one.backbone.context_length for one in (task.classifier, *task.also)),
        stop=session.stop,
        **shown,
    )
    result = engine.run(task.initial, validator=encoded.validator)
    if config.searches_class_texts and result.status != "interrupted" and isinstance(scorer, ClipScorer):
        words = ClassTextSearch(
            scorer,
            proposer,
            config,
            session.recorder,
            predictor=task.name,
            ledger=session.ledger,
            validator=None if validation is None else cast(ClipScorer, validation.scorer),
            task=about,
            stop=session.stop,
            **({"mistakes": lambda scorer, template: mistakes(scorer).of(template)} if shown else {}),
        )
        result = replace(result, class_texts=words.run(result.best.template))
    compare(session.recorder, result, encoded.train, split="train")
    if validation is not None:
        compare(session.recorder, result, validation, split="validation")
    return replace(result, texts={**task.classifier.class_texts, **found_texts([result]).get(task.name, {})})


def describe(session: Session, task: SearchTask, train: TrainingImages, config: OptimizerConfig) -> "Descriptions":
    """Return descriptions of training images, balanced over the classes; without those after a stop.

    Raises:
        LanguageModelError: the key or name of the description model is wrong.
        NoAnswerError: the model cannot be reached, or is not multimodal.
    """
    from ipo_dspy.describers import Descriptions

    describer = build_describer(config, task.classifier)
    if describer is None or config.max_described_images == 0 or not config.searches_template or session.stop():
        return Descriptions(())
    chosen = stratified_indices(train.labels, config.max_described_images)
    session.recorder.progress(task.name, "descriptions", 0, len(chosen))
    images, labels = [train.images[i] for i in chosen], task.classifier.spoken_names([train.labels[i] for i in chosen])

    def once(question: str, ask: Callable[[], LMResponse]) -> LMResponse:
        session.check_stop()
        return session.ledger.once("", question, ask)  # two classifiers may be trained on the same images

    described = describer.describe(images, labels, once=once)
    errors = [f"an image could not be described: {message}" for message in described.faults]
    known, texts = session.state.search(task.name).descriptions, zip(chosen, described.texts, strict=True)
    fresh = [(train.sources[i], text) for i, text in texts if text and (train.sources[i], text) not in known]
    name, guessed = task.name, described.guessed
    session.recorder.record(
        *(ErrorEvent(event="error", predictor=name, step=0, message=message) for message in errors),
        *(DescriptionEvent(event="description", predictor=name, source=s, text=t, guessed=guessed) for s, t in fresh),
    )
    session.recorder.progress(task.name, "descriptions", len(chosen), len(chosen))
    return described


def stratified_indices(labels: Sequence[str], limit: int) -> list[int]:
    """Return indices of at most `limit` images: the first of every class, then the second, and so on.

    If the last of these rounds does not fit as a whole, its classes are evenly spaced.

    >>> stratified_indices(["a", "a", "b", "a"], 3), stratified_indices(["a", "b", "c", "d"], 2)
    ([0, 1, 2], [0, 2])
    """
    counts: Counter[str] = Counter()
    rounds: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        counts[label] += 1
        rounds.setdefault(counts[label], []).append(index)
    chosen: list[int] = []
    for indices in rounds.values():
        chosen += evenly_spaced(indices, limit - len(chosen))
    return sorted(chosen)


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


def _judge(
    session: Session, task: SearchTask, images: TrainingImages, config: OptimizerConfig, stage: str
) -> "EvaluationSet":
    from ipo_dspy.optimizer.evaluation import build_evaluation_set

    return build_evaluation_set(
        task.classifier,
        images,
        recorder=session.recorder,
        predictor=task.name,
        stage=stage,
        num_threads=config.num_threads,
        skip_unreadable=config.skip_unreadable,
        checked=True,
        where=config.backend,
        check=session.check_stop,
        objective=config.goal,
    )


def _score_across(
    session: Session, task: SearchTask, encoded: "EvaluationSet", config: OptimizerConfig, stage: str
) -> "Scorer":
    """Return a scorer of encoded images that encodes them with the other models, too."""
    from ipo_dspy.scoring.multi_encoder import MultiEncoderScorer

    config, scorers = replace(config, skip_unreadable=False), [encoded.scorer]  # the same images for all models
    for other in task.also:
        stage_of_other = f"{stage}, {other.model_name}"
        scorers.append(_judge(session, replace(task, classifier=other), encoded.images, config, stage_of_other).scorer)
    return MultiEncoderScorer(dict(zip(task.by_encoder, cast("list[ClipScorer]", scorers), strict=True)), config.across)


def _identity(classifier: "ClipClassifier") -> dict[str, Any]:
    """Return the identity of the classifier's model for the journal."""
    return {**classifier.backbone.identity, "model": canonical_model_name(classifier.backbone.name)}


def _encode_remotely(session: Session, task: SearchTask, config: OptimizerConfig) -> "RemoteImageSet | None":
    from ipo_dspy.optimizer.evaluation import log_skipped

    if config.backend is None:
        return None

    def progress(done: int, total: int) -> None:
        session.recorder.progress(task.name, "images to score on", done, total)
        session.check_stop()

    wide = config.backend.wide(
        task.classifier.backbone,
        task.train.classes if task.train.choices is None else None,
        texts=task.classifier.texts_of(task.train.classes),
        skip_unreadable=config.skip_unreadable,
        progress=progress,
        objective=config.goal,
    )
    log_skipped(session.recorder, task.name, "images to score on", () if wide is None else wide.skipped)
    return wide
