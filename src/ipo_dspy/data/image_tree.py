"""Find the images below a folder, and the files that are not used, by kind.

Links to folders are followed, as data sets on shared disks are made of them, and no folder is read twice.
Whatever looks like data and is not used is counted: an image that is silently missing is worse than an error.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.clip.image_formats import file_suffix, is_image_file, is_picture, remedy
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)

SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
"""Made by macOS, Synology, Windows, and Linux; they hold no data."""

_TEXT_SUFFIXES = frozenset(
    {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".xml", ".html", ".htm", ".yaml", ".yml", ".toml"}
    | {".log", ".py", ".ipynb", ".sh", ".pdf", ".db", ".ini", ".lnk", ".url", ".cls", ".parquet"}
)
"""Suffixes of files that are often stored with images."""

_KINDS = {
    "dangling link": "repair the links, or download what they point to",
    "empty file": "download again",
    "special file": "pass regular files",
    "sub-folder": "move its images up into the class folder",
    "stray image": "move into class folders",
    "unreadable file": "check its permissions",
    "unreadable folder": "check its permissions",
}
"""Other things that are not used, and their remedies."""


@dataclass(slots=True)
class ImageTree:
    """The files below a folder.

    Attributes:
        images: their paths, sorted.
        unused: kind and path of each file or folder that is not used: a suffix, or one of `_KINDS`.
    """

    images: list[Path] = field(default_factory=list)
    unused: list[tuple[str, Path]] = field(default_factory=list)


def check_access(place: Path) -> Path:
    """Return a path after checking that no folder above it is locked; the path need not exist.

    Raises:
        DataError: it cannot be looked at.
    """
    try:
        place.stat()
    except PermissionError as error:
        raise DataError(f"{place} cannot be read; check the permissions of the folders above it") from error
    except OSError:  # missing, or a pattern of names: reported by the loaders
        pass
    return place


def check_folder(folder: Path) -> Path:
    """Return a folder that can be read.

    Raises:
        DataError: it is not there, is a file, or is locked.
    """
    if check_access(folder).is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise DataError(f"{folder} cannot be read; check its permissions")
        return folder
    if folder.exists():
        raise DataError(f"{folder} is a file; pass the folder that holds one sub-folder a class, e.g. 'photos'")
    raise DataError(f"there is no folder {folder} (looked from {Path.cwd()}); pass the path of one that exists")


def walk(folder: Path) -> ImageTree:
    """Return the images below a folder, at any depth, and the files that are not used."""
    tree = ImageTree()
    seen = {key for place in (folder.resolve(), *folder.resolve().parents) if (key := _key(place)) is not None}
    _walk(folder, seen, tree)
    tree.images.sort()
    return tree


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders directly below, sorted, without hidden ones and those of the system."""
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not _is_hidden(sub.name))


def unused_beside(folder: Path) -> list[tuple[str, Path]]:
    """Return the images and dangling links next to the class folders, as `ImageTree.unused`."""
    unused = []
    for path in sorted(folder.iterdir()):
        if _is_hidden(path.name) or path.is_dir():
            continue
        if path.is_symlink() and not path.exists():
            unused.append(("dangling link", path))
        elif path.is_file() and is_picture(path):
            unused.append(("stray image", path))
    return unused


def told(unused: Sequence[tuple[str, Path]]) -> str:
    """Return how many files are not used, by kind, with an example and a remedy each.

    >>> told([(".heic", Path("cat/a.heic")), (".heic", Path("cat/b.heic"))])
    "2 files are not used: 2 .heic ('cat/a.heic'): pip install 'ipo_dspy[heif]', or convert to JPEG"
    """
    first = dict(reversed(unused))
    kinds = Counter(kind for kind, _ in unused).most_common(6)
    parts = [
        f"{_count(kind, count)} ({str(first[kind])!r}): {_KINDS.get(kind) or remedy(kind)}" for kind, count in kinds
    ]
    return f"{pluralize(len(unused), 'file')} {'are' if len(unused) > 1 else 'is'} not used: {'; '.join(parts)}"


def warn_unused(folder: Path, unused: Sequence[tuple[str, Path]]) -> None:
    """Log a warning that counts the files below a folder that are not used, if there are any; see `told`."""
    if unused:
        logger.warning("%s: %s", folder, told([(kind, path.relative_to(folder)) for kind, path in unused]))


def file_size(path: str | os.PathLike[str]) -> int | None:
    """Return the bytes of a regular file, None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path each would double the time
    except (OSError, ValueError):  # also a name that is too long, or one with a NUL
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _count(kind: str, count: int) -> str:
    return pluralize(count, kind) if kind in _KINDS else f"{count} {kind}"


def unused_kind(entry: "os.DirEntry[str]") -> str | None:
    """Return the kind of an entry that is not an image, as in `ImageTree.unused`; None for text and hidden files."""
    suffix = file_suffix(entry.name)
    if _is_hidden(entry.name) or suffix in _TEXT_SUFFIXES:
        return None
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - of an entry
        return "dangling link"
    if entry.is_dir():
        return "sub-folder"
    return (suffix or None) if entry.is_file() else "special file"


def _walk(folder: Path, seen: set[tuple[int, int]], tree: ImageTree) -> None:
    for entry in _entries(folder, tree):
        path = folder / entry.name
        if _is_hidden(entry.name):
            continue
        try:
            if entry.is_symlink() and not path.exists():
                tree.unused.append(("dangling link", path))
            elif entry.is_dir():
                key = _key(path)
                if key is not None and key not in seen:
                    seen.add(key)
                    _walk(path, seen, tree)
            elif not entry.is_file():
                tree.unused.append(("special file", path))
            else:
                _add(path, entry.stat().st_size, tree)
        except OSError:
            tree.unused.append(("unreadable folder", path))


def _entries(folder: Path, tree: ImageTree) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        tree.unused.append(("unreadable folder", folder))


def _add(path: Path, size: int, tree: ImageTree) -> None:
    suffix = file_suffix(path.name)
    if suffix in _TEXT_SUFFIXES:
        return
    if not os.access(path, os.R_OK):
        tree.unused.append(("unreadable file", path))
    elif is_image_file(path):
        if size:
            tree.images.append(path)
        else:
            tree.unused.append(("empty file", path))
    elif suffix:
        tree.unused.append((suffix, path))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _key(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
