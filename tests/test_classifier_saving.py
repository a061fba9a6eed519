"""Saved classifiers: the content of a file, the changes by loading it, and one error for a damaged one."""

import json
import warnings
from pathlib import Path
from typing import Any

import dspy
import pytest

from helpers.classifiers import fresh
from helpers.cli_process import Processes
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import ProgramFileError


@pytest.mark.end_to_end
def test_saved_and_loaded_in_a_new_process_it_predicts_the_same(
    task: demo.DemoTask, tmp_path: Path, forking_parent: Processes
) -> None:
    program = fresh(task, template="pixel art of a <CLASS>.")
    program.save(str(tmp_path / "best.json"))
    images = []
    for i, example in enumerate(task.testset[:6]):
        path = tmp_path / f"{i}.png"
        from ipo_dspy.clip.image_features import open_image

        open_image(example.image).save(path)
        images.append(str(path))
    expected = [[p.label, p.confidence] for p in (program(image=path) for path in images)]
    code = (
        "import json, sys; from ipo_dspy import ClipClassifier; p = ClipClassifier.from_file(sys.argv[1]);"
        "print(json.dumps([[q.label, q.confidence] for q in (p(image=i) for i in sys.argv[2:])]))"
    )
    done = Processes(tmp_path, {}, parent=forking_parent).python(code, str(tmp_path / "best.json"), *images)
    found = json.loads(done.out)
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert [row[1] for row in found] == pytest.approx([row[1] for row in expected], abs=1e-6)


def test_the_saved_file_names_the_model_and_holds_no_weights(task: demo.DemoTask, tmp_path: Path) -> None:
    fingerprint = task.program.backbone.fingerprint  # known once the model is loaded
    task.program.save(str(tmp_path / "p.json"))
    text = (tmp_path / "p.json").read_text()
    state = json.loads(text)
    assert state["clip"]["fingerprint"] == fingerprint
    assert tuple(state["clip"]["classes"]) == task.classes
    assert state["signature"]["instructions"] == "a photo of a <CLASS>."
    assert len(text) < 10_000


@pytest.mark.parametrize("loaded_first", [True, False])
def test_loading_under_another_model_warns_with_both_fingerprints(
    task: demo.DemoTask, tmp_path: Path, loaded_first: bool
) -> None:
    path = tmp_path / "p.json"
    task.program.save(str(path))
    state = json.loads(path.read_text())
    state["clip"]["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(state))
    mine = task.program.backbone.fingerprint
    program = fresh(task)
    if loaded_first:
        _ = program.backbone
        with pytest.warns(UserWarning, match=f"0123456789abcdef.*{mine}"):
            program.load(str(path))
    else:
        program.load(str(path))
        with pytest.warns(UserWarning, match=f"0123456789abcdef.*{mine}"):
            _ = program.backbone
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program.deepcopy().save(str(path))
        program.load(str(path))
        _ = program.backbone


@pytest.mark.parametrize("kept", [0, 1, 40, 400])
def test_a_file_cut_in_the_middle_is_one_clear_error(task: demo.DemoTask, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "p.json"
    task.program.save(str(path))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ProgramFileError, match=r"p\.json.* is not valid JSON"):
        fresh(task).load(str(path))


def test_a_program_of_another_kind_is_one_clear_error(task: demo.DemoTask, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    dspy.Predict("question -> answer").save(str(path))
    with pytest.raises(ProgramFileError, match=r"other\.json.*not a ClipClassifier state"):
        fresh(task).load(str(path))
    with pytest.raises(ProgramFileError, match=r"other\.json.*does not contain a saved ClipClassifier"):
        ClipClassifier.from_file(path)
    with pytest.raises(ProgramFileError, match="cannot be read"):
        ClipClassifier.from_file(tmp_path / "missing.json")


def test_a_composed_program_saves_and_loads_its_classifier(task: demo.DemoTask, tmp_path: Path) -> None:
    class Wrapped(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = fresh(task)

        def forward(self, image: Any) -> Any:
            return self.classify(image=image)

    program = Wrapped()
    program.classify.template = "art of a <CLASS>."
    program.save(str(tmp_path / "w.json"))
    other = Wrapped()
    other.load(str(tmp_path / "w.json"))
    assert str(other.classify.template) == "art of a <CLASS>."


def test_saving_and_loading_need_no_weights(tmp_path: Path) -> None:
    path = str(tmp_path / "p.json")
    absent = ClipClassifier(["a", "b"], model="local-dir:/nowhere", pretrained=None, dtype="float16")
    absent.save(path)
    named = {"model": "local-dir:/nowhere", "pretrained": "", "fingerprint": None, "dtype": "float16"}
    assert json.loads(Path(path).read_text())["clip"] == {"classes": ["a", "b"], "top_k": 5, **named}
    absent.load(path)
    assert ClipClassifier.from_file(path).classes == ("a", "b")
    known = fresh_pair()
    _ = known.backbone
    known.load(path)  # warnings are errors: an unknown fingerprint is not compared
    assert known.classes == ("a", "b")
    known.save(path)
    absent.load(path)  # to be compared once the model is there


def fresh_pair() -> ClipClassifier:
    return ClipClassifier(["c", "d"], model=f"local-dir:{demo.model_path()}", template="kept <CLASS>.")


def change(state: dict[str, Any], place: str, value: Any) -> None:
    *parents, last = place.split("/")
    for parent in parents:
        state = state[parent]
    if value is ...:
        del state[last]
    else:
        state[last] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("clip/classes", 5, "classes is 5; pass a list"),
        ("clip/classes", ["a"], "at least two"),
        ("signature/fields", ..., "'fields'"),
        ("signature/fields", [], "0 fields"),
        ("signature/fields", [{"prefix": "Image:"}] * 2, "'description'"),
        ("signature/instructions", ..., "template must be a string .*, got None"),
        ("signature/instructions", "a photo", "has no <CLASS>"),
        ("signature", 5, "not a ClipClassifier state"),
        ("lm", ..., "'lm'"),
        ("clip/top_k", 0, "top_k"),
        ("clip/top_k", "many", "top_k"),
    ],
)
def test_a_malformed_file_changes_nothing(tmp_path: Path, place: str, value: Any, message: str) -> None:
    path = tmp_path / "p.json"
    ClipClassifier(["a", "b"], template="new <CLASS>.").save(str(path))
    state = json.loads(path.read_text())
    change(state, place, value)
    path.write_text(json.dumps(state))
    program = fresh_pair()
    before = dict(vars(program))
    with pytest.raises(ProgramFileError, match=message):
        program.load(str(path))
    assert vars(program) == before
    with pytest.raises(ProgramFileError, match=message):
        ClipClassifier.from_file(path)


def test_a_file_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    ClipClassifier(["a", "b"]).save(str(path))
    state = json.loads(path.read_text())
    del state["clip"]["model"]
    path.write_text(json.dumps(state))
    with pytest.raises(ProgramFileError, match="names no model"):
        ClipClassifier.from_file(path)


@pytest.mark.parametrize(("saved", "given"), [(["a", "b"], None), (None, ["c", "d"]), (["a", "b"], ["c", "d"])])
def test_the_signature_follows_the_loaded_classes(
    tmp_path: Path, saved: list[str] | None, given: list[str] | None
) -> None:
    path = str(tmp_path / "p.json")
    source, program = ClipClassifier(saved, template="new <CLASS>."), ClipClassifier(given)
    source.save(path)
    program.load(path)
    assert program.classes == source.classes
    assert program.signature.dump_state() == source.signature.dump_state()
    assert list(program.signature.fields) == list(source.signature.fields)
    assert "the class whose" in program.signature.fields["label"].json_schema_extra["desc"]


@pytest.mark.filterwarnings("ignore:.*pkl")
def test_a_whole_program_is_saved_without_weights(task: demo.DemoTask, tmp_path: Path) -> None:
    program = fresh(task, template="pixel art of a <CLASS>.")
    _ = program.backbone
    program.save(str(tmp_path / "whole"), save_program=True)
    assert (tmp_path / "whole" / "program.pkl").stat().st_size < 100_000
    other = dspy.load(str(tmp_path / "whole"), allow_pickle=True)
    assert other.backbone is program.backbone
    assert str(other.template) == "pixel art of a <CLASS>."
    assert other(image=task.testset[0].image).label == program(image=task.testset[0].image).label


def test_a_program_file_sets_nothing_but_what_it_may(task: demo.DemoTask, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    task.program.save(str(path))
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "allow_url": True, "top_k": 1000}))
    loaded = fresh(task)
    loaded.load(str(path))
    assert (loaded.allow_url, loaded.top_k) == (False, 5)


def test_a_run_folder_given_for_a_program_names_the_file_in_it(task: demo.DemoTask, tmp_path: Path) -> None:
    task.program.save(str(tmp_path / "best.json"))
    with pytest.raises(ProgramFileError, match=r"is a folder; pass '.*best\.json'"):
        ClipClassifier.from_file(tmp_path)
