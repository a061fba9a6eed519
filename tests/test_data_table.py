"""Tables of images: CSV, TSV and parquet as met in the wild, and what each mistake is answered with."""

import base64
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipo_dspy.data import ImageDataset, load_image_table, load_images
from ipo_dspy.errors import DataError

HEAD = "image,label\n"


def picture(color: str, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a.jpg ... d.jpg."""
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(picture("red"))
    return tmp_path


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parquet(folder: Path, columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()})
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def rows(data: ImageDataset) -> list[tuple[str, str]]:
    return [(Path(item.image).name, item.label) for item in data]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("image,label\na.jpg,dog\nb.jpg,cat\n", "t.csv"),
        ("\ufeffimage;label\r\na.jpg;dog\r\nb.jpg;cat\r\n", "excel.csv"),
        ("image\tlabel\na.jpg\tdog\nb.jpg\tcat", "t.tsv"),
        ("note, Class ,n,File_Name\n\n,dog,1,a.jpg\n\n'\"', cat ,2, b.jpg \n", "t.CSV"),
        ('label,path\n"dog","./a.jpg"\n"cat","b.jpg"\n', "t.csv"),
    ],
)
def test_csv_forms(photos: Path, text: str, name: str) -> None:
    data = load_image_table(write(photos, text, name))
    assert rows(data) == [("a.jpg", "dog"), ("b.jpg", "cat")]
    assert data.classes == ("cat", "dog")
    assert load_images(photos / name) == data


def test_columns_base_and_absolute_paths(photos: Path) -> None:
    (photos / "lists").mkdir()
    table = write(photos / "lists", f'a,b,image\nb.jpg,"cat, black",0\n{photos}/a.jpg,dog,1\n')
    data = load_image_table(table, image="a", label="b", base=photos)
    assert rows(data) == [("b.jpg", "cat, black"), ("a.jpg", "dog")]
    assert data[0].source == str(photos / "b.jpg")


def test_draws_and_splits_like_a_folder(photos: Path) -> None:
    for name in "efgh":
        (photos / f"{name}.jpg").write_bytes(picture("blue"))
    labels = [*((name, "cat") for name in "abcd"), *((name, "dog") for name in "efgh")]
    table = write(photos, HEAD + "".join(f"{name}.jpg,{label}\n" for name, label in labels))
    train, test = load_image_table(table).split(test=0.5, shots=1, seed=2)
    assert (train.counts(), test.counts()) == ({"cat": 1, "dog": 1}, {"cat": 2, "dog": 2})
    assert len(load_image_table(table, shots=3)) == 6


def test_parquet_with_embedded_images_keeps_their_bytes(tmp_path: Path) -> None:
    data = [picture("red"), picture("blue", "PNG"), picture("green", "WEBP"), b"not a picture"]
    cells = [{"bytes": content, "path": None} for content in data]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat", "cow"]}}
    path = parquet(tmp_path, {"image": cells, "label": [1, 0, 1, 0]}, {"huggingface": {"info": {"features": features}}})
    loaded = load_image_table(path)
    assert loaded.classes == ("dog", "cat", "cow")
    assert loaded.counts() == {"dog": 2, "cat": 2, "cow": 0}
    assert [item.source for item in loaded] == [f"{path}#{row}" for row in range(4)]
    assert all(isinstance(item.image, dspy.Image) for item in loaded)
    kinds, encoded = zip(*(item.image.url.split(";base64,") for item in loaded), strict=True)
    assert kinds == ("data:image/jpeg", "data:image/png", "data:image/webp", "data:application/octet-stream")
    assert [base64.b64decode(text) for text in encoded] == data


def test_parquet_with_paths_and_plain_bytes(photos: Path) -> None:
    path = parquet(photos, {"image": [{"bytes": None, "path": "a.jpg"}] * 2, "label": ["cat", "dog"]})
    assert [item.image for item in load_image_table(path)] == [str(photos / "a.jpg")] * 2
    labels = pa.array(["cat", "dog"]).dictionary_encode()
    path = parquet(photos, {"image": [picture("red"), picture("blue")], "label": labels})
    assert [item.source for item in load_image_table(path)] == [f"{path}#0", f"{path}#1"]
    path = parquet(photos, {"image": ["a.jpg", "b.jpg"], "label": labels})
    assert rows(load_image_table(path)) == [("a.jpg", "cat"), ("b.jpg", "dog")]


def test_reads_what_the_datasets_library_writes(photos: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    columns = {"image": [str(photos / "a.jpg"), str(photos / "b.jpg")], "label": [1, 0]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(photos / "hf.parquet")
    assert load_image_table(photos / "hf.parquet").labels() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("image,label\na.jpg,1\nb.jpg,0\n", ["dog", "cat"], ["cat", "dog"]),
        ("image,label,class_name\na.jpg,7,dog\nb.jpg,3,cat\n", None, ["dog", "cat"]),
        ("image,label\na.jpg,1\nb.jpg,0\n", ["1", "0"], ["1", "0"]),
        ("image,label\na.jpg,cat\nb.jpg,cat\n", ["dog", "cat"], ["cat", "cat"]),
    ],
)
def test_number_labels(photos: Path, text: str, classes: list[str] | None, expected: list[str]) -> None:
    data = load_image_table(write(photos, text), classes=classes)
    assert data.labels() == expected
    assert data.classes == tuple(classes or ("cat", "dog"))


@pytest.mark.parametrize("foreign", [[1], {"info": 3}, {"info": {"features": {"label": 3}}}])
def test_own_metadata_beats_the_class_name_column(photos: Path, foreign: Any) -> None:
    columns = {"image": ["a.jpg", "b.jpg"], "label": [1, 0], "class_name": ["x", "y"]}
    path = parquet(photos, columns, {"ipo_dspy": {"classes": ["dog", "cat"]}, "huggingface": foreign})
    assert load_image_table(path).labels() == ["cat", "dog"]


def test_split_column(photos: Path) -> None:
    table = write(photos, "image,label,split\na.jpg,0,train\nb.jpg,-1,test\nc.jpg,1,train\n")
    data = load_image_table(table, split="train", classes=["cat", "dog"])
    assert rows(data) == [("a.jpg", "cat"), ("c.jpg", "dog")]
    table = write(photos, "image,label,split\na.jpg,cat,train\nb.jpg,dog,test\nc.jpg,cow,train\n")
    assert load_image_table(table, split="test").classes == ("cat", "cow", "dog")
    assert len(load_image_table(table, split="all")) == 3
    with pytest.raises(DataError, match=r"'test', 'train' in its column 'split'; .*split='train'.*split='all'"):
        load_images(table)
    with pytest.raises(DataError, match="no rows of split 'val'; choose one of 'test'"):
        load_image_table(table, split="val")
    with pytest.raises(DataError, match="no column 'split'; remove split='train'"):
        load_image_table(write(photos, HEAD + "a.jpg,cat\n"), split="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; add a header line 'image,label'"),
        (HEAD, "has a header but no rows; add one"),
        ("a.jpg,cat\nb.jpg,dog\n", r"no image column and no label column, only 'a\.jpg', 'cat'; .*add a header line"),
        ("image,labell\na.jpg,cat\n", r"no label column, only .*; pass it, e\.g\. label='labell'$"),
        ("image,label,label\na.jpg,cat,dog\n", "duplicate column names"),
        (HEAD + "a.jpg,cat\nb.jpg,cat, black\n", r"line 3 of .* has 3 cells, the header 2; put quotes"),
        (HEAD + "a.jpg\n", r"line 2 of .* has 1 cell, the header 2"),
        (HEAD + 'a.jpg,"cat\n', "unexpected end of data, after line 1; check the quotes"),
        (HEAD + f"a.jpg,cat\nb.jpg,{'x' * 200_000}\n", r"line 3 of .* a label of 200000 characters"),
        (HEAD + f"a.jpg,{'x' * 500}\nb.jpg,cat\n", r"line 2 of .* of 500 characters.*label=\.\.\."),
        (b"image,label\na.jpg,c\x81t\n", "neither UTF-8 nor Windows-1252 .* save it as 'CSV UTF-8'"),
        (b"\xff\xfei\x00m\x00a", r"is not text .* save it as 'CSV UTF-8'"),
        (HEAD + "a.jpg,cat\nz.jpg,dog\n", r"line 3 of .* the image 'z\.jpg', but .* does not exist.*base='FOLDER'"),
        (HEAD + f"a.jpg,cat\n{'z' * 5000},dog\n", r"line 3 of .*\(5002 characters\).* file .* does not exist"),
        (HEAD + "a.jpg,cat\na\0.jpg,dog\n", "line 3 of .* file .* does not exist"),
        (HEAD + "a.jpg,cat\nempty.jpg,dog\n", "line 3 of .* that file is empty; correct the row"),
        (HEAD + "a.jpg,cat\n,dog\n", r"line 3 of .* has no image path \(''\); add one"),
        (HEAD + "a.jpg,cat\nb.jpg,\n", "line 3 of .* has no label; expected a class name"),
        (HEAD + "a.jpg,cat\nb.jpg,cat\n", r"at least two classes, .*, got \['cat'\]"),
        (HEAD + "a.jpg,cat\nb.jpg,Cat\n", "'Cat' and 'cat' are indistinguishable"),
        (HEAD + "a.jpg,0\nb.jpg,1\n", r"column 'label' holds numbers .* pass classes=\['cat', 'dog'"),
        (HEAD + "a.jpg,cat\nb.jpg,cat\na.jpg,dog\n", "line 4 of .* labels 'a.jpg' 'dog', line 2 of .* it 'cat'"),
        ("image,label,class_name\na.jpg,0,cat\nb.jpg,0,dog\n", r"line 3 of .* 0 'dog', earlier rows call it 'cat'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_csv(photos: Path, text: str | bytes, message: str) -> None:
    (photos / "empty.jpg").touch()
    path = write(photos, text)
    with pytest.raises(DataError, match=message) as caught:
        load_image_table(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "imgae"}, "no column 'imgae', only 'image', 'label'; pass it, e.g. image='image'"),
        ({"label": "Label"}, "no column 'Label', .* pass it, e.g. label='label'"),
        ({"base": "/nowhere/at/all"}, "base must be a folder, got '/nowhere/at/all'; pass the folder"),
        ({"classes": ["cat", "cow"]}, "line 3 of .* the unknown label 'dgo'; expected one of 'cat'"),
        ({"classes": ["cat", "dog"]}, "line 3 of .* has the unknown label 'dgo'; expected 'dog'"),
        ({"classes": ["cat"]}, r"classes: a classifier needs at least two classes, .*, got \['cat'\]"),
        ({"classes": "cat"}, "pass a list of names"),
    ],
)  # fmt: skip
def test_mistakes_in_the_options(photos: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_image_table(write(photos, HEAD + "a.jpg,cat\nb.jpg,dgo\n"), **options)


def test_mistakes_in_the_path(photos: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist .* pass a file such as 'photos\.csv'"):
        load_image_table(photos / "none.csv")
    with pytest.raises(DataError, match="is a folder, which load_image_folder reads"):
        load_image_table(photos)
    with pytest.raises(DataError, match=r"a\.jpg is not a supported table; supported: \.csv, \.parquet, \.tsv"):
        load_image_table(photos / "a.jpg")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.jpg"] * 2, "label": [0, 2]}, "row 1 of .* has the label 2, outside 0..1"),
        ({"image": ["a.jpg"] * 2, "label": [-1, 0]}, "row 0 of .* has the label -1, outside 0..1"),
        ({"image": ["a.jpg"] * 2, "label": [0, None]}, "row 1 of .* has no label"),
        ({"image": ["a.jpg"] * 2, "label": [0.5, 1.0]}, r"row 0 of .* the label 0\.5; expected a class name or"),
        ({"image": ["a.jpg"] * 2, "label": [True, False]}, "has the label True"),
        ({"image": ["a.jpg"] * 2, "label": [[0], [1]]}, r"has the label \[0\]"),
        ({"image": ["a.jpg", None], "label": [0, 1]}, r"row 1 of .* has no image path \(None\)"),
        ({"image": [b"", b""], "label": [0, 1]}, r"row 0 of .* has no image path \(b''\)"),
        ({"image": [{"bytes": None, "path": None}] * 2, "label": [0, 1]}, r"row 0 of .* has no image path"),
        ({"image": [[1, 2], [3, 4]], "label": [0, 1]}, r"row 0 of .* has no image path \(\[1, 2\]\)"),
        ({"image": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "no rows"),
    ],
)  # fmt: skip
def test_mistakes_in_a_parquet(photos: Path, columns: dict[str, Any], message: str) -> None:
    path = parquet(photos, columns, {"ipo_dspy": {"classes": ["cat", "dog"]}})
    with pytest.raises(DataError, match=message) as caught:
        load_image_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [0, 3, 200, -9, -4])
def test_damaged_parquet(photos: Path, cut: int) -> None:
    path = parquet(photos, {"image": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"cannot be read as parquet .*; download or save the file again"):
        load_image_table(path)


def test_parquet_with_a_damaged_page(photos: Path) -> None:
    path = parquet(photos, {"image": ["a.jpg", "b.jpg"] * 50, "label": ["cat", "dog"] * 50})
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load_image_table(path)


def test_row_groups_without_a_drawn_picture_are_not_held(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of pictures may be larger than memory."""
    pictures = [picture("red") + bytes([i]) for i in range(12)]
    table = pa.table({"image": pictures, "label": ["cat", "dog"] * 6})
    pq.write_table(table, photos / "t.parquet", row_group_size=2)
    read: list[tuple[int, str]] = []
    read_row_group = pq.ParquetFile.read_row_group

    def seen(file: Any, number: int, columns: list[str]) -> Any:
        read.append((number, columns[0]))
        return read_row_group(file, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", seen)
    data = load_image_table(photos / "t.parquet", shots=2, seed=1)
    monkeypatch.undo()
    numbers = [number for number, column in read if column == "image"]
    assert 1 < len(set(numbers)) == len(numbers) < 6  # the first is looked into for paths; none is read twice
    pq.write_table(table, photos / "whole.parquet")
    assert [e.image for e in load_image_table(photos / "whole.parquet", shots=2, seed=1)] == [e.image for e in data]


def test_quiet_and_light(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_image_table(write(photos, HEAD + "a.jpg,cat\nb.jpg,dog\n"))
    assert not caplog.records
    heavy = {"torch", "datasets", "pyarrow", "pandas", "litellm"}
    code = f"import sys, ipo_dspy.data; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
