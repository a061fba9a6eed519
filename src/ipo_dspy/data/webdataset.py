"""Load webdataset tar files, which store `key.jpg` with `key.cls`, `key.txt` or `key.json`.

A first pass records image positions and reads the labels (`data.tar_samples`). Only the drawn images are read later.
"""

import glob
import logging
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from ipo_dspy.clip.image_formats import image_suffixes
from ipo_dspy.data.benchmarks import CLASS_NAMES
from ipo_dspy.data.coop_splits import read_text
from ipo_dspy.data.dataset import Catalog, ImageDataset, accept_test_argument, shorten
from ipo_dspy.data.image_tree import unused_summary
from ipo_dspy.data.table import catalog_of
from ipo_dspy.data.table_reader import ImageTable, own_metadata
from ipo_dspy.data.tar_samples import ShardSample, read_picture, read_samples
from ipo_dspy.errors import DataError

CAPTION_SHARE = 0.9
"""Fraction of distinct .txt labels above which labels of several words are captions, not class names."""

_WORDNET_ID = re.compile(r"^n[0-9]{8} ")
"""Prefix of each line in ImageNet's original list."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


logger = logging.getLogger(__name__)


@accept_test_argument
def load_webdataset(
    shards: str | PathLike[str], *, classes: Sequence[str] | None = None, shots: int | None = None, seed: int = 0
) -> ImageDataset:
    """Read images and labels from tar files.

    A label is the content of `key.cls`, else the field `label`, `class`, ... of `key.json`, else the content of
    `key.txt`: a class name, or a number from 0. The names of numbers are `classes`, else the lines of a
    `classnames.txt` in the folder of the tar files or its parent. Samples without a supported image are left out, with
    a logged warning.

    Args:
        shards: a .tar file, a folder of them, or a pattern: 'shards/train-*.tar', 'shards/train-{000..099}.tar'.
        classes: class names in label index order.
        shots: images per class, drawn by `few_shot`; None takes all.
        seed: seed of the draw.

    Raises:
        DataError: there are no files, a file is not a tar file or is truncated, an image has no label, or a label is
            not a class.
    """
    return shards_catalog(shards, classes=classes).load(shots=shots, seed=seed)


def shards_catalog(shards: str | PathLike[str], *, classes: Sequence[str] | None = None) -> Catalog:
    """Return the catalog of tar files; see `load_webdataset`."""
    files = shard_files(shards)
    unread: list[tuple[str, Path]] = []
    samples = [sample for file in files for sample in read_samples(file, unread)]
    if not samples:
        skipped = f"; {unused_summary(unread)}" if unread else ""
        known = ", ".join(sorted(image_suffixes()))
        fact = f"{shards} holds no images ({known}){skipped}"
        raise DataError(f"{fact}; pass tar files that hold 'key.jpg' and 'key.cls'")
    if unread:
        logger.warning("%s: %s", shards, unused_summary(unread))
    _refuse_captions(shards, samples)
    folder = files[0].parent
    table = ImageTable(
        Path(shards),
        {"image": lambda row: read_picture(samples[row]), "label": lambda row: samples[row].label},
        rows=len(samples),
        place=lambda row: f"{samples[row].name!r} in {samples[row].shard}",
        source=lambda row: f"{samples[row].shard}#{samples[row].name}",
        metadata=own_metadata(names_beside(folder)),
    )
    return catalog_of(table, "image", "label", range(len(samples)), folder, classes=classes)


def _refuse_captions(shards: str | PathLike[str], samples: Sequence[ShardSample]) -> None:
    texts = [sample.label for sample in samples if sample.label_suffix == "txt"]
    words = sum(len(text.split()) for text in texts)
    if len(texts) >= 8 and len(set(texts)) > CAPTION_SHARE * len(texts) and words >= 3 * len(texts):
        fact = f"{shards}: the .txt files hold captions such as {shorten(texts[0])}, not class names"
        raise DataError(f"{fact}; store the class name in a .cls, or as label in a .json")


def shard_files(shards: str | PathLike[str]) -> list[Path]:
    """Return the tar files of a path, a folder or a pattern, in order."""
    place = Path(shards).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        files = sorted(place.glob("*.tar"))
        fact = f"{place} holds no .tar files; pass a folder that does, or a pattern such as 'shards/*.tar'"
    else:
        files = [file for pattern in _ranges(str(place)) for file in _matching(pattern)]
        fact = f"nothing matches {str(shards)!r} (working directory: {Path.cwd()}); pass e.g. 'shards/*.tar'"
    if not files:
        raise DataError(fact)
    return files


def names_shards(place: str | PathLike[str]) -> bool:
    """Return True if a path denotes tar files: by its suffix, or as a folder with tar files and no sub-folders.

    >>> names_shards("shards/train-{000..099}.tar"), names_shards("photos.csv")
    (True, False)
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return path.suffix.lower() == ".tar"
    return any(path.glob("*.tar")) and not any(inner.is_dir() for inner in path.iterdir())


def _ranges(pattern: str) -> Iterator[str]:
    """Expand ranges such as `{000..099}`, as webdataset does."""
    match = _RANGE.search(pattern)
    if not match:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


def _matching(pattern: str) -> list[Path]:
    if glob.has_magic(pattern):
        return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 - patterns may be absolute
    if not Path(pattern).is_file():
        fact = f"file {pattern} does not exist (working directory: {Path.cwd()})"
        raise DataError(f"{fact}; download it, or narrow the pattern")
    return [Path(pattern)]


def names_beside(folder: Path) -> list[str] | None:
    """Return the lines of `classnames.txt` in the folder of the tar files or its parent, or None."""
    path = next((parent / CLASS_NAMES for parent in (folder, folder.parent) if (parent / CLASS_NAMES).is_file()), None)
    if path is None:
        return None
    lines = (_WORDNET_ID.sub("", line).strip() for line in read_text(path).splitlines())
    return [line for line in lines if line]
