"""What a cell of the experiment is: a method on a data set with shots and a seed, and all that decides its result.

A cell's key is a digest of exactly that, so a finished cell is found again whatever else is asked for beside it: in
another table, with more seeds, or as the usual row of an ablation. What does not decide a cell stays out of its key:
zero-shot CLIP has the same key for all shots and seeds and is measured once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipo_dspy._internal.secrets import without_secrets
from ipo_dspy.bench.author_settings import official
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.settings import Settings, brief, digest

DTYPE = "float32"
"""Number format of the CLIP models that are measured."""


@cache
def code_digest() -> str:
    """Return a digest of the Python files of this package; a row of other code is measured again."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    >>> one = Cell("demo", "grey-food", "clip", 1, 1, Settings())
    >>> one.key == Cell("demo", "grey-food", "clip", 16, 3, Settings(steps=5)).key
    True
    >>> one.key == Cell("demo", "pixel-animals", "clip", 1, 1, Settings()).key
    False

    Attributes:
        suite: the collection that the data set is of.
        dataset: its name there.
        method: see `bench.registry`.
        shots: training images a class.
        seed: of the draw of images and of the method.
        settings: of the sweep; a method reads only those that concern it.
        targets: data sets to test on what was learned on all classes of `dataset`; none by the base-to-novel protocol.
        device: kind of device of the CLIP model, such as `cpu`; empty if it is not known.
        data: a digest of the content of each data set that is read, by name.
    """

    suite: str
    dataset: str
    method: str
    shots: int
    seed: int
    settings: Settings = field(repr=False)
    targets: tuple[str, ...] = ()
    device: str = ""
    data: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the method: its authors' for the data set, then the user's for all data sets, then those for this one."""
        own = self.settings.arguments
        here = own.get(f"{self.method}@{self.dataset}", {})
        theirs = official(self.suite, self.dataset, self.method, transfer=bool(self.targets))
        return {**theirs, **own.get(self.method, {}), **here}

    @property
    def decisive(self) -> Mapping[str, Any]:
        """Everything that decides the result, as plain values."""
        kind = find_kind(self.method)
        drawn = {"shots": self.shots, "seed": self.seed} if kind.learns else {}
        settings = self.settings.plain
        told = without_secrets({name: settings[name] for name in kind.reads})
        carried = {"protocol": "transfer", "targets": sorted(self.targets)} if self.targets else {}
        named = {"suite": self.suite, "dataset": self.dataset, "method": self.method, **carried}
        conditions = {"code": code_digest(), "device": self.device, "dtype": DTYPE, "data": dict(self.data)}
        return {**named, **drawn, **told, "arguments": brief(self.arguments), **conditions}

    @property
    def key(self) -> str:
        """Digest of `decisive`."""
        return digest(self.decisive)

    @property
    def folder(self) -> str:
        """Name of the folder for what the cell writes."""
        return f"{self.method}-{self.dataset}-{self.shots}-{self.seed}-{self.key[:8]}"

    def __str__(self) -> str:
        carried = f" to {len(self.targets)} others" if self.targets else ""
        return f"{self.method}, {self.dataset}{carried}, {self.shots}-shot, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Which cells are asked for; every combination is one.

    Attributes:
        suite: the collection of the data sets.
        datasets, methods, shots, seeds: each at least one, in the order of the tables.
        settings: of all cells.
        variants: settings by the name of a variant, for ablations; one without a name by default.
        targets: to test on what was learned on all classes of the one of `datasets`; none: base to novel.
        device: see `Cell`.
        data: a digest of the content of each data set, by name.
    """

    suite: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: Settings
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({"": {}}))
    targets: tuple[str, ...] = ()
    device: str = ""
    data: Mapping[str, str] = field(default_factory=dict, repr=False)

    def cell(self, dataset: str, method: str, shots: int, seed: int, variant: str = "") -> Cell:
        """The cell of one combination."""
        settings = replace(self.settings, **self.variants[variant])
        data = {name: self.data[name] for name in (dataset, *self.targets) if name in self.data}
        return Cell(self.suite, dataset, method, shots, seed, settings, self.targets, self.device, data)

    def cells(self) -> tuple[Cell, ...]:
        """All cells, each once, data set by data set so that its images are read once."""
        return _once(
            self.cell(dataset, method, shots, seed, variant)
            for dataset in self.datasets
            for shots in self.shots
            for seed in self.seeds
            for method in self.methods
            for variant in self.variants
        )


def distinct(grids: Sequence[Grid]) -> tuple[Cell, ...]:
    """The cells of several grids, each once."""
    return _once(cell for grid in grids for cell in grid.cells())


def without_conditions(decisive: Mapping[str, Any]) -> str:
    """Return what a cell asks, whatever it is measured with, as text."""
    asked = {name: value for name, value in decisive.items() if name not in {"code", "device", "dtype", "data"}}
    return json.dumps(asked, sort_keys=True, default=str)


def _once(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The first cell of each key."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.key, cell)
    return tuple(found.values())
