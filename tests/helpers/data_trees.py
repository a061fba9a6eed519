"""Miniature trees of the benchmarks, in the exact layouts: real files on disk, which nobody decodes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

JPEG = b"\xff\xd8\xff\xe0 not looked at here"

Row = tuple[str, int, str]

IDS = {
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n03773504": "missile",
    "n04008634": "missile",
    "n04355933": "sunglasses",
}
"""Five of ImageNet's classes under CLIP's names, two of which are the same."""


def plant(folder: Path, *names: str, content: bytes = JPEG) -> Path:
    """Files in a folder."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def rows(sizes: Mapping[str, int], *, first: int = 0, folder: str = "") -> list[Row]:
    """`[path, label, name]` rows that take turns through the classes, numbered from `first` in each."""
    most = max(sizes.values(), default=0)
    turns = [(at, label, name) for at in range(most) for label, name in enumerate(sizes) if at < sizes[name]]
    return [(f"{folder}{name}/{first + at:04}.jpg", label, name) for at, label, name in turns]


def plant_split(
    folder: Path, file: str, images: str, parts: Mapping[str, Sequence[Row]], *, missing: Iterable[str] = ()
) -> Path:
    """A data set with a JSON split file, and its images but for those that are to be missing."""
    paths = {row[0] for part in parts.values() for row in part} - set(missing)
    plant(folder / images, *paths)
    (folder / file).write_text(json.dumps(parts, indent=4))
    return folder


def plant_dtd(root: Path, sizes: Mapping[str, int] | None = None, *, missing: Iterable[str] = ()) -> Path:
    """DTD with a few classes: `sizes` for training, half of it for validation, three test images per class."""
    sizes = sizes or {"banded": 8, "blotchy": 8, "braided": 8, "bubbly": 8, "bumpy": 8}
    parts = {
        "train": rows(sizes),
        "val": rows({name: max(1, count // 2) for name, count in sizes.items()}, first=100),
        "test": rows(dict.fromkeys(sizes, 3), first=200),
    }
    plant_split(root / "dtd", "split_zhou_DescribableTextures.json", "images", parts, missing=missing)
    return root


def plant_aircraft(root: Path) -> Path:
    """FGVC-Aircraft with three variants, two images each in each list."""
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "Boeing 717", "F-16A/B"]
    plant(folder, "variants.txt", content="\n".join(variants).encode() + b"\n")
    for start, part in enumerate(("train", "val", "test")):
        lines = [(f"{start}{turn}{at:05}", name) for turn in range(2) for at, name in enumerate(variants)]
        plant(folder, f"images_variant_{part}.txt", content="".join(f"{i} {n}\n" for i, n in lines).encode())
        plant(folder / "images", *(f"{image}.jpg" for image, _ in lines))
    return root


def class_names(folder: Path, ids: Mapping[str, str] = IDS) -> Path:
    """ImageNet's `classnames.txt`."""
    return plant(folder, "classnames.txt", content="".join(f"{key} {name}\n" for key, name in ids.items()).encode())


def plant_imagenet(root: Path, train: int = 6, val: int = 2) -> Path:
    """ImageNet with five classes."""
    folder = class_names(root / "imagenet")
    for key in IDS:
        plant(folder / "images" / "train" / key, *(f"{key}_{at}.JPEG" for at in range(train)))
        plant(folder / "images" / "val" / key, *(f"ILSVRC2012_val_{at:08}.JPEG" for at in range(val)))
    return root
