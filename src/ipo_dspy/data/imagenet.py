"""Read ImageNet and its variants: one folder per class, named by WordNet id, and `classnames.txt`.

Published code takes the images of a class in the order in which the disk lists them, so that its few-shot draws of
ImageNet differ between machines. Here they are sorted by file name, so that a seed draws the same images everywhere.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ipo_dspy.clip.image_formats import image_suffixes
from ipo_dspy.data.benchmarks import Benchmark, list_file
from ipo_dspy.data.coop_splits import BenchmarkSplits, LabeledPath, format_paths, read_text
from ipo_dspy.data.dataset import class_name, shorten
from ipo_dspy.data.image_tree import unused_beside, unused_kind, warn_unused
from ipo_dspy.errors import DataError

_ID = re.compile(r"n[0-9]{8}")
_SUBSETS = ("imagenet_a", "imagenet_r")
"""Data sets with a subset of ImageNet's classes; they are scored against the names of that subset."""


def read_imagenet(benchmark: Benchmark, folder: Path) -> BenchmarkSplits:
    """Read ImageNet; its validation images are used for validation and for testing."""
    where = list_file(benchmark, folder, benchmark.lists[0])
    names = read_class_names(where)
    base = (folder / benchmark.images[0]).parent
    labels = {key: label for label, key in enumerate(names)}
    train, test = (list(_items(folder / part, f"{Path(part).name}/", labels)) for part in benchmark.images)
    return BenchmarkSplits(where, base, train, test, test, *_numbered(names))


def read_transfer(benchmark: Benchmark, folder: Path) -> BenchmarkSplits:
    """Read a test set with ImageNet's class names.

    ImageNet-A and -R have 200 of its classes, labeled from 0 in the same order. The folders of ImageNetV2 are named by
    label, 0 to 999, in the order of WordNet ids.
    """
    where = list_file(benchmark, folder, benchmark.lists[0])
    names = read_class_names(where)
    base = folder / benchmark.images[0]
    present = _folder_names(base)
    if benchmark.name in _SUBSETS:
        names = {key: name for key, name in names.items() if key in present}
    labels = {key: label for label, key in enumerate(names)}
    if present.isdisjoint(names):
        labels = {str(label): label for label in labels.values()}
    return BenchmarkSplits(where, base, (), (), list(_items(base, "", labels)), *_numbered(names))


def read_class_names(path: Path) -> dict[str, str]:
    """Return class names by WordNet id, in the order of ids, from lines such as `n01440764 tench`."""
    names: dict[str, str] = {}
    for at, line in enumerate(read_text(path).splitlines(), start=1):
        key, _, name = line.strip().partition(" ")
        if not key:
            continue
        if not _ID.fullmatch(key) or not class_name(name) or key in names:
            fact = "repeats an id" if key in names else "is not an id with a name"
            raise DataError(f"line {at} of {path}, {shorten(line)}, {fact}; expected lines such as 'n01440764 tench'")
        names[key] = class_name(name)
    if not names:
        raise DataError(f"{path} is empty; expected lines such as 'n01440764 tench'")
    return dict(sorted(names.items()))


def _numbered(names: Mapping[str, str]) -> tuple[dict[int, str], dict[int, str]]:
    """Return names and ids by label."""
    return dict(enumerate(names.values())), dict(enumerate(names))


def _items(base: Path, prefix: str, labels: Mapping[str, int]) -> Iterator[LabeledPath]:
    """Yield the images of all classes in label order; `labels` maps folder names to labels.

    Files that are not used are counted in a logged warning.
    """
    present = _folder_names(base)
    if missing := [name for name in labels if name not in present]:
        fact = f"{base} has {len(labels) - len(missing)} of {len(labels)} class folders"
        raise DataError(f"{fact}; missing: {format_paths(missing)}; extract the archive again")
    if foreign := sorted(present - labels.keys()):
        raise DataError(f"{base} contains unexpected folders ({format_paths(foreign)}); remove them")
    unused = unused_beside(base)
    for name, label in labels.items():
        files = sorted(_images(base / name, unused))
        if not files:
            raise DataError(f"{base / name} holds no images; extract the archive again")
        yield from (LabeledPath(f"{prefix}{name}/{file}", label) for file in files)
    warn_unused(base, unused)


def _folder_names(base: Path) -> set[str]:
    names = {path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if not names:
        remedy = f"sort its images into one folder per class, e.g. {base / 'n01440764'}/1.JPEG"
        raise DataError(f"{base} has no class folders; {remedy}")
    return names


def _images(folder: Path, unused: list[tuple[str, Path]]) -> Iterator[str]:
    """Yield image names, and add other files to `unused`; no file is opened, since there may be a million."""
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - creating a Path doubles the time
            if suffix in image_suffixes() and not entry.name.startswith(".") and entry.is_file():
                yield entry.name
            elif kind := unused_kind(folder / entry.name):
                unused.append((kind, folder / entry.name))
