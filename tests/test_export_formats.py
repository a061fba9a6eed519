"""Each format of `ipo-dspy export` is read by a program that is not ours, which finds the same labels."""

import csv
import json
import re
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch.utils.data import DataLoader

from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.bundled import DEMO_VIT, model_path
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, InputError, ProgramFileError
from ipo_dspy.export import FORMATS
from ipo_dspy.template import Template

Floats = NDArray[np.floating[Any]]
TEMPLATE = "pixel art of a <CLASS>, {sic}.\nan icon of a <CLASS>."
HOSTILE = {'=1+1,"quoted"': "eagle", "-héron\u00a0🦩": "flamingo", "n_01 {c} <b>": "house_cat", "{0}%s": "frog"}
"""Labels with the characters that formats treat specially, and what CLIP reads for them."""


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=8, model=DEMO_VIT)


@pytest.fixture(scope="module")
def features(task: DemoTask) -> Floats:
    backbone = task.program.backbone
    return np.asarray(encode_images(backbone, [e.image for e in task.testset]).features.numpy())


@pytest.fixture(scope="module", params=["plain", "texts", "hostile", "calibrated", "unknown"])
def classifier(request: pytest.FixtureRequest, task: DemoTask) -> ClipClassifier:
    program: ClipClassifier = task.program.deepcopy()
    program.template = Template.parse(TEMPLATE)
    if request.param == "texts":
        program.classes = {label: [label, f"wild {label}"] if "e" in label else label for label in task.classes}
    elif request.param == "hostile":
        program.classes = HOSTILE
    elif request.param == "calibrated":
        return program.calibrate(task.trainset, objective="balanced_accuracy", coverage=0.7, unknown_label="other")
    elif request.param == "unknown":
        return program.calibrate(task.trainset, unknown=task.testset[::10], coverage=0.7, unknown_label="other")
    return program


def labels_by(classifier: ClipClassifier, features: Floats) -> list[Any]:
    weights = classifier.class_weights()
    return weights.labels_of(weights.probabilities(features), weights.scores(features))


def classify_plainly(features: Floats, embeddings: Floats, facts: dict[str, Any]) -> list[str | None]:
    """Classify as a reader of the files would, from the fields and numpy alone."""
    logits = facts["logit_scale"] * features @ embeddings.T + facts["logit_bias"]
    shares = np.exp((logits - logits.max(1, keepdims=True)) / facts["temperature"]) * facts["class_weights"]
    shares /= shares.sum(1, keepdims=True)
    scores = shares.max(1)
    if facts["threshold_score"] == "in_distribution":
        ranked = np.sort(logits, axis=1)
        scores = 2 * ranked[:, -1] - np.logaddexp.reduce(ranked[:, :-1], axis=1)
    best = zip(shares.argmax(1), scores, strict=True)
    return [facts["unknown_label"] if p < facts["threshold"] else str(facts["labels"][i]) for i, p in best]


def test_numpy_reads_npz_without_pickle(classifier: ClipClassifier, features: Floats, tmp_path: Path) -> None:
    classifier.export(tmp_path / "best.npz", format="npz")
    facts = dict(np.load(tmp_path / "best.npz", allow_pickle=False))
    facts |= {name: json.loads(str(facts[name])) for name in ("unknown_label", "threshold_score")}
    assert facts["class_embeddings"].dtype == np.float32
    assert classify_plainly(features, facts["class_embeddings"], facts) == labels_by(classifier, features)
    assert json.loads(str(facts["preprocessing"])) == classifier.backbone.preprocessing
    assert json.loads(str(facts["model"]))["fingerprint"] == classifier.backbone.fingerprint
    assert json.loads(str(facts["class_texts"])) == [list(texts) for texts in classifier.class_texts.values()]
    assert facts["template"].tolist() == TEMPLATE.splitlines()


def test_safetensors_reads_tensors_and_metadata(classifier: ClipClassifier, features: Floats, tmp_path: Path) -> None:
    classifier.export(tmp_path / "best.safetensors", format="safetensors")
    with safe_open(tmp_path / "best.safetensors", framework="np") as file:
        facts = {name: json.loads(value) for name, value in file.metadata().items()}
        facts["class_weights"] = file.get_tensor("class_weights")
        embeddings = file.get_tensor("class_embeddings")
    assert classify_plainly(features, embeddings, facts) == labels_by(classifier, features)
    assert facts["preprocessing"]["size"] == [64, 64]
    assert facts["multi_label"] is False


def test_several_labels_are_found_by_sigmoids(tmp_path: Path, task: DemoTask) -> None:
    model = f"local-dir:{write_sigmoid_demo(tmp_path / 'sigmoid')}"
    program = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model=model, multi_label=True)
    images = [e.image for e in task.testset[:40]]
    program.export(tmp_path / "best.npz", format="npz")
    w = np.load(tmp_path / "best.npz")
    rows = encode_images(program.backbone, images).features.numpy()
    shares = 1 / (1 + np.exp(-(w["logit_scale"] * rows @ w["class_embeddings"].T + w["logit_bias"])))
    assert w["multi_label"]
    assert [set(w["labels"][row >= 0.5]) for row in shares] == [set(program(image=each).labels) for each in images]


def text_features(classifier: ClipClassifier, prompts: list[str]) -> torch.Tensor:
    """Encode prompts with open_clip alone."""
    import open_clip

    name = f"local-dir:{model_path(DEMO_VIT)}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    rows: torch.Tensor = model.eval().encode_text(open_clip.get_tokenizer(name)(prompts), normalize=True)
    return rows.detach()


def uncalibrated(classifier: ClipClassifier) -> ClipClassifier:
    other: ClipClassifier = classifier.deepcopy()
    other._set_calibration(None, {})
    return other


def export(classifier: ClipClassifier, path: Path, format: str) -> None:
    """Export, with the warning that a calibrated classifier gets for formats that have no place for it."""
    if classifier.is_calibrated:
        with pytest.warns(UserWarning, match=f"{format} cannot store class weights and a threshold"):
            classifier.export(path, format=format)
    else:
        classifier.export(path, format=format)


def test_the_csv_module_reads_prompts(classifier: ClipClassifier, features: Floats, tmp_path: Path) -> None:
    export(classifier, tmp_path / "best.csv", "csv")
    with (tmp_path / "best.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    encoded = text_features(classifier, [row["prompt"] for row in rows])
    labels = list(dict.fromkeys(row["label"] for row in rows))
    assert labels == list(classifier.classes or ())
    means = torch.stack([encoded[[row["label"] == label for row in rows]].mean(dim=0) for label in labels])
    best = (features @ (means / means.norm(dim=1, keepdim=True)).numpy().T).argmax(axis=1)
    assert [labels[i] for i in best] == labels_by(uncalibrated(classifier), features)


def write_shard(folder: Path, task: DemoTask) -> None:
    """A data set as CLIP_benchmark's own builder lays it out."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for i, example in enumerate(task.testset):
            open_image(example.image).save(folder / "image.png")
            (folder / "class.cls").write_text("0")
            for file in ("image.png", "class.cls"):
                tar.add(folder / file, f"{i:04}.{file[-3:]}")


@pytest.fixture(scope="module")
def shard(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wds")
    write_shard(folder, task)
    return folder


@pytest.mark.end_to_end
def test_clip_benchmark_reads_templates_and_class_names(
    classifier: ClipClassifier, features: Floats, shard: Path, tmp_path: Path
) -> None:
    export(classifier, tmp_path / "animals", "clip-benchmark")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset and torchvision
        from clip_benchmark.datasets.builder import build_dataset
        from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
        from clip_benchmark.models import load_clip

        name = f"local-dir:{model_path(DEMO_VIT)}"
        model, transform, tokenizer = load_clip("open_clip", name, None, None, device="cpu")
        files = {
            f"custom_{kind}_file": str(tmp_path / "animals" / f"{kind}s.json") for kind in ("template", "classname")
        }
        data = build_dataset("wds/animals", root=str(shard), transform=transform, **files)
        weights = zero_shot_classifier(model.eval(), tokenizer, data.classes, data.templates, "cpu", amp=False)
        logits, _ = run_classification(model, weights, DataLoader(data.batched(64), batch_size=None), "cpu", amp=False)
    labels = list(classifier.classes or ())
    assert [labels[i] for i in logits.argmax(dim=1)] == labels_by(uncalibrated(classifier), features)


def test_classes_of_one_text_give_templates_for_any_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ClipClassifier({"n01": "house_cat", "n02": "dog"}, model="demo", template="a {<CLASS>} <CLASS>.")
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    program.export(".", format="clip-benchmark")
    templates, names = (json.loads(Path(f"{kind}.json").read_text()) for kind in ("templates", "classnames"))
    assert templates == {"imagenet1k": ["a {{{c}}} {c}."]}
    assert names == {"pets": ["house cat", "dog"]}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    ClipClassifier(["cat", "dog"], model="demo").save(tmp_path / "best.json")
    return tmp_path / "best.json"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(["export", *map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


@pytest.mark.parametrize("format", ["safetensors", "npz", "csv", "clip-benchmark"])
def test_the_command_writes_next_to_the_program_and_again(
    format: str, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = program.with_name(f"best{FORMATS[format].ending}")
    for _ in range(2):
        assert call(capsys, program, "--to", format)[:2] == (0, f"{target}\n")
    assert sorted(program.parent.iterdir()) == sorted([program, target])
    out = program.with_name("other name")
    assert call(capsys, program, "--to", format, "--out", out)[:2] == (0, f"{out}\n")
    assert out.is_dir() == target.is_dir()


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_the_folder_of_a_model_stays_here(tmp_path: Path, format: str) -> None:
    folder = shutil.copytree(model_path(DEMO_VIT), tmp_path / "customers" / "clip")
    ClipClassifier(["cat", "dog"], model=f"local-dir:{folder}").export(tmp_path / "best", format=format)
    content = (tmp_path / "best").read_bytes().replace(b"\0", b"").replace(b"\\", b"")  # numpy has UTF-32
    assert b'"model": "clip"' in content
    assert b"customers" not in content


def test_unusable_paths_and_programs(
    program: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = program.parent
    monkeypatch.chdir(folder)
    (folder / "taken").mkdir()
    missing = folder / "none" / "best.npz"
    assert call(capsys, program, "--to", "npz", "--out", missing) == (
        2,
        "",
        f"ipo-dspy: '{missing}' cannot be written ('{missing.parent}' is not a folder); create it\n",
    )
    unusable = [("npz", folder / "taken"), ("csv", "."), ("csv", "/"), ("csv", ""), ("clip-benchmark", __file__)]
    for format, target in unusable:
        code, out, err = call(capsys, program, "--to", format, "--out", target)
        assert (code, out) == (2, "")
        assert re.fullmatch(
            rf"ipo-dspy: '{target or '.'}' cannot be written \(it is [\w, ]+\); use another path\n", err
        )
    assert sorted(folder.iterdir()) == [program, folder / "taken"]
    assert json.loads(program.read_text())["signature"]["instructions"] == "a photo of a <CLASS>."
    state = json.loads(program.read_text())
    state["clip"]["model"] = f"local-dir:{folder / 'gone'}"
    (folder / "gone.json").write_text(json.dumps(state))
    code, out, err = call(capsys, folder / "gone.json", "--to", "npz")
    assert (code, out) == (2, "")
    assert "gone" in err
    assert "Traceback" not in err
    assert call(capsys, ".", "--to", "npz")[0] == 2
    assert "'npz'" in call(capsys, program, "--to", "nonsense")[2]


def test_early_refusals_in_python(tmp_path: Path) -> None:
    program = ClipClassifier(["cat", "dog"], model="local-dir:missing")  # never loaded
    with pytest.raises(InputError, match=r"format must be one of 'safetensors', .*, got 'pt'; for example format='saf"):
        program.export(tmp_path / "best.pt", format="pt")
    with pytest.raises(ProgramFileError, match="is not a folder"):
        program.export(tmp_path / "none" / "best.npz", format="npz")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "__init__.py").write_text("of a package")
    for path, format, reason in (
        (tmp_path, "npz", "it is a folder"),
        (tmp_path / "code" / "__init__.py", "fiftyone", "it is a file, not a folder"),
        (tmp_path / "code", "fiftyone", "it holds other files"),
        (tmp_path / "code", "clip-benchmark", "it holds other files"),
    ):
        with pytest.raises(ProgramFileError, match=rf"cannot be written \({reason}\); use another path"):
            program.export(path, format=format)
    with pytest.raises(DataError, match="without class names cannot be exported"):
        ClipClassifier(model="local-dir:missing").export(tmp_path / "best.npz", format="npz")


@pytest.mark.parametrize(
    ("name", "format", "out"),
    [("best.json", "csv", "best.json"), ("best.npz", "npz", None), ("templates.json", "clip-benchmark", ".")],
)
def test_the_program_itself_is_not_replaced(
    program: Path, capsys: pytest.CaptureFixture[str], name: str, format: str, out: str | None
) -> None:
    renamed = program.rename(program.with_name(name))
    before = renamed.read_bytes()
    (program.parent / "classnames.json").write_text("{}")
    options = [] if out is None else ["--out", program.parent / out]
    code, printed, err = call(capsys, renamed, "--to", format, *options)
    assert (code, printed) == (2, "")
    assert re.search("--out must not be the program itself, got '.*'; pass another path", err), err
    assert renamed.read_bytes() == before


def test_a_changed_model_is_reported_and_named(program: Path, tmp_path: Path) -> None:
    saved = ClipClassifier.from_file(program)
    saved.warm_up()
    saved.save(program)
    with pytest.warns(UserWarning, match=r"saved under demo \(.*predictions will differ"):
        ClipClassifier.from_file(program, model=DEMO_VIT).export(tmp_path / "best.npz", format="npz")
    assert json.loads(str(np.load(tmp_path / "best.npz")["model"]))["model"] == DEMO_VIT
