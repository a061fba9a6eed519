"""Folders that are already split: the parts are found, and never learned as if they were the classes."""

from pathlib import Path

import pytest

from ipo_dspy.data import find_split, load_image_folder, load_images
from ipo_dspy.data.split_folders import find_parts
from ipo_dspy.errors import DataError

KINDS = ("circle", "square", "triangle")


def plant(root: Path, *folders: str, classes: tuple[str, ...] = KINDS) -> None:
    for folder in folders:
        for name in classes:
            (root / folder / name).mkdir(parents=True)
            (root / folder / name / "1.jpg").write_bytes(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("train", "validation", "test", "others"),
    [
        ("train", None, "test", []),
        ("train", "val", "test", []),
        ("TRAIN", "valid", None, []),
        ("Training", None, "Test", []),
        ("Training", None, "Testing", []),
        ("seg_train", None, "seg_test", []),
        ("train", "dev", None, []),
        ("train_images", "validation", "holdout", []),
        ("Train_data", None, "test1", []),
        ("train", None, "test", ["__MACOSX/train", ".git/objects", "@eaDir/train"]),
        ("train", "val", None, ["labels"]),
        ("train", None, "test", ["unlabeled"]),
        ("train", None, None, []),
        ("trainset", "Valset", "testset", []),
        ("TrainData", None, "TestData", []),
        ("trainA", None, "testA", []),
    ],
)
def test_the_parts_are_found(
    tmp_path: Path, train: str, validation: str | None, test: str | None, others: list[str]
) -> None:
    plant(tmp_path, *(part for part in (train, validation, test) if part))
    for other in others:
        (tmp_path / other).mkdir(parents=True)
    names = {"training": train, "validation": validation, "test": test}
    assert find_parts(tmp_path) == {role: tmp_path / name for role, name in names.items() if name}
    with pytest.raises(
        DataError, match=rf"already split into training '{train}'.*; load one part at a time, with split='{train}'"
    ):
        load_image_folder(tmp_path)
    assert load_image_folder(tmp_path / train).classes == KINDS


@pytest.mark.parametrize(
    "files",
    [
        ["train/1.jpg", "test/1.jpg"],
        ["train/1.jpg", "bus/1.jpg"],
        ["train/steam/1.jpg", "train/diesel/1.jpg", "bus/1.jpg"],
        ["train/steam/1.jpg", "bus/red/1.jpg"],
        ["test tube/glass/1.jpg", "beaker/steel/1.jpg", "flask/1.jpg"],
        ["cat/young/1.jpg", "dog/young/1.jpg"],
    ],
)
def test_classes_are_no_parts(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"\xff\xd8\xff")
    assert find_parts(tmp_path) is None
    assert set(load_image_folder(tmp_path).classes) == {file.partition("/")[0] for file in files}


def test_a_split_without_a_training_part_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "val", "test")
    with pytest.raises(DataError, match="already split into 'test', 'val', none of them for training; pass one"):
        load_image_folder(tmp_path)


def test_two_parts_of_one_kind_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train", "train2", "test")
    with pytest.raises(DataError, match="two folders of training images, 'train' and 'train2'; pass one of them"):
        find_parts(tmp_path)


@pytest.mark.parametrize("test", ["test", "test1", "testset"])
def test_test_images_in_one_heap_are_no_class(tmp_path: Path, test: str) -> None:
    plant(tmp_path, "train")
    (tmp_path / test).mkdir()
    (tmp_path / test / "1.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.txt").write_text("x")
    assert find_parts(tmp_path) == {"training": tmp_path / "train"}
    with pytest.raises(
        DataError, match=r"already split into training 'train'; load one part at a time, with split='train'$"
    ):
        load_image_folder(tmp_path)


def test_images_outside_the_parts_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "train", "val", "extra")
    for name in ("test/1.jpg", "test/2.jpg", "labels/all.txt", "stray.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    assert find_split(tmp_path) == {"training": "train", "validation": "val"}
    assert [record.getMessage().removeprefix(f"{tmp_path}: ") for record in caplog.records] == [
        "1 file is not used: 1 stray image ('stray.jpg'): move into class folders",
        "not used: 3 images in 'extra', whose name does not say what they are for",
        "not used: 2 images in 'test', which has no class folders, so no labels",
    ]


def test_the_parts_can_be_loaded_as_the_message_says(tmp_path: Path) -> None:
    plant(tmp_path, "train", "val", "test")
    with pytest.raises(DataError, match=r"load one part at a time, with split='train' or split='val' or split='test'$"):
        load_image_folder(tmp_path)
    for name in ("train", "val", "test"):
        assert load_image_folder(tmp_path, split=name) == load_images(tmp_path, split=name)
        assert load_image_folder(tmp_path, split=name) == load_image_folder(tmp_path / name)


def test_a_part_is_read_by_its_name_or_by_what_it_is_for(tmp_path: Path) -> None:
    plant(tmp_path, "seg_train", "seg_test")
    assert find_split(tmp_path) == {"training": "seg_train", "test": "seg_test"}
    for name in ("seg_test", "SEG_TEST", "test", "Testing"):
        assert all("/seg_test/" in item.image for item in load_images(tmp_path, split=name))
    with pytest.raises(DataError, match="has no part 'val'; choose one of 'seg_train', 'seg_test'"):
        load_images(tmp_path, split="val")
    with pytest.raises(DataError, match="is not split into parts; remove split='test'"):
        load_images(tmp_path / "seg_test", split="test")
