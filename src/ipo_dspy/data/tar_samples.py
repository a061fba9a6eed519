"""Read the samples of a webdataset tar file: images and their labels.

Adjacent members whose names agree up to the first dot form a sample. Nothing is unpacked, so member names that point
outside a folder are harmless. A file is read to its end, even if it is a concatenation of several tar files. An
ambiguous sample is an error: a guess could assign labels to the wrong images.
"""

import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tarfile import TarInfo
from typing import Any, BinaryIO, NamedTuple

from ipo_dspy._internal.file_io import open_regular
from ipo_dspy.clip.image_formats import file_suffix, image_suffixes
from ipo_dspy.data.dataset import shorten
from ipo_dspy.data.table import LABEL_COLUMNS
from ipo_dspy.errors import DataError

MAX_LABEL_BYTES = 1 << 20
"""Maximum size of a label file; a JSON file may hold more than the label."""

LABEL_SUFFIXES = ("cls", "json", "txt")
"""Suffixes of label files by priority; a .txt next to a .json with a label is a caption."""

_FAULTS = (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError)


class ShardSample(NamedTuple):
    """An image in a tar file, its label as stored, and the suffix of the label's file."""

    shard: Path
    name: str
    offset: int
    size: int
    label: Any
    label_suffix: str


def read_samples(path: Path, unread: list[tuple[str, Path]] | None = None) -> Iterator[ShardSample]:
    """Yield the images of a tar file, in the order of its members.

    The suffix and the name of one member of each sample without an image are added to `unread`.
    """
    try:
        with open_regular(path) as raw:
            members = list(_members(path, raw))  # all first, or a truncated sample would be reported as unlabeled
            for _, group in itertools.groupby(members, lambda member: _key(member.name)):
                yield from _samples(path, raw, list(group), [] if unread is None else unread)
    except DataError:
        raise
    except _FAULTS as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        fact = f"{path} cannot be read as a tar file ({why})"
        raise DataError(f"{fact}; download it again, or unpack it first") from error


def _members(path: Path, raw: BinaryIO) -> Iterator[TarInfo]:
    """Yield the regular, visible files of a tar file and of others concatenated to it."""
    size, start = os.fstat(raw.fileno()).st_size, 0
    while start < size or not start:
        raw.seek(start)
        with tarfile.open(fileobj=raw, mode="r:") as file:
            for member in file:
                if member.isreg() and not member.issparse() and not _is_hidden(member.name):
                    yield member
            end = file.offset
        start = _next_archive(raw, end, size)
        if start == end:
            # A complete tar file ends with zeros; tarfile does not detect a file that is truncated between two members.
            raise DataError(f"{path} is truncated or corrupt after byte {end}; download it again")


def _next_archive(raw: BinaryIO, end: int, size: int) -> int:
    """Return the offset after the zeros that follow an archive: the end of the file, or the next archive."""
    position = end
    raw.seek(position)
    while block := raw.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
            return position
        position += len(block)
    return size if position > end else end


def _is_hidden(name: str) -> bool:
    """Return True for system files, such as the `._x.png` that macOS adds for each member.

    >>> _is_hidden("./a/._x.png"), _is_hidden("__MACOSX/a.png"), _is_hidden("./a/x.png")
    (True, True, False)
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _key(name: str) -> tuple[str, str]:
    """Return the folder and the file name up to its first dot, in which the members of a sample agree."""
    folder, _, file = name.rpartition("/")
    return folder, file.partition(".")[0]


def _samples(path: Path, raw: BinaryIO, group: list[TarInfo], unread: list[tuple[str, Path]]) -> Iterator[ShardSample]:
    """Yield the sample of a group, or several if names with more dots pair each image with a label."""
    by_name: dict[str, TarInfo] = {}
    for member in group:
        if by_name.setdefault(member.name.lower(), member) is not member:
            fact = f"{path} has two members {member.name!r} in one sample"
            raise DataError(f"{fact}; give each sample its own name and create the file again")
    pictures = [member for member in group if file_suffix(member.name) in image_suffixes()]
    if not pictures:
        other = next((member for member in group if _rest(member.name) not in LABEL_SUFFIXES), None)
        if other is not None:
            unread.append((file_suffix(other.name) or "no suffix", Path(other.name)))
        return
    for picture in _chosen(path, pictures, by_name):
        where = f"{picture.name!r} in {path}"
        if not picture.size:
            raise DataError(f"{where} is empty; create the file again")
        shared = {suffix: member for suffix in LABEL_SUFFIXES for member in group if _rest(member.name) == suffix}
        label, suffix = _label(raw, _own_labels(picture.name, by_name) or shared, where)
        yield ShardSample(path, picture.name, picture.offset_data, picture.size, label, suffix)


def _chosen(path: Path, pictures: list[TarInfo], by_name: Mapping[str, TarInfo]) -> list[TarInfo]:
    """Return the image of a sample; several only if each has a separate label, `x.v1.png` with `x.v1.cls`."""
    plain = [picture for picture in pictures if f".{_rest(picture.name)}" in image_suffixes()]
    stems = {picture.name.rpartition(".")[0].lower() for picture in pictures}
    labeled = [picture for picture in pictures if _own_labels(picture.name, by_name)]
    if len(pictures) == 1 or len(stems) == len(labeled) == len(pictures):
        return pictures
    if len(plain) == 1 and labeled in ([], plain):
        return plain  # the others are masks, depth maps, ...: `x.jpg` and `x.mask.png`
    shown = ", ".join(repr(picture.name) for picture in pictures[:4])
    raise DataError(f"{path} has several images in one sample, {shown}; give each its own name and label")


def _rest(name: str) -> str:
    """Return the part of a file name after the first dot, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _own_labels(picture: str, by_name: Mapping[str, TarInfo]) -> dict[str, TarInfo]:
    """Return the label files by suffix whose names match an image up to the last dot."""
    stem = picture.rpartition(".")[0].lower()
    return {suffix: by_name[name] for suffix in LABEL_SUFFIXES if (name := f"{stem}.{suffix}") in by_name}


def _label(raw: BinaryIO, label_files: Mapping[str, TarInfo], where: str) -> tuple[Any, str]:
    """Return the label of an image, as text or JSON value, and the suffix of its file, the first that is readable."""
    for suffix, member in label_files.items():
        text = _text(raw, member, suffix, where)
        try:
            return (text.strip() if suffix != "json" else _field(json.loads(text))), suffix
        except (ValueError, RecursionError) as error:
            if suffix == "json" and "txt" in label_files:
                continue
            fact = f"the .{suffix} file of {where} cannot be read ({error})"
            raise DataError(f"{fact}; expected only the class name, or a label in a .json") from error
    raise DataError(f"{where} has no label; add its class name as .cls or .txt, or as label in a .json")


def _text(raw: BinaryIO, member: TarInfo, suffix: str, where: str) -> str:
    if member.size > MAX_LABEL_BYTES:
        raise DataError(f"the .{suffix} file of {where} has {member.size} bytes; expected only the class name")
    raw.seek(member.offset_data)
    try:
        return raw.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the .{suffix} file of {where} cannot be read ({error}); save it as UTF-8") from error


def _field(content: Any) -> Any:
    labels = [content[key] for key in LABEL_COLUMNS if key in content] if isinstance(content, dict) else []
    if not labels:
        raise ValueError(f"no field {LABEL_COLUMNS[0]!r} in {shorten(content)}")
    return labels[0]


def read_picture(sample: ShardSample) -> bytes:
    """Return the bytes of the image of a sample."""
    with open_regular(sample.shard) as file:
        file.seek(sample.offset)
        return file.read(sample.size)
