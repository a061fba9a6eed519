"""Sentences about the selected template claim no more than is known."""

from typing import Any

import pytest

from ipo_dspy.run import choice_sentences
from ipo_dspy.run.events import ChoiceFields, ClassTextsFields, EnsembleLineFields


def choice(**fields: float) -> ChoiceFields:
    given: ChoiceFields = {
        "images": 100, "accuracy": 94.0, "optimism": 1.4, "expected": 92.6, "low": 84.7, "high": 96.6, "gain": 1.2,
        "gain_error": 2.5, "compared": 121, "tied": 4, "possibly_best": 19, "is_spread_known": True,
    }  # fmt: skip
    return {**given, **fields}  # type: ignore[typeddict-item]


def test_the_expectation_names_the_images_that_flatter() -> None:
    text = choice_sentences.expectation(choice(), "train")
    assert text == (
        "92.6 % on new images of these classes, 95 % interval 84.7 to 96.6 (94.0 % on training images, minus 1.4 "
        "points of optimism)"
    )
    assert "on validation images" in choice_sentences.expectation(choice(), "validation")


@pytest.mark.parametrize(
    ("fields", "is_start", "text"),
    [
        ({}, False, "cannot be told apart from the start template: +1.2 points, standard error 2.5"),
        ({"gain": 4.8}, False, "cannot be told apart from the start template: +4.8 points, standard error 2.5"),
        ({"gain": 5.0}, False, "clearly better than the start template: +5.0 points, standard error 2.5"),
        ({"gain": -0.04, "gain_error": 0.0}, False, "apart from the start template: +0.0 points, standard error 0.0"),
        (
            {"accuracy": 25.8, "expected": 25.8, "gain": -61.5},
            False,
            "clearly worse than the start template: -61.5 "
            "points, standard error 2.5; this is the price of the recall floors",
        ),
        ({"gain": -3.0}, False, "cannot be told apart from the start template: -3.0 points, standard error 2.5"),
        (
            {"gain": -5.0, "gain_error": 1.2, "optimism": 5.0, "expected": 89.0},
            False,
            "cannot be told apart from the start template: -5.0 points, standard error 1.2",
        ),
        ({"gain": 50.0, "gain_error": 1e9, "images": 1}, False, "start template: one image gives no standard error"),
        ({"gain": 0.0}, True, "no template is clearly better than the start template, which is kept"),
    ],
)
def test_better_than_the_start_template_only_beyond_chance(fields: dict[str, float], is_start: bool, text: str) -> None:
    assert choice_sentences.against_start(choice(**fields), is_start=is_start).endswith(text)


@pytest.mark.parametrize(
    ("gain", "error", "images", "text"),
    [
        (5.0, 2.5, 100, "clearly better than {}: +5.0 points, standard error 2.5"),
        (4.8, 2.5, 100, "cannot be told apart from {}: +4.8 points, standard error 2.5"),
        (-4.8, 2.5, 100, "cannot be told apart from {}: -4.8 points, standard error 2.5"),
        (-5.0, 2.5, 100, "clearly worse than {}: -5.0 points, standard error 2.5"),
        (-10.0, 0.0, 3, "cannot be told apart from {}: the difference is the same on all 3 images"),
        (50.0, 1e9, 1, "cannot be told apart from {}: one image gives no standard error"),
    ],
)
def test_better_than_the_prompts_for_imagenet_only_beyond_chance(
    gain: float, error: float, images: int, text: str
) -> None:
    expected = text.format("the best of the 80 ImageNet prompts")
    assert choice_sentences.against_imagenet(gain, error, images=images, prompts=80, is_best=False) == expected


def test_a_prompt_for_imagenet_that_was_selected_is_not_compared_with_itself() -> None:
    text = choice_sentences.against_imagenet(-1.5, 0.0, images=100, prompts=79, is_best=True)
    assert text == "the same template as the best of the 79 ImageNet prompts"


def test_a_prompt_that_is_clearly_better_is_named() -> None:
    given: Any = {"images": 100, "prompts": 80, "is_best": False, "template": "a child's <CLASS>."}
    assert choice_sentences.against_imagenet(-5.0, 2.5, **given).endswith(
        "standard error 2.5; start from it: --initial-template 'a child'\"'\"'s <CLASS>.'"
    )
    assert "--initial-template" not in choice_sentences.against_imagenet(4.8, 2.5, **given)


def test_floors_are_compared_with_recalls_on_the_images_that_decided() -> None:
    counts = {"start": {name: [7, 10] for name in "abcd"}, "best": {name: [9, 10] for name in "abcd"}}
    evaluations: Any = {("train", "all", role): {"per_class": of_role} for role, of_role in counts.items()}
    text = choice_sentences.floors({"a": 0.9}, evaluations)
    assert text == "a: recall of at least 90 % asked for; start 70.0 %, best 90.0 % on training images"
    assert (choice_sentences.floors(dict.fromkeys("abcd", 0.5), evaluations) or "").count("asked for") == 3
    assert choice_sentences.floors({}, evaluations) is choice_sentences.floors({"a": 0.9}, {}) is None


def test_ties() -> None:
    assert choice_sentences.ties(choice()) == "4 of 121 templates compared in pairs are as good within the tolerance"
    with_leader = choice_sentences.ties(choice(leader=96.5))
    assert (
        with_leader
        == "4 of 121 templates compared in pairs are as good within the tolerance; the most accurate one has 96.5 %"
    )
    assert choice_sentences.ties(choice(tied=1, compared=2)) == "none of the others; 2 templates compared in pairs"


def test_gains_on_test_images_are_judged_by_their_own_errors() -> None:
    gains = {"test base": {"start": (9.0, 3.0), "imagenet_best": (1.0, 3.0)}, "test novel": {"start": (0.0, 0.0)}}
    assert choice_sentences.on_test(gains, prompts=79).split("\n") == [
        "base classes: clearly better than the start template: +9.0 points, standard error 3.0",
        "base classes: cannot be told apart from the best of the 79 ImageNet prompts: +1.0 points, standard error 3.0",
        "novel classes: cannot be told apart from the start template: +0.0 points, standard error 0.0",
    ]


def test_lines_of_an_ensemble_say_what_they_add() -> None:
    lines: list[EnsembleLineFields] = [
        {"text": "a <CLASS>", "accuracy": value, "accuracy_error": 1.0, "loss": 0.1, "loss_error": 0.05}
        for value in (2.0, -0.5)
    ]
    would = choice_sentences.added_lines(lines, is_ensemble=False)
    assert would == "2 more lines would add +1.5 points and lower the loss by 0.200: --ensemble 3"
    each = "+2.0 points and -0.100 loss, -0.5 points and -0.100 loss"
    assert choice_sentences.added_lines(lines, is_ensemble=True) == f"2 further lines, each with what it adds: {each}"
    assert choice_sentences.added_lines([], is_ensemble=False) == "no further line lowers the loss clearly"


@pytest.mark.parametrize(
    ("gain", "objective", "sentence"),
    [
        (-0.3, "accuracy", "no further line improves the accuracy"),
        (0.04, "accuracy", "no further line improves the accuracy"),
        (0.06, "accuracy", "1 more line would add +0.1 points and lower the loss by 0.023: --ensemble 2"),
        (-0.1, "cost", "no further line improves the mean cost"),
        (0.004, "cost", "1 more line would bring mean cost -0.004 and lower the loss by 0.023: --ensemble 2"),
    ],
)
def test_lines_that_do_not_improve_the_objective_are_not_advised(gain: float, objective: str, sentence: str) -> None:
    line: EnsembleLineFields = {
        "text": "a <CLASS>", "accuracy": gain, "accuracy_error": 1.0, "loss": 0.023, "loss_error": 0.005
    }  # fmt: skip
    assert choice_sentences.added_lines([line], is_ensemble=False, objective=objective) == sentence


@pytest.mark.parametrize(
    ("images", "low", "is_spread_known", "part"),
    [
        (25, 84.7, False, "only 25 images decided, at most one per class:"),
        (26, 84.7, True, None),
        (26, 76.6, True, "only 26 images decided: the accuracy on new images is known only to within about 10 points"),
    ],
)
def test_few_images_limit_what_is_known(images: int, low: float, is_spread_known: bool, part: str | None) -> None:
    text = choice_sentences.limits(choice(images=images, low=low, is_spread_known=is_spread_known))
    assert text is None if part is None else part in (text or "")


def test_a_search_for_words_alone_keeps_the_template_without_comparison() -> None:
    assert choice_sentences.against_start(choice(compared=1), is_start=True) == "no other template was tried"


def test_words_say_what_was_compared_and_on_which_images() -> None:
    change: Any = {
        "label": "corn cob", "before": ["corn cob"], "after": ["maize", "corn"], "recognized": [0, 13], "round": 1,
        "candidates": 7, "images": 16, "lost": 0, "accuracy": 2.0, "accuracy_error": 0.5, "loss": 0, "loss_error": 0,
    }  # fmt: skip
    found: ClassTextsFields = {
        "template": "<CLASS>.", "selected_on": "train", "rounds": 3, "compared": 60, "accuracy_error": 0.5,
        "before": {"accuracy": 50.0, "loss": 1.0}, "after": {"accuracy": 52.0, "loss": 0.9}, "class_texts": {},
        "changes": [change],
    }  # fmt: skip
    alternatives = "60 alternatives to the words of one label, each a text or the mean of several, over 3 rounds"
    assert choice_sentences.words(found) == (
        "1 label changed: corn cob as maize + corn (0 to 13 of 16 recognized). Together +2.0 points, standard error "
        f"0.5, on the training images that decided. Compared: {alternatives}"
    )
    change |= {"recognized": [0, 0], "loss": 0.0123}
    assert "maize + corn (0 to 0 of 16 recognized, loss lower by 0.012)" in choice_sentences.words(found)
    assert choice_sentences.words({**found, "changes": []}) == (
        f"no label changed: of {alternatives}, none is better beyond chance"
    )
