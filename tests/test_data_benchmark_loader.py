"""The protocol of the experiments on miniature trees: draws, halves and names, image for image."""

import json
import logging
import math
import random
from pathlib import Path

import pytest

from helpers.data_trees import Row, plant_aircraft, plant_dtd, plant_imagenet, plant_split, rows
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.data import ImageDataset, load_benchmark
from ipo_dspy.data.benchmark_loader import Half
from ipo_dspy.errors import DataError

SIZES = {"zebra": 9, "apple": 3, "mango": 7, "bee": 6, "crow": 5}
"""Label order is not alphabetical; `apple` has fewer images than some draws ask for."""


def drawn_by_the_protocol(part: list[Row], k: int, rng: random.Random) -> list[Row]:
    """The published words once more, in their plainest form and from nothing but the split file's rows."""
    by_label: dict[int, list[Row]] = {}
    for row in part:
        if row[1] not in by_label:
            by_label[row[1]] = []
        by_label[row[1]].append(row)
    out: list[Row] = []
    for items in by_label.values():
        out.extend(rng.sample(items, k) if len(items) >= k else items)
    return out


def paths(data: ImageDataset, root: Path) -> list[str]:
    return [Path(item.image).relative_to(root / "dtd" / "images").as_posix() for item in data]


def split_file(root: Path) -> dict[str, list[Row]]:
    content: dict[str, list[Row]] = json.loads((root / "dtd" / "split_zhou_DescribableTextures.json").read_text())
    return content


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_draws_are_the_protocol(tmp_path: Path, shots: int, seed: int) -> None:
    root = plant_dtd(tmp_path, SIZES)
    content, rng = split_file(root), random.Random(seed)
    train = drawn_by_the_protocol(content["train"], shots, rng)
    val = drawn_by_the_protocol(content["val"], min(shots, 4), rng)
    data = load_benchmark("dtd", root, shots=shots, seed=seed)
    assert paths(data.train, root) == [row[0] for row in train]
    assert paths(data.val, root) == [row[0] for row in val]
    assert paths(data.test, root) == [row[0] for row in content["test"]]
    assert data.train.labels() == [row[2] for row in train]


RECORDED = {
    1: ("zebra 2 1, apple 1 0, mango 3 6, bee 3 5, crow 1 0", "zebra 3 0, apple 0, mango 1 2, bee 2 0, crow 1 0"),
    2: ("zebra 0 1, apple 0 1, mango 6 1, bee 5 2, crow 2 1", "zebra 0 2, apple 0, mango 2 0, bee 1 2, crow 1 0"),
    3: ("zebra 3 2, apple 1 2, mango 5 4, bee 0 4, crow 0 3", "zebra 2 3, apple 0, mango 0 2, bee 2 1, crow 1 0"),
}
"""Images that two shots take of each class for training and validating, computed once with `random.sample` alone.

If another Python drew other images, this would show that results can no longer be compared."""


@pytest.mark.parametrize("seed", RECORDED)
def test_draws_are_recorded(tmp_path: Path, seed: int) -> None:
    root = plant_dtd(tmp_path, SIZES)
    data = load_benchmark("dtd", root, shots=2, seed=seed)
    assert (taken(data.train, root), taken(data.val, root)) == RECORDED[seed]


def taken(data: ImageDataset, root: Path) -> str:
    """Classes in the order of drawing, each with the numbers of its images; those for validation begin at 100."""
    by_class: dict[str, list[str]] = {}
    for path in paths(data, root):
        by_class.setdefault(path.split("/")[0], []).append(str(int(Path(path).stem) % 100))
    return ", ".join(" ".join([name, *numbers]) for name, numbers in by_class.items())


@pytest.mark.parametrize("shots", [None, 1, 16])
def test_halves_are_taken_by_label_after_the_draw(tmp_path: Path, shots: int | None) -> None:
    root = plant_dtd(tmp_path, SIZES)
    whole = load_benchmark("dtd", root, shots=shots, seed=2)
    base = load_benchmark("dtd", root, shots=shots, seed=2, part="base")
    novel = load_benchmark("dtd", root, shots=shots, seed=2, part="novel")
    names = list(SIZES)
    half = math.ceil(len(names) / 2)
    assert (base.test.classes, novel.test.classes) == (tuple(names[:half]), tuple(names[half:]))
    for part in ("train", "val", "test"):
        of_whole, of_base, of_novel = (getattr(data, part) for data in (whole, base, novel))
        assert of_base == [item for item in of_whole if item.label in names[:half]]
        assert of_novel == [item for item in of_whole if item.label in names[half:]]
        assert of_base.classes == base.test.classes


def test_a_class_that_is_too_small_gives_all_it_has_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = load_benchmark("dtd", plant_dtd(tmp_path, SIZES), shots=6)
    assert data.train.counts() == {"zebra": 6, "apple": 3, "mango": 6, "bee": 6, "crow": 5}
    assert data.val.counts() == {"zebra": 4, "apple": 1, "mango": 3, "bee": 3, "crow": 2}
    assert "fewer than 6 training images; using all of them: apple (3), crow (5)" in caplog.text
    assert "DTD has 5 classes, 47 were published" in caplog.text


def test_names_are_those_of_the_split_file_and_spaces_come_on_filling(tmp_path: Path) -> None:
    sizes = {"polka-dotted": 2, "Apply_Eye_Makeup": 2, "café": 2, "x y": 2}
    data = load_benchmark("dtd", plant_dtd(tmp_path, sizes))
    assert data.test.classes == data.published_names == tuple(sizes)
    assert data.template == "<CLASS> texture."
    classifier = ClipClassifier(data.test.classes, template=data.template)
    assert classifier.template.fill("Apply_Eye_Makeup") == ("Apply Eye Makeup texture.",)


@pytest.mark.parametrize("fixed", [False, True])
def test_eurosat_has_other_class_names(tmp_path: Path, fixed: bool) -> None:
    """The published split file has the new names already; one made from the folders has the old ones."""
    new = {"AnnualCrop": "Annual Crop Land", "Forest": "Forest", "SeaLake": "Sea or Lake", "River": "River"}
    one = [(f"{old}/{old}_1.jpg", label, new[old] if fixed else old) for label, old in enumerate(new)]
    plant_split(tmp_path / "eurosat", "split_zhou_EuroSAT.json", "2750", dict.fromkeys(("train", "val", "test"), one))
    data = load_benchmark("eurosat", tmp_path, shots=1)
    assert data.train.classes == tuple(new.values())
    assert data.template == "a centered satellite photo of <CLASS>."


@pytest.mark.parametrize(
    ("name", "folder", "images", "file", "prefix"),
    [
        ("caltech101", "caltech-101", "101_ObjectCategories", "Caltech101", ""),
        ("oxford_pets", "oxford_pets", "images", "OxfordPets", ""),
        ("stanford_cars", "stanford_cars", ".", "StanfordCars", "cars_train/"),
        ("oxford_flowers", "oxford_flowers", "jpg", "OxfordFlowers", ""),
        ("food101", "food-101", "images", "Food101", ""),
        ("sun397", "sun397", "SUN397", "SUN397", "a/abbey/"),
        ("dtd", "dtd", "images", "DescribableTextures", ""),
        ("eurosat", "eurosat", "2750", "EuroSAT", ""),
        ("ucf101", "ucf101", "UCF-101-midframes", "UCF101", ""),
    ],
)
def test_each_layout_with_a_json_split(
    tmp_path: Path, name: str, folder: str, images: str, file: str, prefix: str
) -> None:
    parts = {
        part: rows({"cat": 2, "dog": 2}, first=at, folder=prefix)
        for at, part in zip((0, 10, 20), ("train", "val", "test"), strict=True)
    }
    plant_split(tmp_path / folder, f"split_zhou_{file}.json", images, parts)
    data = load_benchmark(name, tmp_path, shots=1, seed=3)
    assert data.name == name
    assert [item.image for item in data.test] == [str(tmp_path / folder / images / row[0]) for row in parts["test"]]
    assert all(Path(item.image).is_file() for item in data.train)
    assert (data.train.counts(), data.val.counts()) == ({"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})


def test_aircraft(tmp_path: Path) -> None:
    root = plant_aircraft(tmp_path)
    data = load_benchmark("fgvc_aircraft", root)
    assert data.train.classes == ("707-320", "Boeing 717", "F-16A/B")
    assert data.train[1].image == str(root / "fgvc_aircraft" / "images" / "0000001.jpg")
    assert data.test.labels() == [*data.test.classes] * 2
    assert load_benchmark("fgvc_aircraft", root, shots=1).val.counts() == dict.fromkeys(data.test.classes, 1)


def test_imagenet_is_tested_on_its_validation_set(tmp_path: Path) -> None:
    root = plant_imagenet(tmp_path)
    data = load_benchmark("imagenet", root, shots=4, seed=1)
    assert data.train.counts() == dict.fromkeys(data.train.classes, 4)
    assert data.val == data.test
    assert len(data.test) == 10
    rng = random.Random(1)
    expected = [f"n01440764_{at}.JPEG" for at in rng.sample(range(6), 4)]
    assert [Path(item.image).name for item in data.train][:4] == expected
    base = load_benchmark("imagenet", root, shots=4, seed=1, part="base")
    assert base.test.classes == ("tench", "goldfish", "missile")
    assert base.train == data.train[:12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, r"shots must be an integer of at least 1, or None for all, got 0; for example shots=16"),
        ({"part": "new"}, "part must be one of 'all', 'base', 'novel', got 'new'"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(tmp_path: Path, options: dict[str, Half], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_benchmark("dtd", tmp_path / "nowhere", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["base", "novel"])
def test_three_classes_make_no_halves(tmp_path: Path, part: Half) -> None:
    root = plant_dtd(tmp_path, {"a": 1, "b": 1, "c": 1})
    with pytest.raises(DataError, match=r"has 3 classes, and base and novel need two each; remove part='\w+'"):
        load_benchmark("dtd", root, part=part)


def test_what_is_missing_is_named_with_its_origin(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dtd/split_zhou_.*json does not exist \(source: .*`ipo-dspy data check dtd /"):
        load_benchmark("dtd", tmp_path)
    plant_dtd(tmp_path, missing=["bumpy/0001.jpg", "bumpy/0201.jpg"])
    message = r"2 images of split_.*json are missing or empty in .*/images: bumpy/0001.jpg, bumpy/0201.jpg; extract"
    with pytest.raises(DataError, match=message):
        load_benchmark("dtd", tmp_path, shots=1)
