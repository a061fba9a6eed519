"""Run a sweep: cell after cell, each stored as a row; a killed sweep resumes, and a failed cell does not end it."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.secrets import without_secrets
from ipo_dspy.bench.cells import Grid, distinct, without_conditions
from ipo_dspy.bench.method_runners import StopSignal, build_ipo
from ipo_dspy.bench.ray_sweep import rows_on_ray
from ipo_dspy.bench.registry import check_methods, find_kind
from ipo_dspy.bench.result_rows import ResultLog, Row
from ipo_dspy.bench.runner import CellRunner, SweepObserver, check_language_models, split_of
from ipo_dspy.bench.suites import Suite
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import StoppedError
from ipo_dspy.optimizer.cost_estimate import CostItem, Estimate

if TYPE_CHECKING:
    from ipo_dspy.distributed.ray_tasks import RayTasks


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        rows: of the requested cells, by key; cells that have not run are missing.
        cells: total number of cells.
        stopped: whether the user stopped it.
    """

    rows: Mapping[str, Row]
    cells: int
    stopped: bool

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows of the cells that ended with an error."""
        return tuple(row for row in self.rows.values() if row.error is not None)


def sweep(
    grids: Sequence[Grid],
    suite: Suite,
    folder: Path,
    *,
    device: str = "auto",
    allow_config_changes: bool = False,
    retry: bool = False,
    ray: "RayTasks | None" = None,
    observer: SweepObserver | None = None,
    stopper: StopSignal | None = None,
) -> SweepResult:
    """Measure every cell of the grids that has no row yet.

    Args:
        grids: the requested cells; at least one grid, all with the same settings.
        suite: source of the data sets.
        folder: output folder for rows and the working directories of cells.
        device: of the CLIP model.
        allow_config_changes: resume in a folder with other settings.
        retry: measure failed cells again.
        ray: runs as many cells at a time on a cluster as fit, instead of one after another in this process.
        observer: receives the progress.
        stopper: ends the sweep after the current step; on a cluster at once.

    Raises:
        InputError: a method is unknown, data is missing, or a model or language model cannot be used.
        JournalError: the folder cannot be written, or contains a sweep with other settings.
        ClusterError: the cluster has no capacity for a cell.
    """
    observer, stopper = observer or SweepObserver(), stopper or StopSignal()
    for grid in grids:
        check_methods(grid.methods, grid.settings, suite.titles)
    suite.check((*grids[0].datasets, *grids[0].targets))
    cells = distinct(grids)
    with ResultLog(folder) as rows:
        settings = without_secrets({"suite": suite.name, **grids[0].settings.plain})
        rows.agree(settings, allow_config_changes=allow_config_changes)
        finished = {key for key, row in rows.latest.items() if row.error is None or not retry}
        todo = [cell for cell in cells if cell.key not in finished]
        known = {without_conditions(row.decisive) for row in rows.latest.values()}
        outdated = [c for c in todo if c.key not in rows.latest and without_conditions(c.decisive) in known]
        if outdated:
            observer.say(
                f"measured again, because code, device or data has changed: {pluralize(len(outdated), 'cell')}"
            )
        check_language_models(todo)
        runner, total, stopped = CellRunner(suite, folder, device, observer, stopper), len(cells), False
        measured = rows_on_ray(todo, total, runner, ray) if todo and ray is not None else runner.rows(todo, total)
        try:
            with contextlib.closing(measured):
                for row in measured:
                    rows.append(row)
                    observer.ended(row)
        except StoppedError:
            stopped = True
        return SweepResult({c.key: rows.latest[c.key] for c in cells if c.key in rows.latest}, total, stopped)


def estimate(grids: Sequence[Grid], suite: Suite) -> Estimate:
    """Estimate the language model usage of all IPO cells; nothing is requested or encoded.

    Raises:
        InputError: see `sweep`.
    """
    items: dict[tuple[str, str], CostItem] = {}
    suite.check((*grids[0].datasets, *grids[0].targets))
    for cell in distinct(grids):
        if "history_size" not in find_kind(cell.method).reads:  # neither IPO nor VPT + IPO
            continue
        split = split_of(suite, cell)
        optimizer = build_ipo(cell, split)
        program = ClipClassifier(split.base.classes, template=split.template)  # does not load the model
        for item in optimizer.estimate(program, split.train).items:
            previous = items.get((item.what, item.model))
            items[item.what, item.model] = item if previous is None else _both(previous, item)
    return Estimate(tuple(items.values()))


def _both(one: CostItem, other: CostItem) -> CostItem:
    cost = None if one.cost is None or other.cost is None else one.cost + other.cost
    calls, prompt = one.calls + other.calls, one.prompt_tokens + other.prompt_tokens
    return CostItem(one.what, one.model, calls, prompt, one.completion_tokens + other.completion_tokens, cost)
