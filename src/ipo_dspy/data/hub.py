"""Read a data set from the Hugging Face Hub, or from a folder that `datasets` supports.

Only this module imports `datasets`. The image and label columns are found by their types if there is one of each, else
by their usual names. Only the drawn images are read, and their bytes are unchanged.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ipo_dspy._internal.file_io import read_json
from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.data.dataset import Catalog, DataOptions, ImageDataset, accept_test_argument, shorten
from ipo_dspy.data.split_folders import parts_by_name
from ipo_dspy.data.table import IMAGE_COLUMNS, LABEL_COLUMNS, catalog_of
from ipo_dspy.data.table_reader import ImageTable, own_metadata
from ipo_dspy.errors import DataError, Hint, missing_package

if TYPE_CHECKING:
    import datasets

_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes: for several splits, and for a single one."""
_INDEX_LIMIT = 1024 * 1024
"""Maximum size in bytes of the file that lists the splits."""


@accept_test_argument
def load_hub(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Load a hub data set with an image column and a label column; requires the extra `ipo_dspy[hub]`.

    Args:
        name: name on the Hub, e.g. 'uoft-cs/cifar10', or a folder: one that `save_to_disk` created, or one of parquet
            files or images that `datasets` can read.
        config: configuration of the data set, if it has several.
        split: split to load, e.g. 'train'; required if there are several.
        revision: commit or tag of the data set, for reproducible results.
        image: column of images.
        label: column of class names or label indices.
        classes: class names in label index order, if the data set stores none.
        shots: images per class, drawn by `few_shot`; None takes all.
        seed: seed of the draw.

    Raises:
        DataError: the data set cannot be loaded, `split` is required, a column does not exist, or a label is unknown.
    """
    catalog = hub_catalog(name, config, revision, split=split, image=image, label=label, classes=classes)
    return catalog.load(shots=shots, seed=seed)


def hub_catalog(
    name: str, config: str | None = None, revision: str | None = None, **options: Unpack[DataOptions]
) -> Catalog:
    """Return the catalog of a hub data set; see `load_hub`."""
    split = options.get("split")
    dataset = _one_split(name, _fetched(name, config, split, revision), split)
    image = _column(name, dataset, "image", options.get("image", "auto"))
    label = _column(name, dataset, "label", options.get("label", "auto"))
    table, folder = _as_table(name, dataset, image, label), Path(name).expanduser()
    return catalog_of(table, image, label, range(table.rows), folder, classes=options.get("classes"))


def is_saved(folder: Path) -> bool:
    """Return True if `save_to_disk` created the folder."""
    return any((folder / name).is_file() for name in _SAVED)


def saved_parts(folder: Path) -> dict[str, str] | None:
    """Return the splits of a saved data set by role, or None if their names do not reveal the roles."""
    try:
        splits = read_json(folder / _SAVED[0], limit=_INDEX_LIMIT)["splits"]
    except (OSError, ValueError, LookupError, TypeError):  # a single split, or damaged, which `datasets` reports
        return None
    return parts_by_name(map(str, splits))


def _fetched(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """Return the loaded data set: a single split, or a mapping of splits."""
    try:
        import datasets
    except ImportError as error:
        raise missing_package("datasets", extra="hub", purpose="to read Hugging Face data sets") from error

    folder = Path(name).expanduser()
    try:
        if is_saved(folder):
            return datasets.load_from_disk(str(folder))
        place = str(folder) if folder.is_dir() else name
        return datasets.load_dataset(place, config, split=split, revision=revision)
    except (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The message of `datasets` says whether the network, the name, the configuration or the split is the cause.
        remedy = "check the name, config= and split=, and the network; or pass a folder on disk"
        raise DataError(f"data set {name!r} cannot be loaded: {one_line_error(error)}; {remedy}") from error


def _one_split(name: str, found: Any, split: str | None) -> "datasets.Dataset":
    """Return the requested split, or the only one; splits are never merged, to keep test images out of training."""
    if isinstance(found, dict):
        parts = dict(found)
    else:  # `train[:10%]` is a part of the split `train`
        requested, loaded = (re.split(r"[\[+]", str(part))[0] for part in (split, found.split or split))
        parts = {split if requested == loaded else str(found.split): found}
    if split is None and len(parts) > 1:
        first = next(iter(parts))
        fact = f"data set {name!r} has the splits {', '.join(map(repr, parts))}"
        raise DataError(fact, hint=Hint("pass one, e.g. {split}", split=first))
    chosen = parts.get(split) if split is not None else next(iter(parts.values()), None)
    if chosen is None:
        raise DataError(f"data set {name!r} has no split {split!r}; pass one of {', '.join(map(repr, parts))}")
    if not len(chosen):
        raise DataError(f"data set {name!r} has no rows; choose another split")
    return chosen


def _column(name: str, found: "datasets.Dataset", what: str, asked: str) -> str:
    """Return the requested column, else the only one of the expected type, else the first with a usual name."""
    import datasets

    if asked in found.column_names:
        return asked
    kind, usual = (datasets.Image, IMAGE_COLUMNS) if what == "image" else (datasets.ClassLabel, LABEL_COLUMNS)
    typed = [column for column, feature in found.features.items() if isinstance(feature, kind)]
    by_name = {column.casefold(): column for column in found.column_names}
    named = [by_name[word] for word in usual if word in by_name]
    fitting: list[str] = typed if len(typed) == 1 else named
    if asked == "auto" and fitting:
        return fitting[0]
    missing = f"no unambiguous {what} column" if asked == "auto" else f"no column {asked!r}"
    fact = f"data set {name!r} has {missing} among {', '.join(map(shorten, found.column_names))}"
    raise DataError(f"{fact}; pass {what}={(typed or found.column_names)[0]!r}")


def _as_table(name: str, found: "datasets.Dataset", image: str, label: str) -> ImageTable:
    import datasets

    if isinstance(found.features[image], datasets.Image):
        found = found.cast_column(image, datasets.Image(decode=False))  # the bytes of the file, not pixels
    names = getattr(found.features[label], "names", None)
    labels = found.select_columns([label]).with_format(None)[:][label]
    images = found.select_columns([image]).with_format(None)
    return ImageTable(
        Path(name),
        {image: lambda row: images[row][image], label: labels.__getitem__},
        rows=len(found),
        place=lambda row: f"row {row} of {name}",
        source=lambda row: f"{name}#{row}",
        metadata=own_metadata(names),
    )
