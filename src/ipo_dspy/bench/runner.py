"""Run one cell and build its row: load the data and run the method; errors are recorded in the row."""

import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.untrusted import one_line, redact
from ipo_dspy._internal.versions import package_versions
from ipo_dspy.bench.cells import DTYPE, Cell, Grid
from ipo_dspy.bench.method_runners import CellContext, MethodResult, StopSignal, language_models
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.suites import BaseNovelSplit, FullDataset, Suite
from ipo_dspy.clip.bundled import resolve_model_name
from ipo_dspy.clip.loading import load_backbone, resolve_device
from ipo_dspy.clip.machine import machine
from ipo_dspy.errors import LanguageModelError, StoppedError
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.endpoints import check_port_open
from ipo_dspy.run.events import Event
from ipo_dspy.scoring.score import harmonic_mean

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

VERSIONS = ("ipo_dspy", "torch", "open_clip_torch", "dspy")
LONGEST = 1000
"""Maximum length of an error message in a row."""
CELLS = "cells"
"""Name of the folder of the working directories of the cells."""


def load_cell_backbone(cell: Cell, device: str) -> "Backbone":
    """Load the CLIP model of a cell."""
    return load_backbone(resolve_model_name(cell.settings.model), cell.settings.pretrained, device=device, dtype=DTYPE)


def with_conditions(grid: Grid, suite: Suite, device: str) -> Grid:
    """Return a grid whose cells include the device and the data of this machine, so that rows of others do not match.

    The device is that of `load_backbone`; it is empty if workers of a cluster choose it.
    """
    kind = resolve_device(device).type if device == "auto" else device.partition(":")[0]
    names = (*grid.datasets, *grid.targets)
    return replace(grid, device=kind, data={name: suite.fingerprint(name) for name in names})


def split_of(suite: Suite, cell: Cell) -> BaseNovelSplit:
    """Return the images of a cell without its targets; in a transfer, both halves are all test images of the source."""
    if not cell.targets:
        return suite.load(cell.dataset, shots=cell.shots, seed=cell.seed)
    full = suite.whole(cell.dataset, shots=cell.shots, seed=cell.seed)
    return BaseNovelSplit(full.train, full.test, full.test, full.template, full.validation)


class SweepObserver:
    """Receives the progress of a sweep; a subclass overrides what it needs."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Receive the start of a cell."""

    def ended(self, row: Row) -> None:
        """Receive the row of a finished cell."""

    def event(self, event: Event) -> None:
        """Receive an event of a cell."""

    def say(self, text: str) -> None:
        """Receive a message for the user."""


@dataclass(slots=True)
class CellRunner:
    """Runs cells; the images of a data set are reused while consecutive cells need them.

    Attributes:
        suite: source of the data sets.
        folder: folder of the sweep.
        device: of the CLIP model.
        observer: receives the progress.
        stopper: ends a cell after the current step.
        load: loads the CLIP model of a cell.
    """

    suite: Suite
    folder: Path
    device: str
    observer: SweepObserver
    stopper: StopSignal
    load: "Callable[[Cell, str], Backbone]" = load_cell_backbone
    _last: tuple[tuple[str, int, int, bool], BaseNovelSplit] | None = field(init=False, default=None)
    _targets: dict[str, FullDataset] = field(init=False, default_factory=dict)
    _reported: set[tuple[str, int]] = field(init=False, default_factory=set)

    def rows(self, todo: Sequence[Cell], total: int) -> Generator[Row]:
        """Measure the last cells of `total` in this process, one after another.

        Raises:
            StoppedError: the user stopped the sweep.
            InputError: a model does not support a method.
        """
        check_requirements(todo, self.device)
        for number, cell in enumerate(todo, start=total - len(todo) + 1):
            self.observer.begins(cell, number, total)
            self.stopper.check()
            yield self.row(cell)

    def row(self, cell: Cell) -> Row:
        """Measure a cell; an error is recorded in its row."""
        started, began = now(), time.perf_counter()
        images, result, error = 0, None, None
        try:
            split = self._split(cell)
            images = len(split.train)
            result = self._run(cell, split)
        except (StoppedError, LanguageModelError):  # a wrong key affects more than one cell
            raise
        except Exception as failure:  # noqa: BLE001 - a failed cell is recorded and does not end the sweep
            error = f"{type(failure).__name__}: {one_line(str(failure), LONGEST)}"
        return build_row(
            cell,
            train_images=images,
            seconds=round(max(time.perf_counter() - began, result.spent.seconds if result else 0.0), 3),
            error=error,
            started=started,
            machine=machine(self.device),
            **(_values(cell, result) if result else {}),
        )

    def _run(self, cell: Cell, split: BaseNovelSplit) -> MethodResult:
        for name in cell.targets:
            if name not in self._targets:
                self._targets[name] = self.suite.whole(name)
        job = CellContext(
            cell,
            split,
            targets={name: self._targets[name] for name in cell.targets},
            backbone=self.load(cell, self.device),
            folder=self.folder / CELLS / cell.folder,
            observer=self.observer.event,
            stopper=self.stopper,
        )
        result: MethodResult = find_kind(cell.method).load()(job)
        return result

    def _split(self, cell: Cell) -> BaseNovelSplit:
        key = (cell.dataset, cell.shots, cell.seed, bool(cell.targets))
        if self._last is None or self._last[0] != key:
            self._last = (key, split_of(self.suite, cell))
        split = self._last[1]
        short = {name: count for name, count in split.train.counts().items() if count < cell.shots}
        if short and (cell.dataset, cell.shots) not in self._reported:
            self._reported.add((cell.dataset, cell.shots))
            fewest = min(short, key=lambda name: short[name])
            self.observer.say(
                f"{cell.dataset}: {len(short)} of {len(split.train.classes)} classes have fewer than {cell.shots} "
                f"training images (all of them are used), e.g. {fewest} {short[fewest]}"
            )
        return split


def check_requirements(cells: Sequence[Cell], device: str) -> None:
    """Load the models of the cells and check that they support the methods, before the first cell.

    Raises:
        InputError: a model does not support a method.
    """
    for cell in {(cell.method, cell.settings.model, cell.settings.pretrained): cell for cell in cells}.values():
        find_kind(cell.method).check(load_cell_backbone(cell, device))


def check_language_models(cells: Sequence[Cell]) -> None:
    """Check that the language models of the cells, if any, are available from this machine.

    Raises:
        LanguageModelError: a model is unknown, has no key, or its server does not respond.
    """
    by_models = {(cell.settings.lm, cell.settings.vlm): cell for cell in cells if "lm" in find_kind(cell.method).reads}
    for cell in by_models.values():
        for role, lm in language_models(cell.settings).items():
            check_key(lm, role=role)
            check_port_open(lm, role=role)


def build_row(cell: Cell, **values: Any) -> Row:
    """Return the row of a cell, with the code and package versions of this machine."""
    return Row(
        key=cell.key,
        suite=cell.suite,
        dataset=cell.dataset,
        method=cell.method,
        shots=cell.shots,
        seed=cell.seed,
        decisive=cell.decisive,
        commit=commit(),
        versions=package_versions(VERSIONS),
        **values,
    )


def _values(cell: Cell, result: MethodResult) -> dict[str, Any]:
    """Return the fields of a row that a result determines."""
    base, novel, spent = result.base, result.novel, result.spent
    if cell.targets:
        targets = {name: score.accuracy for name, score in result.targets.items()}
        accuracies: dict[str, Any] = {"source": base.accuracy, "targets": targets}
    else:
        accuracies = {"base": base.accuracy, "base_loss": base.loss}
    if novel is not None:
        h = harmonic_mean(base.accuracy, novel.accuracy)
        accuracies |= {"novel": novel.accuracy, "novel_loss": novel.loss, "h": h}
    return {
        **accuracies,
        "template": result.template and redact(result.template, keep_words=True),
        "trials": result.trials,
        "evaluations": result.evaluations,
        "calls": spent.calls,
        "tokens": spent.tokens,
        "cost": None if spent.unpriced else spent.cost,
    }


def now() -> str:
    """Return the current time in UTC, in the format of rows."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def commit() -> str | None:
    """Return the commit of the package if it is in a repository that tracks it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
