"""Find the images in a folder, and the files that are not used, by kind.

Links to folders are followed, because data sets on shared disks often consist of them, and no folder is read twice.
Unused files that look like data are counted: an image that is silently missing is worse than an error.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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


class ImageTree(NamedTuple):
    """The sorted images in a folder, and each unused path with its kind: a suffix, or a key of `_KINDS`."""

    images: list[Path]
    unused: list[tuple[str, Path]]


def check_access(place: Path) -> Path:
    """Return a path after checking that the folders above it are accessible; the path need not exist."""
    try:
        place.stat()
    except PermissionError as error:
        raise DataError(f"{place} cannot be read; check the permissions of the folders above it") from error
    except OSError:  # missing, or a glob pattern: reported by the loaders
        pass
    return place


def check_folder(folder: Path) -> Path:
    """Return a folder after checking that it can be read."""
    if not check_access(folder).exists():
        raise DataError(f"folder {folder} does not exist (working directory: {Path.cwd()}); pass an existing folder")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; pass the folder that holds one sub-folder per class, e.g. 'photos'")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{folder} cannot be read; check its permissions")
    return folder


def walk(folder: Path) -> ImageTree:
    """Return the images in a folder, at any depth, and the files that are not used."""
    tree = ImageTree([], [])

    def add_unreadable(error: OSError) -> None:
        tree.unused.append(("unreadable folder", Path(error.filename)))

    seen = set(map(str, folder.resolve().parents))
    for place, folders, files in os.walk(folder, followlinks=True, onerror=add_unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for path in (Path(place, name) for name in files if not _is_hidden(name)):
            try:
                if file_size(path) and os.access(path, os.R_OK) and is_image_file(path):
                    tree.images.append(path)
                elif kind := unused_kind(path):
                    tree.unused.append((kind, path))
            except OSError:
                tree.unused.append(("unreadable folder", path))
    tree.images.sort()
    tree.unused.sort(key=lambda entry: entry[1])
    return tree


def visible_folders(folder: Path) -> list[Path]:
    """Return the sorted direct sub-folders, without hidden and system folders."""
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not _is_hidden(sub.name))


def unused_beside(folder: Path) -> list[tuple[str, Path]]:
    """Return the images and dangling links next to the class folders, as `ImageTree.unused`."""
    files = (path for path in sorted(folder.iterdir()) if not _is_hidden(path.name) and not path.is_dir())
    kinds = (("stray image" if path.is_file() and is_picture(path) else unused_kind(path), path) for path in files)
    return [(kind, path) for kind, path in kinds if kind in ("stray image", "dangling link")]


def unused_summary(unused: Sequence[tuple[str, Path]]) -> str:
    """Return a message that counts unused files by kind, with an example and a remedy for each.

    >>> unused_summary([(".heic", Path("cat/a.heic")), (".heic", Path("cat/b.heic"))])
    "2 files are not used: 2 .heic ('cat/a.heic'): pip install 'ipo_dspy[heif]', or convert to JPEG"
    """
    first = dict(reversed(unused))
    kinds = Counter(kind for kind, _ in unused).most_common(6)
    parts = []
    for kind, count in kinds:
        counted = pluralize(count, kind) if kind in _KINDS else f"{count} {kind}"
        parts.append(f"{counted} ({str(first[kind])!r}): {_KINDS.get(kind) or remedy(kind)}")
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


def unused_kind(path: Path) -> str | None:
    """Return the kind of a path that is not used, as in `ImageTree.unused`; None for text and hidden files."""
    if _is_hidden(path.name):
        return None
    if path.is_symlink() and not path.exists():
        return "dangling link"
    if (suffix := file_suffix(path.name)) in _TEXT_SUFFIXES:
        return None
    if path.is_dir():
        return "sub-folder"
    if not path.is_file():
        return "special file"
    if not os.access(path, os.R_OK):
        return "unreadable file"
    return "empty file" if is_image_file(path) else suffix or None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS
