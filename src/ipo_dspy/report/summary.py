"""Compute the values that the page shows of a search: headline, score table, classes, rejections, and images.

These are pure functions from the state of a search to small values, which the template lays out. Each value includes
the total count, so that a truncated list never looks complete.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.run.events import EvaluationEvent, MistakeEvent, PredictionChangedEvent, ScoreFields
from ipo_dspy.run.state import Rejection, SearchState
from ipo_dspy.scoring.intervals import Interval, wilson_interval
from ipo_dspy.scoring.objectives import ObjectiveText
from ipo_dspy.scoring.score import harmonic_mean

SPLITS = ("test", "validation", "train")
"""Most informative first."""
_SPOKEN = {"train": "training"}
PARTS = ("all", "base", "novel")
PICTURES_SHOWN = 24
REJECTIONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Scores of templates on the same images; losses are None for a harmonic mean or a class.

    Values are those of another objective than accuracy and loss, None without one.
    `imagenet_best` and `imagenet_ensemble` are those of the prompts for ImageNet, None without a comparison with them.
    """

    name: str
    images: int | None
    start: float | None
    best: float | None
    imagenet_best: float | None = None
    imagenet_ensemble: float | None = None
    start_loss: float | None = None
    best_loss: float | None = None
    imagenet_best_loss: float | None = None
    imagenet_ensemble_loss: float | None = None
    start_value: float | None = None
    best_value: float | None = None
    imagenet_best_value: float | None = None
    imagenet_ensemble_value: float | None = None

    @property
    def gain(self) -> float | None:
        """Gain in accuracy from start to best, in points."""
        return None if self.start is None or self.best is None else self.best - self.start

    @property
    def is_test(self) -> bool:
        """True if no image of the row had a part in the choice of the template."""
        return self.name.startswith("test")

    @property
    def interval(self) -> Interval | None:
        """95 % confidence interval of the best template's accuracy on test images."""
        return (
            wilson_interval(self.best, self.images) if self.is_test and self.images and self.best is not None else None
        )


@dataclass(frozen=True, slots=True)
class ConfusedRow:
    """Images of a class that the best template takes for another, of how many, and the number with the start template.

    The last is None if it was not among the most frequent errors then.
    """

    label: str
    predicted: str
    images: int
    of: int
    before: int | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A reason for rejections, with a few of the rejected texts."""

    reason: str
    count: int
    texts: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class ChangedPredictions:
    """Changed predictions of one kind: those that are shown, and the number that was recorded."""

    title: str
    shown: tuple[PredictionChangedEvent, ...]
    recorded: int


def score_rows(search: SearchState) -> list[ScoreRow]:
    """Return the scores of every evaluated split and part, most informative first.

    A split that was not evaluated takes the scores of the search itself, if there are any.
    """
    rows: list[ScoreRow] = []
    for split in SPLITS:
        evaluated = {part: row for part in PARTS if (row := _evaluated(search, split, part))}
        rows += evaluated.values()
        if "base" in evaluated and "novel" in evaluated:
            rows.append(_harmonic(split, evaluated["base"], evaluated["novel"]))
        elif not evaluated and (row := _searched(search, split)):
            rows.append(row)
    return rows


def split_label(split: str, part: str) -> str:
    """Return the name of a part of a split on the page.

    >>> split_label("test", "novel")
    'test, novel classes'
    """
    return _SPOKEN.get(split, split) + ("" if part == "all" else f", {part} classes")


def headline(rows: Sequence[ScoreRow]) -> ScoreRow | None:
    """Return the row that the page opens with: test images of all classes, else the harmonic mean, else the first."""
    complete = [row for row in rows if row.gain is not None]
    for name in ("test", _harmonic_name("test")):
        for row in complete:
            if row.name == name:
                return row
    return complete[0] if complete else None


def class_table(search: SearchState) -> tuple[str, list[ScoreRow]] | None:
    """Return classes by gain, largest first, and the name of the most informative split that start and best share."""
    for split in SPLITS:
        if rows := [row for part in _evaluated_parts(search, split) for row in _class_rows(search, split, part)]:
            return split_label(split, "all"), sorted(rows, key=lambda row: (-(row.gain or 0), row.name))
    return None


def measures(search: SearchState) -> tuple[str, list[tuple[str, str, str]]] | None:
    """Return the name of the most informative split, and the measures of start and best on it, with their names."""
    found = most_informative(search)
    if found is None:
        return None
    label, before, after = found
    one, other = before.get("measures", {}), after.get("measures", {})
    texts = {name: ObjectiveText.of(name) for name in other if name in one}
    return label, [
        (text.title, text.number(text.sign * one[name]), text.number(text.sign * other[name]))
        for name, text in texts.items()
    ]


def confused(search: SearchState) -> tuple[str, list[ConfusedRow]] | None:
    """Return the name of the most informative split, and the most frequent errors of the best template on it."""
    found = most_informative(search)
    if found is None:
        return None
    label, before, after = found
    counts = {(one["label"], one["predicted"]): one["images"] for one in before.get("confusions", [])}
    rows = [
        ConfusedRow(
            one["label"],
            one["predicted"],
            one["images"],
            after["per_class"].get(one["label"], [0, one["images"]])[1],
            counts.get((one["label"], one["predicted"])),
        )
        for one in after.get("confusions", [])
    ]
    return label, rows


def mistakes(search: SearchState, of: EvaluationEvent) -> list[MistakeEvent]:
    """Return the mistakes on the images of an evaluation, most confident first."""
    where = of["split"], of["class_split"]
    return sorted(
        (one for one in search.mistakes if (one["split"], one["class_split"]) == where),
        key=lambda one: -one["probability"],
    )


def most_informative(search: SearchState) -> tuple[str, EvaluationEvent, EvaluationEvent] | None:
    """Return the name of the most informative split, and the evaluations of start and best on it.

    It has the base classes alone if base and novel classes were classified apart; the name says so.
    """
    for split in SPLITS:
        for part in PARTS:
            start, best = (search.evaluations.get((split, part, role)) for role in ("start", "best"))
            if start and best:
                others = " (novel classes are not shown)" if (split, "novel", "best") in search.evaluations else ""
                return split_label(split, part) + (others if part == "base" else ""), start, best
    return None


def images_per_class(search: SearchState, split: str) -> list[int]:
    """Return the number of images of each class of a split, ascending; empty until the split is evaluated."""
    totals: dict[str, int] = {}
    for part in _evaluated_parts(search, split):
        if evaluation := search.evaluations.get((split, part, "best")):
            totals |= dict.fromkeys(search.setup["classes"] if part == "all" else (), 0)
            totals |= {name: total for name, (_, total) in evaluation["per_class"].items()}
    return sorted(totals.values())


def _evaluated_parts(search: SearchState, split: str) -> tuple[str, ...]:
    return ("all",) if (split, "all", "best") in search.evaluations else ("base", "novel")


def rejected(search: SearchState) -> list[Rejected]:
    """Return rejections by reason, most frequent first, ties by name."""
    reasons: dict[str, list[Rejection]] = {}
    for rejection in search.rejections:
        reasons.setdefault(rejection.reason, []).append(rejection)
    kinds = []
    for reason, rejections in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        texts = tuple(dict.fromkeys(rejection.text for rejection in rejections))
        kinds.append(Rejected(reason, len(rejections), texts[:REJECTIONS_SHOWN], rejections[0].message))
    return kinds


def changed(changes: Sequence[PredictionChangedEvent]) -> list[ChangedPredictions]:
    """Return fixed and broken predictions, an evenly spaced sample of at most `PICTURES_SHOWN` in total."""
    fixed = [c for c in changes if c["after"] == c["label"] != c["before"]]
    broken = [c for c in changes if c["before"] == c["label"] != c["after"]]
    half = PICTURES_SHOWN // 2
    few_fixed, few_broken = min(len(fixed), half), min(len(broken), half)
    return [
        ChangedPredictions("Fixed", tuple(evenly_spaced(fixed, PICTURES_SHOWN - few_broken)), len(fixed)),
        ChangedPredictions("Broken", tuple(evenly_spaced(broken, PICTURES_SHOWN - few_fixed)), len(broken)),
    ]


def select_example_changes(changes: Sequence[PredictionChangedEvent]) -> list[PredictionChangedEvent]:
    """Return the changes on the most informative split that has any; training images are the least informative."""
    best = min((_split_order(change["split"]) for change in changes), default=0)
    return [change for change in changes if _split_order(change["split"]) == best]


def _split_order(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _evaluated(search: SearchState, split: str, part: str) -> ScoreRow | None:
    start, best = (search.evaluations.get((split, part, role)) for role in ("start", "best"))
    either = best or start
    return _row(search, split, part, either["images"], start, best) if either else None


def _searched(search: SearchState, split: str) -> ScoreRow | None:
    """Return the score on the images that the search itself used."""
    start, best, setup = search.start, search.best, search.setup
    if split == "train" and start and best:
        return _row(search, split, "all", setup["images"] or None, start.score.fields, best.score.fields)
    if split == "validation" and search.selected and start:
        scores = {finalist["index"]: finalist["validation"] for finalist in search.selected["finalists"]}
        selected = scores.get(search.selected["index"])
        row = _row(search, split, "all", setup["validation_images"] or None, scores.get(start.index), selected)
        return row if selected else None
    return None


def _row(
    search: SearchState, split: str, part: str, images: int | None, start: ScoreFields | None, best: ScoreFields | None
) -> ScoreRow:
    imagenet = search.imagenet.get((split, part))
    if imagenet is not None and imagenet["images"] != images:  # of an earlier session
        imagenet = None
    shown = start, best, imagenet and imagenet["best"], imagenet and imagenet["ensemble"]
    accuracies, losses = ([score and score[name] for score in shown] for name in ("accuracy", "loss"))
    values = [None if score is None or search.objective == "loss" else score.get("value") for score in shown]
    return ScoreRow(split_label(split, part), images, *accuracies, *losses, *values)


def _harmonic(split: str, base: ScoreRow, novel: ScoreRow) -> ScoreRow:
    pairs = (
        (base.start, novel.start),
        (base.best, novel.best),
        (base.imagenet_best, novel.imagenet_best),
        (base.imagenet_ensemble, novel.imagenet_ensemble),
    )
    means = (None if first is None or second is None else harmonic_mean(first, second) for first, second in pairs)
    return ScoreRow(_harmonic_name(split), None, *means)


def _harmonic_name(split: str) -> str:
    return f"{_SPOKEN.get(split, split)}, harmonic mean (H)"


def _class_rows(search: SearchState, split: str, part: str) -> Iterable[ScoreRow]:
    start, best = (search.evaluations.get((split, part, role)) for role in ("start", "best"))
    for name, (right, total) in best["per_class"].items() if start and best else ():
        right_before, total_before = start["per_class"].get(name, (0, 0)) if start else (0, 0)
        if total and total_before:
            yield ScoreRow(name, total, 100 * right_before / total_before, 100 * right / total)
