"""A classifier in FiftyOne: its labels are those of the program, in a data set and from the model zoo.

FiftyOne brings a database that is downloaded when it is installed. Where it is missing, mongomock takes its place.
"""

import importlib.util
import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError, ModelError, ProgramFileError
from ipo_dspy.export import npz
from ipo_dspy.export.npz import read_npz
from ipo_dspy.integrations import fiftyone as integration

IS_HERE = importlib.util.find_spec("fiftyone") is not None
WORDS_AFTER_THE_NAME = "a picture of a <CLASS>, pixel art."


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=4)


@pytest.fixture(scope="module")
def program(task: DemoTask) -> ClipClassifier:
    program: ClipClassifier = task.program.deepcopy()
    program.template = WORDS_AFTER_THE_NAME
    return program.calibrate(task.valset, coverage=0.8, unknown_label="other")


@pytest.mark.skipif(IS_HERE, reason="FiftyOne is installed")
def test_without_fiftyone_is_one_error(program: ClipClassifier) -> None:
    with pytest.raises(InputError, match=r"FiftyOne must be installed .*; run pip install fiftyone"):
        integration.fiftyone_model(program)


def test_the_file_of_weights_is_read_back(program: ClipClassifier, task: DemoTask, tmp_path: Path) -> None:
    program.export(tmp_path / "w.npz", format="npz")
    weights, read = program.class_weights(), read_npz(tmp_path / "w.npz")
    assert read.plain() == weights.plain()
    assert (read.labels, read.template, read.class_texts) == (weights.labels, weights.template, weights.class_texts)
    for name in ("class_embeddings", "class_weights"):
        assert np.array_equal(getattr(read, name), getattr(weights, name))


def test_files_without_weights_are_one_error(tmp_path: Path) -> None:
    missing, other, code = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(missing, labels=np.array(["a"]))
    np.savez(other, allow_pickle=True, labels=np.array([{}], dtype=object))
    np.save(code, np.zeros(3))
    for data in (missing.getvalue(), other.getvalue(), code.getvalue(), b"", b"PK\x03\x04", missing.getvalue()[:60]):
        (tmp_path / "w.npz").write_bytes(data)
        with pytest.raises(
            ProgramFileError, match=r"w\.npz' cannot be read \(it is not a file of class weights.*; export the"
        ):
            read_npz(tmp_path / "w.npz")
    with pytest.raises(ProgramFileError, match=r"none\.npz' cannot be read \(No such file"):
        read_npz(tmp_path / "none.npz")


def test_values_that_do_not_fit_are_one_error(
    program: ClipClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.npz"
    program.export(path, format="npz")
    with np.load(path) as arrays:
        values = dict(arrays)
    embeddings, weights = values["class_embeddings"], values["class_weights"]
    for name, value in [
        ("class_embeddings", embeddings[:3]),
        ("class_embeddings", embeddings[0]),
        ("class_embeddings", np.array(1.0)),
        ("class_embeddings", np.where(embeddings == embeddings[0, 0], np.nan, embeddings)),
        ("class_weights", -weights),
        ("class_weights", weights * np.inf),
        ("class_weights", weights[:, None]),
        ("class_weights", np.array(["1"] * len(weights))),
        ("temperature", np.array(0.0)),
        ("logit_scale", np.array(np.nan)),
        ("threshold", np.array("null")),
        ("labels", values["labels"][:3]),
        ("class_texts", np.array(json.dumps(["cat"] * len(weights)))),
        ("model", np.array('["x"]')),
        ("model", np.array("[" * 10_000)),
    ]:
        np.savez(path, **{**values, name: value})
        with pytest.raises(ProgramFileError, match=r"not a file of class weights: .*; export the program again"):
            read_npz(path)
    np.savez_compressed(path, **values)
    assert read_npz(path).labels == program.classes
    monkeypatch.setattr(npz, "_LIMIT", 1000)
    with pytest.raises(ProgramFileError, match=r"it has [\d,]+ bytes after decompression"):
        read_npz(path)


def test_another_checkpoint_is_refused(program: ClipClassifier, tmp_path: Path) -> None:
    program.export(tmp_path / "w.npz", format="npz")
    with np.load(tmp_path / "w.npz") as arrays:
        values = dict(arrays)
    changed = json.loads(str(values["model"])) | {"fingerprint": "0" * 16}
    np.savez(tmp_path / "w.npz", **{**values, "model": np.array(json.dumps(changed))})
    with pytest.raises(ModelError, match=r"'demo' has other weights now \(\w{16}, not 0{16}\); export the program"):
        integration.load_model(tmp_path / "w.npz")


def test_the_folder_is_one_of_the_zoo(program: ClipClassifier, tmp_path: Path) -> None:
    for _ in range(2):  # existing files are replaced
        program.export(tmp_path / "pets", format="fiftyone")
    assert {path.name for path in (tmp_path / "pets").iterdir()} == {
        "manifest.json",
        "__init__.py",
        "class_weights.npz",
    }
    manifest = json.loads((tmp_path / "pets" / "manifest.json").read_text())
    assert (manifest["name"], manifest["models"][0]["base_name"]) == ("pets", "pets")
    assert WORDS_AFTER_THE_NAME in manifest["models"][0]["description"]
    (tmp_path / "file").touch()
    with pytest.raises(ProgramFileError, match=r"file' cannot be written \(it is a file, not a folder\)"):
        program.export(tmp_path / "file", format="fiftyone")


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """FiftyOne with a database and an empty model zoo."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of its dependencies
        patch.setenv("FIFTYONE_MODEL_ZOO_DIR", str(tmp_path_factory.mktemp("zoo")))
        patch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("database")))
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        patch.setenv("FIFTYONE_SHOW_PROGRESS_BARS", "false")
        if importlib.util.find_spec("mongomock") is not None:
            patch_database(patch)
        fo = pytest.importorskip("fiftyone")
        try:
            fo.list_datasets()
        except fo.core.config.FiftyOneConfigError as error:
            pytest.skip(f"FiftyOne has no database: {error}")
        yield fo


def patch_database(patch: pytest.MonkeyPatch) -> None:
    """Replace the clients of MongoDB by those of mongomock, which share one store."""
    pymongo, mongomock = importlib.import_module("pymongo"), importlib.import_module("mongomock")
    store = importlib.import_module("mongomock.store").ServerStore()

    class Client(mongomock.MongoClient):  # type: ignore[name-defined]
        _closed = False  # an attribute that mongomock would take for the name of a database

        def __init__(self, *arguments: Any, appname: str = "", **options: Any) -> None:
            super().__init__(*arguments, **options, _store=store)

    patch.setattr(pymongo, "MongoClient", Client)
    patch.setattr(importlib.import_module("mongoengine.connection"), "MongoClient", Client)
    patch.setenv("FIFTYONE_DATABASE_URI", "mongodb://localhost")
    patch.setenv("FIFTYONE_DATABASE_VALIDATION", "false")


@pytest.fixture
def paths(task: DemoTask, tmp_path: Path) -> list[str]:
    """Image files of different sizes."""
    files = []
    for index, example in enumerate(task.testset[:40]):
        files.append(str(tmp_path / f"{index}.png"))
        open_image(example.image).resize((64 + index, 64)).save(files[-1])
    return files


@pytest.fixture
def dataset(fiftyone: Any, paths: list[str]) -> Iterator[Any]:
    made = fiftyone.Dataset()
    made.add_samples([fiftyone.Sample(filepath=path) for path in paths])
    yield made
    made.delete()


def test_a_data_set_gets_the_labels_of_the_program(program: ClipClassifier, dataset: Any, paths: list[str]) -> None:
    dataset.apply_model(integration.fiftyone_model(program), label_field="clip", batch_size=16)
    answers = [program(image=path) for path in paths]
    assert dataset.values("clip.label") == [answer.label for answer in answers]
    assert dataset.values("clip.confidence") == pytest.approx([answer.confidence for answer in answers], abs=1e-5)
    assert "other" in dataset.values("clip.label")
    assert len(set(dataset.values("clip.label"))) > 5


def test_an_image_without_a_label_gets_none(
    program: ClipClassifier, task: DemoTask, dataset: Any, paths: list[str]
) -> None:
    silent = program.calibrate(task.valset, threshold=0.7)
    dataset.apply_model(integration.fiftyone_model(silent), label_field="clip", batch_size=None, confidence_thresh=0.1)
    expected = [silent(image=path).label for path in paths]
    assert [sample.clip and sample.clip.label for sample in dataset] == expected
    assert None in expected


def test_several_labels_are_classifications(task: DemoTask, dataset: Any, paths: list[str], tmp_path: Path) -> None:
    model = f"local-dir:{write_sigmoid_demo(tmp_path / 'sigmoid')}"
    several = ClipClassifier(task.classes, template=WORDS_AFTER_THE_NAME, model=model, multi_label=True)
    dataset.apply_model(integration.fiftyone_model(several), label_field="clip")
    labels = [set(names or ()) for names in dataset.values("clip.classifications.label")]
    assert labels == [set(several(image=path).labels) for path in paths]
    assert any(labels)


def test_the_exported_folder_is_loaded_from_the_zoo(
    fiftyone: Any, program: ClipClassifier, dataset: Any, paths: list[str]
) -> None:
    zoo = importlib.import_module("fiftyone.zoo")
    program.export(Path(fiftyone.config.model_zoo_dir) / "pets", format="fiftyone")
    assert "pets" in zoo.list_zoo_models()
    model = zoo.load_zoo_model("pets", device="cpu")
    dataset.apply_model(model, label_field="clip")
    assert dataset.values("clip.label") == [program(image=path).label for path in paths]
    features = dataset.compute_embeddings(model)
    assert np.allclose(features, encode_images(program.backbone, paths).features.numpy(), atol=1e-6)
    assert np.allclose(model.embed(np.asarray(open_image(paths[0]))), features[0], atol=1e-6)
    assert len(model.get_embeddings()) == 1


def test_the_page_runs(fiftyone: Any, task: DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "deploy" / "fiftyone.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index, example in enumerate(task.testset[:20]):
        open_image(example.image).save(tmp_path / "photos" / f"{index}.png")
    task.program.save("best.json")
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert names["dataset"].values("clip.label") == names["dataset"].values("zoo.label")
    assert None not in names["dataset"].values("clip.label")
