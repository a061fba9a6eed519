"""Run cells on a Ray cluster: each worker measures one cell at a time, and only the driver process writes rows.

The working directory of a cell is in the folder of the sweep. If all nodes share that folder, a cell resumes after its
worker was lost. Workers send the requests to language models with the keys of their environment; keys are never
transferred.
"""

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ipo_dspy import errors
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.method_runners import StopSignal
from ipo_dspy.bench.observer import SweepObserver
from ipo_dspy.bench.result_rows import ResultLog, Row
from ipo_dspy.bench.runner import (
    CellRunner,
    build_row,
    check_language_models,
    check_requirements,
    load_cell_backbone,
    now,
)
from ipo_dspy.bench.suites import Suite
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.ray_tasks import RayTasks, WorkerLost
from ipo_dspy.distributed.worker import node_name
from ipo_dspy.errors import InputError, LanguageModelError, ModelError, StoppedError
from ipo_dspy.run.events import Event

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

Name = tuple[str, str | None]
"""Name of a model and of its weights, as in the settings."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """State that all cells of a sweep share on a worker.

    Attributes:
        sweep: unique ID of the sweep.
        suite: source of the data sets.
        folder: folder of the working directories of the cells.
        device: of the CLIP model.
        models: references to the models of the driver.
        threads: number of torch threads.
    """

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
    """Task of a worker: measure the `number`-th cell of `total`."""

    cell: Cell
    place: WorkerContext = field(repr=False)
    number: int
    total: int

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """Result of a worker.

    Attributes:
        row: of the cell; None if an error ends the sweep.
        said: messages for the user.
        faults: error events of language models.
        error: type and message of an error that ends the sweep.
    """

    row: Row | None
    said: tuple[str, ...] = ()
    faults: tuple[Event, ...] = ()
    error: tuple[str, str] | None = None


class RecordingObserver:
    """Observer on a worker that collects messages for the driver."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._faults: list[Event] = []

    def taken(self) -> tuple[tuple[str, ...], tuple[Event, ...]]:
        """Return and clear the collected messages and faults."""
        messages, faults = tuple(self._said), tuple(self._faults)
        self._said, self._faults = [], []
        return messages, faults

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Ignore the call; the driver reports it."""

    def ended(self, row: Row) -> None:
        """Ignore the call; the driver reports it."""

    def event(self, event: Event) -> None:
        """Collect errors; other events of a step are not sent."""
        if event["event"] == "error":
            self._faults.append(event)

    def say(self, text: str) -> None:
        """Collect a message."""
        self._said.append(text)


def run_on_ray(
    todo: Sequence[Cell],
    total: int,
    suite: Suite,
    folder: Path,
    rows: ResultLog,
    device: str,
    audience: SweepObserver,
    stopper: StopSignal,
    ray: RayTasks,
) -> bool:
    """Measure cells on a cluster and append each row as soon as its cell ends; return True if the user stopped it.

    Raises:
        InputError: a node lacks a requirement, or a model or language model cannot be used.
        ClusterError: the cluster has no capacity for a cell.
    """
    place = _place(todo, suite, folder, device, ray)
    start = total - len(todo) + 1
    tasks = [CellTask(cell, place, number, total) for number, cell in enumerate(todo, start=start)]
    messages: set[str] = set()
    started: dict[str, str] = {}

    def begins(task: CellTask) -> None:
        started[task.cell.key] = now()
        audience.begins(task.cell, task.number, task.total)

    try:
        with contextlib.closing(ray.run(work, tasks, begins=begins, check=stopper.check)) as ended:
            for task, outcome in ended:
                if isinstance(outcome, WorkerLost):
                    row = build_row(task.cell, error=outcome.error, started=started[task.cell.key])
                else:
                    row = _unpack_outcome(outcome, audience, messages)
                rows.append(row)
                audience.ended(row)
    except StoppedError:
        return True
    return False


def _place(todo: Sequence[Cell], suite: Suite, folder: Path, device: str, ray: RayTasks) -> WorkerContext:
    """Return the context of the workers, after a check that the nodes have everything in it."""
    # Only to identify the models: this machine may lack the device of the workers.
    check_requirements(todo, "cpu")
    models = {_name(cell): cell for cell in todo}
    backbones = {name: load_cell_backbone(cell, "cpu") for name, cell in models.items()}
    out = folder.expanduser().absolute()
    folders = {
        str(path): "the folder of the data sets; provide it at the same path on all nodes" for path in suite.folders
    }
    folders[str(out)] = "the sweep's working directory; share it with all nodes, or create it there"
    for backbone in backbones.values():
        ray.check(backbone, folders)
    references = {name: ModelRef.of(backbone) for name, backbone in backbones.items()}
    return WorkerContext(uuid.uuid4().hex, suite, out, device, references, ray.size.cpus)


def _name(cell: Cell) -> Name:
    return cell.settings.model, cell.settings.pretrained


def _unpack_outcome(outcome: CellOutcome, audience: SweepObserver, messages: set[str]) -> Row:
    """Return the row of an outcome after its messages were passed on.

    Each message is passed on once, because every worker reports on the same data.

    Raises:
        InputError: the outcome is an error that ends the sweep.
    """
    for text in [text for text in outcome.said if text not in messages]:
        messages.add(text)
        audience.say(text)
    for event in outcome.faults:
        audience.event(event)
    if outcome.row is None:
        kind, message = outcome.error or ("InputError", "a worker returned no result; run the command again")
        raise getattr(errors, kind, InputError)(message)
    return outcome.row


_kept: dict[str, tuple[CellRunner, RecordingObserver]] = {}
"""Runner and observer of the current sweep on this worker, by sweep ID; the runner caches images."""


def work(task: CellTask) -> CellOutcome:
    """Measure a cell on this worker."""
    place = task.place
    torch.set_num_threads(place.threads)
    runner, observer = _bench(place)
    row, error = None, None
    try:
        check_language_models([task.cell])
        place.load(task.cell, place.device)  # a model that cannot be loaded affects more than one cell
        row = runner.row(task.cell)
    except (LanguageModelError, ModelError) as fault:
        error = (type(fault).__name__, f"{fault} (on {node_name()})")
    return CellOutcome(row, *observer.taken(), error)


def _bench(place: WorkerContext) -> tuple[CellRunner, RecordingObserver]:
    if place.sweep not in _kept:
        observer = RecordingObserver()
        runner = CellRunner(place.suite, place.folder, place.device, observer, StopSignal(), place.load)
        _kept.clear()
        _kept[place.sweep] = runner, observer
    return _kept[place.sweep]
