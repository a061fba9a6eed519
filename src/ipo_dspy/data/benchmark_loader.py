"""Load a benchmark by the CoOp protocol (k-shot sampling, then the base/novel split), or check that it is complete.

The order matters. Images are drawn from all classes first, so that base and novel share one draw. The halves are then
taken by label. Test images of a half are classified among the class names of that half only.
"""

import logging
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.data.benchmarks import Benchmark, Kind, expected_folder, find_benchmark, parts
from ipo_dspy.data.coop_splits import BenchmarkSplits, LabeledPath, format_paths, read_aircraft, read_json_split
from ipo_dspy.data.dataset import ImageDataset, example, usable_classes
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.data.imagenet import read_imagenet, read_transfer
from ipo_dspy.data.sampling import few_shot, split_classes
from ipo_dspy.errors import DataError, Hint
from ipo_dspy.template import display_class_name

logger = logging.getLogger(__name__)

Half = Literal["all", "base", "novel"]

READERS: Mapping[Kind, Callable[[Benchmark, Path], BenchmarkSplits]] = {
    "json": read_json_split,
    "aircraft": read_aircraft,
    "imagenet": read_imagenet,
    "transfer": read_transfer,
}


@dataclass(frozen=True, slots=True)
class BenchmarkData:
    """A benchmark data set, or one half of its classes.

    Attributes:
        name: name of the data set.
        template: hand-written template of the published CLIP baseline.
        train: the drawn training images; empty for a test-only data set.
        val: the drawn validation images; for ImageNet, the test images.
        test: all test images of these classes.
        published_names: class names as published, in label order. They equal `test.classes`, except that `test.classes`
            adds the WordNet id to ImageNet's duplicate names, e.g. `missile (n04008634)`.
    """

    name: str
    template: str
    train: ImageDataset
    val: ImageDataset
    test: ImageDataset
    published_names: tuple[str, ...] = field(repr=False)


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


def load_benchmark(
    name: str, root: str | PathLike[str], *, shots: int | None = None, seed: int = 1, part: Half = "all"
) -> BenchmarkData:
    """Load a data set by the protocol of the CoOp line of work.

    `few_shot` draws `shots` images per class from the train list and min(shots, 4) from the val list. ImageNet and the
    test-only data sets have no separate val list. All images of a class are used if it has fewer than `shots`, with a
    logged warning. Test images are never subsampled. Of n classes, the first ceil(n/2) by label are base.

    Args:
        name: a key of `BENCHMARKS`, e.g. 'dtd' or 'imagenet_a'.
        root: folder that holds the folders of all data sets, or the folder of this data set.
        shots: images per class; None takes all.
        seed: seed of the draw; the published runs use 1, 2 and 3.
        part: 'all', or the 'base' or 'novel' half of the classes.

    Raises:
        DataError: the name is unknown; files are missing, truncated or not as published; or `part` or `shots` is set
            for a test-only data set.
    """
    benchmark = find_benchmark(name)
    _check_asked(benchmark, shots, seed, part)
    lists = read_benchmark(benchmark, root)
    names = _distinct_names(lists)
    usable_classes(list(names.values()), lists.where)
    train, val = _sampled(benchmark, lists, names, shots, seed)
    labels = sorted({item.label for item in train or lists.test})
    if len(labels) != benchmark.classes:
        logger.warning("%s has %d classes, %d were published", benchmark.title, len(labels), benchmark.classes)
    chosen = {label: names[label] for label in _half(labels, part, lists.where)}

    def build(items: Iterable[LabeledPath]) -> ImageDataset:
        selected = (item for item in items if item.label in chosen)
        pairs = (example(str(lists.base / item.path), chosen[item.label]) for item in selected)
        return ImageDataset(pairs, classes=tuple(chosen.values()))

    published = tuple(lists.names[label] for label in chosen)
    return BenchmarkData(benchmark.name, benchmark.template, build(train), build(val), build(lists.test), published)


def read_benchmark(benchmark: Benchmark, root: str | PathLike[str]) -> BenchmarkSplits:
    """Read the splits of a data set and check that all images exist."""
    folder = expected_folder(benchmark, root)
    check = shlex.join(["ipo-dspy", "data", "check", benchmark.name, str(root)])
    see = f"`{check}` lists everything that is missing and its source"
    for part in parts(benchmark, folder):
        if not part.exists:
            raise DataError(f"{benchmark.title}: {part.path} does not exist (source: {part.origin}); {see}")
    lists = READERS[benchmark.kind](benchmark, folder)
    # The other readers have just listed the folders; checking ImageNet's 1.3 million files would take minutes.
    absent = _absent_images(lists) if benchmark.kind in ("json", "aircraft") else []
    if absent:
        fact = f"{benchmark.title}: {len(absent)} images of {lists.where.name} are missing or empty in {lists.base}"
        raise DataError(f"{fact}: {format_paths(absent)}; extract them again (from {benchmark.image_origin})")
    return lists


def check_benchmark(name: str, root: str | PathLike[str]) -> BenchmarkCheck:
    """Check that all files that `load_benchmark` reads exist; images are not opened.

    Raises:
        DataError: the name is unknown, or `root` is not a folder.
    """
    benchmark = find_benchmark(name)
    if not Path(root).expanduser().is_dir():
        fact = f"folder {root} does not exist (working directory: {Path.cwd()})"
        raise DataError(f"{fact}; pass the folder of the data sets")
    folder = expected_folder(benchmark, root)
    return BenchmarkCheck(benchmark, folder, tuple(_findings(benchmark, folder)))


def _findings(benchmark: Benchmark, folder: Path) -> Iterator[CheckResult]:
    needed = parts(benchmark, folder)
    for part in needed:
        yield CheckResult(part.exists, str(part.path), "there" if part.exists else f"missing; from {part.origin}")
    if not all(part.exists for part in needed):
        return
    try:
        lists = READERS[benchmark.kind](benchmark, folder)
    except DataError as error:
        yield CheckResult(False, "lists and folders", str(error))
        return
    labels = {item.label for item in lists.train or lists.test}
    yield _compared("classes", len(labels), benchmark.classes)
    sizes = {"train": len(lists.train), "val": len(lists.val), "test": len(lists.test)}
    listed = ", ".join(f"{count:,} {part}" for part, count in sizes.items() if count)
    absent = _absent_images(lists)
    if absent:
        listed += f"; {len(absent):,} missing or empty in {lists.base}: {format_paths(absent)}"
        listed += f"; from {benchmark.image_origin}"
    yield CheckResult(not absent, "images", listed)
    if benchmark.test_images is not None:
        yield _compared("test images", len(lists.test), benchmark.test_images)


def _compared(what: str, count: int, published: int) -> CheckResult:
    message = f"{count:,}, as published" if count == published else f"{count:,}, and {published:,} as published"
    return CheckResult(count == published, what, message)


def _check_asked(benchmark: Benchmark, shots: int | None, seed: int, part: str) -> None:
    """Check the arguments before files are read."""
    if part not in get_args(Half):
        raise DataError(f"must be one of {', '.join(map(repr, get_args(Half)))}", argument="part", value=part)
    if shots is not None:
        few_shot((), shots=shots, seed=seed)
    if benchmark.kind == "transfer" and (shots is not None or part != "all"):
        hint = Hint("remove {shots} and {part}", shots=shots, part=part)
        raise DataError(f"{benchmark.title} has test images only", hint=hint)


def _sampled(
    benchmark: Benchmark, lists: BenchmarkSplits, names: Mapping[int, str], shots: int | None, seed: int
) -> tuple[Sequence[LabeledPath], Sequence[LabeledPath]]:
    """Return training and validation images, drawn by distinct class name, which warnings can show."""
    if shots is None:
        return lists.train, lists.val
    val_items = [] if benchmark.kind == "imagenet" else lists.val
    train, val = ([names[item.label] for item in items] for items in (lists.train, val_items))
    drawn = few_shot(train, val, shots=shots, seed=seed)
    picked = [val_items[row] for row in drawn.val]
    return [lists.train[row] for row in drawn.train], picked if val_items else lists.val


def _distinct_names(lists: BenchmarkSplits) -> dict[int, str]:
    """Return a distinct name for each label: the published name, with the folder name added to ImageNet's duplicates.

    CLIP's class names for ImageNet contain `missile` and `sunglasses` twice. Sharing a name would merge two classes and
    inflate the score.
    """
    taken: dict[str, int] = {}
    distinct: dict[int, str] = {}
    for label, name in sorted(lists.names.items()):
        first = taken.setdefault(display_class_name(name).casefold(), label)
        if first != label and label not in lists.ids:
            fact = f"{lists.where}: labels {first} and {label} are both called {name!r}"
            raise DataError(f"{fact}; rename one, or download the published file again")
        distinct[label] = name if first == label else f"{name} ({lists.ids[label]})"
    return distinct


def _absent_images(lists: BenchmarkSplits) -> list[str]:
    """Return the listed paths that are missing or empty, in order and without repetition."""
    listed = dict.fromkeys(item.path for items in (lists.train, lists.val, lists.test) for item in items)
    return [path for path in listed if not file_size(os.path.join(lists.base, path))]  # noqa: PTH118 - a Path is slow


def _half(labels: Sequence[int], part: Half, where: Path) -> Sequence[int]:
    base, novel = split_classes(labels)
    if part != "all" and len(novel) < 2:
        fact = f"{where} has {pluralize(len(labels), 'class')}, and base and novel need two each"
        raise DataError(fact, hint=Hint("remove {part}", part=part))
    return {"all": labels, "base": base, "novel": novel}[part]
