"""Data as people have it on the command line: tables of any header, parts, leftovers, and small classes."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ipo_dspy.cli.data_options import DataSets, ImageOptions, SplitOptions
from ipo_dspy.errors import DataError, InputError

NO_OPTIONS = ImageOptions()


def plant(root: Path, counts: dict[str, int], *parts: str) -> Path:
    for part in parts or ("",):
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True)
            for at in range(count):
                Image.new("RGB", (4, 4), (at, len(name), len(part))).save(root / part / name / f"{at}.png")
    return root


def sets(data: Path, options: ImageOptions = NO_OPTIONS, **changes: Any) -> DataSets:
    halves = changes.pop("halves", False)
    return SplitOptions(**{"shots": "2", **changes}).read(data, options, seed=0, halves=halves)


def read_any(data: Path, options: ImageOptions) -> Any:
    return options.read_part(data, "training")


def sizes(found: DataSets) -> tuple[int, int | None, dict[str, int]]:
    validation = None if found.validation is None else len(found.validation)
    return len(found.train), validation, {name: len(part) for name, part in found.tests.items()}


def files(datasets: Sequence[Any]) -> list[str]:
    return [item.image for dataset in datasets for item in dataset]


def test_what_is_left_over_is_for_validation_and_in_no_other_part(tmp_path: Path) -> None:
    data = plant(tmp_path, {"cat": 10, "dog": 10})
    found = sets(data)
    assert sizes(found) == (4, 4, {"all": 10})
    assert found.validation is not None
    everything = files([found.train, found.validation, *found.tests.values()])
    assert len(set(everything)) == len(everything)
    assert str(found) == "2 classes; 4 training, 4 validation, 10 test images"
    assert files([sets(data, val="none").train]) == files([found.train])
    assert sizes(sets(data, val="none")) == (4, None, {"all": 10})
    assert sizes(sets(data, shots="5")) == (10, None, {"all": 10})
    assert sizes(sets(data, shots="all")) == (10, None, {"all": 10})
    assert sizes(sets(data, test=0.0)) == (4, 4, {})
    assert sizes(sets(data, test=3.0)) == (4, 4, {"all": 3})


def test_knows_whether_all_shots_would_let_more_images_decide(tmp_path: Path) -> None:
    data = plant(tmp_path / "whole", {"cat": 10, "dog": 10})
    assert [sets(data, shots=shots).has_spare for shots in ("2", "5", "all")] == [True, False, False]
    assert sets(data, test=0.0, val="none").has_spare
    parts = plant(tmp_path / "parts", {"cat": 10, "dog": 10}, "train", "val")
    assert not sets(parts, test=0.0).has_spare
    assert sets(parts, test=0.0, val="none").has_spare


def test_too_few_leftovers_decide_nothing(tmp_path: Path) -> None:
    assert sizes(sets(plant(tmp_path, {"cat": 22, "dog": 22}), shots="10")) == (20, None, {"all": 22})


def test_data_that_is_already_split_is_used_by_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sets(plant(tmp_path, {"cat": 3, "dog": 3}, "Training", "valid", "Test"))
    assert sizes(found) == (4, 6, {"all": 6})
    assert all("/Training/" in image for image in files([found.train]))
    assert all("/Test/" in image for image in files(list(found.tests.values())))
    assert "is already split; used by its parts: training, validation, test" in capsys.readouterr().err


def test_a_share_is_not_taken_when_there_are_test_images_and_none_is_none(tmp_path: Path) -> None:
    data = plant(tmp_path, {"cat": 4, "dog": 4}, "train", "test")
    with pytest.raises(InputError, match=r"^test must be left out, got 0\.3; remove it"):
        sets(data, test=0.3)
    with pytest.raises(InputError, match=r"^test must be left out, got 0\.3"):
        sets(data / "train", test=0.3, test_data=data / "test")
    assert sizes(sets(data, test=0.0)) == (4, 4, {})
    assert sizes(sets(data / "train", test=0.0, test_data=data / "test")) == (4, 4, {"all": 8})


def test_the_name_of_a_bundled_task_is_not_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (sets, read_any):
        with pytest.raises(InputError, match=r"is a bundled task.*: ipo-dspy demo grey-food --export grey-food"):
            read(Path("grey-food"), NO_OPTIONS)
    assert sizes(sets(plant(tmp_path, {"cat": 4, "dog": 4}, "grey-food") / "grey-food"))[0] == 4


def test_a_table_that_is_already_split_is_used_by_its_parts(tmp_path: Path) -> None:
    plant(tmp_path, {"cat": 6, "dog": 6})
    words = ("train", "train", "train", "train", "val", "test")
    lines = [f"{name}/{at}.png,{name},{words[at]}" for name in ("cat", "dog") for at in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,Split", *lines, ""]))
    assert sizes(sets(tmp_path / "t.csv")) == (4, 2, {"all": 2})
    assert sizes(sets(tmp_path / "t.csv", ImageOptions(split="all"))) == (4, 2, {"all": 6})


def test_a_saved_data_set_that_is_already_split_is_used_by_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    photos = plant(tmp_path / "photos", {"cat": 3, "dog": 3})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    columns = {
        "image": [str(photos / name / f"{at}.png") for name in ("cat", "dog") for at in range(3)],
        "label": ["cat"] * 3 + ["dog"] * 3,
    }
    part = datasets.Dataset.from_dict(columns, features=features)
    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": part, "validation": part, "test": part}).save_to_disk(saved)
    assert sizes(sets(saved)) == (4, 6, {"all": 6})
    assert "is already split; used by its parts: training, validation, test" in capsys.readouterr().err


def test_one_part_is_read_of_any_data_that_is_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, {"cat": 6, "dog": 6})
    words = ("train", "train", "train", "train", "val", "val")
    lines = [f"{name}/{at}.png,{name},{words[at]}" for name in ("cat", "dog") for at in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,Split", *lines, ""]))
    assert len(NO_OPTIONS.read_part(tmp_path / "t.csv", "test", "validation", "training")) == 4
    assert "its validation part is used, 'val'" in capsys.readouterr().err
    assert len(ImageOptions(split="all").read_part(tmp_path / "t.csv", "test", "training")) == 12
    assert len(NO_OPTIONS.read_part(tmp_path, "test", "training")) == 12
    assert capsys.readouterr().err == ""


def test_a_table_with_other_headers_is_read(tmp_path: Path) -> None:
    plant(tmp_path / "pictures", {"cat": 4, "dog": 4})
    lines = [f"{name}/{at}.png;{number}" for number, name in enumerate(("cat", "dog")) for at in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["bild;klasse", *lines, ""]))
    (tmp_path / "names.txt").write_text("Katze\nHund\n")
    for classes in ("Katze, Hund", str(tmp_path / "names.txt")):
        options = ImageOptions("bild", "klasse", str(tmp_path / "pictures"), classes)
        assert sets(tmp_path / "t.csv", options).train.classes == ("Katze", "Hund")
    with pytest.raises(DataError, match=r"pass it, e\.g\. label='klasse'"):
        sets(tmp_path / "t.csv", ImageOptions(image="bild"))


def test_columns_that_were_chosen_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, {"cat": 4, "dog": 4})
    table = tmp_path / "t.csv"
    lines = [f"{name}/{at}.png,{name}" for name in ("cat", "dog") for at in range(4)]
    message = f"{table}: images from column 'File', labels from column 'category'\n"
    named = ImageOptions("File", "category")
    for header, options, expected in (
        ("File,category", NO_OPTIONS, message),
        ("File,category", named, ""),
        ("image,Label", NO_OPTIONS, ""),
    ):
        table.write_text("\n".join([header, *lines, ""]))
        for read in (sets, read_any):
            read(table, options)
            said = capsys.readouterr().err.splitlines(keepends=True)
            assert "".join(line for line in said if "from column" in line) == expected


def test_a_folder_takes_no_option_of_a_table(tmp_path: Path) -> None:
    data = plant(tmp_path, {"cat": 4, "dog": 4})
    with pytest.raises(
        DataError,
        match=r"^label must be left out for .*, a folder of class folders, got 'x'; remove it: it names a col",
    ):
        sets(data, ImageOptions(label="x"))


def test_other_folders_validate_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = plant(tmp_path / "data", {"cat": 4, "dog": 4})
    val = plant(tmp_path / "val", {"dog": 2, "cat": 1, "fox": 1})
    test = plant(tmp_path / "test", {"cat": 3, "elk": 3, "dog": 1})
    found = sets(data, val=str(val), test_data=test)
    assert sizes(found) == (4, 3, {"all": 4})
    assert found.validation is not None
    assert found.validation.classes == found.tests["all"].classes == found.train.classes == ("cat", "dog")
    err = capsys.readouterr().err
    assert "the test images of 1 class without training images are left out: elk" in err
    assert "no test images" not in err
    sets(data, test_data=plant(tmp_path / "one", {"dog": 2, "elk": 1}))
    assert "no test images of 1 class: cat" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"the test images have the classes 'ant', 'bee', .* use the same names"):
        sets(data, test_data=plant(tmp_path / "other", {"ant": 1, "bee": 1}))


def test_test_images_may_write_class_names_with_underscores(tmp_path: Path) -> None:
    data = plant(tmp_path / "data", {"beer mug": 2, "tea_cup": 2})
    found = sets(data, test_data=plant(tmp_path / "test", {"beer_mug": 3, "tea cup": 1}))
    assert found.tests["all"].counts() == {"beer mug": 3, "tea_cup": 1}


def test_copies_in_several_sets_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at, name in enumerate(["train/cat/1", "train/dog/2", "val/cat/3", "val/dog/4", "test/cat/5", "test/dog/6"]):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (at, 0, 0)).save(tmp_path / f"{name}.png")
    sets(tmp_path)
    assert "identical" not in capsys.readouterr().err
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "val" / "cat" / "copy.png")
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "dog" / "copy.png")
    shutil.copy(tmp_path / "val" / "dog" / "4.png", tmp_path / "test" / "dog" / "other.png")
    assert sizes(sets(tmp_path)) == (2, 3, {"all": 4})
    pair = f"'{tmp_path}/val/cat/copy.png' and '{tmp_path}/train/cat/1.png'"
    of_validation, of_test = capsys.readouterr().err.splitlines()[-2:]
    assert of_validation.startswith(f"found 1 validation image identical to training images, e.g. {pair}: the valid")
    assert of_test.startswith("found 2 test images identical to training or validation images, e.g. ")
    assert of_test.endswith(": the test accuracy is too high; remove the copies")


def test_the_same_folder_twice_is_not_a_copy_to_be_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = plant(tmp_path, {"cat": 4, "snail": 4}, "train", "test")
    sets(data, val=str(data / "test"))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "too high" in line)
    assert line.startswith("8 test images also read as training or validation images, e.g. ")
    assert line.endswith(": the test accuracy is too high; use other images")


def test_a_small_class_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = plant(tmp_path, {"cat": 8, "dog": 8, "kiwi": 1})
    found = sets(data)
    assert found.train.counts()["kiwi"] == 1
    assert "too few images to test 1 class: kiwi (1)" in caplog.text
    assert sets(data, min_images=2).train.classes == ("cat", "dog")
    assert "left out 1 class with fewer than 2 images: kiwi (1)" in caplog.text
    with pytest.raises(DataError, match="min_images must leave two classes, and 9 leaves 0 classes"):
        sets(data, min_images=9)


def test_shots_are_a_number_or_all() -> None:
    assert (SplitOptions("16").per_class, SplitOptions("all").per_class) == (16, None)
    for text in ("0", "-1", "many", "1.5"):
        with pytest.raises(InputError, match=rf"shots must be an integer of at least 1, or all, got '{text}'"):
            _ = SplitOptions(text).per_class
