"""The bundled tasks with few test images, so that a cell takes a second.

`python bench_small.py FOLDER` measures `grid()` there, for tests that kill it; on a cluster, if its address
follows.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import BaseNovelSplit, DemoSuite, FullDataset
from ipo_dspy.bench.sweep import SweepResult, sweep
from ipo_dspy.data import ImageDataset
from ipo_dspy.distributed.ray_tasks import RayTasks

MEASURED = frozenset({"seconds", "started", "machine", "versions", "commit"})
"""Fields of a row that differ from one measurement to the next."""


class SmallSuite(DemoSuite):
    """Five classes a half and four test images of each; `broken` names a data set that cannot be loaded."""

    def __init__(self, broken: str | None = None) -> None:
        super().__init__()
        self.broken = broken

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        if name == self.broken:
            raise RuntimeError("the disk has gone")
        split = super().load(name, shots=shots, seed=seed)
        base, novel = few(split.base), few(split.novel)
        train, validation = (images.subset(base.classes) for images in (split.train, split.validation))
        return BaseNovelSplit(train, base, novel, split.template, validation)

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        found = super().whole(name, shots=shots, seed=seed)
        test = few(found.test)
        train, validation = (images.subset(test.classes) for images in (found.train, found.validation))
        return FullDataset(train, test, found.template, validation)


class DeadlySuite(SmallSuite):
    """Loading a data set kills the process as often as `deaths` says of it; files in a folder count that."""

    def __init__(self, folder: Path, deaths: Mapping[str, int]) -> None:
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        died = len(list(self.folder.glob(f"{name}-*")))
        if died < self.deaths.get(name, 0):
            (self.folder / f"{name}-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(name, shots=shots, seed=seed)


def few(dataset: ImageDataset) -> ImageDataset:
    classes = dataset.classes[:5]
    return ImageDataset(
        (one for name in classes for one in [e for e in dataset if e.label == name][:4]), classes=classes
    )


def grid(**changed: Any) -> Grid:
    usual = {
        "suite": "demo",
        "datasets": ("grey-food", "pixel-animals"),
        "methods": ("clip", "ipo"),
        "shots": (1,),
        "seeds": (1, 2),
        "settings": Settings(steps=3, prompts_per_step=2),
    }
    return Grid(**{**usual, **changed})


def run(folder: Path, *grids: Grid, **options: Any) -> SweepResult:
    suite = options.pop("suite", None) or SmallSuite()
    return sweep(grids or (grid(),), suite, folder, device="cpu", **options)


def results(rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Return the fields of rows that do not differ from one measurement to the next."""
    return {
        key: {name: getattr(row, name) for name in Row.__dataclass_fields__ if name not in MEASURED}
        for key, row in rows.items()
    }


if __name__ == "__main__":
    run(Path(sys.argv[1]), ray=RayTasks(sys.argv[2]) if len(sys.argv) > 2 else None)
