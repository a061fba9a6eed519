"""`write_open_clip`: the script prints the labels of the classifier, in a Python without ipo_dspy."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from helpers.cli_process import Done, Processes
from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO, DEMO_VIT, assets, model_path
from ipo_dspy.clip.compat import patch_torchvision
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import ModelError
from ipo_dspy.export.open_clip import write_open_clip

WITHOUT = """
import runpy, sys
from importlib.util import find_spec
from types import ModuleType
installed = ModuleType("ipo_dspy")  # its folder is known, and nothing can be imported from it
installed.__spec__ = find_spec("ipo_dspy")
sys.modules |= dict.fromkeys(name for name in sys.modules if name.startswith("ipo_dspy."))
sys.modules["ipo_dspy"] = installed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ALONE = f"import torch\n{inspect.getsource(patch_torchvision)}\npatch_torchvision()\n{WITHOUT}"
NOT_INSTALLED = WITHOUT.replace("= installed", "= None")
Runner: TypeAlias = Callable[[Path, list[Path]], Done]


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=8, model=DEMO_VIT)


@pytest.fixture(scope="module")
def pictures(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(24)]
    for path, example in zip(paths, task.testset[::10], strict=False):
        open_image(example.image).save(path)
    open_image(task.testset[0].image).resize((130, 70)).save(paths[0])
    return paths


def run_alone(script: Path, pictures: list[Path]) -> Done:
    """Run a script in a Python of its own, in which ipo_dspy was never imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(script), *map(str, pictures)],
        cwd=script.parent,
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Runner:
    """Runs a script in a process that cannot import ipo_dspy any more."""
    processes = Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)
    return lambda script, pictures: processes.python(WITHOUT, str(script), *map(str, pictures))


def printed(done: Done) -> list[list[str]]:
    """Path, label, and probability of each line that a script prints."""
    assert done.code == 0, done.err
    return [line.split("\t") for line in done.out.splitlines()]


def check_equal(script: Path, classifier: ClipClassifier, pictures: list[Path], run: Runner) -> set[str]:
    """Compare a script with the classifier that it was written from; return the labels."""
    classifier.export(script, format="open-clip")
    answers = [classifier(image=picture) for picture in pictures]
    lines = printed(run(script, pictures))
    assert [line[:2] for line in lines] == [[str(p), str(a.label)] for p, a in zip(pictures, answers, strict=True)]
    for line, answer in zip(lines, answers, strict=True):
        assert float(line[2]) == pytest.approx(answer.confidence, abs=2e-4)
    return {line[1] for line in lines}


@pytest.mark.end_to_end
@pytest.mark.parametrize("model", [DEMO, DEMO_VIT])
def test_the_script_prints_the_labels_of_the_classifier(
    tmp_path: Path, task: DemoTask, pictures: list[Path], model: str
) -> None:
    classes = {label: ["dog", "brown_puppy"] if label == "dog" else label for label in task.classes}
    classifier = ClipClassifier(classes, template="pixel art of a <CLASS>.\nan icon of a <CLASS>", model=model)
    check_equal(tmp_path / "best.py", classifier, pictures, run_alone)
    script = (tmp_path / "best.py").read_text()
    assert len(script.partition("LOGIT_BIAS =")[2].splitlines()) < 20
    assert str(assets()) not in script


@pytest.mark.end_to_end
@pytest.mark.parametrize("has_unknown", [False, True])
def test_calibration_and_unknown_label(
    tmp_path: Path, task: DemoTask, pictures: list[Path], run: Runner, has_unknown: bool
) -> None:
    calibrated = task.program.calibrate(
        task.trainset,
        objective="balanced_accuracy",
        coverage=0.6,
        unknown_label="other",
        unknown=task.testset[::20] if has_unknown else None,
    )
    calibrated.fields["label"]["weights"] = {"eagle": 0.0, "dog": 3.5}
    assert "other" in check_equal(tmp_path / "best.py", calibrated, pictures, run)


@pytest.mark.end_to_end
def test_several_labels_have_a_line_each(tmp_path: Path, task: DemoTask, pictures: list[Path], run: Runner) -> None:
    model = f"local-dir:{write_sigmoid_demo(tmp_path / 'sigmoid')}"
    classifier = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model=model, multi_label=True)
    classifier.export(tmp_path / "best.py", format="open-clip")
    expected = [[str(picture), label] for picture in pictures for label in sorted(classifier(image=picture).labels)]
    assert [line[:2] for line in printed(run(tmp_path / "best.py", pictures))] == expected
    assert len(expected) > len(pictures) / 2


@pytest.mark.end_to_end
def test_damaged_images_are_reported_and_the_others_labeled(
    tmp_path: Path, task: DemoTask, pictures: list[Path], run: Runner
) -> None:
    cut, text = tmp_path / "cut.png", tmp_path / "text.png"
    cut.write_bytes(pictures[0].read_bytes()[:200])
    text.write_text("no picture")
    task.program.export(tmp_path / "best.py", format="open-clip")
    good = [line.split("\t")[:2] for line in run(tmp_path / "best.py", pictures[:2]).out.splitlines()]
    done = run(tmp_path / "best.py", [pictures[0], cut, text, tmp_path / "missing.png", pictures[1]])
    assert (done.code, [line.split("\t")[:2] for line in done.out.splitlines()]) == (1, good)
    skipped = [line for line in done.err.splitlines() if line.startswith("skipped ")]
    assert [line.partition(": ")[0] for line in skipped] == [
        f"skipped {str(path)!r}" for path in (cut, text, tmp_path / "missing.png")
    ]
    assert "Traceback" not in done.err


@pytest.mark.end_to_end
def test_names_are_literals_and_never_code(tmp_path: Path, pictures: list[Path], run: Runner) -> None:
    evil = "'\"\"\" + print('run') + {MODEL} \\N <CLASS> \\"
    classifier = ClipClassifier({evil: ["cat", "Äpfel 猫"], "b\u00a0c": "dog"}, template=evil, model=DEMO_VIT)
    check_equal(tmp_path / "best.py", classifier, pictures[:2], run)
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((tmp_path / "best.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id not in ("package", "places", "MODEL")
    }
    assert constants["TEMPLATE"] == [evil]
    assert list(constants["CLASSES"]) == [evil, "b\u00a0c"]


@pytest.mark.end_to_end
def test_without_ipo_dspy_the_bundled_model_is_taken_from_next_to_the_script(
    tmp_path: Path, task: DemoTask, pictures: list[Path], run: Runner, forking_parent: Processes
) -> None:
    task.program.export(tmp_path / "best.py", format="open-clip")
    (tmp_path / "model-vit").mkdir()  # another folder of that name
    processes = Processes(tmp_path, {}, parent=forking_parent)
    arguments = NOT_INSTALLED, str(tmp_path / "best.py"), str(pictures[0])
    done = processes.python(*arguments)
    assert (done.code, done.out, done.err.splitlines()[-1:]) == (
        1,
        "",
        ["the CLIP 'demo-vit' comes with ipo_dspy; install it, or copy its demo/assets/model-vit next to this script"],
    )
    shutil.copytree(model_path(DEMO_VIT), tmp_path / "model-vit", dirs_exist_ok=True)
    assert printed(processes.python(*arguments)) == printed(run(tmp_path / "best.py", pictures[:1]))


def test_paths_are_absolute(tmp_path: Path, task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sigmoid_demo(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    ClipClassifier(["cat", "dog"], model="local-dir:model").export("best.py", format="open-clip")
    name = f"local-dir:{tmp_path / 'model'}"
    assert f"MODEL = {name!r}\n" in (tmp_path / "best.py").read_text()


def test_models_of_transformers_are_refused(tmp_path: Path, task: DemoTask) -> None:
    weights = task.program.class_weights()
    weights = replace(weights, model={**weights.model, "model": "transformers:openai/clip-vit-base-patch16"})
    with pytest.raises(ModelError, match="is not one of open_clip; use the format onnx, transformers, or npz"):
        write_open_clip(weights, task.program.backbone, tmp_path / "best.py")
