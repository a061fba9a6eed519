"""Zero-shot CLIP as a baseline: the classifier's own numbers, from one template or from eighty."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from ipo_dspy import demo
from ipo_dspy.baselines import METHODS, build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.errors import InputError, TemplateError
from ipo_dspy.optimizer.evaluation import evaluate as evaluate_program
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates
from ipo_dspy.template import Template

TEMPLATE = Template.parse("pixel art of a <CLASS>.")


@pytest.fixture(scope="module")
def few(task: demo.DemoTask) -> FewShotTask:
    images = [example.image for example in task.trainset]
    return FewShotTask(task.program.backbone, images, task.trainset.labels(), task.classes, TEMPLATE)


def test_it_is_the_classifier_with_that_template(task: demo.DemoTask, few: FewShotTask) -> None:
    program = task.program.deepcopy()
    program.template = TEMPLATE
    (of_program,) = evaluate_program(program, task.valset)
    images, labels = [example.image for example in task.valset], task.valset.labels()
    found = evaluate(build_method("clip").fit(few), images, labels, task.classes)
    assert found.accuracy == of_program.score.accuracy
    assert found.loss == pytest.approx(of_program.score.loss, abs=1e-5)


def test_the_ensemble_is_the_mean_of_normalized_features(task: demo.DemoTask, few: FewShotTask) -> None:
    classes, images = task.classes[:3], [example.image for example in task.valset][:4]
    filled = [line for name in classes for line in imagenet_templates().fill(name)]
    each = few.backbone.encode_tokens_plain(few.backbone.token_ids(filled))  # [C * 80, D]
    text = F.normalize(each.view(len(classes), 80, -1).mean(dim=1), dim=-1)  # [C, D]
    expected = few.backbone.logit_scale * encode_images(few.backbone, images).features @ text.T
    found = build_method("clip-ensemble").fit(few).logits(images, classes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")


def test_there_are_eighty_prompts_for_imagenet() -> None:
    lines = imagenet_templates().lines
    assert len(lines) == len(set(lines)) == 80
    assert "a photo of a <CLASS>." in lines
    assert "itap of the <CLASS>." in lines


def test_the_best_of_the_eighty_is_the_one_that_a_search_over_them_finds(task: demo.DemoTask, few: FewShotTask) -> None:
    templates = [Template.parse(line) for line in imagenet_templates().lines]
    found = evaluate_program(task.program, task.trainset, templates=templates)
    best = max(found, key=lambda one: (one.score.accuracy, -one.score.loss)).template
    fitted = build_method("clip-best").fit(few)
    assert isinstance(fitted, TemplateClassifier)
    assert fitted.template == best
    assert best != templates[0]


def test_novel_classes_are_named_when_it_is_asked(few: FewShotTask) -> None:
    novel = demo.load("pixel-animals", shots=1, classes="novel")
    image = [novel.testset[0].image]
    fitted = TemplateClassifier(few.backbone, TEMPLATE)
    together = fitted.logits(image, [*few.classes, *novel.classes])
    assert together.shape == (1, len(few.classes) + len(novel.classes))
    torch.testing.assert_close(together[:, len(few.classes) :], fitted.logits(image, novel.classes))


def test_a_template_that_does_not_fit_is_reported(task: demo.DemoTask, few: FewShotTask) -> None:
    long = TemplateClassifier(few.backbone, Template.parse(f"a {'very ' * 40} old <CLASS>."))
    with pytest.raises(TemplateError, match=r"filled with class 'bat' has 46 tokens and the model takes 32; shorten"):
        long.logits([task.valset[0].image], ["bat", "bear"])


def test_none_takes_settings() -> None:
    for name in ("clip", "clip-ensemble", "clip-best"):
        assert name in METHODS
        with pytest.raises(InputError, match=f"{name} has no setting 'n_ctx'; known: none"):
            build_method(name, n_ctx=4)
