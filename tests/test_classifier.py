"""The classifier on the bundled CLIP: predictions, arguments, and DSPy's own tools."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from PIL import Image

import ipo_dspy
from helpers.classifiers import correct, fresh
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import DataError, ImageError, InputError, TemplateError
from ipo_dspy.template import Template


def test_a_prediction_is_the_softmax_of_scaled_cosines(task: demo.DemoTask) -> None:
    backbone = task.program.backbone
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


def test_evaluate_agrees_with_our_own_evaluation(task: demo.DemoTask) -> None:
    from ipo_dspy.optimizer.evaluation import evaluate

    examples = list(task.testset[:40])
    theirs = dspy.Evaluate(devset=examples, metric=correct, num_threads=2)(task.program)
    assert evaluate(task.program, examples)[0].score.accuracy == pytest.approx(theirs.score, abs=0.01)
    with pytest.raises(InputError, match=r"templates must be a list, got 'a <CLASS>'; for example templates=\['a <C"):
        evaluate(task.program, examples, templates="a <CLASS>")


def test_an_ensemble_averages_normalized_features(task: demo.DemoTask) -> None:
    backbone = task.program.backbone
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


def test_a_template_that_is_none_is_named() -> None:
    with pytest.raises(TemplateError, match=r"template must be a string .*, got None"):
        ClipClassifier(["a", "b"], template=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="classes is 5"):
        ClipClassifier(5)  # type: ignore[arg-type]


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
