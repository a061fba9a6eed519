"""Sentences about the selected template on new images, for the terminal and the report."""

from collections.abc import Mapping, Sequence

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.run.events import ChoiceFields, EnsembleLineFields
from ipo_dspy.scoring.intervals import Interval, Z

WIDE = 20.0
"""Width of an interval, in points, from which on the images are called few."""


def expectation(choice: ChoiceFields, selected_on: str) -> str:
    """Return the accuracy to expect on new images, and how it follows from that on the images that decided."""
    images = "training" if selected_on == "train" else selected_on
    return (
        f"{choice['expected']:.1f} % on new images of these classes, 95 % interval "
        f"{Interval(choice['low'], choice['high'])} ({choice['accuracy']:.1f} % on "
        f"{images} images, less {choice['optimism']:.1f} points of optimism)"
    )


def against_start(choice: ChoiceFields, *, is_start: bool) -> str:
    """Return a sentence on the gain over the start template; it claims one only if chance does not explain it."""
    if is_start:
        return "no template is clearly better than the start template, which is kept"
    if choice["images"] == 1:
        return "cannot be told apart from the start template: one image gives no standard error"
    gain, error = choice["gain"], choice["gain_error"]
    verdict = _verdict(max(gain, 0.0), error)  # never worse on the images that decided
    return f"{verdict} the start template: {_difference(gain, error)}"


def against_imagenet(gain: float, error: float, *, images: int, prompts: int, is_best: bool) -> str:
    """Return a sentence on the gain over the best of the prompts for ImageNet.

    Args:
        gain: points by which the expected accuracy of the selected template is higher.
        error: standard error of the gain.
        images: number of images that decided.
        prompts: number of prompts.
        is_best: True if the best prompt is the selected template.

    >>> against_imagenet(0.4, 1.0, images=100, prompts=80, is_best=False)
    'cannot be told apart from the best of the 80 ImageNet prompts: +0.4 points, standard error 1.0'
    """
    best = f"the best of the {prompts} ImageNet prompts"
    if is_best:
        return f"the same template as {best}"
    if images == 1:
        return f"cannot be told apart from {best}: one image gives no standard error"
    return f"{_verdict(gain, error)} {best}: {_difference(gain, error)}"


def on_test(gains: Mapping[str, Mapping[str, tuple[float, float]]], *, prompts: int) -> str:
    """Return a sentence on the gains on test images.

    Args:
        gains: points and standard error over the template of a role (`start`, `imagenet_best`), by set of images.
        prompts: number of prompts for ImageNet.

    >>> on_test({"test": {"start": (30.6, 5.0)}}, prompts=80)
    'clearly better than the start template: +30.6 points, standard error 5.0'
    """
    named = {"start": "the start template", "imagenet_best": f"the best of the {prompts} ImageNet prompts"}
    sentences = []
    for name, of_set in gains.items():
        part = f"{name.removeprefix('test ')} classes: " if len(gains) > 1 else ""
        sentences += [
            f"{part}{_verdict(gain, error)} {named[role]}: {_difference(gain, error)}"
            for role, (gain, error) in of_set.items()
        ]
    return "; ".join(sentences)


def added_lines(lines: Sequence[EnsembleLineFields], *, is_ensemble: bool) -> str:
    """Return what the further lines of an ensemble add on the images that decided, or would add.

    >>> added_lines([], is_ensemble=False)
    'no further line lowers the loss clearly'
    """
    if not lines:
        return "no further line lowers the loss clearly"
    if not is_ensemble:
        points, nats = sum(line["accuracy"] for line in lines), sum(line["loss"] for line in lines)
        return f"{pluralize(len(lines), 'more line')} would add {points:+.1f} points and lower the loss by {nats:.3f}"
    each = ", ".join(f"{line['accuracy']:+.1f} points and {-line['loss']:+.3f} loss" for line in lines)
    return f"{pluralize(len(lines), 'further line')}, each with what it adds: {each}"


def _verdict(gain: float, error: float) -> str:
    """Return the beginning of a sentence; without a standard error nothing is clear."""
    if abs(gain) <= Z * error or error == 0:
        return "cannot be told apart from"
    return f"clearly {'better' if gain > 0 else 'worse'} than"


def _difference(gain: float, error: float) -> str:
    return f"{round(gain, 1) + 0.0:+.1f} points, standard error {error:.1f}"


def ties(choice: ChoiceFields) -> str:
    """Return how many of the compared templates are tied with the most accurate one."""
    compared = pluralize(choice["compared"], "template")
    if choice["tied"] == 1:
        return f"none of the others; {compared} compared"
    leader = f"; the most accurate one has {choice['leader']:.1f} %" if "leader" in choice else ""
    return f"{choice['tied']} of {compared} are as good within the tolerance{leader}"


def limits(choice: ChoiceFields) -> str | None:
    """Return what cannot be known from the images that decided, if they are few."""
    decided = f"only {pluralize(choice['images'], 'image')} decided"
    if not choice["is_spread_known"]:
        return (
            f"{decided}, at most one a class: the spread within a class, and the accuracy of a single "
            "class, cannot be known from them; optimism and interval rest on an assumption"
        )
    if choice["high"] - choice["low"] >= WIDE:
        half = (choice["high"] - choice["low"]) / 2
        return f"{decided}: the accuracy on new images is known to about {half:.0f} points only"
    return None


def plainest(templates: Sequence[str]) -> str:
    r"""Return templates on one line.

    >>> plainest(["a <CLASS>.", "<CLASS>\nart of <CLASS>"])
    'a <CLASS>. | <CLASS> / art of <CLASS>'
    """
    return " | ".join(text.replace("\n", " / ") for text in templates)
