"""Collections of data sets for the base-to-novel protocol: the bundled tasks, and the eleven data sets of the paper.

A split has k shots of the base classes for training and the test images of both halves. Each half is scored with its
own class names. `data` samples the images over all classes and then splits the classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ipo_dspy import demo
from ipo_dspy.bench.settings import digest_contents
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.data import BENCHMARKS, ImageDataset, check_benchmark, find_benchmark, load_benchmark
from ipo_dspy.data.benchmarks import expected_folder, list_file, parts
from ipo_dspy.errors import DataError, Hint, InputError
from ipo_dspy.template import Template

PAPER = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.kind != "transfer")
"""Names of the eleven data sets of the base-to-novel table, in its order."""
VARIANTS = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.kind == "transfer")
"""Names of the test sets with the class names of ImageNet."""


@dataclass(frozen=True, slots=True)
class BaseNovelSplit:
    """A data set split by the base-to-novel protocol.

    Attributes:
        train: k shots of the base classes.
        base, novel: all test images of each half, with its class names.
        template: the hand-written one.
        validation: as many images per class as shots, at most four, for methods that search for a setting.
    """

    train: ImageDataset = field(repr=False)
    base: ImageDataset
    novel: ImageDataset
    template: Template
    validation: ImageDataset = field(repr=False)


@dataclass(frozen=True, slots=True)
class FullDataset:
    """All classes of a data set: k shots and validation images, none of a test-only data set; all test images.

    `template` is the hand-written one.
    """

    train: ImageDataset = field(repr=False)
    test: ImageDataset
    template: Template
    validation: ImageDataset = field(repr=False)


class Suite(Protocol):
    """A collection of data sets.

    Attributes:
        name: of the collection.
        titles: display names of its data sets, by name and in order.
        variants: display names of additional test-only data sets.
        model, pretrained: its default CLIP model.
        about: short description.
        note: note for readers of its tables.
        folders: absolute folders of its data sets.
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
        """Check that the data sets are available, without reading images.

        Raises:
            DataError: a part is missing; the message lists it and its source.
        """
        return  # by default, nothing can be missing

    def fingerprint(self, name: str) -> str:
        """Return a digest of the content of a data set, which is part of the key of its cells."""

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """Load a data set, sampled with the seed."""

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """Load all classes of a data set, sampled with the seed; without shots it is used for testing only."""


class DemoSuite(Suite):
    """The bundled tasks with the bundled CLIP, a vision transformer that all methods support; no download."""

    name = "demo"
    about = "the bundled tasks"
    note = (
        "The tasks are small, synthetic demonstrations (see the model card): they show how the methods work, not how "
        "a large CLIP performs on photographs. They have 16 training images per class: with 16 shots all seeds "
        "use the same images, and the error reflects only the method."
    )
    model = DEMO_VIT
    pretrained = None
    folders: tuple[Path, ...] = ()
    variants: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.titles = {name: name for name in demo.names()}

    def fingerprint(self, name: str) -> str:
        """Return a digest of the file of a task."""
        return digest_contents([demo.data_file(name).read_bytes()])

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """Load a bundled task."""
        base, novel = (demo.load(name, shots=shots, seed=seed, classes=half) for half in ("base", "novel"))
        return BaseNovelSplit(base.trainset, base.testset, novel.testset, base.program.template, base.valset)

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """Load a bundled task."""
        task = demo.load(name, shots=shots or 1, seed=seed, classes="all")
        return FullDataset(task.trainset, task.testset, task.program.template, task.valset)


class PaperSuite(Suite):
    """The paper's eleven data sets in folders below `root`, with the paper's CLIP."""

    name = "paper"
    about = "the paper's data sets"
    note = "Protocol and splits are those of CoOp; columns labeled paper quote published figures."
    model = DEFAULT_MODEL
    pretrained = DEFAULT_PRETRAINED

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.folders = (self.root,)
        self.titles = {name: BENCHMARKS[name].title for name in PAPER}
        self.variants = {name: BENCHMARKS[name].title for name in VARIANTS}

    def check(self, names: Sequence[str]) -> None:
        """Check folders and split files; the error lists the findings of `ipo-dspy data check`."""
        if not self.root.is_dir():
            raise DataError(f"folder {self.root} does not exist; pass the folder of the data sets")
        missing = []
        for name in names:
            benchmark = find_benchmark(name)
            folder = expected_folder(benchmark, self.root)
            if not all(part.exists for part in parts(benchmark, folder)):
                findings = check_benchmark(name, self.root).findings
                missing += [f"{name}: {finding.what}: {finding.message}" for finding in findings if not finding.ok]
        if missing:
            lines = "\n  ".join(missing)
            raise DataError(
                f"data sets are incomplete in {self.root}:\n  {lines}\ndownload them, or restrict --datasets"
            )

    def fingerprint(self, name: str) -> str:
        """Return a digest of the lists of a data set and of the names in its image folders; images are not read."""
        benchmark = find_benchmark(name)
        folder = expected_folder(benchmark, self.root)
        lists = [list_file(benchmark, folder, name) for name in benchmark.lists]
        images = [folder / name for name in benchmark.images]
        names = [str(sorted(inner.name for inner in path.iterdir())).encode() for path in images if path.is_dir()]
        return digest_contents([*(path.read_bytes() for path in lists if path.is_file()), *names])

    def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
        """Load a data set of the paper."""
        base = load_benchmark(name, self.root, shots=shots, seed=seed, part="base")
        novel = load_benchmark(name, self.root, shots=shots, seed=seed, part="novel")
        return BaseNovelSplit(base.train, base.test, novel.test, Template.parse(base.template), base.val)

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        """Load a data set of the paper, or a variant of ImageNet."""
        train_shots = None if name in VARIANTS else shots or 1
        benchmark = load_benchmark(name, self.root, shots=train_shots, seed=seed)
        return FullDataset(benchmark.train, benchmark.test, Template.parse(benchmark.template), benchmark.val)


def build_suite(name: str, root: Path | None = None) -> Suite:
    """Return the suite `demo` or `paper`; `root` is the folder of the data sets of `paper`.

    Raises:
        InputError: the name is unknown, or `paper` has no folder.
    """
    if name == "demo":
        return DemoSuite()
    if name == "paper":
        if root is None:
            hint = Hint("pass their folder: {data} (see docs/datasets.md)", data="ROOT")
            raise InputError("suite 'paper' needs the data sets", hint=hint)
        return PaperSuite(root)
    raise InputError(f"unknown suite {name!r}; choose from demo, paper")


def select_datasets(asked: Sequence[str] | None, suite: Suite) -> tuple[str, ...]:
    """Return the names of the data sets requested by name or title, or of all.

    Raises:
        DataError: a data set is unknown; the message lists the known ones.
    """
    return tuple(suite.titles) if asked is None else _resolve_names(asked, suite, suite.titles)


def chosen_transfer(source: str, asked: Sequence[str] | None, suite: Suite) -> tuple[str, tuple[str, ...]]:
    """Return the name of the source data set, and of the targets: those requested, or all others.

    Raises:
        DataError: a data set is unknown, the source is test-only, or no target remains.
    """
    everything = {**suite.titles, **suite.variants}
    (name,) = _resolve_names([source], suite, everything)
    if name in suite.variants:
        raise DataError(f"{suite.variants[name]} is for testing only; choose a source from {', '.join(suite.titles)}")
    selected = tuple(everything) if asked is None else _resolve_names(asked, suite, everything)
    targets = tuple(target for target in selected if target != name)
    if not targets:
        others = ", ".join(other for other in everything if other != name)
        raise DataError(f"transfer needs at least one target data set other than {name}; choose from {others}")
    return name, targets


def _resolve_names(asked: Sequence[str], suite: Suite, titles: Mapping[str, str]) -> tuple[str, ...]:
    by_word = {word.casefold(): name for name, title in titles.items() for word in (name, title)}
    for word in asked:
        if word.casefold() not in by_word:
            raise DataError(f"suite {suite.name!r} has no data set {word!r}; known: {', '.join(titles)}")
    return tuple(dict.fromkeys(by_word[word.casefold()] for word in asked))
