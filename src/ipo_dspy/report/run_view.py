"""Turns journal events into one frozen `Run`: everything the page shows, and nothing that is drawn.

Later events of a kind replace earlier ones where only one can be true (an evaluation done twice), and a
trial journalled twice counts once, so the journal of a resumed run reads like that of a straight one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ipo_dspy.history import History, Trial
from ipo_dspy.report.journal_fields import Fields
from ipo_dspy.run.events import Event
from ipo_dspy.scoring.score import Score

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The start or the best template on one part of one split."""

    template: str
    score: Score
    images: int
    per_class: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Finalist:
    """A template that was compared on the validation images in the end."""

    index: int
    template: str
    train: Score
    validation: Score | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The template that the run ended with, and by which images it was chosen."""

    index: int
    template: str
    decided_by: str
    finalists: tuple[Finalist, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """An image whose predicted class is another one under the best template."""

    split: str
    part: str
    source: str
    label: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposed text that did not become a trial."""

    step: int
    text: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Spend:
    """What a run or its steps so far cost; None where the writer did not know."""

    calls: float | None
    tokens: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Setup:
    """What one search was given."""

    classes: tuple[str, ...] = ()
    model: Pairs = ()
    images: int = 0
    validation_images: int = 0
    start: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """The search for one classifier's template."""

    predictor: str
    setup: Setup
    trials: tuple[Trial, ...]
    ranked: tuple[Trial, ...]
    chosen: Chosen | None
    evaluations: Mapping[tuple[str, str, str], Evaluation]
    changes: tuple[Change, ...]
    descriptions: Pairs
    rejections: tuple[Rejection, ...]
    faults: tuple[str, ...]
    steps: int

    @property
    def start(self) -> Trial | None:
        """The start template's trial."""
        return self.trials[0] if self.trials else None

    @property
    def best(self) -> Trial | None:
        """The chosen trial, or the best so far."""
        wanted = self.chosen.index if self.chosen else None
        return next((t for t in self.trials if t.index == wanted), self.ranked[0] if self.ranked else None)

    @property
    def start_text(self) -> str:
        """The template that the search began with."""
        return str(self.start.template) if self.start else self.setup.start

    @property
    def best_text(self) -> str:
        """The template that was chosen, or the best so far."""
        if self.chosen:
            return self.chosen.template
        return str(self.best.template) if self.best else self.start_text


@dataclass(frozen=True, slots=True)
class Run:
    """A whole journal."""

    started: str
    seed: str
    settings: Pairs
    versions: Pairs
    status: str | None
    spend: Spend
    searches: tuple[Search, ...]


def read_run(events: Sequence[Event]) -> Run:
    """The run that a journal tells of, finished or not.

    Raises:
        JournalError: a field has another type than `events` describes.
    """
    fields = [Fields(event) for event in events]
    first = next((f for f in fields if f.kind == "run"), None)
    end = _end(fields)
    return Run(
        started=first.text("started") if first else "",
        seed=first.anything("seed") if first else "",
        settings=first.pairs("settings") if first else (),
        versions=first.pairs("versions") if first else (),
        status=end.text("status") if end else None,
        spend=_spend([end]) if end else _spend([f for f in fields if f.kind == "step"]),
        searches=tuple(_search(name, own) for name, own in _by_predictor(fields).items()),
    )


def _end(fields: Sequence[Fields]) -> Fields | None:
    """The end event, unless the run was taken up again after it."""
    last = next((f for f in reversed(fields) if f.kind in {"end", "step", "trial", "chosen"}), None)
    return last if last and last.kind == "end" else None


def _by_predictor(fields: Iterable[Fields]) -> dict[str, list[Fields]]:
    groups: dict[str, list[Fields]] = {}
    for field in fields:
        if field.kind not in {"run", "resume", "answer", "end"}:
            groups.setdefault(field.text("predictor"), []).append(field)
    return groups


def _search(predictor: str, fields: Sequence[Fields]) -> Search:
    kinds: dict[str, list[Fields]] = {}
    for field in fields:
        kinds.setdefault(field.kind, []).append(field)
    history = _history(kinds.get("trial", ()))
    return Search(
        predictor=predictor,
        setup=_setup(kinds["search"][-1]) if "search" in kinds else Setup(),
        trials=tuple(history),
        ranked=tuple(history.top(len(history))),
        chosen=_chosen(kinds["chosen"][-1]) if "chosen" in kinds else None,
        evaluations=dict(map(_evaluation, kinds.get("evaluation", ()))),
        changes=tuple(map(_change, kinds.get("changed", ()))),
        descriptions=tuple((f.text("source"), f.text("text")) for f in kinds.get("description", ())),
        rejections=tuple(map(_rejection, kinds.get("rejection", ()))),
        faults=tuple(f.text("message") for f in kinds.get("fault", ())),
        steps=len(kinds.get("step", ())),
    )


def _history(fields: Iterable[Fields]) -> History:
    history = History()
    for field in fields:
        trial = _trial(field)
        if trial.key not in history:
            history.add(trial)
    return history


def _trial(field: Fields) -> Trial:
    return Trial(
        field.template("template"),
        field.score(),
        index=field.whole("index"),
        step=field.whole("step"),
        tokens=field.whole("tokens"),
        key=field.raw("key"),
    )


def _setup(field: Fields) -> Setup:
    return Setup(
        classes=field.texts("classes"),
        model=field.pairs("model"),
        images=field.whole("images"),
        validation_images=field.whole("validation_images"),
        start=field.text("start"),
    )


def _chosen(field: Fields) -> Chosen:
    finalists = tuple(map(_finalist, field.inners("finalists")))
    return Chosen(field.whole("index"), field.text("template"), field.text("decided_by"), finalists)


def _finalist(field: Fields) -> Finalist:
    train, validation = field.need("train").score(), field.inner("validation")
    return Finalist(field.whole("index"), field.text("template"), train, validation.score() if validation else None)


def _evaluation(field: Fields) -> tuple[tuple[str, str, str], Evaluation]:
    key = (field.text("split"), field.text("part"), field.text("role"))
    return key, Evaluation(field.text("template"), field.score(), field.whole("images"), field.counts("per_class"))


def _change(field: Fields) -> Change:
    where = field.text("split"), field.text("part"), field.raw("source")
    return Change(*where, field.text("label"), field.text("before"), field.text("after"))


def _rejection(field: Fields) -> Rejection:
    return Rejection(field.whole("step"), field.text("text"), field.text("reason"), field.text("message"))


def _spend(fields: Sequence[Fields]) -> Spend:
    def total(name: str) -> float | None:
        known = [count for f in fields if (count := f.counted(name)) is not None]
        return sum(known) if known or not fields else None

    return Spend(total("calls"), total("tokens"), total("seconds"))
