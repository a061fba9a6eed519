"""What the page says about a search: the headline, the score table, classes, rejections, pictures to show.

Pure functions from the model to small values; the template only lays them out. Each says what it leaves
out, so that a capped list never reads as a whole one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.history import Trial
from ipo_dspy.run.events import PredictionChangedEvent, ScoreFields
from ipo_dspy.run.state import SearchState
from ipo_dspy.scoring.score import harmonic_mean

SPLITS = ("test", "validation", "train")
"""Most telling first."""
_SPOKEN = {"train": "training"}
PARTS = ("all", "base", "novel")
PICTURES_SHOWN = 24
REJECTIONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Start and best on the same images; `loss` is None for a harmonic mean."""

    name: str
    images: int | None
    start: float | None
    best: float | None
    start_loss: float | None = None
    best_loss: float | None = None

    @property
    def gain(self) -> float | None:
        """Points of accuracy from start to best."""
        return None if self.start is None or self.best is None else self.best - self.start


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: percent right under the start and the best template."""

    name: str
    images: int
    start: float
    best: float

    @property
    def gain(self) -> float:
        """Points from start to best."""
        return self.best - self.start


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Classes by gain, largest first, and where they were measured."""

    split: str
    rows: tuple[ClassRow, ...]

    @property
    def gained(self) -> int:
        """How many classes are better recognised."""
        return sum(row.gain > 0 for row in self.rows)

    @property
    def lost(self) -> int:
        """How many classes are worse recognised."""
        return sum(row.gain < 0 for row in self.rows)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One reason for rejections, with a few of the texts."""

    reason: str
    count: int
    texts: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class ChangedPredictions:
    """Changed images of one kind: those shown, and how many were recorded."""

    title: str
    shown: tuple[PredictionChangedEvent, ...]
    recorded: int


def score_rows(search: SearchState) -> list[ScoreRow]:
    """Every split and part that was measured, most telling first; what the search itself measured fills gaps."""
    rows: list[ScoreRow] = []
    for split in SPLITS:
        found = {part: row for part in PARTS if (row := _evaluated(search, split, part))}
        rows += found.values()
        if "base" in found and "novel" in found:
            rows.append(_harmonic(split, found["base"], found["novel"]))
        elif not found and (row := _searched(search, split)):
            rows.append(row)
    return rows


def split_label(split: str, part: str) -> str:
    """How a part of a split is called on the page.

    >>> split_label("test", "novel")
    'test, novel classes'
    """
    return _SPOKEN.get(split, split) + ("" if part == "all" else f", {part} classes")


def headline(rows: Sequence[ScoreRow]) -> ScoreRow | None:
    """The row that the page opens with: test images of all classes, else the harmonic mean, else the first."""
    whole = [row for row in rows if row.gain is not None]
    for wanted in ("test", _harmonic_name("test")):
        for row in whole:
            if row.name == wanted:
                return row
    return whole[0] if whole else None


def class_table(search: SearchState) -> ClassTable | None:
    """Gains and losses of the classes on the most telling split where start and best were evaluated."""
    for split in SPLITS:
        parts = ("all",) if (split, "all", "best") in search.evaluations else ("base", "novel")
        rows = [row for part in parts for row in _class_rows(search, split, part)]
        if rows:
            return ClassTable(split_label(split, "all"), tuple(sorted(rows, key=lambda row: (-row.gain, row.name))))
    return None


def rejected(search: SearchState) -> list[Rejected]:
    """Rejections by reason, most frequent first, ties by name."""
    counts = Counter(rejection.reason for rejection in search.rejections)
    return [_rejected(search, *item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def changed(changes: Sequence[PredictionChangedEvent]) -> list[ChangedPredictions]:
    """Mended and broken images, evenly thinned out to `PICTURES_SHOWN` in all."""
    mended = [c for c in changes if c["after"] == c["label"] != c["before"]]
    broken = [c for c in changes if c["before"] == c["label"] != c["after"]]
    half = PICTURES_SHOWN // 2
    few_mended, few_broken = min(len(mended), half), min(len(broken), half)
    return [
        ChangedPredictions("Mended", tuple(evenly_spaced(mended, PICTURES_SHOWN - few_broken)), len(mended)),
        ChangedPredictions("Broken", tuple(evenly_spaced(broken, PICTURES_SHOWN - few_mended)), len(broken)),
    ]


def select_example_changes(changes: Sequence[PredictionChangedEvent]) -> list[PredictionChangedEvent]:
    """The changes on the most telling split that has any; those on training images say little."""
    best = min((_telling(change["split"]) for change in changes), default=0)
    return [change for change in changes if _telling(change["split"]) == best]


def _telling(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _evaluated(search: SearchState, split: str, part: str) -> ScoreRow | None:
    start, best = (search.evaluations.get((split, part, role)) for role in ("start", "best"))
    either = best or start
    name = split_label(split, part)
    return _row(name, either["images"], start, best) if either else None


def _searched(search: SearchState, split: str) -> ScoreRow | None:
    """The score on the images that the search itself used."""
    start, best, setup = search.start, search.best, search.setup
    if split == "train" and start and best:
        return _row("training", setup["images"] or None, _fields(start), _fields(best))
    if split == "validation" and search.selected and start:
        scores = {finalist["index"]: finalist["validation"] for finalist in search.selected["finalists"]}
        selected = scores.get(search.selected["index"])
        row = _row("validation", setup["validation_images"] or None, scores.get(start.index), selected)
        return row if selected else None
    return None


def _fields(trial: Trial) -> ScoreFields:
    return {"accuracy": trial.score.accuracy, "loss": trial.score.loss}


def _row(name: str, images: int | None, start: ScoreFields | None, best: ScoreFields | None) -> ScoreRow:
    accuracies, losses = ([score and score[name] for score in (start, best)] for name in ("accuracy", "loss"))
    return ScoreRow(name, images, *accuracies, *losses)


def _harmonic(split: str, base: ScoreRow, novel: ScoreRow) -> ScoreRow:
    def mean(of: Callable[[ScoreRow], float | None]) -> float | None:
        first, second = of(base), of(novel)
        return None if first is None or second is None else harmonic_mean(first, second)

    return ScoreRow(_harmonic_name(split), None, mean(lambda row: row.start), mean(lambda row: row.best))


def _harmonic_name(split: str) -> str:
    return f"{_SPOKEN.get(split, split)}, harmonic mean (H)"


def _class_rows(search: SearchState, split: str, part: str) -> Iterable[ClassRow]:
    start, best = (search.evaluations.get((split, part, role)) for role in ("start", "best"))
    for name, (right, total) in best["per_class"].items() if start and best else ():
        before, of = start["per_class"].get(name, (0, 0)) if start else (0, 0)
        if total and of:
            yield ClassRow(name, total, 100 * before / of, 100 * right / total)


def _rejected(search: SearchState, reason: str, count: int) -> Rejected:
    own = [rejection for rejection in search.rejections if rejection.reason == reason]
    texts = dict.fromkeys(rejection.text for rejection in own)
    return Rejected(reason, count, tuple(texts)[:REJECTIONS_SHOWN], own[0].message)
