"""Tables as spreadsheets, pandas, and people write them: each is read right, or refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipo_dspy.data import ImageDataset, load_image_table
from ipo_dspy.distributed.discovery import discover_partitions
from ipo_dspy.distributed.partitions import Rows
from ipo_dspy.errors import DataError

ROWS = [("cat/0.png", 0, "cat"), ("cat/1.png", 0, "cat"), ("dog/0.png", 1, "dog"), ("dog/1.png", 1, "dog")]
RIGHT = [(path, name) for path, _, name in ROWS]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures each of a cat and a dog."""
    for path, _, name in ROWS:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red" if name == "cat" else "blue").save(tmp_path / path)
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(data: ImageDataset, folder: Path) -> list[tuple[str, str]]:
    return [(str(Path(item.image).relative_to(folder)), item.label) for item in data]


def plain(head: str = "image,label", form: str = "{path},{name}") -> str:
    lines = [form.format(path=path, number=number, name=name) for path, number, name in ROWS]
    return "\n".join([head, *lines, ""])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("sep=;\n" + plain("image;label", "{path};{name}"), id="Excel's separator line"),
        pytest.param('"sep=\t"\n' + plain("image\tlabel", "{path}\t{name}"), id="a quoted separator line"),
        pytest.param("\n\n" + plain(), id="blank lines first"),
        pytest.param(",,\n" + plain(), id="a blank row of a spreadsheet first"),
        pytest.param("# made by a script, 2026\n" + plain(), id="a comment first"),
        pytest.param(plain(form='{path}, "{name}"'), id="a space before the quote"),
        pytest.param(plain("image|label", "{path}|{name}"), id="bars"),
        pytest.param(plain().replace("/", "\\"), id="paths of Windows"),
        pytest.param(plain("image,label,note", "{path},{name}," + "x" * 140_000), id="a long cell"),
        pytest.param(plain().encode("utf-16"), id="UTF-16"),
        pytest.param(plain().encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param(plain().encode("utf-8-sig").replace(b"\n", b"\r\n"), id="a mark and line ends of Windows"),
        pytest.param(plain("image,label,class_name", "{path},{number}.0,{name}"), id="integers as floats"),
        pytest.param(plain("image;label;class_name", "{path};{number},0;{name}"), id="integers with a decimal comma"),
        pytest.param(plain("image,label,class", "{path},{number},{name}"), id="names in a column class"),
        pytest.param(plain("image,label,Label_Name", "{path},{number},{name}"), id="names in a column label_name"),
        pytest.param(plain("image,class,label", "{path},{number},{name}"), id="numbers in a column class"),
        pytest.param(plain() + plain().partition("\n")[2], id="each row twice"),
    ],
)
def test_it_is_read_right(photos: Path, text: str | bytes) -> None:
    data = load_image_table(write(photos, text))
    assert read(data, photos) == RIGHT
    assert data.classes == ("cat", "dog")


def test_the_line_of_a_mistake_counts_what_stands_above_the_header(photos: Path) -> None:
    with pytest.raises(DataError, match=r"line 5 of .* the image 'none\.png'"):
        load_image_table(write(photos, "sep=,\n\nimage,label\ncat/0.png,cat\nnone.png,dog\n"))


def test_names_of_windows_1252_are_read_and_said(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_image_table(write(photos, plain().replace("dog\n", "Äffchen\n").encode("cp1252")))
    assert data.classes == ("cat", "Äffchen")
    assert "is not UTF-8 and was read as Windows-1252" in caplog.text


def test_versions_are_names_and_not_numbers(photos: Path) -> None:
    text = "image,label\ncat/0.png,1.0\ncat/1.png,1.0\ndog/0.png,1.5\ndog/1.png,1.5\n"
    assert load_image_table(write(photos, text)).classes == ("1.0", "1.5")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Split", ("train", "test")),
        ("SUBSET", ("train", "val")),
        ("partition", ("0", "1")),
        ("is_training_image", ("1", "0")),
        ("set", ("Training", "Testing")),
        ("usage", ("dev", "eval")),
    ],
)
def test_rows_of_two_parts_are_never_mixed(photos: Path, column: str, values: tuple[str, str]) -> None:
    lines = [f"{path},{name},{values[i % 2]}" for i, (path, _, name) in enumerate(ROWS)]
    table = write(photos, "\n".join([f"image,label,{column}", *lines, ""]))
    with pytest.raises(DataError, match=rf"holds the splits .* in its column '{column}'; pass one, e\.g\. split="):
        load_image_table(table)
    for spelling in (values[0], values[0].upper()):
        assert read(load_image_table(table, split=spelling), photos) == RIGHT[::2]
    assert len(load_image_table(table, split="all")) == 4


def test_other_columns_are_no_parts(photos: Path) -> None:
    table = write(photos, plain("image,label,set", "{path},{name},garden"))
    assert read(load_image_table(table), photos) == RIGHT
    classes = [("train", "0"), ("train", "1"), ("test", "0"), ("test", "1")]
    text = "image,label\n" + "".join(f"{path},{name}\n" for (path, *_), (name, _) in zip(ROWS, classes, strict=True))
    assert load_image_table(write(photos, text)).classes == ("test", "train")


def test_a_picture_with_two_rows_is_one_picture(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubled = plain() + plain().partition("\n")[2]
    train, test = load_image_table(write(photos, doubled)).split(test=0.5)
    assert not {item.image for item in train} & {item.image for item in test}
    assert len(train) + len(test) == 4
    assert "lists 4 images more than once; each is used once" in caplog.text


def test_the_column_that_is_suggested_is_plausible(photos: Path) -> None:
    with pytest.raises(DataError, match=r"has no label column, .*; pass it, e\.g\. label='species'"):
        load_image_table(write(photos, plain("filename,species", "{path},{name}")))
    with pytest.raises(DataError, match=r"has no label column, .*; pass it, e\.g\. label='species'"):
        load_image_table(write(photos, plain("split,filename,species", "train,{path},{name}")))
    with pytest.raises(DataError, match=r"has no image column, .*; pass it, e\.g\. image='image_name'"):
        load_image_table(write(photos, plain("label,image_name", "{name},{path}")))
    both = r"has no image column and no label column, only .*; pass both, e\.g\. image='image_name' and label='species'"
    for header, row in (("species,image_name", "{name},{path}"), ("split,species,image_name", "train,{name},{path}")):
        text = plain(header, row)
        with pytest.raises(DataError, match=both):
            load_image_table(write(photos, text))
    with pytest.raises(DataError, match=r"no column 'pic' and no column 'kind', .*; pass both, e\.g\. image="):
        load_image_table(write(photos, text), image="pic", label="kind")


def hub_table(folder: Path, **columns: tuple[Any, list[Any]]) -> Path:
    """A parquet file as `datasets` writes it: for each column its feature and its cells."""
    features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
    table = pa.table({name: cells for name, (_, cells) in columns.items()})
    info = {"info": {"features": features.to_dict()}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), folder / "t.parquet")
    return folder / "t.parquet"


IMAGES = (datasets.Value("string"), [path for path, _, _ in ROWS])
NUMBERS = [number for _, number, _ in ROWS]
APPLES = datasets.ClassLabel(names=["gala", "fuji", "nantes"])
ANIMALS = datasets.ClassLabel(names=["cat", "dog"])


def test_of_two_class_labels_the_names_of_the_label_column_count(photos: Path) -> None:
    table = hub_table(photos, image=IMAGES, fine_label=(APPLES, NUMBERS), coarse_label=(ANIMALS, NUMBERS))
    assert load_image_table(table, label="coarse_label").classes == ("cat", "dog")
    assert load_image_table(table, label="fine_label").classes == ("gala", "fuji", "nantes")


def test_metadata_that_nests_too_deeply_concerns_nobody(photos: Path) -> None:
    table = pa.table({"image": IMAGES[1], "label": [name for _, _, name in ROWS]})
    pq.write_table(table.replace_schema_metadata({"huggingface": "[" * 100_000}), photos / "deep.parquet")
    assert load_image_table(photos / "deep.parquet").classes == ("cat", "dog")


def test_on_a_cluster_too_the_names_of_the_label_column_count(photos: Path) -> None:
    table = hub_table(photos, image=IMAGES, fine_label=(APPLES, NUMBERS), label=(ANIMALS, NUMBERS))
    (part,) = discover_partitions(table)
    assert isinstance(part, Rows)
    assert part.names == ("cat", "dog")
    split = hub_table(photos, image=IMAGES, label=(ANIMALS, NUMBERS), Split=(datasets.Value("string"), ["train"] * 4))
    with pytest.raises(DataError, match="has a column 'Split'"):
        discover_partitions(split)


def test_plain_numbers_take_no_names_from_another_column(photos: Path) -> None:
    table = hub_table(photos, origin=(APPLES, NUMBERS), image=IMAGES, label=(datasets.Value("int64"), NUMBERS))
    with pytest.raises(DataError, match=r"column 'label' holds numbers .* pass classes="):
        load_image_table(table)
    assert load_image_table(table, classes=["cat", "dog"]).classes == ("cat", "dog")


def test_text_labels_take_no_names_from_another_column(photos: Path) -> None:
    names = [name for *_, name in ROWS]
    table = hub_table(photos, origin=(APPLES, NUMBERS), image=IMAGES, label=(datasets.Value("string"), names))
    assert load_image_table(table).classes == ("cat", "dog")


def test_whole_floats_of_parquet_are_the_numbers_that_they_were(photos: Path) -> None:
    floats = [float(number) for number in NUMBERS]
    names = [name for *_, name in ROWS]
    table = hub_table(
        photos, image=IMAGES, label=(datasets.Value("float64"), floats), class_name=(datasets.Value("string"), names)
    )
    assert read(load_image_table(table), photos) == RIGHT


def test_parquet_text_that_is_not_utf_8_is_one_error(photos: Path) -> None:
    raw = pa.array([b"caf\xe9", b"caf\xe9", b"b", b"b"], pa.binary())
    labels = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"image": IMAGES[1], "label": labels}), photos / "t.parquet")
    with pytest.raises(DataError, match="holds text that is not UTF-8"):
        load_image_table(photos / "t.parquet")
