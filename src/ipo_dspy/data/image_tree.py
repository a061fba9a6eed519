"""Find the images in a folder, and the files that are not used, by kind.

Links to folders are followed, because data sets on shared disks often consist of them, and no folder is read twice.
Unused files that look like data are counted: an image that is silently missing is worse than an error.
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
"""Folders that macOS, Synology, Windows, and Linux create; they hold no data."""

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
"""Other kinds of unused entries -> remedy."""


@dataclass(slots=True)
class ImageTree:
    """The files in a folder, at any depth.

    Attributes:
        images: sorted paths of the images.
        unused: kind and path of each unused file or folder; the kind is a suffix, or a key of `_KINDS`.
    """

    images: list[Path] = field(default_factory=list)
    unused: list[tuple[str, Path]] = field(default_factory=list)


def check_access(place: Path) -> Path:
    """Return a path after checking that the folders above it are accessible; the path need not exist.

    Raises:
        DataError: permission is denied.
    """
    try:
        place.stat()
    except PermissionError as error:
        raise DataError(f"{place} cannot be read; check the permissions of the folders above it") from error
    except OSError:  # missing, or a glob pattern: reported by the loaders
        pass
    return place


def check_folder(folder: Path) -> Path:
    """Return a folder after checking that it can be read.

    Raises:
        DataError: the folder does not exist, is a file, or is not readable.
    """
    if check_access(folder).is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise DataError(f"{folder} cannot be read; check its permissions")
        return folder
    if folder.exists():
        raise DataError(f"{folder} is a file; pass the folder that holds one sub-folder per class, e.g. 'photos'")
    raise DataError(f"folder {folder} does not exist (working directory: {Path.cwd()}); pass an existing folder")


def walk(folder: Path) -> ImageTree:
    """Return the images in a folder, at any depth, and the files that are not used."""
    tree = ImageTree()
    seen = {key for place in (folder.resolve(), *folder.resolve().parents) if (key := _key(place)) is not None}
    _walk(folder, seen, tree)
    tree.images.sort()
    return tree


def visible_folders(folder: Path) -> list[Path]:
    """Return the sorted direct sub-folders, without hidden and system folders."""
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


def unused_summary(unused: Sequence[tuple[str, Path]]) -> str:
    """Return a message that counts unused files by kind, with an example and a remedy for each.

    >>> unused_summary([(".heic", Path("cat/a.heic")), (".heic", Path("cat/b.heic"))])
    "2 files are not used: 2 .heic ('cat/a.heic'): pip install 'ipo_dspy[heif]', or convert to JPEG"
    """
    first = dict(reversed(unused))
    kinds = Counter(kind for kind, _ in unused).most_common(6)
    parts = [
        f"{_count(kind, count)} ({str(first[kind])!r}): {_KINDS.get(kind) or remedy(kind)}" for kind, count in kinds
    ]
    return f"{pluralize(len(unused), 'file')} {'are' if len(unused) > 1 else 'is'} not used: {'; '.join(parts)}"


def warn_unused(folder: Path, unused: Sequence[tuple[str, Path]]) -> None:
    """Log a warning that counts the unused files in a folder, if there are any; see `unused_summary`."""
    if unused:
        logger.warning("%s: %s", folder, unused_summary([(kind, path.relative_to(folder)) for kind, path in unused]))


def file_size(path: str | os.PathLike[str]) -> int | None:
    """Return the size of a regular file in bytes, or None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - creating a Path doubles the time
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
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - the path of an entry
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
