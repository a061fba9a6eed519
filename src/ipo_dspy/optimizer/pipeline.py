"""The stages of a run for one classifier: check, encode, describe, search.

Each may be refused or cost something, so the order is that of the price: what costs nothing comes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ipo_dspy.clip.bundled import named
from ipo_dspy.optimizer.factories import build_describer
from ipo_dspy.optimizer.search import Plan, Search, SearchResult
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.run.events import DescriptionEvent, Event
from ipo_dspy.run.ledger import Answer
from ipo_dspy.run.session import Session
from ipo_dspy.template import Template, spoken

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Descriptions
    from ipo_dspy.optimizer.evaluation import Judged
    from ipo_dspy.proposers import Proposer
    from ipo_dspy.scoring.scorers import Place, Scorer, Wide


@dataclass(frozen=True, slots=True)
class Task:
    """One classifier and what it is trained and chosen on."""

    name: str
    classifier: "ClipClassifier"
    initial: tuple[Template, ...]
    train: TrainingImages
    validation: TrainingImages | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A task whose images are encoded, ready to be searched for.

    Attributes:
        task: what it is about.
        train: its training images.
        validation: the images that decide, if they are others.
        wide: the images that candidates are scored on, if they are more than `train`.
    """

    task: Task
    train: "Judged"
    validation: "Judged | None"
    wide: "Wide | None" = None

    @property
    def scorer(self) -> "Scorer":
        """What the search asks."""
        return self.train.scorer if self.wide is None else self.wide.scorer

    @property
    def images(self) -> int:
        """How many images a candidate is scored on."""
        return len(self.train.images.labels) if self.wide is None else self.wide.images

    @property
    def data(self) -> str:
        """Fingerprint of them all."""
        return self.train.fingerprint if self.wide is None else f"{self.train.fingerprint} {self.wide.fingerprint}"


@dataclass(frozen=True, slots=True)
class Ways:
    """How the stages are done; see the arguments of `IPO`."""

    plan: Plan
    describer: Any
    description_model: Any
    max_descriptions: int
    task: str | None
    num_threads: int | None
    skip_bad: bool
    where: "Place | None" = None


def check(session: Session, task: Task, ways: Ways) -> None:
    """Whatever can be refused is refused here, before anything is paid for or encoded.

    Raises:
        InputError: a template that does not fit the model, or an image that cannot be read.
        StoppedError: the end of the run was asked for.
    """
    from ipo_dspy.clip.image_features import check_images
    from ipo_dspy.clip.text_features import template_tokens

    session.check_stop()
    record = session.record(task.name)
    record.tell("progress", stage="model", done=0, total=1)
    for template in task.initial:
        template_tokens(task.classifier.backbone, template, task.train.classes)
    record.tell("progress", stage="model", done=1, total=1)
    if ways.where is not None:
        ways.where.check(task.classifier.backbone)
        return  # its workers read the images, which this machine may not even have
    if not ways.skip_bad:  # training and validation images together, so that all bad ones are told at once
        check_images(
            [image for images in (task.train, task.validation) if images is not None for image in images.images],
            backbone=task.classifier.backbone,
            num_threads=ways.num_threads,
            progress=lambda _done, _total: session.check_stop(),
        )


def encode(session: Session, task: Task, ways: Ways) -> Encoded:
    """Encode the images, each once, and see that they are those of the run.

    Raises:
        ImageError: an image cannot be read (without `skip_bad`).
        JournalError: the run is about other images, or another model.
        StoppedError: the end of the run was asked for.
    """
    train = _judge(session, task, task.train, ways, "training images")
    validation = None if task.validation is None else _judge(session, task, task.validation, ways, "validation images")
    encoded = Encoded(task, train, validation, _wide(session, task, ways))
    session.check_task(
        task.name,
        classes=list(train.images.classes),
        model={**task.classifier.backbone.identity, "model": named(task.classifier.backbone.name)},
        images=encoded.images,
        validation_images=0 if validation is None else len(validation.images.labels),
        start=str(task.initial[0]),
        data=encoded.data,
        validation_data=None if validation is None else validation.fingerprint,
    )
    return encoded


def search(session: Session, encoded: Encoded, proposer: "Proposer", ways: Ways) -> SearchResult:
    """Describe images, search a template, and keep how the start and the best compare."""
    from ipo_dspy.optimizer.evaluation import compare

    task, record, validation = encoded.task, session.record(encoded.task.name), encoded.validation
    described = describe(session, task, encoded.train.images, ways)
    engine = Search(
        encoded.scorer,
        proposer,
        ways.plan,
        record,
        ledger=session.ledger,
        past=session.past,
        descriptions=[text for text in described.texts if text],
        task=ways.task or sentence(encoded.train.images.classes),
        stop=session.stop,
    )
    result = engine.run(task.initial, validator=None if validation is None else validation.scorer)
    compare(record, result, encoded.train, split="train")
    if validation is not None:
        compare(record, result, validation, split="validation")
    return result


def describe(session: Session, task: Task, train: TrainingImages, ways: Ways) -> "Descriptions":
    """Return how some training images look, evenly over the classes; of those that a stop left over, nothing.

    Raises:
        LanguageModelError: the key or name of the model that describes is wrong.
        NoAnswerError: it cannot be reached, or cannot see.
    """
    from ipo_dspy.describers import Descriptions

    describer = build_describer(
        ways.describer,
        ways.description_model,
        task.classifier,
        num_threads=ways.num_threads,
        max_errors=ways.plan.max_errors,
    )
    if describer is None or ways.max_descriptions == 0 or session.stop():
        return Descriptions(())
    record = session.record(task.name)
    known = {(event["source"], event["text"]) for event in session.past if _describes(event, task.name)}
    chosen = evenly_over_classes(train.labels, ways.max_descriptions)
    record.tell("progress", stage="descriptions", done=0, total=len(chosen))
    images, labels = [train.images[i] for i in chosen], [train.labels[i] for i in chosen]

    def once(question: str, ask: Callable[[], Answer]) -> Answer:
        session.check_stop()
        return session.ledger.once("", question, ask)  # two classifiers may be trained on the same images

    described = describer.describe(images, labels, once=once)
    for message in described.faults:
        record("fault", step=0, message=f"an image could not be described: {message}")
    for i, text in zip(chosen, described.texts, strict=True):
        if text and (train.sources[i], text) not in known:
            record("description", source=train.sources[i], text=text)
    record.tell("progress", stage="descriptions", done=len(chosen), total=len(chosen))
    return described


def evenly_over_classes(labels: Sequence[str], limit: int) -> list[int]:
    """Indices of at most `limit` images: the first of every class, then the second, ... in order.

    >>> evenly_over_classes(["a", "a", "b", "a"], 3)
    [0, 1, 2]
    """
    seen: dict[str, int] = {}
    turn: list[tuple[int, int]] = []
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        turn.append((seen[label], index))
    return sorted(index for _, index in sorted(turn)[:limit])


def sentence(classes: Sequence[str]) -> str:
    """One sentence from the class names, a dozen of them at most.

    >>> sentence(["cat", "polar_bear"])
    'Tell apart images of 2 classes: cat, polar bear.'
    """
    shown = [spoken(classes[i * len(classes) // min(12, len(classes))]) for i in range(min(12, len(classes)))]
    more = ", ..." if len(classes) > len(shown) else ""
    return f"Tell apart images of {len(classes)} classes: {', '.join(shown)}{more}."


def _judge(session: Session, task: Task, images: TrainingImages, ways: Ways, stage: str) -> "Judged":
    from ipo_dspy.optimizer.evaluation import judge

    return judge(
        task.classifier,
        images,
        record=session.record(task.name),
        stage=stage,
        num_threads=ways.num_threads,
        skip_bad=ways.skip_bad,
        checked=True,
        where=ways.where,
        check=session.check_stop,
    )


def _wide(session: Session, task: Task, ways: Ways) -> "Wide | None":
    from ipo_dspy.optimizer.evaluation import tell_skipped

    if ways.where is None:
        return None
    record = session.record(task.name)

    def progress(done: int, total: int) -> None:
        record.tell("progress", stage="images to score on", done=done, total=total)
        session.check_stop()

    wide = ways.where.wide(
        task.classifier.backbone,
        task.train.classes if task.train.choices is None else None,
        skip_bad=ways.skip_bad,
        progress=progress,
    )
    tell_skipped(record, "images to score on", () if wide is None else wide.skipped)
    return wide


def _describes(event: Event, predictor: str) -> TypeGuard[DescriptionEvent]:
    return event["event"] == "description" and event["predictor"] == predictor
