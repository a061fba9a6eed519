"""Images with several labels or none: cells of a table, several rows of an image, and class folders."""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipo_dspy.data import ImageDataset, label_sets_catalog, load_label_sets
from ipo_dspy.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a.png ... f.png."""
    for name in "abcdef":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def read(folder: Path, text: str, **options: Any) -> ImageDataset:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    return load_label_sets(folder / "t.csv", **options)


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.png,dog|ball\nb.png,dog\nc.png,\n",
        "image,labels\na.png,dog ; ball\nb.png, dog\nc.png,(none)\n",
        "image,label\na.png,dog\na.png,ball\nb.png,dog\nb.png,dog\nc.png,\n",
        "image;label\na.png;dog|ball\nb.png;dog|dog\nc.png;\n",
        "file_name\tclass\na.png\tdog|ball|\nb.png\tdog\nc.png\t|\n",
    ],
)
def test_labels_are_in_one_cell_or_in_several_rows(photos: Path, text: str) -> None:
    data = read(photos, text)
    assert [(Path(item.image).name, item.label) for item in data] == [
        ("a.png", ["dog", "ball"]),
        ("b.png", ["dog"]),
        ("c.png", []),
    ]
    assert data.classes == ("ball", "dog")
    assert data.counts() == {"ball": 1, "dog": 2}


def test_parquet_has_lists(photos: Path) -> None:
    columns = {"image": ["a.png", "b.png"], "labels": [["dog", "ball"], []]}
    pq.write_table(pa.table(columns), photos / "t.parquet")
    data = load_label_sets(photos / "t.parquet", classes=["dog", "ball", "bench"])
    assert [item.label for item in data] == [["dog", "ball"], []]
    assert data.classes == ("dog", "ball", "bench")


def test_names_are_spelled_as_the_classes(photos: Path) -> None:
    data = read(photos, "image,label\na.png,tennis_ball|dog\n", classes=["tennis ball", "dog"])
    assert data[0].label == ["tennis ball", "dog"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "image,label\na.png,dgo\n",
            {"classes": ["dog"]},
            r"line 2 of .*t\.csv has the unknown label 'dgo'; expected 'dog'",
        ),
        (f"image,label\na.png,{'x' * 201}\n", {}, r"line 2 of .*t\.csv has a label of 201 characters, 'xxx"),
        ("image,label\na.png,\nb.png,\n", {}, r"t\.csv: a classifier needs at least one class"),
        ("image,label\nz.png,dog\n", {}, r"line 2 of .*t\.csv names the image 'z\.png'"),
        ("image,kind\na.png,dog\n", {}, "has no label column, only 'image', 'kind'"),
    ],
)
def test_mistakes_name_the_row(photos: Path, text: str, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(photos, text, **options)


def test_numbers_are_not_names(photos: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"], "label": [3]}), photos / "t.parquet")
    with pytest.raises(DataError, match=r"has the labels 3; expected class names, separated by '\|' or ';'"):
        load_label_sets(photos / "t.parquet")


def test_one_class_of_folders_is_there_or_not(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, name in enumerate("abcdef"):
        place = photos / "shop" / ("dog" if i < 2 else "street" if i < 4 else "park")
        place.mkdir(parents=True, exist_ok=True)
        (photos / f"{name}.png").rename(place / f"{name}.png")
    assert load_label_sets(photos / "shop").counts() == {"dog": 2, "park": 2, "street": 2}
    with caplog.at_level(logging.WARNING, logger="ipo_dspy"):
        data = load_label_sets(photos / "shop", classes=["dog"])
    assert [item.label for item in data] == [["dog"], ["dog"], [], [], [], []]
    assert "images of 2 folders count as images without a label: park, street" in caplog.text
    with pytest.raises(DataError, match="has the unknown label 'dog'; expected one of 'cat'"):
        load_label_sets(photos / "shop", classes=["cat"])
    with pytest.raises(DataError, match=r"^label must be left out for .* got 'x'; remove it: it names a column"):
        load_label_sets(photos / "shop", label="x")
    with pytest.raises(DataError, match="is not a table, which several labels need"):
        load_label_sets(photos / "shop" / "dog" / "a.png")


def test_shots_draw_images_of_rare_labels(photos: Path) -> None:
    rows = [f"{name}.png,dog" for name in "abcd"] + ["e.png,dog|ball", "f.png,"]
    (photos / "t.csv").write_text("\n".join(["image,label", *rows]))
    for seed in range(5):
        drawn, _, _ = label_sets_catalog(photos / "t.csv").split(shots=1, test=None, seed=seed)
        assert sorted(map(str, (item.label for item in drawn))) == ["['dog', 'ball']", "['dog']", "[]"]


def test_no_label_is_not_a_class_with_few_images(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = read(photos, "image,labels\na.png,dog\nb.png,dog\nc.png,dog\nd.png,ball\ne.png,(none)\n")
    with caplog.at_level(logging.WARNING, logger="ipo_dspy"):
        label_sets_catalog(photos / "t.csv").split(shots=9, test=0.5, seed=0)
        data.split(shots=9, test=0.5)
    untested, few = "too few images to test 1 class: ball (1)", "2 classes have fewer than 9 training images"
    messages = [message for message in caplog.messages if "image" in message]
    assert messages == [untested, f"{few}; using all of them: dog (1), ball (1)"] * 2


def test_parts_of_a_data_set_keep_label_sets(photos: Path) -> None:
    data = read(photos, "image,labels\na.png,dog|ball\nb.png,dog\nc.png,\nd.png,ball\n")
    assert [item.label for item in data.subset(["ball"])] == [["ball"], ["ball"]]
    train, test = data.split(test=1)
    assert sorted(item.source for item in (*train, *test)) == sorted(item.source for item in data)
    assert [item.label for item in data.spelled_as(["Dog", "ball"])] == [item.label for item in data]
