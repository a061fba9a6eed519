"""Load a benchmark by the CoOp protocol: k-shot sampling, then the base/novel split.

The order matters. Images are drawn over all classes first, so that base and novel come from one draw; the halves are
taken by label; test images of a half are classified among that half's names only.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.data.benchmarks import Benchmark, Kind, exists, expected_folder, find_benchmark, parts
from ipo_dspy.data.coop_splits import read_aircraft, read_json_split
from ipo_dspy.data.dataset import ImageDataset, example, usable_classes
from ipo_dspy.data.imagenet import read_imagenet, read_transfer
from ipo_dspy.data.sampling import few_shot, split_classes
from ipo_dspy.data.split_lists import BenchmarkSplits, LabelledPath, absent_images, distinct_names, format_paths
from ipo_dspy.errors import DataError, Hint

logger = logging.getLogger(__name__)

Half = Literal["all", "base", "novel"]
HALVES: tuple[Half, ...] = ("all", "base", "novel")

READERS: Mapping[Kind, Callable[[Benchmark, Path], BenchmarkSplits]] = {
    "json": read_json_split,
    "aircraft": read_aircraft,
    "imagenet": read_imagenet,
    "transfer": read_transfer,
}


@dataclass(frozen=True, slots=True)
class BenchmarkData:
    """A benchmark data set, or a half of it.

    Attributes:
        name: of the data set.
        template: the hand-written one that CLIP is compared by.
        train: the drawn images; empty for a set that is for testing only.
        val: the drawn validation images; ImageNet's are its test images.
        test: all test images of these classes.
        published_names: class names as published, in label order. They are `test.classes` but for ImageNet, where a
            later namesake is called e.g. `missile (n04008634)` there.
    """

    name: str
    template: str
    train: ImageDataset
    val: ImageDataset
    test: ImageDataset
    published_names: tuple[str, ...] = field(repr=False)


def load_benchmark(
    name: str, root: str | PathLike[str], *, shots: int | None = None, seed: int = 1, part: Half = "all"
) -> BenchmarkData:
    """Load a data set by the protocol of the CoOp line of work.

    `shots` images a class are drawn from the train list and min(shots, 4) from the val list, as `few_shot` says;
    ImageNet and the sets for testing have no val list of their own. A class with fewer images gives all that it has,
    with a logged warning. Test images are never drawn. Of n classes, the first ceil(n/2) by label are base.

    Args:
        name: see `BENCHMARKS`, e.g. 'dtd' or 'imagenet_a'.
        root: folder that holds the data sets' folders, or the data set's own folder.
        shots: images a class; None takes all.
        seed: of the draw; the published runs use 1, 2 and 3.
        part: 'all', or the 'base' or 'novel' half of the classes.

    Raises:
        DataError: an unknown name; files that are missing, cut or not the published ones; a half or a draw of a set
            that is for testing only.
    """
    benchmark = find_benchmark(name)
    _check_asked(benchmark, shots, seed, part)
    lists = read_benchmark(benchmark, root)
    names = distinct_names(lists)
    usable_classes(list(names.values()), lists.where)
    train, val = _sampled(benchmark, lists, names, shots, seed)
    labels = sorted({item.label for item in train or lists.test})
    if len(labels) != benchmark.classes:
        logger.warning("%s has %d classes, %d were published", benchmark.title, len(labels), benchmark.classes)
    chosen = {label: names[label] for label in _half(labels, part, lists.where)}

    def build(items: Iterable[LabelledPath]) -> ImageDataset:
        kept = (item for item in items if item.label in chosen)
        pairs = (example(str(lists.base / item.path), chosen[item.label]) for item in kept)
        return ImageDataset(pairs, classes=tuple(chosen.values()))

    published = tuple(lists.names[label] for label in chosen)
    return BenchmarkData(benchmark.name, benchmark.template, build(train), build(val), build(lists.test), published)


def read_benchmark(benchmark: Benchmark, root: str | PathLike[str]) -> BenchmarkSplits:
    """Return the splits that a data set's files list, after checking that all images exist.

    Raises:
        DataError: something is missing, cut, or not as published.
    """
    folder = expected_folder(benchmark, root)
    see = f"`ipo-dspy data check {benchmark.name} {root}` lists everything that is missing and its source"
    for needed in parts(benchmark):
        if not exists(benchmark, folder, needed):
            raise DataError(f"{benchmark.title}: {folder / needed.path} is not there (from {needed.origin}); {see}")
    lists = READERS[benchmark.kind](benchmark, folder)
    # Folders that were listed just now need no second look, and ImageNet's 1.3 million files would take minutes.
    absent = absent_images(lists) if benchmark.kind in ("json", "aircraft") else []
    if absent:
        fact = (
            f"{len(absent)} images of {lists.where.name} are missing or empty in {lists.base}: {format_paths(absent)}"
        )
        raise DataError(f"{benchmark.title}: {fact}; extract them again (from {benchmark.image_origin})")
    return lists


def _check_asked(benchmark: Benchmark, shots: int | None, seed: int, part: str) -> None:
    """Refuse arguments before files are read."""
    if part not in HALVES:
        raise DataError(f"must be one of {', '.join(map(repr, HALVES))}", argument="part", value=part)
    if shots is not None:
        few_shot((), shots=shots, seed=seed)
    if benchmark.kind == "transfer" and (shots is not None or part != "all"):
        hint = Hint("remove {shots} and {part}", shots=shots, part=part)
        raise DataError(f"{benchmark.title} has test images only", hint=hint)


def _sampled(
    benchmark: Benchmark, lists: BenchmarkSplits, names: Mapping[int, str], shots: int | None, seed: int
) -> tuple[Sequence[LabelledPath], Sequence[LabelledPath]]:
    """Training and validation images; by distinct name is by label, and warnings can tell names."""
    if shots is None:
        return lists.train, lists.val
    own_val = [] if benchmark.kind == "imagenet" else lists.val
    train, val = ([names[item.label] for item in items] for items in (lists.train, own_val))
    drawn = few_shot(train, val, shots=shots, seed=seed)
    picked = [own_val[row] for row in drawn.val]
    return [lists.train[row] for row in drawn.train], picked if own_val else lists.val


def _half(labels: Sequence[int], part: Half, where: Path) -> Sequence[int]:
    base, novel = split_classes(labels)
    if part != "all" and len(novel) < 2:
        raise DataError(
            f"{where} has {pluralize(len(labels), 'class')}, and base and novel need two each",
            hint=Hint("remove {part}", part=part),
        )
    return {"all": labels, "base": base, "novel": novel}[part]
