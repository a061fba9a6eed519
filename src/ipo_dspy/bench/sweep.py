"""The sweep: cell after cell, each a row on disk; it goes on where it was killed, and a failed cell does not end it."""

import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ipo_dspy.bench.cells import Cell, Grid, distinct
from ipo_dspy.bench.methods import check_methods, find_kind
from ipo_dspy.bench.rows import Row, Rows
from ipo_dspy.bench.runs import Found, Job, Stopper, build_ipo, check_models
from ipo_dspy.bench.suites import Split, Suite
from ipo_dspy.bundled import located
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.backbone import load_backbone
from ipo_dspy.data import harmonic_mean
from ipo_dspy.errors import LanguageModelError, StoppedError
from ipo_dspy.estimate import Estimate, Item
from ipo_dspy.events import Event

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

VERSIONS = ("ipo_dspy", "torch", "open_clip_torch", "dspy")
CELLS = "cells"
"""Folder of what the cells write on their way."""


class Audience(Protocol):
    """Who is told how a sweep gets on."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """A cell begins."""

    def ended(self, row: Row) -> None:
        """A cell has become a row."""

    def event(self, event: Event) -> None:
        """Something happened within a cell."""

    def say(self, text: str) -> None:
        """A sentence for people."""


class Nobody:
    """An audience that does not listen."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Nothing."""

    def ended(self, row: Row) -> None:
        """Nothing."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to.

    Attributes:
        rows: of the cells that were asked for, by key; cells that were not reached are missing.
        cells: how many there are in all.
        stopped: whether the user ended it.
    """

    rows: Mapping[str, Row]
    cells: int
    stopped: bool

    @property
    def failed(self) -> tuple[Row, ...]:
        """Cells that ended with an error."""
        return tuple(row for row in self.rows.values() if row.error is not None)


def sweep(
    grids: Sequence[Grid],
    suite: Suite,
    folder: Path,
    *,
    device: str = "auto",
    allow_changes: bool = False,
    retry: bool = False,
    audience: Audience | None = None,
    stopper: Stopper | None = None,
) -> Swept:
    """Measure every cell of the grids that has no row yet.

    Args:
        grids: what is wanted; at least one, all of the same settings.
        suite: where their data sets come from.
        folder: for rows and for what cells write on their way.
        device: of the CLIP model.
        allow_changes: go on in a folder whose settings were others.
        retry: measure failed cells again.
        audience: is told how it gets on.
        stopper: ends it after the step that is under way.

    Raises:
        InputError: an unknown method, data that is not there, a model or language model that cannot be used.
        JournalError: the folder cannot be written, or holds a sweep of other settings.
    """
    audience, stopper = audience or Nobody(), stopper or Stopper()
    for grid in grids:
        check_methods(grid.methods, grid.settings)
    suite.check(grids[0].datasets)
    cells = distinct(grids)
    with Rows(folder) as rows:
        settings = {"suite": suite.name, **asdict(grids[0].settings)}
        rows.agree(settings, allow_changes=allow_changes)
        ready = {key for key, row in rows.latest.items() if row.error is None or not retry}
        todo = [cell for cell in cells if cell.key not in ready]
        stopped = _measure(todo, suite, folder, rows, device, audience, stopper, len(cells))
        return Swept({c.key: rows.latest[c.key] for c in cells if c.key in rows.latest}, len(cells), stopped)


def estimate(grids: Sequence[Grid], suite: Suite) -> Estimate:
    """About what IPO's cells would ask of language models, if none were measured yet; nothing is asked or encoded.

    Raises:
        InputError: see `sweep`.
    """
    items: dict[tuple[str, str], Item] = {}
    suite.check(grids[0].datasets)
    for cell in distinct(grids):
        if cell.method != "ipo":
            continue
        split = suite.load(cell.dataset, shots=cell.shots, seed=cell.seed)
        optimizer = build_ipo(cell.settings, split, cell.seed)
        program = ClipClassifier(split.base.classes, template=split.template)  # its model is not loaded
        for item in optimizer.estimate(program, split.train).items:
            was = items.get((item.what, item.model))
            items[item.what, item.model] = item if was is None else _both(was, item)
    return Estimate(tuple(items.values()))


def _both(one: Item, other: Item) -> Item:
    cost = None if one.cost is None or other.cost is None else one.cost + other.cost
    calls, prompt = one.calls + other.calls, one.prompt_tokens + other.prompt_tokens
    return Item(one.what, one.model, calls, prompt, one.completion_tokens + other.completion_tokens, cost)


def _measure(
    todo: Sequence[Cell],
    suite: Suite,
    folder: Path,
    rows: Rows,
    device: str,
    audience: Audience,
    stopper: Stopper,
    total: int,
) -> bool:
    """Whether the user ended it."""
    bench = _Bench(suite, folder, device, audience, stopper)
    asking = {(cell.settings.lm, cell.settings.vlm): cell for cell in todo if "lm" in find_kind(cell.method).reads}
    for cell in asking.values():
        check_models(cell.settings)
    for cell in {(cell.method, cell.settings.model, cell.settings.pretrained): cell for cell in todo}.values():
        find_kind(cell.method).check(bench.backbone(cell))  # what cannot be loaded or run is no matter of a single cell
    for number, cell in enumerate(todo, start=total - len(todo) + 1):
        audience.begins(cell, number, total)
        try:
            stopper.check()
            row = bench.row(cell)
        except StoppedError:
            return True
        rows.append(row)
        audience.ended(row)
    return False


class _Bench:
    """Runs cells; the images of a data set are kept while the next cell asks for the same."""

    def __init__(self, suite: Suite, folder: Path, device: str, audience: Audience, stopper: Stopper) -> None:
        self._suite, self._folder, self._device = suite, folder, device
        self._audience, self._stopper = audience, stopper
        self._last: tuple[tuple[str, int, int], Split] | None = None
        self._told: set[tuple[str, int]] = set()

    def row(self, cell: Cell) -> Row:
        """Measure a cell; whatever fails in it is told in its row."""
        started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        images, found, error = 0, None, None
        try:
            split = self._split(cell)
            images = len(split.train)
            found = self._run(cell, split)
        except (StoppedError, LanguageModelError):  # a key that is wrong is no matter of a single cell
            raise
        except Exception as failure:  # noqa: BLE001 - whatever fails is the cell's row, not the end of the sweep
            error = f"{type(failure).__name__}: {failure}"
        return Row(
            key=cell.key,
            suite=cell.suite,
            dataset=cell.dataset,
            method=cell.method,
            shots=cell.shots,
            seed=cell.seed,
            decisive=cell.decisive,
            train_images=images,
            seconds=round(max(time.perf_counter() - began, found.spent.seconds if found else 0.0), 3),
            error=error,
            started=started,
            commit=commit(),
            machine=machine(self._device),
            versions={name: version(name) for name in VERSIONS},
            **(_figures(found) if found else {}),
        )

    def _run(self, cell: Cell, split: Split) -> Found:
        job = Job(
            method=cell.method,
            split=split,
            backbone=self.backbone(cell),
            settings=cell.settings,
            seed=cell.seed,
            folder=self._folder / CELLS / cell.folder,
            observer=self._audience.event,
            stopper=self._stopper,
        )
        return find_kind(cell.method).load()(job)

    def backbone(self, cell: Cell) -> "Backbone":
        """The CLIP model, loaded once."""
        return load_backbone(located(cell.settings.model), cell.settings.pretrained, device=self._device)

    def _split(self, cell: Cell) -> Split:
        wanted = (cell.dataset, cell.shots, cell.seed)
        if self._last is None or self._last[0] != wanted:
            self._last = (wanted, self._suite.load(cell.dataset, shots=cell.shots, seed=cell.seed))
        split = self._last[1]
        if (short := split.short(cell.shots)) and (cell.dataset, cell.shots) not in self._told:
            self._told.add((cell.dataset, cell.shots))
            fewest = min(short, key=lambda name: short[name])
            self._audience.say(
                f"{cell.dataset}: {len(short)} of {len(split.train.classes)} classes have fewer than {cell.shots} "
                f"training images and give all they have, e.g. {fewest} {short[fewest]}"
            )
        return split


def _figures(found: Found) -> dict[str, Any]:
    spent = found.spent
    return {
        "base": found.base.accuracy,
        "novel": found.novel.accuracy,
        "h": harmonic_mean(found.base.accuracy, found.novel.accuracy),
        "base_loss": found.base.loss,
        "novel_loss": found.novel.loss,
        "template": found.template,
        "trials": found.trials,
        "evaluations": found.evaluations,
        "calls": spent.calls,
        "tokens": spent.tokens,
        "cost": None if spent.unpriced else spent.cost,
    }


def machine(device: str) -> dict[str, Any]:
    """The kind of machine, without its name."""
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
    }


@cache
def commit() -> str | None:
    """The commit that the package is of, if it lies in a repository that tracks it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", "..")
    return head and head + ("+changes" if changes else "")
