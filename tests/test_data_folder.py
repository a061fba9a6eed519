"""Folders of class folders: what is read, in which order, and what each mistake is answered with."""

import io
import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ipo_dspy.data import ImageDataset, load_image_folder, load_images
from ipo_dspy.data.split_folders import find_parts
from ipo_dspy.errors import DataError

JPEG = b"\xff\xd8\xff\xe0 not looked at here"


def plant(folder: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def images(data: ImageDataset, folder: Path) -> list[str]:
    return [Path(item.image).relative_to(folder).as_posix() for item in data]


def test_reads_images_below_class_folders_in_order(tmp_path: Path) -> None:
    plant(tmp_path, "dog/2.jpg", "cat/b.PNG", "cat/deep/er/a.webp", "golden_retriever/1.jpeg")
    data = load_image_folder(tmp_path)
    assert data.classes == ("cat", "dog", "golden_retriever")
    assert images(data, tmp_path) == [
        "cat/b.PNG",
        "cat/deep/er/a.webp",
        "dog/2.jpg",
        "golden_retriever/1.jpeg",
    ]
    assert data.labels() == ["cat", "cat", "dog", "golden_retriever"]
    assert all(item.source == item.image for item in data)
    assert load_images(str(tmp_path)) == data


def test_ignores_files_that_are_not_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", ".1.jpg", ".git/x.jpg")
    plant(tmp_path, "cat/._1.jpg", "cat/.thumbs/1.jpg", "cat/notes.txt", "cat/Thumbs.db")
    (tmp_path / "cat" / "folder.jpg").mkdir()
    with caplog.at_level(logging.WARNING):
        assert images(load_image_folder(tmp_path), tmp_path) == ["cat/1.jpg", "dog/1.jpg"]
    assert not caplog.records


def test_reports_empty_files_and_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg")
    plant(tmp_path, "cat/0.jpg", "birds/1.txt", "__MACOSX/1.txt", content=b"")
    with caplog.at_level(logging.WARNING):
        data = load_image_folder(tmp_path)
    assert data.counts() == {"cat": 1, "dog": 1}
    assert "1 file is not used: 1 empty file ('cat/0.jpg')" in caplog.text
    assert "left out 1 class folder without images: ['birds']" in caplog.text


def test_every_format_that_is_read_counts_whatever_its_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["1.jpg", "2.jfif", "3.jpe", "4.jp2", "5.AVIF", "6.tif", "7.PNG", "8.pgm"]
    plant(tmp_path, *(f"{label}/{name}" for label in ("cat", "dog") for name in names))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    plant(tmp_path, "cat/without_suffix", "cat/x.jpg?w=300", content=buffer.getvalue())
    plant(tmp_path, "cat/LICENSE", content=b"a text")
    assert load_image_folder(tmp_path).counts() == {"cat": 10, "dog": 8}
    assert not caplog.records


def test_what_is_not_used_is_counted_by_kind_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/a.cr2", "dog/b.cr2", "dog/c.jpg.part", "dog/clip.mp4")
    for at in range(6):
        (tmp_path / "dog" / f"{at}.png").symlink_to(f"/gone/{at}.png")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}
    (record,) = caplog.records
    assert "11 files are not used: 6 dangling links ('dog/0.png'): repair the links" in record.getMessage()
    assert "2 .cr2 ('cat/a.cr2'): develop to JPEG" in record.getMessage()
    assert "1 .part ('dog/c.jpg.part'): finish the download" in record.getMessage()
    assert "1 special file ('cat/pipe.jpg')" in record.getMessage()


def test_images_next_to_the_class_folders_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "b.jpg", "a.HEIC", "c.cr2", "notes.txt", "photos.zip", ".hidden.jpg")
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}
    (record,) = caplog.records
    assert "3 files are not used: 3 stray images ('a.HEIC'): move into class folders" in record.getMessage()


def test_folders_that_are_locked_are_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/more/2.jpg", "elk/1.jpg")
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if Path(path).name in {"more", "elk"}:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # root may read everything
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}
    assert "2 files are not used: 2 unreadable folders ('dog/more'): check its permissions" in caplog.text
    assert "without images" not in caplog.text


def test_folders_of_systems_are_no_classes_and_hold_no_images(tmp_path: Path) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "@eaDir/1.jpg", "cat/@eaDir/1.jpg/THUMB.jpg", "__MACOSX/cat/._1.jpg")
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}


def test_linked_folders_below_a_class_are_read(tmp_path: Path) -> None:
    plant(tmp_path, "photos/cat/only.jpg", "photos/dog/1.jpg", *(f"batch/{at}.jpg" for at in range(6)))
    (tmp_path / "photos" / "cat" / "batch1").symlink_to(tmp_path / "batch")
    (tmp_path / "batch" / "loop").symlink_to(tmp_path / "batch")
    assert load_image_folder(tmp_path / "photos").counts() == {"cat": 7, "dog": 1}


def test_a_folder_that_is_linked_twice_is_read_once(tmp_path: Path) -> None:
    plant(tmp_path, "cat/all/1.jpg", "cat/all/2.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "latest").symlink_to(tmp_path / "cat" / "all")
    assert images(load_image_folder(tmp_path), tmp_path) == ["cat/all/1.jpg", "cat/all/2.jpg", "dog/1.jpg"]


def test_links_that_lead_nowhere_are_reported_also_in_place_of_a_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "elk").symlink_to("/gone/elk")
    (tmp_path / "cat" / "itself.jpg").symlink_to("itself.jpg")
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}
    assert "2 files are not used: 2 dangling links ('elk')" in caplog.text


def test_locked_files_and_a_locked_folder_are_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/locked.jpg", "dog/locked")
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).name.startswith("locked"))
    assert load_image_folder(tmp_path).counts() == {"cat": 1, "dog": 1}
    assert "2 files are not used: 2 unreadable files ('dog/locked'): check its permissions" in caplog.text
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for load in (load_image_folder, load_images, find_parts):
        with pytest.raises(DataError, match="cannot be read; check its permissions"):
            load(tmp_path)


def test_a_locked_folder_above_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", locked)  # root may look everywhere
    for load in (load_image_folder, load_images, find_parts):
        with pytest.raises(DataError, match="cannot be read; check the permissions of the folders above it"):
            load(tmp_path / "x")


def test_class_names_do_not_depend_on_how_a_disk_writes_accents(tmp_path: Path) -> None:
    plant(tmp_path, "cafe\u0301/1.jpg", "bar/1.jpg")
    assert load_image_folder(tmp_path).classes == ("bar", "caf\u00e9")


def test_follows_a_link_to_a_class_but_no_cycle(tmp_path: Path) -> None:
    plant(tmp_path, "photos/cat/1.jpg", "elsewhere/1.jpg")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "again").symlink_to(tmp_path / "photos")
    assert load_image_folder(tmp_path / "photos").counts() == {"cat": 1, "dog": 1}


def test_readme_line_splits_and_draws(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{name}/{i:02}.jpg" for name in ("cat", "dog") for i in range(10)))
    trainset, testset = load_image_folder(tmp_path).split(test=0.5, shots=3, seed=0)
    assert trainset.counts() == {"cat": 3, "dog": 3}
    assert testset.counts() == {"cat": 5, "dog": 5}
    assert not {item.image for item in trainset} & {item.image for item in testset}
    assert load_images(tmp_path).split(test=0.5, shots=3, seed=0) == (trainset, testset)
    assert load_image_folder(tmp_path).split(test=0.5, shots=3, seed=1)[0] != trainset


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_order_on_disk_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, order: random.Random
) -> None:
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee", "cow") for i in range(4)]
    one = plant(tmp_path_factory.mktemp("one"), *names)
    order.shuffle(names)
    two = plant(tmp_path_factory.mktemp("two"), *names)
    first = [images(part, one) for part in load_image_folder(one).split(test=0.5, shots=1, seed=seed)]
    assert first == [images(part, two) for part in load_image_folder(two).split(test=0.5, shots=1, seed=seed)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.jpg", "2.jpg"], "has no sub-folders; put each class in a sub-folder: .*/cat/1.jpg"),
        (["cat/notes.txt", "dog/notes.txt"], "sub-folders without images .*add images"),
        (["cat/1.jpg"], "images of one class only, 'cat'; add another"),
        (
            ["images/cat/1.jpg", "images/dog/1.jpg"],
            "one class only, 'images'; pass '.*/images' if it contains the class folders",
        ),
        (["cat/1.jpg", "dog/x.txt"], r"one class only, 'cat' \(dog hold none\)"),
        (["cat_dog/1.jpg", "Cat dog/1.jpg"], "'Cat dog' and 'cat_dog' are indistinguishable .*rename one"),
        (
            ["train/cat/1.jpg", "test/cat/1.jpg"],
            r"already split into training 'train', test 'test'; load one part .* with split='train' or split='test'$",
        ),
        (
            ["cat/1.jpg", "cat /1.jpg", "dog/1.jpg"],
            "two folders of the class 'cat': 'cat' and 'cat '; move their images",
        ),
        (["caf\u00e9/1.jpg", "cafe\u0301/1.jpg"], r"two folders of the class 'caf\u00e9': .*\\u0301"),
        (["cat/1.cr2", "dog/1.cr2"], r"without supported images: 2 files are not used: 2 \.cr2 .*develop to JPEG"),
        (["train/0.tar", "test/0.tar"], "holds tar files such as 'test/0.tar'; pass the folder of one part"),
        (["_/1.jpg", "dog/1.jpg"], "class name '_' must be a non-empty string"),
        (["a\u202eb/1.jpg", "dog/1.jpg"], r"control character.* remove it"),
    ],
)
def test_mistakes_in_the_layout(tmp_path: Path, files: list[str], message: str) -> None:
    plant(tmp_path, *files)
    with pytest.raises(DataError, match=message) as caught:
        load_image_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_split_names_alone_may_be_classes(tmp_path: Path) -> None:
    plant(tmp_path, "train/1.jpg", "test/1.jpg")
    assert load_image_folder(tmp_path).classes == ("test", "train")


def test_mistakes_in_the_path(tmp_path: Path) -> None:
    plant(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"folder .*/photoz does not exist .*; pass an existing folder"):
        load_image_folder(tmp_path / "photoz")
    with pytest.raises(DataError, match="is a file; pass the folder"):
        load_image_folder(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"neither folder, table nor tar file; pass .* \.csv, \.parquet, \.tar, \.tsv"):
        load_images(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"folder .*photoz does not exist"):
        load_images(tmp_path / "photoz")


def test_mistakes_in_the_numbers(tmp_path: Path) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match="shots must be an integer of at least 1, or None for all, got 0"):
        load_image_folder(tmp_path, shots=0)
    with pytest.raises(DataError, match=r"test must leave at least one class with a test image, got 0.5"):
        load_image_folder(tmp_path).split(test=0.5)
