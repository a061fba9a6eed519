"""The CLIP of a classifier: one for equal arguments, saved by its name, refused if no such model exists."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.classifiers import fresh
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.clip.open_clip_names import architectures, pretrained_tags
from ipo_dspy.errors import ModelError


def test_the_backbone_is_loaded_once_for_equal_arguments(task: demo.DemoTask) -> None:
    assert load_backbone(f"local-dir:{demo.model_path()}", None) is task.program.backbone


def test_the_bundled_model_has_a_name_that_files_of_other_environments_share(
    task: demo.DemoTask, tmp_path: Path
) -> None:
    path, backbone = tmp_path / "p.json", task.program.backbone
    for program in (ClipClassifier(["a", "b"], model="demo"), fresh(task), ClipClassifier(["a", "b"], model=backbone)):
        assert program.backbone is backbone
        program.save(str(path))
        state = json.loads(path.read_text())
        assert (state["clip"]["model"], state["clip"]["pretrained"]) == ("demo", "")
    state["clip"]["model"] = "local-dir:/another/venv/ipo_dspy/demo/assets/model"  # as version 0.1.0 wrote it there
    path.write_text(json.dumps(state))
    assert ClipClassifier.from_file(path).backbone is backbone


@pytest.mark.parametrize("model", ["hf-hub:x/y", "local-dir:/nowhere", "demo"])
def test_a_model_with_its_own_weights_saves_no_name_of_others(model: str, tmp_path: Path) -> None:
    ClipClassifier(["a", "b"], model=model, top_k=1, allow_url=True).save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["clip"]["pretrained"] == ""
    loaded = ClipClassifier.from_file(tmp_path / "p.json")
    assert (loaded.top_k, loaded.allow_url) == (1, False)  # what may be fetched is for the user to say


@pytest.mark.parametrize("model", ["hf-hub:someone/their-clip", "local-dir:/somewhere"])
def test_a_model_with_its_own_weights_is_saved_under_no_others(model: str) -> None:
    state = ClipClassifier(["cat", "dog"], model=model).dump_state()["clip"]
    assert (state["model"], state["pretrained"]) == (model, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ViT-B16"}, r"no model 'ViT-B16'; close names: ViT-B-16, .*for example model='ViT-B-16'"),
        (
            {"model": "ViT-B-16", "pretrained": "opnai"},
            r"no weights 'opnai'; its tags: .*for example pretrained='openai'",
        ),
        ({"model": "ViT-B-16-quickgelu", "pretrained": "laion2b_s34b_b88k"}, "has no weights 'laion2b_s34b_b88k'"),
        ({"model": "ViT-B-16-SigLIP"}, r"no weights 'openai'; its tags: webli; for example pretrained='webli'"),
        ({"model": Path("folder")}, "model must be a name or a loaded Backbone"),
        ({"pretrained": 3}, "pretrained must be a tag or the path of a file, got 3"),
    ],
)
def test_a_wrong_model_is_refused_at_once(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=message):
        ClipClassifier(["cat", "dog"], **arguments)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)  # before it is imported, its files are read instead
    with pytest.raises(ModelError, match=message):
        ClipClassifier(["cat", "dog"], **arguments)


def test_the_tags_in_the_files_of_open_clip_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = import_open_clip()
    tags = {name: list(open_clip.list_pretrained_tags_by_model(name)) for name in open_clip.list_models()}
    # As open_clip has it:
    assert ClipClassifier(model="ViT-B-16", pretrained="laion2b-s34b-b88k").model_name == "ViT-B-16"
    monkeypatch.delitem(sys.modules, "open_clip")
    assert {name: list(pretrained_tags(name) or ()) for name in architectures()} == tags
