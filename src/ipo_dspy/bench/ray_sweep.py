"""Run cells on a Ray cluster: each worker measures one cell at a time, and only the driver process writes rows.

The working directory of a cell is in the folder of the sweep. If all nodes share that folder, a cell resumes after its
worker was lost. Workers send the requests to language models with the keys of their environment; keys are never
transferred.
"""

import contextlib
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ipo_dspy import errors
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.method_runners import StopSignal
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.runner import (
    CellRunner,
    SweepObserver,
    build_row,
    check_language_models,
    check_requirements,
    load_cell_backbone,
    now,
)
from ipo_dspy.bench.suites import Suite
from ipo_dspy.distributed.cluster import WorkerLost
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.ray_tasks import RayTasks
from ipo_dspy.distributed.worker import node_name
from ipo_dspy.errors import InputError, LanguageModelError, ModelError
from ipo_dspy.run.events import Event

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

Name = tuple[str, str | None]
"""Name of a model and of its weights, as in the settings."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """State that all cells of a sweep, identified by `sweep`, share on a worker; see `CellRunner`."""

    sweep: str
    suite: Suite
    folder: Path
    device: str
    models: Mapping[Name, ModelRef]
    threads: int

    def load(self, cell: Cell, device: str) -> "Backbone":
        """Load the CLIP model of a cell."""
        return self.models[_name(cell)].load(device)


@dataclass(frozen=True, slots=True)
class CellTask:
    """Task of a worker: measure the `number`-th cell of the sweep."""

    cell: Cell
    context: WorkerContext = field(repr=False)
    number: int

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """Result of a worker: a row, or type and message of an error that ends the sweep.

    Attributes:
        said: messages for the user.
        faults: error events of language models.
    """

    row: Row | None
    said: tuple[str, ...]
    faults: tuple[Event, ...]
    error: tuple[str, str] | None


class RecordingObserver(SweepObserver):
    """Observer on a worker that collects messages and error events for the driver, which reports all else itself."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.faults: list[Event] = []

    def event(self, event: Event) -> None:
        """Collect errors; other events of a step are not sent."""
        if event["event"] == "error":
            self.faults.append(event)

    def say(self, text: str) -> None:
        """Collect a message."""
        self.said.append(text)


def rows_on_ray(todo: Sequence[Cell], total: int, runner: CellRunner, ray: RayTasks) -> Generator[Row]:
    """Measure the last cells of `total` on a cluster; yield the row of each as soon as it ends.

    Raises:
        StoppedError: the user stopped the sweep.
        InputError: a node lacks a requirement, or a model or language model cannot be used.
        ClusterError: the cluster has no capacity for a cell.
    """
    context = _worker_context(todo, runner, ray)
    tasks = [CellTask(cell, context, number) for number, cell in enumerate(todo, start=total - len(todo) + 1)]
    messages: set[str] = set()
    started: dict[str, str] = {}

    def begins(task: CellTask) -> None:
        started[task.cell.key] = now()
        runner.observer.begins(task.cell, task.number, total)

    with contextlib.closing(ray.run(work, tasks, begins=begins, check=runner.stopper.check)) as ended:
        for task, outcome in ended:
            if isinstance(outcome, WorkerLost):
                yield build_row(task.cell, error=outcome.error, started=started[task.cell.key])
            else:
                yield _unpack_outcome(outcome, runner.observer, messages)


def _worker_context(todo: Sequence[Cell], runner: CellRunner, ray: RayTasks) -> WorkerContext:
    """Return the context of the workers, after a check that the nodes have everything in it."""
    # Only to identify the models: this machine may lack the device of the workers.
    check_requirements(todo, "cpu")
    cells = {_name(cell): cell for cell in todo}
    backbones = {name: load_cell_backbone(cell, "cpu") for name, cell in cells.items()}
    out = runner.folder.expanduser().absolute()
    about = "the folder of the data sets; provide it at the same path on all nodes"
    folders = {str(path): about for path in runner.suite.folders}
    folders[str(out)] = "the sweep's working directory; share it with all nodes, or create it there"
    for backbone in backbones.values():
        ray.check(backbone, folders)
    references = {name: ModelRef.of(backbone) for name, backbone in backbones.items()}
    return WorkerContext(uuid.uuid4().hex, runner.suite, out, runner.device, references, ray.size.cpus)


def _name(cell: Cell) -> Name:
    return cell.settings.model, cell.settings.pretrained


def _unpack_outcome(outcome: CellOutcome, observer: SweepObserver, messages: set[str]) -> Row:
    """Return the row of an outcome after its messages were passed on.

    Each message is passed on once, because every worker reports on the same data.

    Raises:
        InputError: the outcome is an error that ends the sweep.
    """
    for text in outcome.said:
        if text not in messages:
            messages.add(text)
            observer.say(text)
    for event in outcome.faults:
        observer.event(event)
    if outcome.row is None:
        kind, message = outcome.error or ("InputError", "a worker returned no result; run the command again")
        raise getattr(errors, kind, InputError)(message)
    return outcome.row


_kept: dict[str, tuple[CellRunner, RecordingObserver]] = {}
"""Runner and observer of the current sweep on this worker, by sweep ID; the runner caches images."""


def work(task: CellTask) -> CellOutcome:
    """Measure a cell on this worker."""
    context = task.context
    torch.set_num_threads(context.threads)
    if context.sweep not in _kept:
        _kept.clear()
        observer = RecordingObserver()
        stopper = StopSignal()
        runner = CellRunner(context.suite, context.folder, context.device, observer, stopper, context.load)
        _kept[context.sweep] = runner, observer
    runner, observer = _kept[context.sweep]
    observer.said, observer.faults = [], []
    row, error = None, None
    try:
        check_language_models([task.cell])
        context.load(task.cell, context.device)  # a model that cannot be loaded affects more than one cell
        row = runner.row(task.cell)
    except (LanguageModelError, ModelError) as fault:
        error = (type(fault).__name__, f"{fault} (on {node_name()})")
    return CellOutcome(row, tuple(observer.said), tuple(observer.faults), error)
