"""Bundled tasks: the loader on a miniature asset folder, and on the bundled files."""

import base64
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.baselines.towers import check_towers
from ipo_dspy.clip.bundled import BUNDLED, DEMO_VIT, resolve_model_name
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.data import few_shot, load_image_folder
from ipo_dspy.errors import DataError, InputError

CLASSES = ["zebra", "ant", "cow", "bee", "dog"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task of five classes with 6 train, 5 validation and 3 test images each; no picture is decoded."""
    sizes = {"train": 6, "validation": 5, "test": 3}
    rows = [(part, label) for part, n in sizes.items() for label in range(5) for _ in range(n)]
    columns = {
        "image": [{"bytes": PNG + bytes([i]), "path": None} for i in range(len(rows))],
        "label": pa.array([label for _, label in rows], pa.int32()),
        "class_name": [CLASSES[label] for _, label in rows],
        "split": [part for part, _ in rows],
    }
    about: dict[str, Any] = {"name": "tiny", "description": "a tiny task", "classes": CLASSES, "seed": 0}
    about["licence"] = "CC0"  # kept: the spelling in these files
    table = pa.table(columns).replace_schema_metadata({"ipo_dspy": json.dumps(about)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "tiny.parquet")
    monkeypatch.setattr(demo, "assets", lambda: tmp_path)


def load(name: str = "tiny", **options: Any) -> demo.DemoTask:
    return demo.load(name, **{"shots": 2, "seed": 1} | options)


@pytest.mark.usefixtures("assets")
def test_draws_over_all_classes_and_then_takes_the_half() -> None:
    base, novel = load(), load(classes="novel")
    assert base.classes == base.trainset.classes == base.program.classes == ("zebra", "ant", "cow")
    assert novel.classes == ("bee", "dog")
    assert base.trainset.counts() == base.valset.counts() == dict.fromkeys(base.classes, 2)
    assert novel.testset.counts() == {"bee": 3, "dog": 3}
    whole = load(classes="all")
    assert [*whole.trainset] == [*base.trainset, *novel.trainset]
    drawn = few_shot(
        [name for name in CLASSES for _ in range(6)], [n for n in CLASSES for _ in range(5)], shots=2, seed=1
    )
    rows = [int(item.source.rpartition("#")[2]) for item in [*whole.trainset, *whole.valset]]
    assert rows == [*drawn.train, *(30 + row for row in drawn.val)]


@pytest.mark.usefixtures("assets")
def test_says_what_it_is() -> None:
    task = load(shots=5)
    assert (task.name, task.description) == ("tiny", "a tiny task")
    assert set(task.valset.counts().values()) == {4}
    assert str(task.program.template) == "a photo of a <CLASS>."
    assert "trainset=ImageDataset(15 images, 3 classes)" in repr(task)
    assert "program" not in repr(task)


@pytest.mark.usefixtures("assets")
def test_seed_and_fresh_programs() -> None:
    one, two = load(), load()
    assert one.trainset == two.trainset
    assert one.program is not two.program
    assert load(seed=2).trainset != one.trainset


def test_pictures_are_written_as_a_folder_that_is_read_again(tmp_path: Path) -> None:
    count = demo.export("pixel-animals", tmp_path / "photos")
    task = demo.load("pixel-animals", shots=16, classes="all")
    found = load_image_folder(tmp_path / "photos")
    assert len(found) == count == len(task.trainset) + 6 * 50 + len(task.testset)
    assert found.classes == task.classes
    pictures = {Path(one.source).read_bytes() for one in found if one.label == "bat"}
    assert {base64.b64decode(one.image.url.partition(",")[2]) for one in task.testset if one.label == "bat"} < pictures
    with pytest.raises(DataError, match=r"photos' is not empty; use a new folder"):
        demo.export("pixel-animals", tmp_path / "photos")
    with pytest.raises(DataError, match=r"0001.webp' cannot be written \(File exists\)"):
        demo.export("pixel-animals", next((tmp_path / "photos").rglob("0001.webp")))
    with pytest.raises(DataError, match="unknown demo 'tiney'"):
        demo.export("tiney", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("assets")
def test_refuses_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="unknown demo 'tiney', known are tiny; for example"):
        load("tiney")
    with pytest.raises(DataError, match=r"unknown demo '\.\./tiny'"):
        load("../tiny")
    with pytest.raises(DataError, match="classes must be one of 'base', 'novel', 'all', got 'half'"):
        load(classes="half")
    with pytest.raises(DataError, match="shots must be an integer of at least 1, or None for all, got 0"):
        load(shots=0)
    monkeypatch.setattr(demo, "assets", lambda: Path("absent"))
    with pytest.raises(DataError, match="known are none"):
        load()


@pytest.mark.parametrize("name", demo.names())
def test_bundled_tasks_are_whole(name: str) -> None:
    task = demo.load(name, shots=2, classes="all")
    assert task.name == name
    assert task.description != name
    assert set(task.trainset.counts().values()) == {2}
    assert set(task.valset.counts().values()) == {2}
    assert min(task.testset.counts().values()) > 0
    assert Counter(type(item.image).__name__ for item in task.testset) == {"Image": len(task.testset)}
    assert all(item.image.url.startswith("data:image/") for item in task.testset)


def test_the_two_bundled_models_differ_in_their_image_tower_alone() -> None:
    task = demo.load("pixel-animals", shots=1)
    one, two = (ClipClassifier(task.classes, model=name, device="cpu").backbone for name in BUNDLED)
    texts = one.token_ids([f"a photo of a {name}." for name in task.classes])
    torch.testing.assert_close(encode_token_lists(one, texts), encode_token_lists(two, texts), rtol=0, atol=1e-6)
    images = [example.image for example in task.testset][::10]
    near = (encode_images(one, images).features * encode_images(two, images).features).sum(dim=1)
    assert 0.8 < near.mean() < 0.9999
    check_towers(two, ("text", "image"))
    with pytest.raises(InputError, match=r"the image tower of .* does not support learned tokens"):
        check_towers(one, ("image",))


def test_a_program_of_the_second_model_is_saved_by_its_name(tmp_path: Path) -> None:
    ClipClassifier(["cat", "dog"], model=DEMO_VIT).save(str(tmp_path / "p.json"))
    assert ClipClassifier.from_file(str(tmp_path / "p.json")).backbone.name == resolve_model_name(DEMO_VIT)
    assert json.loads((tmp_path / "p.json").read_text())["clip"]["model"] == DEMO_VIT


@pytest.mark.skipif(not demo.names(), reason="the assets are not built yet")
def test_loads_without_torch() -> None:
    code = "import sys; from ipo_dspy import demo; demo.load(demo.names()[0]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
