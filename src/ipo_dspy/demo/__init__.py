"""Bundled tasks with a small CLIP model and synthetic drawings, to try everything without a download.

Each task has what `IPO.compile` takes: a program with the plain template and a few training images, sampled by
the usual few-shot protocol, and all test images. The files are package data; nothing is fetched, and torch is
loaded only when the program is used.
"""

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ipo_dspy.clip.bundled import DEMO, assets
from ipo_dspy.clip.bundled import model_path as model_path
from ipo_dspy.data import ImageDataset, few_shot, load_image_table, split_classes
from ipo_dspy.data.dataset import closest
from ipo_dspy.data.table import table_catalog
from ipo_dspy.data.table_reader import open_table
from ipo_dspy.errors import DataError

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier

Half = Literal["base", "novel", "all"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class DemoTask:
    """A bundled task, ready for `IPO(...).compile(task.program, task.trainset)`.

    Attributes:
        name: name of the task, as passed to `load`.
        description: what the pictures show, in a sentence.
        program: a fresh classifier with a bundled model and the template `a photo of a <CLASS>.`
        trainset: a few images per class.
        valset: at most four images per class, sampled after the train images.
        testset: all test images of the classes.
        classes: class names in label index order.
    """

    name: str
    description: str
    program: "ClipClassifier" = field(repr=False)
    trainset: ImageDataset
    valset: ImageDataset
    testset: ImageDataset
    classes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Return the names of the bundled tasks, sorted."""
    return tuple(sorted(file.stem for file in (assets() / "data").glob("*.parquet")))


def load(name: str, *, shots: int = 16, seed: int = 0, classes: Half = "base", model: str = DEMO) -> DemoTask:
    """Return a bundled task with images sampled by `few_shot`: train first, then validation, over all classes.

    Args:
        name: one of `names()`.
        shots: training images per class; the validation set has at most four.
        seed: seed for sampling the images.
        classes: the base half of the classes (templates are optimized there), the novel half, or all.
        model: model of the program: `demo`, or `demo-vit` with a vision transformer.

    Raises:
        DataError: an unknown name, `classes` or number of shots; the message lists the known ones.
    """
    from ipo_dspy.classifier import ClipClassifier  # imported here so that names() only lists a folder

    file = data_file(name)
    train, val, test = (table_catalog(file, split=split) for split in SPLITS)
    drawn = few_shot(train.labels, val.labels, shots=shots, seed=seed)
    base, novel = split_classes(train.classes)
    halves = {"base": base, "novel": novel, "all": train.classes}
    if classes not in halves:
        raise DataError(f"must be one of {', '.join(map(repr, halves))}", argument="classes", value=classes)
    half = halves[classes]
    return DemoTask(
        name=name,
        description=str(open_table(file).metadata.get("ipo_dspy", {}).get("description", name)),
        program=ClipClassifier(half, model=model),
        trainset=train.build(drawn.train).subset(half),
        valset=val.build(drawn.val).subset(half),
        testset=test.build([row for row, label in enumerate(test.labels) if label in half]).subset(half),
        classes=half,
    )


def data_file(name: str) -> Path:
    """Return the table with the pictures of a task.

    Raises:
        DataError: an unknown name.
    """
    known = names()
    if name not in known:
        near = closest(str(name), known) or next(iter(known), None)
        raise DataError(f"unknown demo {name!r}, known are {', '.join(known) or 'none'}; for example {near!r}")
    return assets() / "data" / f"{name}.parquet"


def export(name: str, folder: str | os.PathLike[str]) -> int:
    """Write all pictures of a task as `FOLDER/CLASS/NUMBER.webp`, as `load_image_folder` reads them.

    Returns:
        The number of pictures.

    Raises:
        DataError: an unknown name, or a folder that cannot be written or is not empty.
    """
    target = Path(folder)
    examples = [example for split in SPLITS for example in load_image_table(data_file(name), split=split)]
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise DataError(f"{str(target)!r} is not empty; use a new folder")
        for number, example in enumerate(examples):
            place = target / example.label
            place.mkdir(exist_ok=True)
            (place / f"{number:04}.webp").write_bytes(base64.b64decode(example.image.url.partition("base64,")[2]))
    except OSError as error:
        raise DataError(f"{str(target)!r} cannot be written ({error.strerror}); use another folder") from error
    return len(examples)
