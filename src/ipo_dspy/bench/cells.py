"""Cells of the experiment: a method on a data set with shots and a seed, and every input that determines the result.

The key of a cell is a digest of exactly these inputs. A finished cell is therefore reused in another table, with more
seeds, or as the default variant of an ablation. Inputs that do not affect a result are not part of the key: zero-shot
CLIP has the same key for all shots and seeds and is measured once.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipo_dspy._internal.secrets import without_secrets
from ipo_dspy.bench.author_settings import official
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.settings import Settings, brief, digest, digest_contents

DTYPE = "float32"
"""Data type of the measured CLIP models."""


@cache
def code_digest() -> str:
    """Return a digest of the Python files of this package; rows of other code are measured again."""
    root = Path(__file__).parents[1]
    files = {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*.py"))}
    return digest_contents(content for name, file in files.items() for content in (name.encode(), file.read_bytes()))


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    >>> cell = Cell("demo", "grey-food", "clip", 1, 1, Settings())
    >>> cell.key == Cell("demo", "grey-food", "clip", 16, 3, Settings(steps=5)).key
    True
    >>> cell.key == Cell("demo", "pixel-animals", "clip", 1, 1, Settings()).key
    False

    Attributes:
        suite: name of the collection of the data set.
        dataset: its name in the suite.
        method: see `bench.registry`.
        shots: training images per class.
        seed: of the image sampling and of the method.
        settings: of the sweep; a method reads only those that apply to it.
        targets: data sets to test on after learning on all classes of `dataset`; empty for base to novel.
        device: kind of device of the CLIP model, such as `cpu`; empty if unknown.
        data: a digest of the content of each data set, by name.
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
        """Hyper-parameters of the method.

        Those of its authors are overridden by the user's for all data sets, and these by the user's for this data set.
        """
        by_user = self.settings.arguments
        for_dataset = by_user.get(f"{self.method}@{self.dataset}", {})
        by_authors = official(self.suite, self.dataset, self.method, transfer=bool(self.targets))
        return {**by_authors, **by_user.get(self.method, {}), **for_dataset}

    @property
    def decisive(self) -> Mapping[str, Any]:
        """Every input that determines the result, as plain values."""
        kind = find_kind(self.method)
        sampling = {"shots": self.shots, "seed": self.seed} if kind.learns else {}
        settings = self.settings.plain
        relevant = without_secrets({name: settings[name] for name in kind.reads})
        transfer = {"protocol": "transfer", "targets": sorted(self.targets)} if self.targets else {}
        names = {"suite": self.suite, "dataset": self.dataset, "method": self.method, **transfer}
        conditions = {"code": code_digest(), "device": self.device, "dtype": DTYPE, "data": dict(self.data)}
        return {**names, **sampling, **relevant, "arguments": brief(self.arguments), **conditions}

    @property
    def key(self) -> str:
        """Digest of `decisive`."""
        return digest(self.decisive)

    @property
    def folder(self) -> str:
        """Name of the working directory of the cell."""
        return f"{self.method}-{self.dataset}-{self.shots}-{self.seed}-{self.key[:8]}"

    def __str__(self) -> str:
        transfer = f" to {len(self.targets)} others" if self.targets else ""
        return f"{self.method}, {self.dataset}{transfer}, {self.shots}-shot, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The requested cells: every combination of the attributes.

    Attributes:
        suite: the collection of the data sets.
        datasets, methods, shots, seeds: at least one each, in the order of the tables.
        settings: of all cells.
        variants: settings by the name of a variant, for ablations; one unnamed variant by default.
        targets: data sets to test on after learning on all classes of the only data set; empty for base to novel.
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
        """Return the cell of one combination."""
        settings = replace(self.settings, **self.variants[variant])
        data = {name: self.data[name] for name in (dataset, *self.targets) if name in self.data}
        return Cell(self.suite, dataset, method, shots, seed, settings, self.targets, self.device, data)

    def cells(self) -> tuple[Cell, ...]:
        """Return all distinct cells, data set by data set so that its images are read once."""
        return distinct([self])


def distinct(grids: Sequence[Grid]) -> tuple[Cell, ...]:
    """Return the distinct cells of several grids."""
    by_key: dict[str, Cell] = {}
    for grid in grids:
        places = itertools.product(grid.datasets, grid.shots, grid.seeds, grid.methods, grid.variants)
        for dataset, shots, seed, method, variant in places:
            cell = grid.cell(dataset, method, shots, seed, variant)
            by_key.setdefault(cell.key, cell)
    return tuple(by_key.values())


def without_conditions(decisive: Mapping[str, Any]) -> str:
    """Return a digest of the inputs of a cell without code, device, and data."""
    conditions = {"code", "device", "dtype", "data"}
    return digest({name: value for name, value in decisive.items() if name not in conditions})
