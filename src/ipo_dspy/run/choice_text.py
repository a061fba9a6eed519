"""Sentences about the selected template on new images, for the terminal and the report."""

from collections.abc import Sequence

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.run.events import ChoiceFields
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
    is_better = choice["gain"] > Z * choice["gain_error"]
    verdict = "clearly better than" if is_better else "cannot be told apart from"
    return f"{verdict} the start template: {_difference(choice['gain'], choice['gain_error'])}"


def against_imagenet(gain: float, error: float, *, images: int, prompts: int, is_best: bool) -> str:
    """Return a sentence on the gain over the best of the prompts for ImageNet.

    Args:
        gain: points by which the expected accuracy of the selected template is higher.
        error: standard error of the gain.
        images: number of images that decided.
        prompts: number of prompts.
        is_best: True if the best prompt is the selected template.

    >>> against_imagenet(0.4, 1.0, images=100, prompts=80, is_best=False)
    'the best of the 80 ImageNet prompts is as good on these images: +0.4 points, standard error 1.0'
    """
    best = f"the best of the {prompts} ImageNet prompts"
    if is_best:
        return f"the same template as {best}"
    if images == 1:
        return f"cannot be told apart from {best}: one image gives no standard error"
    if gain > Z * error:
        return f"clearly better than {best}: {_difference(gain, error)}"
    return f"{best} is {'better' if gain < -Z * error else 'as good'} on these images: {_difference(gain, error)}"


def _difference(gain: float, error: float) -> str:
    return f"{round(gain, 1) + 0.0:+.1f} points, standard error {error:.1f}"


def ties(choice: ChoiceFields) -> str:
    """Return how many of the compared templates are tied with the best one."""
    compared = pluralize(choice["compared"], "template")
    if choice["tied"] == 1:
        return f"no other of {compared} is as good"
    return f"{choice['tied']} of {compared} cannot be told apart"


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
