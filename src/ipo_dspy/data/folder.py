"""Read a folder with one sub-folder per class: `photos/cat/1.jpg` is an image of the class `cat`.

This is the layout of ImageNet, Keras and torchvision. Class names are the sorted names of the sub-folders, with
underscores kept. Images may be at any depth. Everything is sorted, so that the result does not depend on the order in
which a disk lists its files. Files are recognized by their suffix, and opened only if they have none. A folder of a
million images is therefore listed quickly, and a broken image is reported when it is encoded.
"""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.clip.image_formats import image_suffixes
from ipo_dspy.data.dataset import (
    Catalog,
    ImageDataset,
    accept_test_argument,
    class_name,
    example,
    shorten,
    usable_classes,
)
from ipo_dspy.data.image_tree import (
    ImageTree,
    check_folder,
    unused_beside,
    unused_summary,
    visible_folders,
    walk,
    warn_unused,
)
from ipo_dspy.data.split_folders import find_parts, part_folder
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)


@accept_test_argument
def load_image_folder(
    path: str | PathLike[str], *, split: str | None = None, shots: int | None = None, seed: int = 0
) -> ImageDataset:
    """Read the images of a folder with one sub-folder per class.

    A folder that is already split (``photos/train/cat``, ``photos/test/cat``) is loaded one part at a time:
    ``load_image_folder("photos", split="train")``. Hidden files, system folders, and text files are skipped. Other
    files that are not used, and class folders without images, are counted in a logged warning.

    Args:
        path: the folder that holds the class folders.
        split: the part to load of a folder that is already split, by its name or use, such as "test".
        shots: images per class, drawn by `few_shot`; None takes all.
        seed: seed of the draw.

    Raises:
        DataError: the folder or the part does not exist, there are fewer than two classes, two class names look the
            same, or `shots` is invalid.
    """
    return folder_catalog(path, split=split).load(shots=shots, seed=seed)


def folder_catalog(path: str | PathLike[str], *, split: str | None = None) -> Catalog:
    """Return the catalog of a folder, or of one part of it; see `load_image_folder` and `part_folder`."""
    folder = check_folder(Path(path).expanduser())
    if split is not None:
        folder = check_folder(part_folder(folder, split))
    images = _drop_empty(folder, {sub: walk(sub) for sub in _class_folders(folder)})
    names = _class_names(folder, list(images))
    classes = usable_classes(sorted(names.values()), folder)
    pairs = [(image, names[sub]) for sub in sorted(images, key=lambda sub: names[sub]) for image in images[sub]]

    def build(rows: Sequence[int]) -> ImageDataset:
        return ImageDataset((example(str(pairs[row][0]), pairs[row][1]) for row in rows), classes=classes)

    return Catalog(classes, [label for _, label in pairs], build)


def split_folders(folder: Path) -> dict[str, str] | None:
    """Return the names of the parts of a folder that is already split, by role; see `find_parts`.

    Images outside the parts are counted in logged warnings.
    """
    parts = find_parts(folder)
    if parts is None:
        return None
    warn_unused(folder, unused_beside(folder))
    for sub in visible_folders(folder):
        if sub not in parts.values() and (count := len(walk(sub).images)):
            classes = visible_folders(sub)
            why = "whose name does not say what they are for" if classes else "which has no class folders, so no labels"
            logger.warning("%s: not used: %s in %r, %s", folder, pluralize(count, "image"), sub.name, why)
    return {role: part.name for role, part in parts.items()}


def _class_folders(folder: Path) -> list[Path]:
    subs = visible_folders(folder)
    if not subs:
        raise DataError(f"{folder} has no sub-folders; put each class in a sub-folder: {folder}/cat/1.jpg")
    parts = find_parts(folder)
    if parts is not None:
        shown = ", ".join(f"{role} {part.name!r}" for role, part in parts.items())
        choices = " or ".join(f"split={part.name!r}" for part in parts.values())
        raise DataError(f"{folder} is already split into {shown}; load one part at a time, with {choices}")
    return subs


def image_files(folder: Path) -> list[Path]:
    """Return the image files at any depth, sorted; files that are not used are counted in a logged warning."""
    tree = walk(folder)
    warn_unused(folder, tree.unused)
    return tree.images


def _class_names(folder: Path, subs: Sequence[Path]) -> dict[Path, str]:
    names = {sub: class_name(sub.name) for sub in subs}
    first: dict[str, Path] = {}
    for sub, name in names.items():
        if first.setdefault(name, sub) != sub:
            fact = f"{folder} has two folders of the class {name!r}: {first[name].name!a} and {sub.name!a}"
            raise DataError(f"{fact}; move their images into one folder")
    return names


def _drop_empty(folder: Path, trees: dict[Path, ImageTree]) -> dict[Path, list[Path]]:
    full = {sub: tree.images for sub, tree in trees.items() if tree.images}
    unused = [*unused_beside(folder), *(entry for tree in trees.values() for entry in tree.unused)]
    empty = [sub.name for sub in trees if sub not in full and ("unreadable folder", sub) not in unused]
    if not full:
        raise DataError(_nothing_in(folder, [(kind, path.relative_to(folder)) for kind, path in unused]))
    if len(full) == 1:
        (only,) = full
        also = f" ({first_few(empty)} hold none)" if empty else ""
        fact = f"{folder} has images of one class only, {only.name!r}{also}"
        remedy = f"add another, e.g. {folder}/not_{only.name}/1.jpg"
        if visible_folders(only):
            remedy = f"pass {str(only)!r} if it contains the class folders, or add a folder for another class"
        raise DataError(f"{fact}; {remedy}")
    warn_unused(folder, unused)
    if empty:
        left_out = pluralize(len(empty), "class folder")
        logger.warning("%s: left out %s without images: %s", folder, left_out, shorten(empty))
    return full


def _nothing_in(folder: Path, unused: Sequence[tuple[str, Path]]) -> str:
    """Return the message for a folder without images, including the files that it does hold."""
    tars = [path for kind, path in unused if kind == ".tar"]
    if tars:
        place = folder / tars[0].parent
        return f"{folder} holds tar files such as {str(tars[0])!r}; pass the folder of one part: {str(place)!r}"
    if unused:
        return f"{folder} has sub-folders without supported images: {unused_summary(unused)}"
    known = ", ".join(sorted(image_suffixes()))
    return f"{folder} has sub-folders without images ({known}); add images, e.g. {folder}/cat/1.jpg"
