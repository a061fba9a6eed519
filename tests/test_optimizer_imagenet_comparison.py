"""The comparison of a template with the prompts for ImageNet, and its record in a run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ipo_dspy import demo
from ipo_dspy.optimizer.evaluation import EvaluationSet, build_evaluation_set, evaluate
from ipo_dspy.optimizer.imagenet_comparison import ImagenetPrompts, compare_with_imagenet
from ipo_dspy.optimizer.trainset import collect_training_images
from ipo_dspy.run.events import Event
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.comparison import Comparison, PairTally
from ipo_dspy.template import Template

GOOD = Template.parse("a sharp black video game sprite of a <CLASS>.")


@pytest.fixture(scope="module")
def images(task: demo.DemoTask) -> EvaluationSet:
    collected = collect_training_images(task.program, {"self": task.program}, task.trainset, name="trainset")["self"]
    return build_evaluation_set(task.program, collected)


def score(prompts: ImagenetPrompts, images: EvaluationSet, **fields: Any) -> dict[str, Any]:
    given = {"split": "train", "images": len(images.keys), "fingerprint": images.fingerprint, **fields}
    return prompts.score(images.scorer, **given)


def fresh(task: demo.DemoTask, past: list[Event]) -> tuple[ImagenetPrompts, list[Event]]:
    """Return the prompts of a session after these events, and the events that it records."""
    recorded: list[Event] = []
    recorder = EventRecorder(observers=[lambda event: recorded.append(event)], past=past)
    return ImagenetPrompts(recorder, task.program.backbone, task.classes), recorded


@pytest.mark.parametrize("template", ["a photo of a <CLASS>.", str(GOOD)])
def test_the_gain_is_that_over_the_best_prompt_on_the_same_images(
    template: str, task: demo.DemoTask, images: EvaluationSet
) -> None:
    program = task.program.deepcopy()
    program.template = Template.parse(template)
    once: Any = iter(task.trainset)
    compared = compare_with_imagenet(program, once, optimism=1.5)
    prompts = [Template((line,)) for line in compared.ensemble.lines]
    known, *others = evaluate(program, task.trainset, templates=[program.template, *prompts])
    best = min(others, key=lambda one: one.score.rank)
    assert compared.best == best.template
    uncorrected = known.score.accuracy - best.score.accuracy - 1.5
    assert uncorrected < compared.gain < uncorrected + 10  # the best of 80 was chosen on these images, too
    errors = Comparison(images.scorer.tally_pairs([program.template, best.template])).accuracy_errors
    assert compared.gain_error == pytest.approx(errors[0, 1])
    assert replace(compared, gain=1.95 * compared.gain_error).beats_best is False
    assert replace(compared, gain=1.97 * compared.gain_error).beats_best is True
    assert replace(compared, gain=5.0, gain_error=0.0).beats_best is False


def test_on_many_images_the_best_prompt_alone_is_compared(task: demo.DemoTask, images: EvaluationSet) -> None:
    compared: list[int] = []

    class Counted:
        score, check = images.scorer.score, images.scorer.check

        def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
            compared.append(len(templates))
            return images.scorer.tally_pairs(templates)

    prompts, _ = fresh(task, [])
    few, many = 20_000_000 // len(task.classes), 20_000_000 // len(task.classes) + 1
    found = [prompts.compare(Counted(), GOOD, images=count) for count in (few, many)]
    assert compared == [81, 2]
    assert found[0].best == found[1].best
    assert found[0].gain > found[1].gain  # without the optimism of the prompt


def test_the_images_of_the_first_call_choose_the_prompt_that_is_scored_on_all(
    task: demo.DemoTask, images: EvaluationSet
) -> None:
    prompts, recorded = fresh(task, [])
    collected = collect_training_images(task.program, {"self": task.program}, task.valset, name="valset")["self"]
    other = build_evaluation_set(task.program, collected)
    scores = score(prompts, images), score(prompts, other, split="test", class_split="base")
    best, ensemble = prompts.best, prompts.ensemble
    assert best is not None
    for one, found, event in zip((images, other), scores, (e for e in recorded if "template" in e), strict=True):
        expected = dict(zip(("imagenet_best", "imagenet_ensemble"), one.scorer.score([best, ensemble]), strict=True))
        assert found == expected
        assert event["event"] == "imagenet_prompts"
        assert (event["template"], event["prompts"], event["images"]) == (str(best), 80, len(one.keys))
        assert event["best"] == {"accuracy": found["imagenet_best"].accuracy, "loss": found["imagenet_best"].loss}
    assert str(best) != "a photo of a <CLASS>."
    (on_other,) = (e for e in evaluate(task.program, task.valset, templates=[best]))
    assert on_other.score.accuracy == scores[1]["imagenet_best"].accuracy


class Refuses:
    """A scorer that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_resumed_run_scores_them_again_on_other_images_only(task: demo.DemoTask, images: EvaluationSet) -> None:
    first, recorded = fresh(task, [])
    scores = score(first, images)
    past: list[Event] = [event for event in recorded if event["event"] == "imagenet_prompts"]
    again, nothing = fresh(task, [*past, {"event": "run_resumed", "started": "", "changed": {}, "versions": {}}])
    known = {"split": "train", "images": len(images.keys), "fingerprint": images.fingerprint}
    assert again.score(Refuses(), **known) == scores  # type: ignore[arg-type]
    assert (again.best, nothing) == (first.best, [])
    for changed in ({"fingerprint": "of other images"}, {"split": "validation"}, {"class_split": "base"}):
        prompts, recorded = fresh(task, past)
        assert score(prompts, images, **changed) == scores
        assert [event["event"] for event in recorded].count("imagenet_prompts") == 1


@pytest.mark.parametrize("changed", [{"template": "a dark <CLASS>."}, {"prompts": 79}])
def test_what_another_list_of_prompts_gave_is_scored_again(
    changed: dict[str, Any], task: demo.DemoTask, images: EvaluationSet
) -> None:
    first, recorded = fresh(task, [])
    scores = score(first, images)
    past: list[Any] = [{**event, **changed} for event in recorded if event["event"] == "imagenet_prompts"]
    again, recorded = fresh(task, past)
    assert score(again, images) == scores
    assert [event["event"] for event in recorded].count("imagenet_prompts") == 1
