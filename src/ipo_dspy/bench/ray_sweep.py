"""Cells spread over a Ray cluster: a worker measures one at a time, and this process alone writes the rows.

What a worker writes on a cell's way lies in the folder of the sweep, so a cell whose worker was lost goes on from there
where all nodes see that folder. A language model is asked by the worker, with the key that its own environment holds:
keys are sent nowhere.
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
"""Of a model and its weights, as settings have them."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all cells of a sweep have in common on a worker.

    Attributes:
        sweep: tells sweeps apart.
        suite: where the data sets come from.
        folder: for what cells write on their way.
        device: of the CLIP model.
        models: the driver's.
        threads: of torch.
    """

    sweep: str
    suite: Suite
    folder: Path
    device: str
    models: Mapping[Name, ModelRef]
    threads: int

    def load(self, cell: Cell, device: str) -> "Backbone":
        """The CLIP model of a cell."""
        return self.models[_name(cell)].load(device)


@dataclass(frozen=True, slots=True)
class CellTask:
    """What a worker is to do: measure the `number`-th cell of `total`."""

    cell: Cell
    place: WorkerContext = field(repr=False)
    number: int
    total: int

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What a worker hands back.

    Attributes:
        row: of the cell.
        said: sentences for people.
        faults: events of language models that did not answer well.
        error: kind and message of what ends the sweep, instead of a row.
    """

    row: Row | None
    said: tuple[str, ...] = ()
    faults: tuple[Event, ...] = ()
    error: tuple[str, str] | None = None


class RecordingObserver:
    """The audience of a worker's cells: keeps what is to be told where the sweep was started."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._faults: list[Event] = []

    def taken(self) -> tuple[tuple[str, ...], tuple[Event, ...]]:
        """Sentences and faults since the last time."""
        found = tuple(self._said), tuple(self._faults)
        self._said, self._faults = [], []
        return found

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Told by the driver."""

    def ended(self, row: Row) -> None:
        """Told by the driver."""

    def event(self, event: Event) -> None:
        """Keep faults; what is passed by a step is not sent."""
        if event["event"] == "error":
            self._faults.append(event)

    def say(self, text: str) -> None:
        """Keep a sentence."""
        self._said.append(text)


def evenly_spaced(
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
    """Measure cells on a cluster, each a row as soon as it has ended; whether the user ended it.

    Raises:
        InputError: nodes lack something, or what no cell can do without: a model or language model.
        ClusterError: there is no room for a cell.
    """
    place = _place(todo, suite, folder, device, ray)
    start = total - len(todo) + 1
    tasks = [CellTask(cell, place, number, total) for number, cell in enumerate(todo, start=start)]
    told: set[str] = set()
    started: dict[str, str] = {}

    def begins(task: CellTask) -> None:
        started[task.cell.key] = now()
        audience.begins(task.cell, task.number, task.total)

    try:
        with contextlib.closing(ray.run(work, tasks, begins=begins, check=stopper.check)) as ended:
            for task, answer in ended:
                if isinstance(answer, WorkerLost):
                    row = build_row(task.cell, error=answer.error, started=started[task.cell.key])
                else:
                    row = _unpack_outcome(answer, audience, told)
                rows.append(row)
                audience.ended(row)
    except StoppedError:
        return True
    return False


def _place(todo: Sequence[Cell], suite: Suite, folder: Path, device: str, ray: RayTasks) -> WorkerContext:
    """What the workers need, of which the nodes are seen to have all."""
    # Only to know the models again: this machine need not have the workers' device.
    check_requirements(todo, "cpu")
    models = {_name(cell): cell for cell in todo}
    backbones = {name: load_cell_backbone(cell, "cpu") for name, cell in models.items()}
    out = folder.expanduser().absolute()
    folders = {str(path): "where the data sets are; put them at that place on all nodes" for path in suite.folders}
    folders[str(out)] = "where cells write on their way; share that folder with all nodes, or make it there"
    for backbone in backbones.values():
        ray.check(backbone, folders)
    known = {name: ModelRef.of(backbone) for name, backbone in backbones.items()}
    return WorkerContext(uuid.uuid4().hex, suite, out, device, known, ray.size.cpus)


def _name(cell: Cell) -> Name:
    return cell.settings.model, cell.settings.pretrained


def _unpack_outcome(answer: CellOutcome, audience: SweepObserver, told: set[str]) -> Row:
    """The row of an answer, after what is to be told; each sentence once, for every worker meets the same data.

    Raises:
        InputError: what ends the sweep.
    """
    for text in [text for text in answer.said if text not in told]:
        told.add(text)
        audience.say(text)
    for event in answer.faults:
        audience.event(event)
    if answer.row is None:
        kind, message = answer.error or ("InputError", "a worker has told nothing; run again")
        raise getattr(errors, kind, InputError)(message)
    return answer.row


_kept: dict[str, tuple[CellRunner, RecordingObserver]] = {}
"""The bench of the sweep that this worker measures for, with the images that it has read."""


def work(task: CellTask) -> CellOutcome:
    """Measure a cell on this worker."""
    place = task.place
    torch.set_num_threads(place.threads)
    bench, ear = _bench(place)
    row, error = None, None
    try:
        check_language_models([task.cell])
        place.load(task.cell, place.device)  # one that cannot be loaded is no matter of a single cell
        row = bench.row(task.cell)
    except (LanguageModelError, ModelError) as fault:
        error = (type(fault).__name__, f"{fault} (on {node_name()})")
    return CellOutcome(row, *ear.taken(), error)


def _bench(place: WorkerContext) -> tuple[CellRunner, RecordingObserver]:
    if place.sweep not in _kept:
        ear = RecordingObserver()
        _kept.clear()
        _kept[place.sweep] = CellRunner(place.suite, place.folder, place.device, ear, StopSignal(), place.load), ear
    return _kept[place.sweep]
