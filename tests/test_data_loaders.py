"""Laws of all loaders: they return one data set, and take the former argument `test` with a warning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipo_dspy.data import (
    ImageDataset,
    load_hub,
    load_image_folder,
    load_image_table,
    load_images,
    load_webdataset,
)
from ipo_dspy.errors import DataError
from test_data_hub import made, saved
from test_data_webdataset import pets

LOADERS = (load_images, load_image_folder, load_image_table, load_webdataset, load_hub)


def source(loader: Callable[..., ImageDataset], folder: Path) -> Path:
    """Write twenty images of two classes in a form that a loader reads."""
    if loader is load_hub:
        return Path(saved(made([0, 1] * 10), folder / "pets"))
    if loader is load_webdataset:
        return pets(folder / "pets.tar", 20)
    names = [f"{name}/{at}.jpg" for at in range(10) for name in ("cat", "dog")]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8\xff")
    if loader is load_image_table:
        table = folder / "pets.csv"
        table.write_text("image,label\n" + "".join(f"{name},{name[:3]}\n" for name in names))
        return table
    return folder


@pytest.mark.parametrize("loader", LOADERS)
def test_the_former_argument_works_with_a_warning(loader: Callable[..., Any], tmp_path: Path) -> None:
    path = str(source(loader, tmp_path))
    name = loader.__name__
    new = rf"^test= is deprecated in {name}; use {name}\(\.\.\.\)\.split\(test=0\.3, shots=2, seed=1\)$"
    with pytest.warns(DeprecationWarning, match=new) as caught:
        parts = loader(path, shots=2, test=0.3, seed=1)
    assert caught[0].filename == __file__
    assert parts == loader(path).split(test=0.3, shots=2, seed=1)
    assert [part.counts() for part in parts] == [dict.fromkeys(parts[0].classes, count) for count in (2, 3)]
    with (
        pytest.warns(DeprecationWarning, match=r"\.split\(test=2\.0, seed=0\)"),
        pytest.raises(DataError, match=r"^test must be a fraction between 0 and 1 or a number of images, got 2\.0"),
    ):
        loader(path, test=2.0)


@pytest.mark.parametrize("loader", LOADERS)
def test_shots_are_drawn_from_all_images_without_a_split(loader: Callable[..., Any], tmp_path: Path) -> None:
    path = str(source(loader, tmp_path))
    assert set(loader(path, shots=2).counts().values()) == {2}
    assert isinstance(loader(path, test=None), ImageDataset)
