"""Selection after the search

The same search with each rule of selection, on the bundled tasks with `demo-vit`, the built-in proposer, and 40 steps.
Accuracy in percent, means over tasks and seeds: train is that on the training images, expected is what the run reports
for new images, base and novel are measured on test images. Differences have their standard errors over tasks and seeds
in brackets; H - best is the difference to the most accurate template of the same run. Time is the share of the run
after its last step: comparing, removing phrases, and building the ensemble that a result is compared with.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Size, table
from ipo_dspy import IPO, demo, harmonic_mean
from ipo_dspy.bench.aggregate import MeanWithError
from ipo_dspy.bench.registry import METHODS
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.run.events import Event
from ipo_dspy.template import Template

STEPS, SHOTS = 40, (1, 4, 16)
ORDER = ("ipo-best", "ipo", "ipo-ensemble")
COLUMNS = ("selection", "train", "base", "novel", "H", "H - best", "words", "lines", "expected - base", "time")


@dataclass(frozen=True)
class Outcome:
    """A run with one rule; accuracies in percent."""

    task: str
    shots: int
    seed: int
    method: str
    template: Template
    train: float
    expected: float
    base: float
    novel: float
    seconds: float
    choosing: float

    @property
    def h(self) -> float:
        """Harmonic mean of base and novel accuracy."""
        return harmonic_mean(self.base, self.novel)

    @property
    def words(self) -> float:
        """Words per line, including `<CLASS>`."""
        return statistics.fmean(len(line.split()) for line in self.template.lines)


def measure(task: str, shots: int, seed: int, method: str) -> Outcome:
    """Run IPO on the base classes and evaluate its template on both halves."""
    base, novel = (demo.load(task, shots=shots, seed=seed, classes=half, model=DEMO_VIT) for half in ("base", "novel"))
    steps_end = began = time.perf_counter()

    def observe(event: Event) -> None:
        nonlocal steps_end
        if event["event"] == "step":
            steps_end = time.perf_counter()

    options: dict[str, Any] = {"proposer": "evolution", "steps": STEPS, "seed": seed, "progress": False}
    best = IPO(**options, **METHODS[method].options, observers=[observe]).compile(base.program, base.trainset)
    ended = time.perf_counter()
    search = best.detailed_results.searches[0]
    on_base, on_novel = (evaluate(p.program, p.testset, templates=[best.template])[0].score for p in (base, novel))
    return Outcome(
        task,
        shots,
        seed,
        method,
        best.template,
        train=search.best.score.accuracy,
        expected=search.choice.expected,
        base=on_base.accuracy,
        novel=on_novel.accuracy,
        seconds=ended - began,
        choosing=ended - steps_end,
    )


def summary(outcomes: Sequence[Outcome], best: Sequence[Outcome]) -> tuple[str, ...]:
    """Return the line of a table for the runs with one rule, next to those with the most accurate template."""

    def mean(value: Callable[[Outcome], float]) -> str:
        return f"{statistics.fmean(map(value, outcomes)):.1f}"

    gains = [one.h - other.h for one, other in zip(outcomes, best, strict=True)]
    share = sum(one.choosing for one in outcomes) / sum(one.seconds for one in outcomes)
    return (
        METHODS[outcomes[0].method].title,
        *map(mean, (lambda one: one.train, lambda one: one.base, lambda one: one.novel, lambda one: one.h)),
        _signed(gains),
        mean(lambda one: one.words),
        mean(lambda one: len(one.template.lines)),
        _signed([one.expected - one.base for one in outcomes]),
        f"{share:.1%}",
    )


def _signed(values: Sequence[float]) -> str:
    mean = MeanWithError.of(values)
    return f"{mean.value:+.1f}" if mean.error is None else f"{mean.value:+.1f} ({mean.error:.1f})"


def _by_method(outcomes: Iterable[Outcome]) -> Mapping[str, list[Outcome]]:
    grouped: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.method, []).append(outcome)
    return grouped


def run(size: Size, seed: int) -> None:
    """Print a table for each number of shots, one for all of them, and the templates of the default rule."""
    seeds = range(seed + 1, seed + (4 if size == "full" else 2))
    measure(demo.names()[0], 1, seed, "ipo")  # loads the model and warms up
    outcomes: list[Outcome] = []
    for shots in SHOTS:
        cells = [(task, shots, number, method) for task in demo.names() for number in seeds for method in ORDER]
        measured = [measure(*cell) for cell in cells]
        outcomes += measured
        _print(f"{shots} training images per class, seeds {', '.join(map(str, seeds))}", measured)
    _print("All of them", outcomes)
    print("\n**The templates of `ipo`**\n")
    plainest = _by_method(outcomes)["ipo"]
    lines = ((one.task, one.shots, one.seed, f"`{one.template}`", f"{one.base:.1f}") for one in plainest)
    table(("task", "shots", "seed", "template", "base"), lines)


def _print(title: str, outcomes: Sequence[Outcome]) -> None:
    grouped = _by_method(outcomes)
    print(f"\n**{title}**\n")
    table(COLUMNS, (summary(grouped[method], grouped["ipo-best"]) for method in ORDER))
