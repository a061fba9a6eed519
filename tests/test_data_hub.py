"""Data sets in the forms of the library `datasets`, all of them on disk: no hub can be reached."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from PIL import Image

from ipo_dspy.data import find_split, load_hub, load_images
from ipo_dspy.errors import DataError

datasets = pytest.importorskip("datasets")


def picture(color: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files that `datasets` writes in a folder of the test, and the network away."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def made(labels: list[Any], *, image: str = "image", label: str = "label", feature: Any = None, **more: Any) -> Any:
    """A data set of red pictures."""
    feature = feature or datasets.ClassLabel(names=["dog", "cat"])
    cells = [{"bytes": picture("red"), "path": None} for _ in labels]
    kinds = {name: datasets.Value("string") for name in more}
    features = datasets.Features({image: datasets.Image(), label: feature, **kinds})
    return datasets.Dataset.from_dict({image: cells, label: labels, **more}, features=features)


def saved(found: Any, folder: Path) -> str:
    found.save_to_disk(folder)
    return str(folder)


def test_one_split_on_disk_keeps_bytes_and_class_order(tmp_path: Path) -> None:
    path = saved(made([1, 0, 1]), tmp_path / "pets")
    data = load_hub(path)
    assert data.classes == ("dog", "cat")
    assert data.labels() == ["cat", "dog", "cat"]
    assert [item.source for item in data] == [f"{path}#{row}" for row in range(3)]
    assert isinstance(data[0].image, dspy.Image)
    assert base64.b64decode(data[0].image.url.partition(",")[2]) == picture("red")
    assert load_images(path) == data


def test_draws_and_holds_out_like_every_reader(tmp_path: Path) -> None:
    path = saved(made([0, 1] * 10), tmp_path / "pets")
    train, test = load_hub(path).split(test=0.5, shots=2, seed=3)
    assert (train.counts(), test.counts()) == ({"dog": 2, "cat": 2}, {"dog": 5, "cat": 5})
    assert load_images(path).split(test=0.5, shots=2, seed=3) == (train, test)
    assert not {item.source for item in train} & {item.source for item in test}


def test_rows_that_were_chosen_or_shuffled_stay_so(tmp_path: Path) -> None:
    path = saved(made([0, 0, 1, 1]).select([3, 0]), tmp_path / "pets")
    assert load_hub(path).labels() == ["cat", "dog"]


def test_several_splits_are_never_mixed(tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": made([0, 1]), "test": made([1, 0, 1])})
    path = saved(parts, tmp_path / "pets")
    assert len(load_hub(path, split="test")) == 3
    whole = made([0, 1])
    one = saved(datasets.Dataset(whole.data, info=whole.info, split=datasets.Split.TRAIN), tmp_path / "one")
    assert len(load_hub(one, split="train")) == len(load_hub(one)) == 2
    with pytest.raises(DataError, match="has no split 'test'; pass one of 'train'"):
        load_hub(one, split="test")
    with pytest.raises(DataError, match=r"has the splits 'train', 'test'; pass one, e\.g\. split='train'"):
        load_hub(path)
    with pytest.raises(DataError, match="has no split 'val'; pass one of 'train', 'test'"):
        load_hub(path, split="val")
    only = saved(datasets.DatasetDict({"train": made([0, 1])}), tmp_path / "only")
    assert len(load_hub(only)) == 2


def test_a_folder_of_parquet_files_as_the_hub_has_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    made([0, 1]).to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    made([1, 1]).to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    made([1, 0]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert load_hub(str(tmp_path), split="train").labels() == ["dog", "cat", "cat", "cat"]
    assert load_hub(str(tmp_path), split="train[:2]").labels() == ["dog", "cat"]
    with pytest.raises(DataError, match=r"has the splits 'train', 'test'"):
        load_hub(str(tmp_path))


def test_a_split_without_rows(tmp_path: Path) -> None:
    made([]).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"has no rows; choose another split|cannot be loaded: .* no data"):
        load_hub(str(tmp_path))
    made([]).save_to_disk(tmp_path / "saved", num_shards=1)
    with pytest.raises(DataError, match="has no rows; choose another split"):
        load_hub(str(tmp_path / "saved"))


def test_images_in_separate_files(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for place in places:
        Path(place).write_bytes(picture("blue"))
    features = datasets.Features({"image": datasets.Value("string"), "label": datasets.Value("string")})
    columns = {"image": places, "label": ["cat", "dog"]}
    path = saved(datasets.Dataset.from_dict(columns, features=features), tmp_path / "pets")
    assert [item.image for item in load_hub(path)] == places
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"row 0 of .*/pets names the image '.*a\.png', which does not exist"):
        load_hub(path)


def test_columns_are_found_by_type_and_by_name(tmp_path: Path) -> None:
    path = saved(made([0, 1], image="picture", label="fine", text=["a", "b"]), tmp_path / "typed")
    assert load_hub(path).labels() == ["dog", "cat"]
    text = datasets.Value("string")
    path = saved(made(["cat", "dog"], label="Category", feature=text, note=["a", "b"]), tmp_path / "named")
    assert load_hub(path).classes == ("cat", "dog")
    assert load_hub(path, label="note").labels() == ["a", "b"]


def test_two_columns_of_labels_are_a_question(tmp_path: Path) -> None:
    coarse = datasets.ClassLabel(names=["animal", "thing"])
    columns = made([0, 1], label="fine").add_column("coarse", [0, 1]).cast_column("coarse", coarse)
    path = saved(columns, tmp_path / "cifar")
    with pytest.raises(
        DataError, match="has no unambiguous label column among 'image', 'fine', 'coarse'; pass label='fine'"
    ):
        load_hub(path)
    assert load_hub(path, label="coarse").classes == ("animal", "thing")
    assert load_hub(path, label="fine").classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("labels", "feature", "options", "message"),
    [
        ([0, 1], None, {"image": "img"}, "has no column 'img' among 'image', 'label'; pass image='image'"),
        ([0, 1], None, {"label": "class"}, "has no column 'class' among .*; pass label='label'"),
        ([0, 1], None, {"shots": 0}, "shots must be an integer of at least 1, or None for all, got 0"),
        ([0, 3], "int64", {}, r"numbers and the file has no names for them; pass classes=\['cat', 'dog'"),
        ([0, 3], "int64", {"classes": ["cat", "dog"]}, "row 1 of .* has the label 3, outside 0..1"),
        ([0, None], None, {}, "row 1 of .* has no label"),
        (["cat", "cat"], "string", {}, r"at least two classes, e\.g\. .*, got \['cat'\]"),
        ([0.5, 1.5], "float32", {}, "row 0 of .* has the label 0.5; expected a class name or an integer"),
    ],
)
def test_mistakes(
    tmp_path: Path, labels: list[Any], feature: str | None, options: dict[str, Any], message: str
) -> None:
    path = saved(made(labels, feature=datasets.Value(feature) if feature else None), tmp_path / "pets")
    with pytest.raises(DataError, match=message) as caught:
        load_hub(path, **options)
    assert "\n" not in str(caught.value)


def test_numbers_get_their_names_from_the_caller(tmp_path: Path) -> None:
    path = saved(made([1, 0], feature=datasets.Value("int64")), tmp_path / "pets")
    assert load_hub(path, classes=["cat", "dog"]).labels() == ["dog", "cat"]


def test_a_data_set_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data set 'nobody/nothing' cannot be loaded: .*; check the name, config= and"
    ) as e:
        load_hub("nobody/nothing")
    assert "\n" not in str(e.value)
    path = saved(made([0, 1]), tmp_path / "pets")
    (tmp_path / "pets" / "data-00000-of-00001.arrow").write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be loaded: "):
        load_hub(path)
    state = tmp_path / "pets" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": []}))  # as `datasets` 5 saves no rows
    with pytest.raises(DataError, match="cannot be loaded: "):
        load_hub(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded: "):
        load_hub(str(tmp_path / "empty"))


def test_saved_splits_are_recognized_by_their_purpose(tmp_path: Path) -> None:
    parts = {"test": made([1, 0]), "validation": made([0, 1]), "train": made([0, 1])}
    path = saved(datasets.DatasetDict(parts), tmp_path / "pets")
    assert find_split(path) == {"training": "train", "validation": "validation", "test": "test"}
    assert find_split(saved(made([0, 1]), tmp_path / "one")) is None
    others = datasets.DatasetDict({"train": made([0, 1]), "extra": made([0, 1])})
    assert find_split(saved(others, tmp_path / "others")) is None
    (tmp_path / "pets" / "dataset_dict.json").write_text("[")
    assert find_split(path) is None
