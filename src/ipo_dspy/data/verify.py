"""Check a benchmark directory and list everything that is missing, with its source."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from ipo_dspy.data.benchmark_loader import READERS
from ipo_dspy.data.benchmarks import Benchmark, exists, expected_folder, find_benchmark, parts
from ipo_dspy.data.split_lists import BenchmarkSplits, absent_images, format_paths
from ipo_dspy.errors import DataError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        ok: True if the check passed.
        what: a file, a folder, or a count.
        told: the finding or the remedy.
    """

    ok: bool
    what: str
    told: str


@dataclass(frozen=True, slots=True)
class BenchmarkCheck:
    """The results of all checks of a data set.

    Attributes:
        benchmark: the data set.
        folder: its expected folder.
        findings: in the order of the checks.
    """

    benchmark: Benchmark
    folder: Path
    findings: tuple[CheckResult, ...] = field(repr=False)

    @property
    def ok(self) -> bool:
        """True if all checks passed."""
        return all(finding.ok for finding in self.findings)


def check_benchmark(name: str, root: str | PathLike[str]) -> BenchmarkCheck:
    """Check that everything that `load_benchmark` reads exists; images are not opened.

    Raises:
        DataError: an unknown name, or `root` is no folder.
    """
    benchmark = find_benchmark(name)
    if not Path(root).expanduser().is_dir():
        raise DataError(f"there is no folder {root} (looked from {Path.cwd()}); pass the one that holds the data sets")
    folder = expected_folder(benchmark, root)
    return BenchmarkCheck(benchmark, folder, tuple(_findings(benchmark, folder)))


def _findings(benchmark: Benchmark, folder: Path) -> Iterator[CheckResult]:
    complete = True
    for part in parts(benchmark):
        found = exists(benchmark, folder, part)
        complete = complete and found
        yield CheckResult(found, str(folder / part.path), "there" if found else f"missing; from {part.origin}")
    if not complete:
        return
    try:
        lists = READERS[benchmark.kind](benchmark, folder)
    except DataError as error:
        yield CheckResult(False, "lists and folders", str(error))
        return
    yield from _counted(benchmark, lists)


def _counted(benchmark: Benchmark, lists: BenchmarkSplits) -> Iterator[CheckResult]:
    labels = {item.label for item in lists.train or lists.test}
    yield _compared("classes", len(labels), benchmark.classes)
    sizes = {"train": len(lists.train), "val": len(lists.val), "test": len(lists.test)}
    listed = ", ".join(f"{count:,} {part}" for part, count in sizes.items() if count)
    absent = absent_images(lists)
    if absent:
        fact = f"{listed}; {len(absent):,} missing or empty in {lists.base}: {format_paths(absent)}"
        yield CheckResult(False, "images", f"{fact}; from {benchmark.image_origin}")
    else:
        yield CheckResult(True, "images", listed)
    if benchmark.test_images is not None:
        yield _compared("test images", len(lists.test), benchmark.test_images)


def _compared(what: str, count: int, published: int) -> CheckResult:
    if count == published:
        return CheckResult(True, what, f"{count:,}, as published")
    return CheckResult(False, what, f"{count:,}, and {published:,} as published")
