"""Split files and ImageNet's folders: what is read, and what each mistake in them is answered with."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from helpers.data_trees import IDS, class_names, plant, plant_aircraft, plant_dtd, plant_imagenet
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.data import load_benchmark
from ipo_dspy.errors import DataError

SPLIT = "split_zhou_DescribableTextures.json"


def spoil(root: Path, content: Any) -> Path:
    """DTD with another split file: text as it is, or JSON."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return plant(plant_dtd(root), f"dtd/{SPLIT}", content=text)


def whole(train: list[Any], test: list[Any] | None = None) -> dict[str, list[Any]]:
    return {"train": train, "val": train, "test": train if test is None else test}


CAT, DOG = ["banded/0000.jpg", 0, "cat"], ["blotchy/0000.jpg", 1, "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>quota exceeded</html>", r"is not JSON \(Expecting value in line 1; an HTML page or a truncated "),
        (b'{"train": [["a.jpg", 0, "ca', r"is not JSON \(Unterminated string .*download it again from DATASETS.md of"),
        (b"[" * 100_000, "is not JSON"),
        ("caf\xe9".encode("latin-1"), "is not UTF-8 text"),
        ([], "has no list 'train'; download it again"),
        ({"train": [CAT], "val": []}, "has no list 'val'"),
        ({"train": [CAT, DOG], "val": [CAT], "test": {"0": CAT}}, "has no list 'test'"),
        (whole([CAT, ["b.jpg", 1]]), r"train\[1\] of .* is \['b.jpg', 1\]; expected \[path, label, class name\]"),
        (whole([CAT, "b.jpg"]), r"train\[1\] of .* is 'b.jpg'; expected"),
        (whole([CAT, [3, 1, "dog"]]), r"train\[1\] of .* is \[3, 1, 'dog'\]"),
        (whole([CAT, ["b.jpg", -1, "dog"]]), r"is \['b.jpg', -1, 'dog'\]"),
        (whole([CAT, ["b.jpg", 1.5, "dog"]]), r"is \['b.jpg', 1.5, 'dog'\]"),
        (whole([CAT, ["b.jpg", True, "dog"]]), r"is \['b.jpg', True, 'dog'\]"),
        (whole([CAT, ["b.jpg", "9" * 5000, "dog"]]), r"characters\); expected"),
        (whole([CAT, ["../../x.jpg", 1, "dog"]]), r"train\[1\] of .* outside the image folder \('\.\./\.\./x.jpg'"),
        (whole([CAT, ["/etc/x.jpg", 1, "dog"]]), "points outside the image folder"),
        (whole([CAT, DOG, ["c.jpg", 1, "dgo"]]), r"train\[2\] of .* calls label 1 'dgo', earlier rows call it 'dog'"),
        (whole([CAT, DOG], [["c.jpg", 1, "cat"]]), r"test\[0\] of .* calls label 1 'cat', earlier rows call it 'dog'"),
        (whole([CAT, DOG], [["c.jpg", 7, "cow"]]), r"label 7 \('cow'\) of test does not occur"),
        (whole([CAT, [*DOG[:2], "cat"]]), "labels 0 and 1 are both called 'cat'; rename one"),
        (whole([CAT, [*DOG[:2], "CAT"]]), "labels 0 and 1 are both called 'CAT'"),
        (whole([CAT, CAT]), r"a classifier needs at least two classes, e\.g\. \['cat', 'dog'\], got \['cat'\]"),
        (whole([CAT, [*DOG[:2], "do\u202eg"]]), "contains the control character"),
        (whole([CAT, ["a\0.jpg", 1, "dog"]]), "1 images of .* are missing or empty"),
        (whole([CAT, ["a" * 5000, 1, "dog"]]), r"1 images of .* are missing or empty .*\(5002 characters\)"),
    ],
)  # fmt: skip
def test_mistakes_in_a_json_split(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_benchmark("dtd", spoil(tmp_path, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_labels_may_be_text_and_have_gaps(tmp_path: Path) -> None:
    data = load_benchmark("dtd", spoil(tmp_path, whole([["banded/0000.jpg", "4", "cat"], DOG])))
    assert data.train.classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("variants.txt", b"\n", r"variants.txt is empty; download it again"),
        ("variants.txt", b"707-320\n707-320\n", "repeats a class; download it again from www.robots"),
        ("images_variant_val.txt", b"", "images_variant_val.txt is empty"),
        ("images_variant_val.txt", b"1000000\n", "line 1 of .*_val.txt has no class name; expected e.g. '0034309 "),
        ("images_variant_val.txt", b"1 707-320\n2 Boeing 71\n", "line 2 of .* 'Boeing 71'; expected 'Boeing 717'"),
        ("images_variant_val.txt", b"../x 707-320\n", "line 1 of .* which is not an image number; expected"),
        ("images_variant_train.txt", b"0000000 707-320\n", r"label 1 \('Boeing 717'\) of val does not occur"),
        ("images_variant_val.txt", b"999 707-320\n", "1 images of variants.txt are missing or empty in .*: 999.jpg"),
    ],
)  # fmt: skip
def test_mistakes_in_the_lists_of_aircraft(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    plant(plant_aircraft(tmp_path), f"fgvc_aircraft/{file}", content=content)
    with pytest.raises(DataError, match=message):
        load_benchmark("fgvc_aircraft", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "classnames.txt is empty; expected lines such as 'n01440764 tench'"),
        (b"tench\n", "line 1 of .*, 'tench', is not an id with a name"),
        (b"n01440764 tench\nn01443537\n", "line 2 of .*, 'n01443537', is not an id with a name"),
        (b"n01440764 tench\nn01440764 tench\n", "line 2 of .* repeats an id"),
        (b"n01440764 tench\n", r"train contains unexpected folders \(n01443537, n03773504, n04008634, \.\.\.\)"),
    ],
)  # fmt: skip
def test_mistakes_in_classnames(tmp_path: Path, content: bytes, message: str) -> None:
    plant(plant_imagenet(tmp_path), "imagenet/classnames.txt", content=content)
    with pytest.raises(DataError, match=message):
        load_benchmark("imagenet", tmp_path)


def test_imagenet_half_extracted(tmp_path: Path) -> None:
    folder = plant_imagenet(tmp_path) / "imagenet" / "images"
    for file in (folder / "train" / "n01440764").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="train/n01440764 holds no images; extract the archive again"):
        load_benchmark("imagenet", tmp_path)
    (folder / "train" / "n01440764").rmdir()
    with pytest.raises(
        DataError, match=r"train has 4 of 5 class folders; missing: n01440764; extract the archive again$"
    ):
        load_benchmark("imagenet", tmp_path)


def test_files_of_imagenet_that_are_not_used_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = plant_imagenet(tmp_path) / "imagenet" / "images" / "train"
    some_class = folder / "n01440764"
    plant(folder, "stray.JPEG", "n01440764/1.cr2", "n01440764/2.JPEG.part", "n01440764/more/3.JPEG")
    plant(folder, "n01440764/._1.JPEG", "n01440764/notes.txt")
    (some_class / "4.JPEG").symlink_to("/gone/4.JPEG")
    assert len(load_benchmark("imagenet", tmp_path).train) == 6 * len(IDS)
    (warning,) = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert warning.startswith(f"{folder}: 5 files are not used: 1 stray image ('stray.JPEG'): move into class")
    for words in ("1 .cr2 ('n01440764/1.cr2'): develop to JPEG", "1 .part (", "1 sub-folder (", "1 dangling link ("):
        assert words in warning


def test_imagenet_validation_images_that_were_never_sorted(tmp_path: Path) -> None:
    plant_imagenet(tmp_path)
    (tmp_path / "imagenet" / "images" / "val").rename(tmp_path / "sorted")
    plant(tmp_path / "imagenet" / "images" / "val", "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(
        DataError, match=r"images/val has no class folders; sort its images into one folder per class, e\.g\. .*val/n"
    ):
        load_benchmark("imagenet", tmp_path)


def test_imagenet_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    one, two = plant_imagenet(tmp_path / "one"), tmp_path / "two"
    folder = class_names(two / "imagenet", dict(reversed(IDS.items())))
    for key in reversed(IDS):
        plant(folder / "images" / "train" / key, *(f"{key}_{at}.JPEG" for at in reversed(range(6))))
        plant(folder / "images" / "val" / key, *(f"ILSVRC2012_val_{at:08}.JPEG" for at in (1, 0)), ".DS_Store", "a.txt")
    first, second = (load_benchmark("imagenet", root, shots=3, seed=2) for root in (one, two))
    assert first.train.classes == second.train.classes
    assert [Path(item.image).relative_to(one) for item in first.train] == [
        Path(item.image).relative_to(two) for item in second.train
    ]
    assert len(second.test) == 10


def test_namesakes_stay_two_classes(tmp_path: Path) -> None:
    """Under one name both would count as right; as published, the later one is never right."""
    data = load_benchmark("imagenet", plant_imagenet(tmp_path))
    assert data.test.classes == ("tench", "goldfish", "missile", "missile (n04008634)", "sunglasses")
    assert data.published_names == ("tench", "goldfish", "missile", "missile", "sunglasses")
    assert data.test.counts() == dict.fromkeys(data.test.classes, 2)
    assert ClipClassifier(data.test.classes).classes == data.test.classes
    novel = load_benchmark("imagenet", tmp_path, part="novel")
    assert novel.test.classes == ("missile (n04008634)", "sunglasses")
    assert novel.published_names == ("missile", "sunglasses")


@pytest.mark.parametrize("by_label", [True, False])
def test_imagenetv2_has_folders_by_label(tmp_path: Path, by_label: bool) -> None:
    folder = class_names(tmp_path / "imagenetv2") / "imagenetv2-matched-frequency-format-val"
    for label, key in enumerate(IDS):
        plant(folder / (str(label) if by_label else key), f"{label}a.jpeg", f"{label}b.jpeg")
    data = load_benchmark("imagenetv2", tmp_path)
    assert [(Path(item.image).name, item.label) for item in data.test][:3] == [
        ("0a.jpeg", "tench"), ("0b.jpeg", "tench"), ("1a.jpeg", "goldfish"),
    ]  # fmt: skip
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 10)
    (folder / ("3" if by_label else "n04008634")).rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"has 4 of 5 class folders; missing: (3|n04008634)"):
        load_benchmark("imagenetv2", tmp_path)


def test_sets_with_some_classes_are_scored_against_those(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_names(tmp_path / "imagenet")
    folder = tmp_path / "imagenet-adversarial" / "imagenet-a"
    plant(folder, "README.txt", "n01443537/b.jpg", "n01443537/a.jpg", "n04008634/c.jpg")
    with caplog.at_level(logging.WARNING):
        data = load_benchmark("imagenet_a", tmp_path)
    assert "ImageNet-A has 2 classes, 200 were published" in caplog.text
    assert data.test.classes == ("goldfish", "missile")
    assert [Path(item.image).name for item in data.test] == ["a.jpg", "b.jpg", "c.jpg"]
    plant(folder, "n99999999/d.jpg")
    with pytest.raises(DataError, match=r"contains unexpected folders \(n99999999\); remove them"):
        load_benchmark("imagenet_a", tmp_path)


def test_sets_for_testing_have_nothing_to_draw_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ImageNet-R has test images only; remove shots=16 and part='all'"):
        load_benchmark("imagenet_r", tmp_path, shots=16)
    with pytest.raises(DataError, match="ImageNet-Sketch has test images only"):
        load_benchmark("imagenet_sketch", tmp_path, part="novel")
