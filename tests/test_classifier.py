"""The classifier on the bundled CLIP: predictions, text encoded once, saving, and DSPy's own tools."""

import asyncio
import json
import logging
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from PIL import Image

import ipo_dspy
from helpers.cli_process import Processes
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.clip.open_clip_names import architectures, pretrained_tags
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import DataError, ImageError, InputError, ModelError, ProgramFileError, TemplateError
from ipo_dspy.template import Template


@pytest.fixture(scope="module")
def task() -> demo.DemoTask:
    return demo.load(demo.names()[0], shots=2)


@pytest.fixture(scope="module")
def backbone(task: demo.DemoTask) -> Backbone:
    return task.program.backbone


def fresh(task: demo.DemoTask, **options: Any) -> ClipClassifier:
    return ClipClassifier(task.classes, model=f"local-dir:{demo.model_path()}", **options)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)


class CountsTexts:
    """Counts the token lists that a text tower is given."""

    def __init__(self, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded = 0
        encode = backbone.encode_shared

        def counted(ids: Any) -> Any:
            self.encoded += len(ids)
            return encode(ids)

        monkeypatch.setattr(backbone, "encode_shared", counted)


def test_a_prediction_is_the_softmax_of_scaled_cosines(task: demo.DemoTask, backbone: Backbone) -> None:
    image = task.testset[0].image
    prediction = task.program(image=image)
    features = encode_images(backbone, [image]).features
    text = class_features(backbone, [Template.parse("a photo of a <CLASS>.")], task.classes)[0]
    expected = (backbone.logit_scale * features @ text.T).softmax(dim=1)[0]
    assert prediction.label == task.classes[int(expected.argmax())]
    assert prediction.confidence == pytest.approx(float(expected.max()), abs=1e-6)
    assert list(prediction.scores) == [task.classes[i] for i in expected.topk(5).indices.tolist()]


def test_the_same_picture_in_every_form_gives_the_same_answer(task: demo.DemoTask, tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 60), "navy")
    picture.save(tmp_path / "a.png")
    forms = [picture, str(tmp_path / "a.png"), tmp_path / "a.png", dspy.Image.from_path(str(tmp_path / "a.png"))]
    confidences = [task.program(image=form).confidence for form in forms]
    assert confidences == pytest.approx([confidences[0]] * 4, abs=1e-6)


def test_arrays_and_tensors_give_the_answer_of_the_picture(task: demo.DemoTask) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [pixels, channels_first, channels_first / 255, (channels_first / 255).double().requires_grad_()]
    expected = task.program(image=Image.fromarray(pixels))
    assert [dict(task.program(image=form)) for form in forms] == [dict(expected)] * len(forms)
    gray = [pixels[..., 0], torch.from_numpy(pixels[..., 0]), torch.from_numpy(pixels[None, ..., 0])]
    assert len({task.program(image=form).confidence for form in gray}) == 1


def test_a_list_of_images_is_a_batch(task: demo.DemoTask) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    expected = [task.program(image=image).confidence for image in pixels]
    for images in (list(pixels), pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2)):
        answers = task.program.batch(images, disable_progress_bar=True)
        assert [answer.confidence for answer in answers] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(
        ImageError, match=r"image must be one image, got a list of 3; for several, use classifier\.batch"
    ):
        task.program(image=list(pixels))
    with pytest.raises(ImageError, match=r"examples must be a list of images, got one image array \[40, 40, 3\]"):
        task.program.batch(pixels[0])


def test_predictions_vote_as_those_of_any_predictor(task: demo.DemoTask) -> None:
    images = [example.image for example in task.testset[:5]]
    answers = task.program.batch(images, disable_progress_bar=True)
    labels = [answer.label for answer in answers]
    assert dspy.majority(answers).label == max(labels, key=labels.count)
    assert dspy.majority(answers[0]).label == labels[0]
    voters = [fresh(task), fresh(task, template="pixel art of a <CLASS>."), fresh(task)]
    together = dspy.Ensemble(reduce_fn=dspy.majority).compile(voters)
    assert together(image=images[0]).label == voters[0](image=images[0]).label


def test_text_is_encoded_once_for_many_images(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fresh(task, template="text counted once, <CLASS>.")
    counter = CountsTexts(program.backbone, monkeypatch)
    examples = list(task.testset[:12])
    program.batch(examples, num_threads=3, disable_progress_bar=True)
    dspy.Evaluate(devset=examples, metric=correct, num_threads=3)(program)
    for example in examples:
        program(image=example.image)
    assert counter.encoded == len(task.classes)


def test_evaluate_agrees_with_our_own_evaluation(task: demo.DemoTask) -> None:
    from ipo_dspy.optimizer.evaluation import evaluate

    examples = list(task.testset[:40])
    theirs = dspy.Evaluate(devset=examples, metric=correct, num_threads=2)(task.program)
    assert evaluate(task.program, examples)[0].score.accuracy == pytest.approx(theirs.score, abs=0.01)


def test_an_ensemble_averages_normalized_features(task: demo.DemoTask, backbone: Backbone) -> None:
    lines = ["a photo of a <CLASS>.", "pixel art of a <CLASS>."]
    single = class_features(backbone, [Template.parse(line) for line in lines], task.classes)
    both = class_features(backbone, [Template.parse("\n".join(lines))], task.classes)[0]
    torch.testing.assert_close(both, torch.nn.functional.normalize(single.mean(dim=0), dim=-1))
    assert fresh(task, template="\n".join(lines))(image=task.testset[0].image).label in task.classes


def test_classes_at_call_time_come_from_an_upstream_module(task: demo.DemoTask) -> None:
    class Narrow(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = ClipClassifier(model=f"local-dir:{demo.model_path()}")

        def forward(self, image: Any) -> Any:
            return self.classify(image=image, classes=list(task.classes[:2]))

    answer = Narrow()(image=task.testset[0].image)
    assert answer.label in task.classes[:2]
    assert set(answer.scores) == set(task.classes[:2])
    with pytest.raises(DataError, match=r"pass them, e\.g\. classifier\(image=\.\.\., classes="):
        ClipClassifier(model=f"local-dir:{demo.model_path()}")(image=task.testset[0].image)


def test_predictions_are_traced_as_those_of_any_predictor(task: demo.DemoTask) -> None:
    with dspy.context(trace=[]):
        prediction = task.program(image=task.testset[0].image)
        ((predictor, inputs, traced),) = dspy.settings.trace
    assert predictor is task.program
    assert inputs == {"image": task.testset[0].image}
    assert traced is prediction


def test_copies_share_the_weights_but_not_the_template(task: demo.DemoTask) -> None:
    copy = task.program.deepcopy()
    copy.template = "pixel art of a <CLASS>."
    assert copy.backbone is task.program.backbone
    assert str(task.program.template) == "a photo of a <CLASS>."


def test_bad_arguments_are_refused_at_once() -> None:
    with pytest.raises(TemplateError, match=r"template 'a photo of a dog' has no <CLASS>; write <CLASS> where"):
        ClipClassifier(["cat", "dog"], template="a photo of a dog")
    with pytest.raises(TemplateError, match="is empty"):
        ClipClassifier(["cat", "dog"], template="")
    with pytest.raises(DataError, match="indistinguishable in a prompt"):
        ClipClassifier(["polar bear", "Polar_Bear"])
    with pytest.raises(DataError, match="at least two"):
        ClipClassifier(["cat"])
    with pytest.raises(DataError, match="pass a list of names"):
        ClipClassifier("cat")
    texts = {"cat": ["a cat"], "dog": ["a dog"]}
    with pytest.raises(DataError, match="classes must be a list of names"):
        ClipClassifier(model="demo")(image="a.png", classes=texts)


def test_a_missing_image_is_one_clear_error(task: demo.DemoTask) -> None:
    with pytest.raises(ImageError, match="no image; pass one"):
        task.program()
    with pytest.raises(ImageError, match="nowhere"):
        task.program(image="nowhere.png")


def test_foreign_instructions_abstain_instead_of_cancelling(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture
) -> None:
    program = fresh(task)
    program.signature = program.signature.with_instructions("Classify the image carefully.")
    assert program(image=task.testset[0].image).label is None
    assert "has no <CLASS>" in caplog.text
    with pytest.raises(TemplateError, match="has no <CLASS>"):
        _ = program.template


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
    task.program.save(str(tmp_path / "p.json"))
    text = (tmp_path / "p.json").read_text()
    state = json.loads(text)
    assert state["clip"]["fingerprint"] == task.program.backbone.fingerprint
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


def test_the_backbone_is_loaded_once_for_equal_arguments(backbone: Backbone) -> None:
    assert load_backbone(f"local-dir:{demo.model_path()}", None) is backbone


def test_the_bundled_model_has_a_name_that_files_of_other_environments_share(
    backbone: Backbone, task: demo.DemoTask, tmp_path: Path
) -> None:
    path = tmp_path / "p.json"
    for program in (ClipClassifier(["a", "b"], model="demo"), fresh(task), ClipClassifier(["a", "b"], model=backbone)):
        assert program.backbone is backbone
        program.save(str(path))
        state = json.loads(path.read_text())
        assert (state["clip"]["model"], state["clip"]["pretrained"]) == ("demo", "")
    state["clip"]["model"] = "local-dir:/another/venv/ipo_dspy/demo/assets/model"  # as version 0.1.0 wrote it there
    path.write_text(json.dumps(state))
    assert ClipClassifier.from_file(path).backbone is backbone


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


@pytest.mark.parametrize("model", ["hf-hub:x/y", "local-dir:/nowhere", "demo"])
def test_a_model_with_its_own_weights_saves_no_name_of_others(model: str, tmp_path: Path) -> None:
    ClipClassifier(["a", "b"], model=model, top_k=1, allow_url=True).save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["clip"]["pretrained"] == ""
    loaded = ClipClassifier.from_file(tmp_path / "p.json")
    assert (loaded.top_k, loaded.allow_url) == (1, False)  # what may be fetched is for the user to say


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


def test_a_template_that_is_none_is_named() -> None:
    with pytest.raises(TemplateError, match=r"template must be a string .*, got None"):
        ClipClassifier(["a", "b"], template=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="classes is 5"):
        ClipClassifier(5)  # type: ignore[arg-type]


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


def test_a_notebook_shows_a_classifier_and_an_evaluation_in_a_line(task: demo.DemoTask) -> None:
    program = ClipClassifier(["ant", "cat", "dog", "eel"], template="a <CLASS>.", model="demo")
    names = "4 classes ('ant', 'cat', 'dog', ...)"
    assert repr(program) == f"ClipClassifier({names}, template='a <CLASS>.', model='demo')"
    assert repr(ClipClassifier(model="demo")).startswith("ClipClassifier(no classes, template=")
    (result,) = ipo_dspy.evaluate(task.program, task.trainset, templates=["a <CLASS>."])
    assert str(result.template) == "a <CLASS>."
    assert len(repr(result)) < 200
    with pytest.raises(TemplateError, match="'a dog' has no <CLASS>"):
        ipo_dspy.evaluate(task.program, task.trainset, templates=["a dog"])


@pytest.mark.parametrize("top_k", [0, -1, True, 2.0, "3"])
def test_top_k_must_be_a_number_of_classes(top_k: Any) -> None:
    with pytest.raises(InputError, match="top_k="):
        ClipClassifier(["a", "b"], top_k=top_k)


def test_the_model_and_the_class_names_are_ready_after_a_warm_up(
    task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fresh(task, template="a warmed up picture of a <CLASS>.")
    assert program.warm_up() is program
    texts = CountsTexts(program.backbone, monkeypatch)
    program(image=task.testset[0].image)
    assert texts.encoded == 0
    ClipClassifier(model="demo").warm_up()  # its class names are not known yet


def test_an_awaited_call_leaves_the_event_loop_free_and_says_nothing(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, image = fresh(task), task.testset[0].image
    ticked, plain = threading.Event(), program(image=image)
    encode = program.backbone.encode_pixels

    def waits_for_the_loop(pixels: Any) -> Any:
        assert ticked.wait(60), "the event loop stood still"
        return encode(pixels)

    monkeypatch.setattr(program.backbone, "encode_pixels", waits_for_the_loop)
    monkeypatch.setattr(logging.getLogger("dspy"), "propagate", True)

    async def both() -> Any:
        call = asyncio.create_task(program.acall(image=Image.new("RGB", (40, 40), "red")))
        await asyncio.sleep(0)
        ticked.set()
        await call
        with dspy.context(trace=[]):
            answer = await program.acall(image=image)
            return answer, list(dspy.settings.trace)

    answer, trace = asyncio.run(both())
    assert dict(answer) == dict(plain)
    assert [step[0] for step in trace] == [program]
    assert "discouraged" not in caplog.text


def test_a_batch_of_unreadable_images_is_what_dspy_makes_of_it(task: demo.DemoTask, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = dspy.Example(image=str(tmp_path / "bad.png"), label="cat").with_inputs("image")
    program = fresh(task)
    assert program.batch([bad, bad], disable_progress_bar=True) == [None, None]
    assert program.batch([], disable_progress_bar=True) == []


def test_a_run_folder_given_for_a_program_names_the_file_in_it(task: demo.DemoTask, tmp_path: Path) -> None:
    task.program.save(str(tmp_path / "best.json"))
    with pytest.raises(ProgramFileError, match=r"is a folder; pass '.*best\.json'"):
        ClipClassifier.from_file(tmp_path)


@pytest.mark.parametrize("model", ["hf-hub:someone/their-clip", "local-dir:/somewhere"])
def test_a_model_with_its_own_weights_is_saved_under_no_others(model: str) -> None:
    state = ClipClassifier(["cat", "dog"], model=model).dump_state()["clip"]
    assert (state["model"], state["pretrained"]) == (model, "")


def noise(seed: int, count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_single_calls_leave_nothing_on_disk(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program, images = fresh(task), noise(11, count=5)
    program(image=images[0])
    asyncio.run(program.acall(image=images[1]))
    signature = dspy.Signature("image: dspy.Image -> animal: Literal['cat', 'dog']")
    decide = dspy.Predict(signature.with_updated_fields("animal", desc="the animal"))
    decide.lm = program.lm
    decide(image=dspy.Image(images[2]))
    assert not (tmp_path / "cache").exists()
    program.encode(images[3:])
    assert (tmp_path / "cache").exists()


def test_without_a_cache_nothing_is_kept_on_disk(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipo_dspy.optimizer.evaluation import evaluate

    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program = fresh(task, cache=False)
    images = noise(12, count=8)
    labeled = [
        dspy.Example(image=image, label=task.classes[i % 2]).with_inputs("image") for i, image in enumerate(images)
    ]
    program.encode(images[:2])
    program.deepcopy().batch(images[2:4], disable_progress_bar=True)
    program.calibrate(labeled[4:6])
    evaluate(program, labeled[6:])
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="cache must be True or False"):
        fresh(task, cache="off")


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
    assert (
        ClipClassifier(model="ViT-B-16", pretrained="laion2b-s34b-b88k").model_name == "ViT-B-16"
    )  # as open_clip has it
    monkeypatch.delitem(sys.modules, "open_clip")
    assert {name: list(pretrained_tags(name) or ()) for name in architectures()} == tags


def test_more_images_than_memory_holds_are_encoded_once_by_a_batch(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program, encoded = fresh(task), 0
    monkeypatch.setattr(program.backbone, "image_memo", TensorLRU(1000))  # 7 images
    encode = program.backbone.encode_pixels

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal encoded
        encoded += len(pixels)
        return encode(pixels)

    monkeypatch.setattr(program.backbone, "encode_pixels", counted)
    assert None not in program.batch(noise(13, count=20), disable_progress_bar=True)
    assert encoded == 20
