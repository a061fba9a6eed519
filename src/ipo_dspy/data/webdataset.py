"""Read image sets in the form of webdataset: tar files in which `key.jpg` stands beside `key.cls`, `.txt` or `.json`.

With Python's own tarfile: all that is wanted of the form is names side by side. A first pass notes where each picture
begins and reads the labels; only pictures that are drawn are read. Nothing is ever unpacked, so names of members that
would lead out of a folder lead nowhere.
"""

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, overload

from ipo_dspy.data.dataset import ImageDataset, Loaded, shorten
from ipo_dspy.data.folder import IMAGE_SUFFIXES
from ipo_dspy.data.splitfiles import read_text
from ipo_dspy.data.table import LABEL_COLUMNS, from_table
from ipo_dspy.data.tablefile import Cells, Table
from ipo_dspy.errors import DataError

CLASS_NAMES = "classnames.txt"
MAX_LABEL_BYTES = 1 << 20
"""Of a file with a label; a JSON file may hold more than that."""

_LABELS = ("cls", "txt", "json")
_WORDNET_ID = re.compile(r"^n[0-9]{8} ")
"""Before each name in ImageNet's own list."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_ZEROS = bytes(tarfile.BLOCKSIZE)


class Sample(NamedTuple):
    """A picture in a tar file, and its label as it stands there."""

    shard: Path
    name: str
    offset: int
    size: int
    label: Any


# fmt: off
@overload
def load_webdataset(
    shards: str | PathLike[str], *, classes: Sequence[str] | None = None, shots: int | None = None, test: None = None,
    seed: int = 0,
) -> ImageDataset: ...
@overload
def load_webdataset(
    shards: str | PathLike[str], *, classes: Sequence[str] | None = None, shots: int | None = None, test: float,
    seed: int = 0,
) -> tuple[ImageDataset, ImageDataset]: ...
@overload
def load_webdataset(
    shards: str | PathLike[str], *, classes: Sequence[str] | None = None, shots: int | None = None, test: float | None,
    seed: int = 0,
) -> Loaded: ...
# fmt: on
def load_webdataset(
    shards: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    test: float | None = None,
    seed: int = 0,
) -> Loaded:
    """Read pictures and labels from tar files.

    A label is the content of `key.cls` or `key.txt`, or the field `label`, `class`, ... of `key.json`: a class name, or
    a number from 0. The names of numbers are `classes`, else the lines of a `classnames.txt` beside the tar files or
    one folder up. Samples without a picture are passed over.

    Args:
        shards: a .tar file, a folder of them, or a pattern: 'shards/train-*.tar', 'shards/train-{000..099}.tar'.
        classes: class names in label index order.
        shots: training images a class, drawn by `few_shot`; None takes all.
        test: share of each class to hold out, between 0 and 1; None makes no test set.
        seed: seed of the split and of the draw.

    Returns:
        One data set, or ``(train, test)`` where `test` is given.

    Raises:
        DataError: nothing is there, a file is no tar or is cut, a picture has no label, a label is outside the classes.
    """
    files = shard_files(shards)
    samples = [sample for file in files for sample in read_samples(file)]
    if not samples:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{shards} holds no pictures ({known}); name tar files that hold 'key.jpg' beside 'key.cls'")
    table = _as_table(Path(shards), samples, names_beside(files[0].parent))
    rows, folder = range(len(samples)), files[0].parent
    return from_table(table, "image", "label", rows, folder, classes=classes, shots=shots, test=test, seed=seed)


def shard_files(shards: str | PathLike[str]) -> list[Path]:
    """The tar files of a path, a folder or a pattern, in order.

    Raises:
        DataError: there are none, or one of a range is not there.
    """
    place = Path(shards).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        found = sorted(place.glob("*.tar"))
        if not found:
            raise DataError(
                f"{place} holds no .tar files; name a folder that does, or a pattern such as 'shards/*.tar'"
            )
        return found
    found = [file for pattern in _ranges(str(place)) for file in _matching(pattern)]
    if not found:
        raise DataError(f"nothing matches {str(shards)!r} (looked from {Path.cwd()}); write e.g. 'shards/*.tar'")
    return found


def names_shards(place: str | PathLike[str]) -> bool:
    """Whether a path can only mean tar files: by its ending, or as a folder with nothing else in it.

    >>> names_shards("shards/train-{000..099}.tar"), names_shards("photos.csv")
    (True, False)
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return path.suffix.lower() == ".tar"
    return any(path.glob("*.tar")) and not any(inner.is_dir() for inner in path.iterdir())


def _ranges(pattern: str) -> Iterator[str]:
    """`{000..099}` written out, as webdataset takes it."""
    found = _RANGE.search(pattern)
    if not found:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")


def _matching(pattern: str) -> list[Path]:
    if glob.has_magic(pattern):
        return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 - patterns may be absolute
    if not Path(pattern).is_file():
        raise DataError(f"there is no file {pattern} (looked from {Path.cwd()}); fetch it, or narrow the pattern")
    return [Path(pattern)]


def read_samples(path: Path) -> Iterator[Sample]:
    """The pictures of a tar file, in its order.

    Raises:
        DataError: it is no tar or is cut, or a picture has no label.
    """
    try:
        with tarfile.open(path, "r:") as file:
            groups = list(_groups(file))
            _check_end(path, file)  # first, for a sample that is cut in two would be told as one without a label
            for members in groups:
                image = next((member for suffix, member in members.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
                if image is not None:
                    where = f"{image.name!r} in {path}"
                    if not image.size:
                        raise DataError(f"{where} is empty; write the file again")
                    yield Sample(path, image.name, image.offset_data, image.size, _label(file, members, where))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} cannot be read as a tar file ({error}); fetch it again, or unpack it first") from error


def _groups(file: tarfile.TarFile) -> Iterator[Mapping[str, tarfile.TarInfo]]:
    """Members side by side whose names agree up to the first dot of the file's name, by the rest of it."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in file:
        if not member.isreg() or member.issparse():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if f"{folder}/{stem}" != key and members:
            yield members
            members = {}
        key, members[suffix.lower()] = f"{folder}/{stem}", member
    if members:
        yield members


def _check_end(path: Path, file: tarfile.TarFile) -> None:
    """Tar files end with zeros; tarfile takes a file that is cut between two members for a whole one."""
    with path.open("rb") as raw:
        raw.seek(file.offset)
        if raw.read(tarfile.BLOCKSIZE) != _ZEROS:
            raise DataError(f"{path} is cut or damaged after {file.offset} bytes; fetch it again")


def _label(file: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], where: str) -> Any:
    """The label beside a picture, as text or as JSON has it."""
    suffix = next((suffix for suffix in _LABELS if suffix in members), None)
    if suffix is None:
        fact = f"{where} has no label"
        raise DataError(f"{fact}; put its class name beside it, in a .cls or .txt, or as label in a .json")
    content = file.extractfile(members[suffix]) if members[suffix].size <= MAX_LABEL_BYTES else None
    if content is None:
        raise DataError(f"the .{suffix} beside {where} has {members[suffix].size} bytes; write the class name into it")
    try:
        text = content.read().decode("utf-8-sig").strip()
        return text if suffix != "json" else _field(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the .{suffix} beside {where} cannot be read ({error}); write the class name into it"
        ) from error


def _field(content: Any) -> Any:
    found = [content[key] for key in LABEL_COLUMNS if key in content] if isinstance(content, dict) else []
    if not found:
        raise ValueError(f"no field {LABEL_COLUMNS[0]!r} in {shorten(content)}")
    return found[0]


def names_beside(folder: Path) -> list[str] | None:
    """The lines of `classnames.txt` beside the tar files or one folder up."""
    path = next((at / CLASS_NAMES for at in (folder, folder.parent) if (at / CLASS_NAMES).is_file()), None)
    if path is None:
        return None
    lines = (_WORDNET_ID.sub("", line).strip() for line in read_text(path).splitlines())
    return [line for line in lines if line]


def _as_table(path: Path, samples: Sequence[Sample], names: Sequence[str] | None) -> Table:
    def place(row: int) -> str:
        return f"{samples[row].name!r} in {samples[row].shard}"

    columns: dict[str, Cells] = {
        "image": lambda row: read_picture(samples[row]),
        "label": lambda row: samples[row].label,
    }
    return Table(
        path,
        columns=tuple(columns),
        rows=len(samples),
        column=columns.__getitem__,
        place=place,
        source=lambda row: f"{samples[row].shard}#{samples[row].name}",
        metadata={"ipo_dspy": {"classes": list(names)}} if names else {},
    )


def read_picture(sample: Sample) -> bytes:
    """The bytes of an image file."""
    with sample.shard.open("rb") as file:
        file.seek(sample.offset)
        return file.read(sample.size)
