"""Recognize folders that are already split: `photos/train/cat`, `photos/test/cat`.

Split folders have a word such as `train` in their names, and the same sub-folders in several of them. Without this
check, the parts would be used as classes.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from ipo_dspy.clip.image_formats import is_image_file
from ipo_dspy.data.image_tree import check_folder, visible_folders
from ipo_dspy.errors import DataError, Hint

ROLES = TRAINING, VALIDATION, TEST = "training", "validation", "test"
PART_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAINING),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), TEST),
}
"""Word for a part, in lower case -> role."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_THINGS = re.compile(r"(set|data|images?|imgs?)$")
"""Suffixes of the word for a part without a separator: `trainset`, `testimages`."""


def find_parts(root: Path) -> dict[str, Path] | None:
    """Return the parts of a folder that is already split by role, or None."""
    below = {sub: _names_below(sub) for sub in visible_folders(check_folder(root))}
    candidates = {sub: names for sub, names in below.items() if names}
    roles = {sub: role for sub in candidates if (role := _role(sub.name)) is not None}
    share = any(candidates[part] & names for part in roles for sub, names in candidates.items() if sub != part)
    # A part without sub-folders in common, such as flat test images, counts if no other folder may be a class.
    if not roles or (not share and any(map(_may_be_class, below))):
        return None
    parts: dict[str, Path] = {}
    for sub, role in roles.items():
        if parts.setdefault(role, sub) != sub:
            fact = f"{root} has two folders of {role} images, {parts[role].name!r} and {sub.name!r}"
            raise DataError(f"{fact}; pass one of them, e.g. {str(sub)!r}")
    if TRAINING not in parts:
        shown = ", ".join(repr(sub.name) for sub in roles)
        raise DataError(f"{root} is already split into {shown}, none of them for training; pass one of these folders")
    return {role: parts[role] for role in ROLES if role in parts}


def part_folder(root: Path, name: str) -> Path:
    """Return one part of a folder that is already split, by its name or a word such as 'test', in any case."""
    parts = find_parts(root)
    if parts is None:
        raise DataError(f"{root} is not split into parts", hint=Hint("remove {split}", split=name))
    folded = name.casefold()
    for role, folder in parts.items():
        if folded == folder.name.casefold() or PART_WORDS.get(folded) == role:
            return folder
    known = ", ".join(repr(folder.name) for folder in parts.values())
    raise DataError(f"{root} has no part {name!r}; choose one of {known}")


def parts_by_name(names: Iterable[str]) -> dict[str, str] | None:
    """Return the names of several splits by role, or None if the names do not reveal the roles.

    >>> parts_by_name(["test", "train"]), parts_by_name(["train", "extra"]), parts_by_name(["train"])
    ({'training': 'train', 'test': 'test'}, None, None)
    """
    known = list(names)
    roles = {PART_WORDS.get(name.casefold()): name for name in known}
    if len(known) < 2 or len(roles) < len(known) or None in roles or TRAINING not in roles:
        return None
    return {role: roles[role] for role in ROLES if role in roles}


def _names_below(folder: Path) -> set[str]:
    try:
        return {sub.name for sub in visible_folders(folder)}
    except OSError:
        return set()


def _may_be_class(folder: Path) -> bool:
    if _role(folder.name) is not None:
        return False
    try:
        return bool(visible_folders(folder)) or any(map(is_image_file, folder.iterdir()))
    except OSError:
        return True


def _role(name: str) -> str | None:
    """Return the role of a folder, from the first word in its name that denotes one, or None.

    >>> _role("seg_train"), _role("Test1"), _role("TrainData"), _role("valset"), _role("bus"), _role("latest")
    ('training', 'test', 'training', 'validation', None, None)
    """
    tokens = [_THINGS.sub("", word.lower()) for word in _WORDS.findall(name)]
    return next((PART_WORDS[token] for token in tokens if token in PART_WORDS), None)
