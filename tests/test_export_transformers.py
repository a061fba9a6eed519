"""`write_transformers`: the zero-shot pipeline gives the labels of the classifier with the same weights."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers import transformers_toys
from helpers.transformers_toys import converted
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT, model_path
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError, ModelError
from ipo_dspy.export import write
from ipo_dspy.export.transformers import CHECKPOINTS, write_transformers
from ipo_dspy.export.weights import ClassWeights


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=4, model=DEMO_VIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled CLIP as a model of transformers."""
    return converted(model_path(DEMO_VIT), tmp_path_factory.mktemp("models") / "demo")


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
@pytest.mark.parametrize("template", ["pixel art of a <CLASS>.", "a <CLASS> as {0}, pixel art of a {<CLASS>}."])
def test_the_pipeline_gives_the_labels_of_the_classifier(
    tmp_path: Path, task: DemoTask, folder: Path, template: str
) -> None:
    from transformers import pipeline

    classes = {label: {"dog": "brown_puppy"}.get(label, label) for label in task.classes}
    ClipClassifier(classes, template=template, model=f"transformers:{folder}").export(
        tmp_path / "best.json", format="transformers"
    )
    config = json.loads((tmp_path / "best.json").read_text())
    assert (config["model"], config["labels"]["brown puppy"]) == (str(folder), "dog")
    images = [open_image(example.image) for example in task.testset[::6]]
    classify: Any = pipeline(config["task"], model=config["model"], device="cpu")
    arguments = {name: config[name] for name in ("candidate_labels", "hypothesis_template")}
    best = [answers[0] for answers in classify(images, **arguments)]
    by_open_clip = ClipClassifier(classes, template=template, model=DEMO_VIT)  # with the same weights
    for answer, image in zip(best, images, strict=True):
        expected = by_open_clip(image=image)
        assert config["labels"][answer["label"]] == expected.label
        assert answer["score"] == pytest.approx(expected.confidence, abs=1e-3)


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
def test_the_lines_of_the_page_run(
    tmp_path: Path,
    task: DemoTask,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path(__file__).parent.parent / "docs" / "deploy" / "scripts.md"
    (lines,) = re.findall(r"```py\n(.*?)```", page.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    classifier = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model=f"transformers:{folder}")
    classifier.export("best.pipeline.json", format="transformers")
    for name, example in zip(("cat.jpg", "dog.jpg"), task.testset[::100], strict=False):
        open_image(example.image).save(name)
    exec(compile(lines, str(page), "exec"), {})
    labels = [line.split(" 0.")[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == [classifier(image=Path(name)).label for name in ("cat.jpg", "dog.jpg")]


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
def test_the_page_for_users_of_the_pipeline_runs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parent.parent / "docs" / "coming-from" / "transformers.md"
    blocks = re.findall(r"```py\n(.*?)```", page.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    demo.export("pixel-animals", "all")
    for label in ("cat", "dog"):
        Path("photos", label).mkdir(parents=True)
        for number, path in enumerate(sorted(Path("all", label).iterdir())[:4]):
            Image.open(path).save(Path("photos", label, f"{number}.png"))
    Image.open("photos/cat/0.png").convert("RGB").save("cat.jpg")
    source = "\n".join(blocks).replace("openai/clip-vit-base-patch16", str(folder))
    variables: dict[str, Any] = {}
    exec(compile(source, str(page), "exec"), variables)
    by_pipeline, by_classifier, by_export = capsys.readouterr().out.splitlines()
    assert by_pipeline == by_classifier
    assert by_export == variables["best"](image="cat.jpg").label


@pytest.mark.end_to_end
def test_what_the_pipeline_cannot_hold_is_refused(tmp_path: Path, task: DemoTask) -> None:
    program = task.program.deepcopy()
    program.template = "a <CLASS>.\npixel art of a <CLASS>"
    program.classes = {"dog": ["dog", "puppy"], "cat": "cat"}
    with pytest.raises(
        InputError,
        match=r"cannot represent a template of several lines and several texts of a class; use the format onnx",
    ):
        program.export(tmp_path / "best.json", format="transformers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
def test_a_siglip_gets_the_texts_that_it_was_trained_on(tmp_path: Path) -> None:
    from transformers import pipeline

    model = f"transformers:{transformers_toys.siglip2_fixed(tmp_path / 'siglip2')}"
    program = ClipClassifier(["DOG", "CAT", "The Thing"], template="A PHOTO of a {<CLASS>}", model=model, device="cpu")
    program.export(tmp_path / "best.json", format="transformers")
    config = json.loads((tmp_path / "best.json").read_text())
    assert config["hypothesis_template"] == "a photo of a {{{}}}"
    assert config["labels"] == {"dog": "DOG", "cat": "CAT", "the thing": "The Thing"}
    classify: Any = pipeline(config["task"], model=config["model"], device="cpu")
    arguments = {name: config[name] for name in ("candidate_labels", "hypothesis_template")}
    noise = [Image.effect_noise((50 + i, 40), 20 + 9 * i).convert("RGB").rotate(11 * i) for i in range(8)]
    best = [config["labels"][answers[0]["label"]] for answers in classify(noise, **arguments)]
    assert best == [program(image=image).label for image in noise]
    same = replace(program.class_weights(), class_texts=(("dog",), ("Dog",), ("cat",)))
    with pytest.raises(InputError, match="cannot represent classes that CLIP reads as the same text"):
        write_transformers(same, program.backbone, tmp_path / "best.json")


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
def test_a_siglip_with_a_short_context_is_refused(tmp_path: Path) -> None:
    model = f"transformers:{transformers_toys.siglip(tmp_path / 'short', positions=16)}"
    with pytest.raises(ModelError, match=r"pads texts to 64 tokens for a SigLIP, and 'transformers:.*' reads 16; use"):
        ClipClassifier(["dog", "cat"], model=model).export(tmp_path / "best.json", format="transformers")


def weights_of(task: DemoTask, name: str, pretrained: str) -> ClassWeights:
    weights = task.program.class_weights()
    return replace(weights, model={**weights.model, "model": name, "pretrained": pretrained})


@pytest.mark.parametrize(
    ("name", "pretrained", "checkpoint"),
    [
        ("ViT-B-16-quickgelu", "openai", "openai/clip-vit-base-patch16"),
        ("ViT-B/16-SigLIP2", "webli", "google/siglip2-base-patch16-224"),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("transformers:org/name", "", "org/name"),
    ],
)
def test_published_checkpoints(tmp_path: Path, task: DemoTask, name: str, pretrained: str, checkpoint: str) -> None:
    calibrated = replace(weights_of(task, name, pretrained), threshold=0.5)
    others = "safetensors, npz, fiftyone, onnx, open-clip"
    with pytest.warns(UserWarning, match=f"transformers cannot store .*; to keep them, export to one of {others}$"):
        write(calibrated, task.program.backbone, tmp_path / "best.json", "transformers")
    assert json.loads((tmp_path / "best.json").read_text())["model"] == checkpoint


def test_tags_of_known_checkpoints_exist() -> None:
    open_clip = import_open_clip()
    assert [pair for pair in CHECKPOINTS if not open_clip.get_pretrained_cfg(*pair)] == []


@pytest.mark.parametrize(
    ("name", "pretrained", "shown"),
    [
        ("demo-vit", "", "model 'demo-vit'"),
        ("hf-hub:org/name", "", "model 'hf-hub:org/name'"),
        (
            "ViT-B-16-quickgelu",
            "/weights.safetensors",
            "model 'ViT-B-16-quickgelu' with weights '/weights.safetensors'",
        ),
    ],
)
def test_unknown_checkpoints_are_refused(
    tmp_path: Path, task: DemoTask, name: str, pretrained: str, shown: str
) -> None:
    calibrated = replace(weights_of(task, name, pretrained), threshold=0.5)  # a warning would be an error here
    with pytest.raises(ModelError, match=f"no transformers checkpoint is known for {shown}; use the format onnx"):
        write(calibrated, task.program.backbone, tmp_path / "best.json", "transformers")
