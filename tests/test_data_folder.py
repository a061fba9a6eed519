"""Folders of class folders: what is read, in which order, and what each mistake is answered with."""

import logging
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipo_dspy.data import ImageDataset, load_image_folder, load_images
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


def test_passes_over_what_is_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg", "README.jpg", ".git/x.jpg")
    plant(tmp_path, "cat/._1.jpg", "cat/.thumbs/1.jpg", "cat/notes.txt", "cat/Thumbs.db", "cat/2.jpg.part")
    (tmp_path / "cat" / "folder.jpg").mkdir()
    with caplog.at_level(logging.WARNING):
        assert images(load_image_folder(tmp_path), tmp_path) == ["cat/1.jpg", "dog/1.jpg"]
    assert not caplog.records


def test_tells_of_empty_files_and_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg")
    plant(tmp_path, "cat/0.jpg", "__MACOSX/1.txt", content=b"")
    with caplog.at_level(logging.WARNING):
        data = load_image_folder(tmp_path)
    assert data.counts() == {"cat": 1, "dog": 1}
    assert "left out 1 empty file(s)" in caplog.text
    assert "1 class folder(s) without images: ['__MACOSX']" in caplog.text


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
    trainset, testset = load_image_folder(tmp_path, shots=3, test=0.5, seed=0)
    assert trainset.counts() == {"cat": 3, "dog": 3}
    assert testset.counts() == {"cat": 5, "dog": 5}
    assert not {item.image for item in trainset} & {item.image for item in testset}
    assert load_images(tmp_path, shots=3, test=0.5, seed=0) == (trainset, testset)
    assert load_image_folder(tmp_path, shots=3, test=0.5, seed=1)[0] != trainset


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_order_on_disk_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, order: random.Random
) -> None:
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee", "cow") for i in range(4)]
    one = plant(tmp_path_factory.mktemp("one"), *names)
    order.shuffle(names)
    two = plant(tmp_path_factory.mktemp("two"), *names)
    first = [images(part, one) for part in load_image_folder(one, shots=1, test=0.5, seed=seed)]
    assert first == [images(part, two) for part in load_image_folder(two, shots=1, test=0.5, seed=seed)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.jpg", "2.jpg"], "has no sub-folders; put each class in a sub-folder: .*/cat/1.jpg"),
        (["cat/notes.txt", "dog/notes.txt"], "sub-folders without images .*put some in"),
        (["cat/1.jpg"], "images of one class only, 'cat'; add another"),
        (["cat/1.jpg", "dog/x.txt"], r"one class only, 'cat' \(dog hold none\)"),
        (["cat_dog/1.jpg", "Cat dog/1.jpg"], "'Cat dog' and 'cat_dog' read alike .*rename one"),
        (
            ["train/cat/1.jpg", "test/cat/1.jpg"],
            r"already split into test, train; .*load_image_folder\('.*/test'\)",
        ),
        (["_/1.jpg", "dog/1.jpg"], "class name '_' is not a non-empty string"),
        (["a\u202eb/1.jpg", "dog/1.jpg"], r"control character.* write it without"),
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
    with pytest.raises(DataError, match=r"there is no folder .*/photoz .* pass the path of one that exists"):
        load_image_folder(tmp_path / "photoz")
    with pytest.raises(DataError, match="is a file; pass the folder"):
        load_image_folder(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"neither folder, table nor tar file; pass .* \.csv, \.parquet, \.tar, \.tsv"):
        load_images(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="there is no folder"):
        load_images(tmp_path / "photoz")


def test_mistakes_in_the_numbers(tmp_path: Path) -> None:
    plant(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match="shots=0"):
        load_image_folder(tmp_path, shots=0)
    with pytest.raises(DataError, match="leaves class 'cat'"):
        load_image_folder(tmp_path, test=0.5)
