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
        what: checked file, folder, or count.
        message: finding or remedy.
    """

    ok: bool
    what: str
    message: str


@dataclass(frozen=True, slots=True)
class BenchmarkCheck:
    """The results of all checks of a data set.

    Attributes:
        benchmark: the data set.
        folder: expected folder of the data set.
        findings: results in the order of the checks.
    """

    benchmark: Benchmark
    folder: Path
    findings: tuple[CheckResult, ...] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Return True if all checks passed."""
        return all(finding.ok for finding in self.findings)


def check_benchmark(name: str, root: str | PathLike[str]) -> BenchmarkCheck:
    """Check that all files that `load_benchmark` reads exist; images are not opened.

    Raises:
        DataError: the name is unknown, or `root` is not a folder.
    """
    benchmark = find_benchmark(name)
    if not Path(root).expanduser().is_dir():
        raise DataError(
            f"folder {root} does not exist (working directory: {Path.cwd()}); pass the folder of the data sets"
        )
    folder = expected_folder(benchmark, root)
    return BenchmarkCheck(benchmark, folder, tuple(_findings(benchmark, folder)))


def _findings(benchmark: Benchmark, folder: Path) -> Iterator[CheckResult]:
    complete = True
    for part in parts(benchmark):
        present = exists(benchmark, folder, part)
        complete = complete and present
        yield CheckResult(present, str(folder / part.path), "there" if present else f"missing; from {part.origin}")
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
