"""Read a folder with one sub-folder a class: `photos/cat/1.jpg` is an image of the class `cat`.

The layout of ImageNet, Keras and torchvision. Class names are the sub-folders' names, sorted, underscores
kept; images lie at any depth below. Everything is sorted, so the result does not depend on the order in
which a disk lists its files. Files are recognised by their suffix and not opened: that keeps a folder of a
million images quick to read, and a broken one is told when it is encoded.
"""

import logging
from os import PathLike
from pathlib import Path
from typing import overload

from ipo_dspy.data.dataset import ImageDataset, Loaded, class_name, example, shorten, usable_classes
from ipo_dspy.data.fewshot import select
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_NAMES = frozenset({"train", "val", "valid", "validation", "test"})


@overload
def load_image_folder(
    path: str | PathLike[str], *, shots: int | None = None, test: None = None, seed: int = 0
) -> ImageDataset: ...
@overload
def load_image_folder(
    path: str | PathLike[str], *, shots: int | None = None, test: float, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]: ...
@overload
def load_image_folder(
    path: str | PathLike[str], *, shots: int | None = None, test: float | None, seed: int = 0
) -> Loaded: ...
def load_image_folder(
    path: str | PathLike[str], *, shots: int | None = None, test: float | None = None, seed: int = 0
) -> Loaded:
    """Read the images below a folder, one class a sub-folder.

    A folder that is already split (``photos/train/cat``, ``photos/test/cat``) is read a part at a time:
    ``load_image_folder("photos/train")``. Hidden files and files that are no images are passed over;
    empty files and class folders without images are left out with a logged warning.

    Args:
        path: the folder that holds the class folders.
        shots: training images a class, drawn by `few_shot`; None takes all.
        test: share of each class to hold out, between 0 and 1; None makes no test set.
        seed: seed of the split and of the draw.

    Returns:
        One data set, or ``(train, test)`` where `test` is given.

    Raises:
        DataError: no such folder, no class folders, fewer than two classes, names that read alike, or
            `shots` or `test` that do not fit.
    """
    folder = _check_folder(Path(path).expanduser())
    images = _drop_empty(folder, {sub: image_files(sub) for sub in _class_folders(folder)})
    names = {sub: class_name(sub.name) for sub in images}
    classes = usable_classes(sorted(names.values()), folder)
    pairs = [(image, names[sub]) for sub in sorted(images, key=lambda sub: names[sub]) for image in images[sub]]
    chosen = select([label for _, label in pairs], shots=shots, test=test, seed=seed)

    def build(rows: list[int]) -> ImageDataset:
        return ImageDataset((example(str(pairs[row][0]), pairs[row][1]) for row in rows), classes=classes)

    return build(chosen.train) if chosen.test is None else (build(chosen.train), build(chosen.test))


def _check_folder(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder} is a file; pass the folder that holds one sub-folder a class, e.g. 'photos'")
    raise DataError(f"there is no folder {folder} (looked from {Path.cwd()}); pass the path of one that exists")


def _class_folders(folder: Path) -> list[Path]:
    subs = sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))
    if not subs:
        raise DataError(f"{folder} has no sub-folders; put each class in a sub-folder: {folder}/cat/1.jpg")
    splits = [sub for sub in subs if sub.name.lower() in SPLIT_NAMES]
    if len(splits) == len(subs) and any(below.is_dir() for sub in splits for below in sub.iterdir()):
        shown = ", ".join(sub.name for sub in splits)
        raise DataError(f"{folder} is already split into {shown}; load a part: load_image_folder('{splits[0]}')")
    return subs


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth, sorted; links to folders below are not followed, so there are no cycles."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    visible = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    empty = [file for file in visible if file.stat().st_size == 0]
    if empty:
        logger.warning("%s: left out %d empty file(s), the first is %s", folder, len(empty), empty[0])
    return sorted(set(visible) - set(empty))


def _drop_empty(folder: Path, images: dict[Path, list[Path]]) -> dict[Path, list[Path]]:
    full = {sub: files for sub, files in images.items() if files}
    empty = [sub.name for sub in images if not images[sub]]
    if not full:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder} has sub-folders without images ({known}); put some in, e.g. {folder}/cat/1.jpg")
    if len(full) == 1:
        (only,) = full
        also = f" ({', '.join(empty[:5])} hold none)" if empty else ""
        fact = f"{folder} has images of one class only, {only.name!r}{also}"
        raise DataError(f"{fact}; add another, e.g. {folder}/not_{only.name}/1.jpg")
    if empty:
        logger.warning("%s: left out %d class folder(s) without images: %s", folder, len(empty), shorten(empty))
    return full
