"""Images and labels as lists of `dspy.Example` that know their classes; read from folders and tables."""

from os import PathLike
from pathlib import Path
from typing import overload

from ipo_dspy.data.dataset import ImageDataset, Loaded
from ipo_dspy.data.fewshot import base_novel, few_shot, harmonic_mean, split_classes
from ipo_dspy.data.folder import load_image_folder
from ipo_dspy.data.table import load_image_table
from ipo_dspy.data.tablefile import TABLE_SUFFIXES
from ipo_dspy.errors import DataError

__all__ = [
    "ImageDataset",
    "base_novel",
    "few_shot",
    "harmonic_mean",
    "load_image_folder",
    "load_image_table",
    "load_images",
    "split_classes",
]


@overload
def load_images(
    path: str | PathLike[str], *, shots: int | None = None, test: None = None, seed: int = 0
) -> ImageDataset: ...
@overload
def load_images(
    path: str | PathLike[str], *, shots: int | None = None, test: float, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]: ...
@overload
def load_images(
    path: str | PathLike[str], *, shots: int | None = None, test: float | None, seed: int = 0
) -> Loaded: ...
def load_images(
    path: str | PathLike[str], *, shots: int | None = None, test: float | None = None, seed: int = 0
) -> Loaded:
    """Read a folder of class folders, or a .csv, .tsv or .parquet table, whichever `path` is.

    `load_image_folder` and `load_image_table` say what is read and raised; the latter has more options.

    Raises:
        DataError: neither a folder nor a table, or what the two readers raise.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() in TABLE_SUFFIXES and not place.is_dir():
        return load_image_table(place, shots=shots, test=test, seed=seed)
    if place.is_file():
        known = ", ".join(sorted(TABLE_SUFFIXES))
        raise DataError(f"{place} is neither folder nor table; pass a folder of class folders or a file in {known}")
    return load_image_folder(place, shots=shots, test=test, seed=seed)
