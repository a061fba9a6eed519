"""Load images and labels from folders, tables, tar files and the Hugging Face Hub as lists of `dspy.Example`."""

from os import PathLike
from pathlib import Path
from typing import Unpack

from ipo_dspy.data.benchmark_loader import BenchmarkCheck, BenchmarkData, CheckResult, check_benchmark, load_benchmark
from ipo_dspy.data.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from ipo_dspy.data.dataset import Catalog, DataOptions, ImageDataset, accept_test_argument, base_novel, check_options
from ipo_dspy.data.folder import folder_catalog, load_image_folder, split_folders
from ipo_dspy.data.hub import hub_catalog, is_saved, load_hub, saved_parts
from ipo_dspy.data.image_tree import check_access, check_folder
from ipo_dspy.data.label_set_files import label_sets_catalog, load_label_sets
from ipo_dspy.data.sampling import few_shot, split_classes
from ipo_dspy.data.table import load_image_table, parts_of_table, table_catalog
from ipo_dspy.data.table_reader import TABLE_SUFFIXES
from ipo_dspy.data.webdataset import load_webdataset, names_shards, shards_catalog
from ipo_dspy.errors import DataError

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkCheck",
    "BenchmarkData",
    "Catalog",
    "CheckResult",
    "DataOptions",
    "ImageDataset",
    "base_novel",
    "check_benchmark",
    "few_shot",
    "find_benchmark",
    "find_split",
    "label_sets_catalog",
    "load_benchmark",
    "load_hub",
    "load_image_folder",
    "load_image_table",
    "load_images",
    "load_label_sets",
    "load_webdataset",
    "open_images",
    "split_classes",
]


@accept_test_argument
def load_images(
    path: str | PathLike[str], *, shots: int | None = None, seed: int = 0, **options: Unpack[DataOptions]
) -> ImageDataset:
    """Load a folder of class folders, a .csv, .tsv or .parquet table, webdataset tar files, or a saved data set.

    Tar files are a single file, a folder that holds nothing else, or a pattern that ends in `.tar`. A saved data set is
    a folder that `save_to_disk` of `datasets` created. The options `image`, `label`, `classes`, `base` and `split` are
    those of `load_image_folder`, `load_image_table`, `load_webdataset` and `load_hub`.

    Raises:
        DataError: `path` is of another kind, an option does not apply to its kind, or the loader fails.
    """
    return open_images(path, **options).load(shots=shots, seed=seed)


def open_images(path: str | PathLike[str], **options: Unpack[DataOptions]) -> Catalog:
    """Return the catalog of a path without drawing images; see `load_images`."""
    place = Path(path).expanduser()
    if check_access(place).is_dir():
        check_folder(place)
    if names_shards(place):
        return shards_catalog(place, **check_options(options, place, "a tar file", ["classes"]))
    if is_saved(place):
        return hub_catalog(
            str(place), **check_options(options, place, "a saved data set", ["image", "label", "classes", "split"])
        )
    if place.suffix.lower() in TABLE_SUFFIXES and not place.is_dir():
        return table_catalog(place, **options)
    if place.is_file():
        suffixes = ", ".join(sorted({*TABLE_SUFFIXES, ".tar"}))
        fact = f"{place} is neither folder, table nor tar file"
        raise DataError(f"{fact}; pass a folder of class folders or a file in {suffixes}")
    return folder_catalog(place, **check_options(options, place, "a folder of class folders", ["split"]))


def find_split(path: str | PathLike[str], *, image: str = "auto", label: str = "auto") -> dict[str, str] | None:
    """Return the parts of data that is already split, by role, or None.

    The roles are `training`, `validation` and `test`. The values can be passed as `split` to `load_images`: names of
    folders, values of a table's split column, or splits of a saved data set.
    """
    place = Path(path).expanduser()
    if not check_access(place).is_dir():
        return parts_of_table(place, image, label)
    return saved_parts(place) if is_saved(place) else split_folders(place)
