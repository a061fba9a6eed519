"""Record how the start and the best template of a search compare on a set of images, for the report and later readers.

An evaluation of each, the images whose predicted class changed, the most confident mistakes, and a map of images and
class texts are written together.
"""

from collections.abc import Iterator

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.optimizer.evaluation import EvaluationResult, EvaluationSet
from ipo_dspy.optimizer.search import SearchResult
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.run.events import (
    ConfusionFields,
    EmbeddingMapEvent,
    EvaluationEvent,
    Event,
    ImageSetFields,
    MatrixFields,
    MistakeEvent,
    PredictionChangedEvent,
)
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.confusion import confusion_matrix

CHANGED_SHOWN = 24
"""Maximum number of fixed and of broken predictions in the report."""
MATRIX_CLASSES = 20
"""Maximum number of classes of a confusion matrix, and of the map of images and words."""
MISTAKES_SHOWN = 12
"""Maximum number of confident mistakes in the report."""
IMAGES_MAPPED = 400
"""Maximum number of images of a map."""


def compare(recorder: EventRecorder, result: SearchResult, judged: EvaluationSet, *, split: str) -> None:
    """Record the scores of the start and the best template of a search, and the changed predictions."""
    start, words = judged.evaluate(result.baseline.template), result.class_texts
    found = judged if words is None else judged.with_texts(words.texts)
    best = found.evaluate(result.best.template)
    record_comparison(recorder, start, best, found, predictor=result.predictor, split=split)


def record_comparison(
    recorder: EventRecorder,
    start: EvaluationResult,
    best: EvaluationResult,
    judged: EvaluationSet,
    *,
    split: str,
    predictor: str = "self",
    class_split: str = "all",
) -> None:
    """Record both evaluations and what the report shows of them in one write.

    `judged` has the images and the texts of classes that the best template was evaluated with.
    """
    images = judged.images
    where = ImageSetFields(predictor=predictor, split=split, class_split=class_split)
    events: list[Event] = [
        _evaluation(evaluation, images, role, where) for role, evaluation in (("start", start), ("best", best))
    ]
    rows = list(zip(images.sources, images.labels, start.predicted, best.predicted, strict=True))
    fixed = [row for row in rows if row[2] != row[1] == row[3]]
    broken = [row for row in rows if row[2] == row[1] != row[3]]
    for source, label, before, after in [*evenly_spaced(fixed, CHANGED_SHOWN), *evenly_spaced(broken, CHANGED_SHOWN)]:
        events.append(
            PredictionChangedEvent(
                event="prediction_changed", **where, source=source, label=label, before=before, after=after
            )
        )
    if images.label_sets is None:
        wrong = [row for row in zip(rows, best.probabilities, strict=False) if row[0][1] != row[0][3]]
        for (source, label, _, after), share in sorted(wrong, key=lambda row: -row[1])[:MISTAKES_SHOWN]:
            probability = round(share, 4)
            events.append(
                MistakeEvent(
                    event="mistake", **where, source=source, label=label, predicted=after, probability=probability
                )
            )
        events += _map(best, judged, where)
    recorder.record(*events)


def _evaluation(
    evaluation: EvaluationResult, images: TrainingImages, role: str, where: ImageSetFields
) -> EvaluationEvent:
    return EvaluationEvent(
        event="evaluation",
        **where,
        role=role,
        template=str(evaluation.template),
        **evaluation.score.fields,
        images=len(evaluation.predicted),
        per_class={name: list(counts) for name, counts in evaluation.per_class.items()},
        measures=dict(evaluation.measures),
        confusions=[
            ConfusionFields(label=label, predicted=predicted, images=count)
            for label, predicted, count in evaluation.confusions
        ],
        matrix=_matrix(evaluation, images),
    )


def _matrix(evaluation: EvaluationResult, images: TrainingImages) -> MatrixFields:
    """Return the confusion matrix of an evaluation; an empty one of images with several labels."""
    names = images.classes if images.label_sets is None else ()
    classes, counts = confusion_matrix(images.labels, evaluation.predicted, names, most=MATRIX_CLASSES)
    return MatrixFields(classes=classes, counts=counts)


def _map(best: EvaluationResult, judged: EvaluationSet, where: ImageSetFields) -> Iterator[EmbeddingMapEvent]:
    """Yield the map of a sample of the images of classes and of their texts; of images on a cluster there is none."""
    from ipo_dspy.scoring.map_projection import project
    from ipo_dspy.scoring.scorers import ClipScorer

    classes = _matrix(best, judged.images)["classes"]
    index = {name: i for i, name in enumerate(classes)}
    labels = judged.images.labels
    sample = evenly_spaced([i for i, label in enumerate(labels) if label in index], IMAGES_MAPPED)
    if not isinstance(judged.scorer, ClipScorer) or len(sample) < 2 or len(classes) < 2:
        return
    texts = judged.scorer.text_features(best.template)[[judged.scorer.classes.index(name) for name in classes]]
    images, words, shown = project(
        *(features.double().cpu().numpy() for features in (judged.scorer.image_features[sample], texts))
    )
    yield EmbeddingMapEvent(
        event="embedding_map",
        **where,
        classes=classes,
        words=words.round(3).tolist(),
        images=images.round(3).tolist(),
        labels=[index[labels[i]] for i in sample],
        correct=[best.predicted[i] == labels[i] for i in sample],
        shown=round(shown, 1),
    )
