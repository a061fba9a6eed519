"""Collections of data sets by the base-to-novel protocol: the bundled tasks, and the eleven of the paper.

A split holds k shots of the base classes to learn from and the test images of both halves, each of which is scored
against its own class names. Draw and halves are those of `data`: images are drawn over all classes first.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ipo_dspy import demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.data import BENCHMARKS, ImageDataset, check_benchmark, find_benchmark, load_benchmark
from ipo_dspy.data.benchmarks import exists, expected_folder, list_file, parts
from ipo_dspy.errors import DataError, Hint, InputError
from ipo_dspy.template import Template

PAPER = tuple(name for name, one in BENCHMARKS.items() if one.kind != "transfer")
"""The eleven data sets of the base-to-novel table, in its order."""
VARIANTS = tuple(name for name, one in BENCHMARKS.items() if one.kind == "transfer")
"""Test sets with ImageNet's class names."""


@dataclass(frozen=True, slots=True)
class BaseNovelSplit:
    """A data set as the protocol has it.

    Attributes:
        train: k shots of the base classes.
        base, novel: all test images of either half, with its class names.
        template: the hand-written one.
    """

    train: ImageDataset = field(repr=False)
    base: ImageDataset
    novel: ImageDataset
    template: Template

    def short(self, shots: int) -> dict[str, int]:
        """Classes with fewer training images than were asked for, and how many they have."""
        return {name: count for name, count in self.train.counts().items() if count < shots}


@dataclass(frozen=True, slots=True)
class FullDataset:
    """All classes of a data set.

    Attributes:
        train: k shots of each, one where none are asked for; none of a set that is for testing only.
        test: all test images.
        template: the hand-written one.
    """

    train: ImageDataset = field(repr=False)
    test: ImageDataset
    template: Template


class Suite(Protocol):
    """A collection of data sets.

    Attributes:
        name: of the collection.
        titles: of its data sets, as tables write them, by name and in order.
        variants: titles of further sets that are for testing only.
        model, pretrained: the CLIP model that is usual for it.
        about: what it is, in a few words.
        note: what a reader of its tables has to know.
        folders: where its data sets are, from the root.
    """

    name: str
    about: str
    note: str
    titles: Mapping[str, str]
    variants: Mapping[str, str]
    model: str
    pretrained: str | None
    folders: tuple[Path, ...]

    def check(self, names: Sequence[str]) -> None:
        """See that the data sets are there, without reading images.

        Raises:
            DataError: something is missing; what, and where it comes from.
        """

    def fingerprint(self, name: str) -> str:
        """Return a digest of the content of a data set; other content, other results."""

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """A data set, drawn for the seed."""

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """All classes of a data set, drawn for the seed; without shots it is only to be tested on."""


class DemoSuite:
    """The bundled tasks with the bundled CLIP, whose vision transformer all methods can be run with; no download."""

    name: str = "demo"
    about: str = "the bundled tasks"
    note: str = (
        "The tasks are small and drawn for demonstration (see the model card): they say how the methods work, not how "
        "a large CLIP does on photographs. They have 16 training images a class: with 16 shots all seeds draw the "
        "same images, and the error is that of the method alone."
    )
    model: str = DEMO_VIT
    pretrained: str | None = None
    folders: tuple[Path, ...] = ()

    def __init__(self) -> None:
        self.titles: Mapping[str, str] = {name: name for name in demo.names()}
        self.variants: Mapping[str, str] = {}

    def check(self, names: Sequence[str]) -> None:
        """They come with the package."""

    def fingerprint(self, name: str) -> str:
        """Return a digest of the file of a task."""
        return _digest([demo.data_file(name).read_bytes()])

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """A bundled task."""
        base, novel = (demo.load(name, shots=shots, seed=seed, classes=half) for half in ("base", "novel"))
        return BaseNovelSplit(base.trainset, base.testset, novel.testset, base.program.template)

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """A bundled task."""
        task = demo.load(name, shots=shots or 1, seed=seed, classes="all")
        return FullDataset(task.trainset, task.testset, task.program.template)


class PaperSuite:
    """The paper's eleven data sets below a folder, with the paper's CLIP.

    Args:
        root: folder that holds the data sets' folders.
    """

    name: str = "paper"
    about: str = "the paper's data sets"
    note: str = "Protocol and splits are those of the CoOp line of work; columns called paper are its own figures."
    model: str = DEFAULT_MODEL
    pretrained: str | None = DEFAULT_PRETRAINED

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.folders: tuple[Path, ...] = (self.root,)
        self.titles: Mapping[str, str] = {name: BENCHMARKS[name].title for name in PAPER}
        self.variants: Mapping[str, str] = {name: BENCHMARKS[name].title for name in VARIANTS}

    def check(self, names: Sequence[str]) -> None:
        """Look for folders and split files; what `ipo-dspy data check` says of those that are not complete is told."""
        if not self.root.is_dir():
            raise DataError(f"there is no folder {self.root}; name the one with the data sets")
        missing = []
        for name in names:
            benchmark = find_benchmark(name)
            folder = expected_folder(benchmark, self.root)
            if not all(exists(benchmark, folder, part) for part in parts(benchmark)):
                missing += [
                    f"{name}: {one.what}: {one.told}" for one in check_benchmark(name, self.root).findings if not one.ok
                ]
        if missing:
            lines = "\n  ".join(missing)
            raise DataError(
                f"data sets are not complete below {self.root}:\n  {lines}\nget these, or leave them out: --datasets"
            )

    def fingerprint(self, name: str) -> str:
        """Return a digest of the lists of a data set and of the names in its image folders; images are not read."""
        benchmark = find_benchmark(name)
        folder = expected_folder(benchmark, self.root)
        lists = [list_file(benchmark, folder, one) for one in benchmark.lists]
        images = [folder / one for one in benchmark.images]
        names = [str(sorted(inner.name for inner in one.iterdir())).encode() for one in images if one.is_dir()]
        return _digest([*(one.read_bytes() for one in lists if one.is_file()), *names])

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """A data set of the paper."""
        base = load_benchmark(name, self.root, shots=shots, seed=seed, part="base")
        novel = load_benchmark(name, self.root, shots=shots, seed=seed, part="novel")
        return BaseNovelSplit(base.train, base.test, novel.test, Template.parse(base.template))

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """A data set of the paper, or a variant of ImageNet."""
        drawn = None if name in VARIANTS else shots or 1
        found = load_benchmark(name, self.root, shots=drawn, seed=seed)
        return FullDataset(found.train, found.test, Template.parse(found.template))


SUITES: Mapping[str, str] = MappingProxyType(
    {"demo": "the bundled tasks with the bundled CLIP", "paper": "the paper's eleven data sets with ViT-B/16"}
)
"""The suites by name, and what each is."""


def build_suite(name: str, root: Path | None = None) -> Suite:
    """A suite by name.

    Args:
        name: of `SUITES`.
        root: folder of the data sets, which `paper` needs.

    Raises:
        InputError: an unknown name, or no folder for the data sets of the paper.
    """
    if name == "demo":
        return DemoSuite()
    if name == "paper":
        if root is None:
            hint = Hint("pass their folder: {data} (see docs/datasets.md)", data="ROOT")
            raise InputError("suite 'paper' needs the data sets", hint=hint)
        return PaperSuite(root)
    raise InputError(f"there is no suite {name!r}; write one of {', '.join(SUITES)}")


def select_datasets(asked: Sequence[str] | None, suite: Suite) -> tuple[str, ...]:
    """Names of a suite's data sets: those asked for by name or title, or all.

    Raises:
        DataError: an unknown one; the message lists the known.
    """
    return tuple(suite.titles) if asked is None else _resolve_names(asked, suite, suite.titles)


def chosen_transfer(source: str, asked: Sequence[str] | None, suite: Suite) -> tuple[str, tuple[str, ...]]:
    """Name of the data set to learn on, and of those to test on: those asked for, or all others.

    Raises:
        DataError: an unknown one, one to learn on that has test images only, or none to test on.
    """
    everything = {**suite.titles, **suite.variants}
    (name,) = _resolve_names([source], suite, everything)
    if name in suite.variants:
        raise DataError(f"{suite.variants[name]} is for testing only; learn on one of {', '.join(suite.titles)}")
    named = tuple(everything) if asked is None else _resolve_names(asked, suite, everything)
    targets = tuple(one for one in named if one != name)
    if not targets:
        others = ", ".join(one for one in everything if one != name)
        raise DataError(f"what is learned on {name} needs another data set to be tested on; name one of {others}")
    return name, targets


def _digest(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(f"{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _resolve_names(asked: Sequence[str], suite: Suite, titles: Mapping[str, str]) -> tuple[str, ...]:
    by_word = {word.casefold(): name for name, title in titles.items() for word in (name, title)}
    for one in asked:
        if one.casefold() not in by_word:
            raise DataError(f"suite {suite.name!r} has no data set {one!r}; known: {', '.join(titles)}")
    return tuple(dict.fromkeys(by_word[one.casefold()] for one in asked))
