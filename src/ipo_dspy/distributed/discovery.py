"""Find the partitions of a folder, a table or shards, for `RayScorer(images=...)`.

Only file names and the footers of parquet files are read here. Workers read images and labels, so the data must be
available at the same path on all nodes.
"""

import contextlib
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ipo_dspy.data import load_images
from ipo_dspy.data.table import find_columns, split_column, stored_classes
from ipo_dspy.data.table_reader import open_table
from ipo_dspy.data.webdataset import names_beside, shard_files
from ipo_dspy.distributed.partitions import CHUNK, Partition, Rows, Tar, in_memory_partitions
from ipo_dspy.errors import DataError

SIZE = 4 * CHUNK
"""Approximate number of images in a partition of a table; a row group is never split."""


def discover_partitions(place: str | os.PathLike[str], *, image: str = "auto", label: str = "auto") -> list[Partition]:
    """Return the partitions of all images at a path.

    Args:
        place: a folder of class folders; a CSV, TSV or parquet table; webdataset shards; a folder or pattern of
            shards or parquet files, e.g. `shards/train-*.tar` or `shards/train-{000..099}.tar`.
        image: column of parquet files with bytes or paths.
        label: column of parquet files with class names or their numbers.

    Raises:
        DataError: the path does not exist, files are of several kinds, or columns are missing.
    """
    files = _files(os.fspath(place))
    kinds = {file.suffix.lower() for file in files}
    if kinds == {".tar"}:
        names = names_beside(files[0].parent)
        return [Tar(str(file), None if names is None else tuple(names)) for file in files]
    if kinds == {".parquet"}:
        nonempty = [file for file in files if not _is_empty(file)]
        return [part for file in nonempty or files for part in _rows(file, image, label)]
    if len(files) > 1:
        suffixes = ", ".join(sorted(kinds))
        raise DataError(f"{os.fspath(place)!r} matches files of several kinds ({suffixes}); select one, e.g. '*.tar'")
    dataset = load_images(files[0])
    return [*in_memory_partitions([example.image for example in dataset], dataset.labels(), None, size=CHUNK)]


def _files(place: str) -> list[Path]:
    """Return the files of a pattern or of a folder of shards, sorted; else the path itself."""
    path = Path(place).expanduser().absolute()
    if path.suffix.lower() == ".tar":
        return shard_files(path)
    if glob.has_magic(place) and not path.exists():
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise DataError(f"nothing matches {place!r} (relative to {Path.cwd()}); use e.g. 'shards/*.tar'")
        return matches
    if not path.exists():
        raise DataError(f"{place!r} does not exist (relative to {Path.cwd()}); pass a folder, a table or shards")
    if not path.is_dir() or any(child.is_dir() for child in path.iterdir()):  # class folders, read by `load_images`
        return [path]
    return sorted([*path.glob("*.tar"), *path.glob("*.parquet")]) or [path]


def _is_empty(path: Path) -> bool:
    """Return True if a table has no rows; Spark writes such files next to others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.suppress(pa.ArrowException, OSError):  # reported when the table is read
        return bool(pq.ParquetFile(path).metadata.num_rows == 0)
    return False


def _rows(path: Path, image: str, label: str) -> list[Rows]:
    """Split the row groups of a file into partitions of about `SIZE` images."""
    import pyarrow.parquet as pq

    table = open_table(path)
    columns = find_columns(table, image, label)
    splits = split_column(table, columns)
    if splits is not None:
        raise DataError(f"{path} has a column {splits!r}; save the rows of one split to a separate file")
    footer, names = pq.ParquetFile(path).metadata, stored_classes(table.metadata, columns[1])
    counts = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    return [
        Rows(str(path), tuple(groups), sum(counts[: groups[0]]), sum(counts[i] for i in groups), *columns, names)
        for groups in _group_neighbors(counts)
    ]


def _group_neighbors(counts: Sequence[int]) -> list[list[int]]:
    """Group consecutive row groups into runs of at most `SIZE` images; a larger row group is a run by itself.

    >>> _group_neighbors([3000, 1000, 500, 9000, 10])
    [[0, 1], [2], [3], [4]]
    """
    runs: list[list[int]] = []
    for i, count in enumerate(counts):
        if not runs or sum(counts[j] for j in runs[-1]) + count > SIZE:
            runs.append([])
        runs[-1].append(i)
    return runs
