"""The registry of the experiments' data sets, and what `check_benchmark` says of complete and of broken copies."""

import re
from pathlib import Path

import pytest

from helpers.data_trees import class_names, plant, plant_aircraft, plant_dtd, plant_imagenet
from ipo_dspy.data import BENCHMARKS, BenchmarkCheck, check_benchmark, find_benchmark
from ipo_dspy.errors import DataError
from ipo_dspy.template import Template


def finding(found: BenchmarkCheck, what: str) -> str:
    return next(f"{'ok' if one.ok else 'not ok'}: {one.message}" for one in found.findings if one.what.endswith(what))


def test_the_fifteen_sets() -> None:
    assert list(BENCHMARKS) == [
        "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
        "sun397", "dtd", "eurosat", "ucf101", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r",
    ]  # fmt: skip
    assert {one.folder for one in BENCHMARKS.values()} == {
        "imagenet", "caltech-101", "oxford_pets", "stanford_cars", "oxford_flowers", "food-101", "fgvc_aircraft",
        "sun397", "dtd", "eurosat", "ucf101", "imagenetv2", "imagenet-sketch", "imagenet-adversarial",
        "imagenet-rendition",
    }  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_can_be_found_and_used(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert find_benchmark(benchmark.title) is find_benchmark(name.upper()) is benchmark
    assert str(Template.parse(benchmark.template)) == benchmark.template
    assert re.search(r"\w+\.\w+", benchmark.image_origin)
    assert re.search(r"\w+\.\w+", benchmark.list_origin)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("food-1001", "unknown data set 'food-1001'; pass 'food101' or another of imagenet, caltech101, .*imagenet_r$"),
        ("mnist", "unknown data set 'mnist'; pass one of imagenet, caltech101"),
        ("", "unknown data set ''; pass one of imagenet"),
    ],
)
def test_an_unknown_name_lists_the_known(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_benchmark(name)


def test_an_empty_folder_reports_every_part_and_its_origin(tmp_path: Path) -> None:
    found = check_benchmark("dtd", tmp_path)
    assert not found.ok
    assert found.folder == tmp_path / "dtd"
    assert finding(found, "dtd/split_zhou_DescribableTextures.json").startswith("not ok: missing; from DATASETS.md of")
    assert finding(found, "dtd/images") == "not ok: missing; from www.robots.ox.ac.uk/~vgg/data/dtd: dtd-r1.0.1.tar.gz"


def test_a_whole_copy_of_too_few_classes(tmp_path: Path) -> None:
    found = check_benchmark("DTD", plant_dtd(tmp_path))
    assert finding(found, "images") == "ok: there"
    assert found.findings[-1].message == "40 train, 20 val, 15 test"
    assert finding(found, "classes") == "not ok: 5, and 47 as published"
    assert [one.ok for one in found.findings] == [True, True, False, True]


def test_complete(tmp_path: Path) -> None:
    found = check_benchmark("dtd", plant_dtd(tmp_path, {f"texture_{at}": 2 for at in range(47)}))
    assert found.ok, found
    assert finding(found, "classes") == "ok: 47, as published"


def test_absent_and_empty_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    gone = [f"bumpy/{at:04}.jpg" for at in range(5)]
    plant_dtd(tmp_path, missing=gone)
    plant(tmp_path / "dtd" / "images", "banded/0200.jpg", content=b"")
    found = check_benchmark("dtd", tmp_path)
    assert not found.ok
    assert found.findings[-1].message == (
        f"40 train, 20 val, 15 test; 6 missing or empty in {tmp_path}/dtd/images: "
        "bumpy/0000.jpg, bumpy/0001.jpg, bumpy/0002.jpg, ...; from www.robots.ox.ac.uk/~vgg/data/dtd: dtd-r1.0.1.tar.gz"
    )


def test_a_split_file_that_is_a_web_page(tmp_path: Path) -> None:
    plant(plant_dtd(tmp_path), "dtd/split_zhou_DescribableTextures.json", content=b"<!DOCTYPE html>")
    found = check_benchmark("dtd", tmp_path)
    assert "is not JSON (Expecting value in line 1; an HTML page or a truncated download?)" in finding(
        found, "lists and folders"
    )


def test_a_set_is_found_from_its_own_folder_too(tmp_path: Path) -> None:
    plant_dtd(tmp_path)
    assert check_benchmark("dtd", tmp_path / "dtd").findings == check_benchmark("dtd", tmp_path).findings
    (tmp_path / "dtd").rename(tmp_path / "textures")
    assert check_benchmark("dtd", tmp_path / "textures").folder == tmp_path / "textures"


def test_aircraft_and_imagenet(tmp_path: Path) -> None:
    found = check_benchmark("fgvc_aircraft", plant_aircraft(tmp_path))
    assert found.findings[-1].message == "6 train, 6 val, 6 test"
    found = check_benchmark("imagenet", plant_imagenet(tmp_path))
    assert finding(found, "test images") == "not ok: 10, and 50,000 as published"
    (tmp_path / "imagenet" / "images" / "val" / "n01440764").rename(tmp_path / "moved")
    found = check_benchmark("imagenet", tmp_path)
    assert "images/val has 4 of 5 class folders; missing: n01440764; extract the archive again" in finding(
        found, "lists and folders"
    )


def test_class_names_of_imagenet_serve_the_sets_next_to_it(tmp_path: Path) -> None:
    plant(tmp_path / "imagenet-sketch" / "images", "n01440764/a.JPEG")
    assert finding(check_benchmark("imagenet_sketch", tmp_path), "classnames.txt").startswith("not ok: missing")
    class_names(tmp_path / "imagenet", {"n01440764": "tench"})
    assert finding(check_benchmark("imagenet_sketch", tmp_path), "classes") == "not ok: 1, and 1,000 as published"


def test_a_root_that_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*/nowhere does not exist .* pass the folder of the data sets"):
        check_benchmark("dtd", tmp_path / "nowhere")
