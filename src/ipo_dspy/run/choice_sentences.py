"""Sentences about the selected template on new images, for the terminal and the report."""

import shlex
from collections.abc import Mapping, Sequence

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.run.events import (
    ChoiceFields,
    ClassTextChangeFields,
    ClassTextsFields,
    EnsembleLineFields,
    EvaluationEvent,
)
from ipo_dspy.scoring.intervals import Z
from ipo_dspy.scoring.objectives import ObjectiveText

WIDE = 20.0
"""Width of an interval, in points, from which on the images are called few."""
IMBALANCE = 10
"""Images of the most frequent class, relative to the rarest, above which classes are called imbalanced."""
FLOORS_SHOWN = 3
"""Maximum number of floors of recall in a sentence."""


def expectation(choice: ChoiceFields, selected_on: str) -> str:
    """Return the accuracy to expect on new images, and how it follows from that on the images that decided."""
    images, text = "training" if selected_on == "train" else selected_on, _text(choice)
    label = "" if text.label == "accuracy" else f"{text.label} "
    optimism = f"{choice['optimism']:.1f} points" if text.is_share else f"{choice['optimism']:.3f}"
    return (
        f"{label}{text.brief(choice['expected'])} on new images of these classes, 95 % interval "
        f"{text.interval(choice['low'], choice['high'])} ({text.brief(choice['accuracy'])} on "
        f"{images} images, {'minus' if text.sign > 0 else 'plus'} {optimism} of optimism)"
    )


def against_start(choice: ChoiceFields, *, is_start: bool) -> str:
    """Return a sentence on the gain over the start template; it claims one only if chance does not explain it."""
    if is_start and choice["compared"] == 1:
        return "no other template was tried"
    if is_start:
        return "no template is clearly better than the start template, which is kept"
    if choice["images"] == 1:
        return "cannot be told apart from the start template: one image gives no standard error"
    gain, error = choice["gain"], choice["gain_error"]
    # Without floors the selected template is never worse on the images that decided.
    verdict = _verdict(gain if _is_worse(choice) else max(gain, 0.0), error)
    price = "; this is the price of the recall floors" if floors_cost(choice) else ""
    return f"{verdict} the start template: {_text(choice).gain(gain, error)}{price}"


def floors_cost(choice: ChoiceFields) -> bool:
    """Return True if the selected template is clearly worse than the start template, which only floors of recall do."""
    return _is_worse(choice) and _verdict(choice["gain"], choice["gain_error"]).startswith("clearly")


def _is_worse(choice: ChoiceFields) -> bool:
    """Return True if the selected template is worse than the start template on the images that decided."""
    return choice["gain"] + choice["accuracy"] - choice["expected"] < -1e-6


def against_imagenet(
    gain: float,
    error: float,
    *,
    images: int,
    prompts: int,
    is_best: bool,
    objective: str = "accuracy",
    template: str = "",
) -> str:
    """Return a sentence on the gain over the best of the prompts for ImageNet.

    Args:
        gain: points by which the expected accuracy of the selected template is higher.
        error: standard error of the gain.
        images: number of images that decided.
        prompts: number of prompts.
        is_best: True if the best prompt is the selected template.
        objective: name of the objective, in whose values the gain is.
        template: the best prompt, which is named if it is clearly better.

    >>> against_imagenet(0.4, 1.0, images=100, prompts=80, is_best=False)
    'cannot be told apart from the best of the 80 ImageNet prompts: +0.4 points, standard error 1.0'
    """
    best = f"the best of the {prompts} ImageNet prompts"
    if is_best:
        return f"the same template as {best}"
    if images == 1:
        return f"cannot be told apart from {best}: one image gives no standard error"
    if error == 0:
        return f"cannot be told apart from {best}: the difference is the same on all {images:,} images"
    verdict = _verdict(gain, error)
    remedy = (
        f"; start from it: --initial-template {shlex.quote(template)}" if verdict.startswith("clearly worse") else ""
    )
    return f"{verdict} {best}: {ObjectiveText.of(objective).gain(gain, error)}{remedy if template else ''}"


def on_test(
    gains: Mapping[str, Mapping[str, tuple[float, float]]], *, prompts: int, objective: str = "accuracy"
) -> str:
    """Return sentences on the gains on test images, one a line.

    Args:
        gains: points and standard error over the template of a role (`start`, `imagenet_best`), by set of images.
        prompts: number of prompts for ImageNet.
        objective: name of the objective, in whose values the gains are.

    >>> on_test({"test": {"start": (30.6, 5.0)}}, prompts=80)
    'clearly better than the start template: +30.6 points, standard error 5.0'
    """
    named = {"start": "the start template", "imagenet_best": f"the best of the {prompts} ImageNet prompts"}
    sentences = []
    for name, of_set in gains.items():
        part = f"{name.removeprefix('test ')} classes: " if len(gains) > 1 else ""
        sentences += [
            f"{part}{_verdict(gain, error)} {named[role]}: {ObjectiveText.of(objective).gain(gain, error)}"
            for role, (gain, error) in of_set.items()
        ]
    return "\n".join(sentences)


def floors(min_recall: Mapping[str, float], evaluations: Mapping[tuple[str, str, str], EvaluationEvent]) -> str | None:
    """Return the recall of the start and the best template for classes with a floor, on the images that decided.

    Args:
        min_recall: floors by class, 0 to 1.
        evaluations: recorded evaluations by split, class split and role.
    """
    for split, images in (("validation", "validation"), ("train", "training")):
        if all((split, "all", role) in evaluations for role in ("start", "best")):
            start, best = (evaluations[split, "all", role]["per_class"] for role in ("start", "best"))
            shown = [
                f"{name}: recall of at least {100 * floor:g} % asked for; start {100 * start[name][0] / total:.1f} %, "
                f"best {100 * best[name][0] / total:.1f} %"
                for name, floor in min_recall.items()
                if name in start and (total := best.get(name, [0, 0])[1])
            ]
            more = " | ..." if len(shown) > FLOORS_SHOWN else ""
            return f"{' | '.join(shown[:FLOORS_SHOWN])}{more} on {images} images" if shown else None
    return None


def added_lines(lines: Sequence[EnsembleLineFields], *, is_ensemble: bool, objective: str = "accuracy") -> str:
    """Return what the further lines of an ensemble add on the images that decided, or would add.

    >>> added_lines([], is_ensemble=False)
    'no further line lowers the loss clearly'
    """
    text = ObjectiveText.of(objective)
    if not lines:
        return "no further line lowers the loss clearly"
    if not is_ensemble:
        points, nats = sum(line["accuracy"] for line in lines), sum(line["loss"] for line in lines)
        if round(points, 1 if text.is_share else 3) <= 0:
            return f"no further line improves the {text.label}"
        added = f"would {'add' if text.is_share else 'bring'} {text.gain(points)} and lower the loss by {nats:.3f}"
        return f"{pluralize(len(lines), 'more line')} {added}: --ensemble {len(lines) + 1}"
    each = ", ".join(f"{text.gain(line['accuracy'])} and {-line['loss']:+.3f} loss" for line in lines)
    return f"{pluralize(len(lines), 'further line')}, each with what it adds: {each}"


NOVEL_WORDS = "read by their names: words were searched for the base classes only"
CHANGES_SHOWN = 5
"""Maximum number of changed labels in a sentence."""


def words(found: ClassTextsFields) -> str:
    """Return which labels are read as other words now, and what that gains on the images that decided."""
    changed = {change["label"]: change for change in found["changes"]}
    tried, rounds = pluralize(found["compared"], "alternative"), pluralize(found["rounds"], "round")
    compared = f"{tried} to the words of one label, each a text or the mean of several, over {rounds}"
    if not changed:
        return f"no label changed: of {compared}, none is better beyond chance"
    shown = [_changed(change) for change in list(changed.values())[:CHANGES_SHOWN]]
    more = [f"{len(changed) - len(shown)} more"] if len(changed) > len(shown) else []
    images = "training" if found["selected_on"] == "train" else found["selected_on"]
    gain = found["after"]["accuracy"] - found["before"]["accuracy"]
    return (
        f"{pluralize(len(changed), 'label')} changed: {'; '.join([*shown, *more])}. Together "
        f"{ObjectiveText.of('accuracy').gain(gain, found['accuracy_error'])}, on the {images} images that decided. "
        f"Compared: {compared}"
    )


def _changed(change: ClassTextChangeFields) -> str:
    before, after = change["recognized"]
    loss = f", loss lower by {change['loss']:.2g}" if before == after else ""
    words = " + ".join(change["after"])
    return f"{change['label']} as {words} ({before} to {after} of {change['images']} recognized{loss})"


def _verdict(gain: float, error: float) -> str:
    """Return the beginning of a sentence; without a standard error nothing is clear."""
    if abs(gain) <= Z * error or error == 0:
        return "cannot be told apart from"
    return f"clearly {'better' if gain > 0 else 'worse'} than"


def _text(choice: ChoiceFields) -> ObjectiveText:
    return ObjectiveText.of(choice.get("objective", "accuracy"))


def ties(choice: ChoiceFields) -> str:
    """Return how many of the templates that were compared in pairs are as good as the leading one."""
    compared = f"{pluralize(choice['compared'], 'template')} compared in pairs"
    if choice["tied"] == 1:
        return f"none of the others; {compared}"
    text = _text(choice)
    best = "the most accurate one has" if text.label == "accuracy" else f"the best one has {text.label}"
    leader = f"; {best} {text.brief(choice['leader'])}" if "leader" in choice else ""
    return f"{choice['tied']} of {compared} are as good within the tolerance{leader}"


def limits(choice: ChoiceFields) -> str | None:
    """Return what cannot be known from the images that decided, if they are few."""
    decided = f"only {pluralize(choice['images'], 'image')} decided"
    if not choice["is_spread_known"]:
        return (
            f"{decided}, at most one per class: the variance within classes and the accuracy "
            "of single classes are unknown; optimism and interval rest on an assumption"
        )
    if _text(choice).is_share and choice["high"] - choice["low"] >= WIDE:
        half = (choice["high"] - choice["low"]) / 2
        return f"{decided}: the {_text(choice).label} on new images is known only to within about {half:.0f} points"
    return None


def imbalance(images_per_class: Sequence[int], objective: str) -> str | None:
    """Return a note if classes differ much in their numbers of images, unless the objective weighs them equally.

    >>> imbalance([3, 40], "accuracy")
    'the most frequent class has 40 training images, the rarest 3: balanced_accuracy weighs all classes equally'
    """
    counts = [count for count in images_per_class if count]
    if not counts or max(counts) <= IMBALANCE * min(counts) or objective in ("balanced_accuracy", "macro_f1"):
        return None
    return (
        f"the most frequent class has {max(counts)} training images, the rarest {min(counts)}: balanced_accuracy "
        "weighs all classes equally"
    )


def plainest(templates: Sequence[str]) -> str:
    r"""Return templates on one line.

    >>> plainest(["a <CLASS>.", "<CLASS>\nart of <CLASS>"])
    'a <CLASS>. | <CLASS> / art of <CLASS>'
    """
    return " | ".join(text.replace("\n", " / ") for text in templates)
