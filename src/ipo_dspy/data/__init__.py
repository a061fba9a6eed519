"""Images and labels as lists of `dspy.Example` that know their classes, from folders, tables, tar files and the hub."""

from os import PathLike
from pathlib import Path
from typing import overload

from ipo_dspy.data.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from ipo_dspy.data.completeness import Completeness, Finding, check_benchmark
from ipo_dspy.data.dataset import ImageDataset, Loaded
from ipo_dspy.data.fewshot import base_novel, few_shot, harmonic_mean, split_classes
from ipo_dspy.data.folder import load_image_folder
from ipo_dspy.data.hub import is_saved, load_hub
from ipo_dspy.data.protocol import BenchmarkData, load_benchmark
from ipo_dspy.data.table import load_image_table
from ipo_dspy.data.tablefile import TABLE_SUFFIXES
from ipo_dspy.data.webdataset import load_webdataset, names_shards
from ipo_dspy.errors import DataError

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkData",
    "Completeness",
    "Finding",
    "ImageDataset",
    "base_novel",
    "check_benchmark",
    "few_shot",
    "find_benchmark",
    "harmonic_mean",
    "load_benchmark",
    "load_hub",
    "load_image_folder",
    "load_image_table",
    "load_images",
    "load_webdataset",
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
    """Read whatever `path` is: a folder of class folders, a .csv, .tsv or .parquet table, or tar files of webdataset.

    Tar files may be one, a folder of nothing else, or a pattern that ends in `.tar`; a folder that the library
    `datasets` saved is read too. `load_image_folder`, `load_image_table`, `load_webdataset` and `load_hub` say what is
    read and raised; they have more options.

    Raises:
        DataError: none of these, or what the readers raise.
    """
    place = Path(path).expanduser()
    if names_shards(place):
        return load_webdataset(place, shots=shots, test=test, seed=seed)
    if is_saved(place):
        return load_hub(str(place), shots=shots, test=test, seed=seed)
    if place.suffix.lower() in TABLE_SUFFIXES and not place.is_dir():
        return load_image_table(place, shots=shots, test=test, seed=seed)
    if place.is_file():
        known = ", ".join(sorted({*TABLE_SUFFIXES, ".tar"}))
        raise DataError(
            f"{place} is neither folder, table nor tar file; pass a folder of class folders or a file in {known}"
        )
    return load_image_folder(place, shots=shots, test=test, seed=seed)
