"""Texts of the requests for templates and class texts: the parts behind the task, from the inputs of a signature.

An empty input has no part. The parts that are the same in every step come first, to benefit from providers' prompt
caches. The wording is not that of the paper.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ipo_dspy.lms.answer_tags import CLOSE_TAG, OPEN_TAG
from ipo_dspy.lms.signatures import ClassMistakes, Mistake, ScoredTemplate
from ipo_dspy.scoring.objectives import ObjectiveText


def proposal_parts(inputs: Mapping[str, Any]) -> list[str]:
    """Return the parts of `ProposeTemplates`, also for a model that is shown images."""
    guessed = ", guessed by CLIP, some are wrong" if inputs["guessed"] else ""
    goal = _objective(inputs["best"]).label
    order = {(True, False): "by loss", (False, True): f"by {goal}"}.get(_shown_scores(inputs["best"]))
    return [
        *_line(f"How training images look (share of images{guessed}):", inputs["look"]),
        *_section("Descriptions of some training images:", inputs["descriptions"]),
        inputs["progress"],
        *_section(
            f"The best so far that are unlike each other, best last ({order or f'by {goal}, then loss'}):",
            map(_brief, inputs["best"]),
        ),
        *_section("The others of the last step:", map(_brief, inputs["latest"])),
        *_section("The worst so far:", map(_brief, inputs["worst"])),
        *_line("What a phrase seems to add to the score (number of templates with it):", inputs["effects"]),
        *_line("Phrases of the images that no template has had:", inputs["untried"]),
        *_section("Training images that the best template gets wrong:", map(_mistaken, inputs.get("mistakes", ()))),
        *_section("Being scored now:", inputs["pending"]),
        *_section("Could not be used:", inputs["rejected"]),
        "First think in a few lines about what helps and what was not tried. "
        f"Write {inputs['count']} new template(s) that differ from all of these{_split(inputs)}. {_FORM}",
    ]


def _brief(prompt: ScoredTemplate) -> str:
    accuracy = [] if prompt.accuracy is None else [f"{prompt.accuracy:.2f} %"]
    loss = [] if prompt.loss is None else [f"loss {prompt.loss:.3f}"]
    return f"{prompt.template.replace(chr(10), ' | ')} ({', '.join([*accuracy, *_other(prompt), *loss])})"


def _other(prompt: ScoredTemplate) -> list[str]:
    """Return the value of another objective, and missed recall floors, if there are any."""
    value = [] if prompt.value is None else [_objective([prompt]).show(prompt.value)]
    return value + ([f"{prompt.missed:.1f} points of recall below the floors"] if prompt.missed else [])


def _objective(prompts: Iterable[ScoredTemplate]) -> ObjectiveText:
    return ObjectiveText.of(next((p.objective for p in prompts if p.objective is not None), "accuracy"))


def _mistaken(mistake: Mistake) -> str:
    return f"a picture of {mistake.label}, taken for {mistake.predicted} ({mistake.probability:.2f}): {mistake.image}"


def _split(inputs: Mapping[str, Any]) -> str:
    """Return how many templates of which kind are asked for, if there is something to build on."""
    if not inputs["worst"] or inputs["count"] < 3:
        return ""
    joined = changed = round(inputs["count"] * 3 / 8)
    return (
        f": {joined} that join what helped, {changed} that change one thing in one of the best, "
        f"{inputs['count'] - joined - changed} of a kind that was not tried"
    )


def _line(title: str, phrases: Iterable[str]) -> list[str]:
    listed = ", ".join(phrases)
    return [f"{title} {listed}."] if listed else []


def paper_parts(inputs: Mapping[str, Any]) -> list[str]:
    """Return the parts of `ProposePrompts`."""
    return [
        *_section("How some training images look:", inputs["descriptions"]),
        *_section("Templates tried so far, with their scores, the best last:", map(_scored, inputs["history"])),
        _score_legend(inputs["history"]),
        *_section("Answers that could not be used:", inputs["rejected"]),
        f"Write {inputs['count']} new template(s) that differ from all of these and should have "
        f"{_goal(inputs['history'])}. {_FORM} Write nothing else.",
    ]


def reword_parts(inputs: Mapping[str, Any]) -> list[str]:
    """Return the parts of `RewordPrompts`."""
    return [
        *_section("Templates that do about equally well, the plainest first:", map(_scored, inputs["tied"])),
        _score_legend(inputs["tied"]),
        f"Write at most {inputs['count']} rewordings that say the same in plain words and differ from all of these. "
        f"{_FORM} Write nothing else.",
    ]


def class_text_parts(inputs: Mapping[str, Any]) -> list[str]:
    """Return the parts of `ProposeClassTexts`, also for a model that is shown images."""
    return [
        f"Template: {inputs['template'].replace(chr(10), ' | ')}",
        *_section("Classes that lose most, the worst first:", map(_confused, inputs["classes"])),
        *_section("Training images of them:", map(_mistaken, inputs.get("mistakes", ()))),
        *_section("Could not be used:", inputs["rejected"]),
        f"Write up to {inputs['count']} new texts for each of these classes: other names, synonyms, short descriptions "
        "of what is visible, and variations of the best that were tried, which fit into the template in place of "
        f"<CLASS>. Write one line for each class, with its label exactly as above: "
        f"{OPEN_TAG}label: text | text | text{CLOSE_TAG}",
    ]


def _confused(of_class: ClassMistakes) -> str:
    words = ", ".join(repr(text) for text in of_class.texts)
    taken = f", the others taken for {', '.join(of_class.taken_for)}" if of_class.taken_for else ""
    tried = (
        f"; tried, the best first, each with the images recognized: {', '.join(of_class.tried)}"
        if of_class.tried
        else ""
    )
    return f"{of_class.label}: read as {words}; {of_class.correct} of {of_class.images} images recognized{taken}{tried}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = "\n".join(f"- {line}" for line in lines)
    return [f"{title}\n{listed}"] if listed else []


_LOSS = "Loss is the mean cross-entropy over the training images: lower is better."
_ACCURACY = "Accuracy is the percentage of them classified correctly: higher is better."
_ACCURACY_ALONE = "Accuracy is the percentage of the training images classified correctly: higher is better."


def _shown_scores(history: Iterable[ScoredTemplate]) -> tuple[bool, bool]:
    """Return whether all losses and all accuracies (or other values) are shown; both True without any history."""
    prompts = list(history)
    return all(p.loss is not None for p in prompts), all((p.accuracy, p.value) != (None, None) for p in prompts)


def _score_legend(history: Sequence[ScoredTemplate]) -> str:
    objective = _objective(history)
    of_them, alone = (_ACCURACY, _ACCURACY_ALONE) if objective.label == "accuracy" else [objective.meaning] * 2
    meanings = {(True, True): f"{_LOSS} {of_them}", (True, False): _LOSS, (False, True): alone}
    return meanings.get(_shown_scores(history), "")


def _goal(history: Sequence[ScoredTemplate]) -> str:
    objective = _objective(history)
    aim = f"a {'higher' if objective.sign > 0 else 'lower'} {objective.label}"
    aims = {(True, False): "a lower loss", (False, True): aim}
    return aims.get(_shown_scores(history), f"a lower loss and {aim}")


def _scored(prompt: ScoredTemplate) -> str:
    text = prompt.template.replace("\n", " | ")
    loss = [] if prompt.loss is None else [f"loss {prompt.loss:.4f}"]
    accuracy = [] if prompt.accuracy is None else [f"accuracy {prompt.accuracy:.2f} %"]
    return f"{text}  ({', '.join([*loss, *accuracy, *_other(prompt)])})"


_FORM = f"Each is one short sentence in plain words that holds <CLASS> once, between {OPEN_TAG} and {CLOSE_TAG}."
