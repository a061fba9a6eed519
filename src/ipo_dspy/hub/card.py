"""The page of a program on the Hub: its words, what is known about its accuracy, its model, and how to use it.

Templates, class names, and names of metrics are text from outside. All of it stands in fenced blocks, where neither
Markdown nor HTML is read, one item a line and printable. The head is written as YAML by huggingface_hub.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.untrusted import one_line, printable
from ipo_dspy.errors import InputError
from ipo_dspy.run import choice_sentences
from ipo_dspy.scoring.calibration import Calibration
from ipo_dspy.scoring.intervals import wilson_interval
from ipo_dspy.scoring.objectives import ObjectiveText

TAGS = ("ipo_dspy", "dspy", "clip", "zero-shot-image-classification")
SHOWN_CLASSES = 1000
_LONGEST_LINE = 500
_MEASURED = ("balanced_accuracy", "macro_f1", "mean_average_precision", "calibration_error")


class Evaluation(Protocol):
    """The score of a program on images; see `optimizer.evaluation.EvaluationResult`."""

    @property
    def program(self) -> Mapping[str, Any]:
        """The parts of the evaluated program; see `ClipClassifier.scored_parts`."""

    @property
    def predicted(self) -> Sequence[str]:
        """The predicted class of each image."""

    @property
    def measures(self) -> Mapping[str, float]:
        """Measures by name."""

    @property
    def probabilities(self) -> Sequence[float]:
        """The probability of each predicted class, or none."""


def program_card(
    repository: str,
    *,
    template: str,
    class_texts: Mapping[str, Sequence[str]],
    model: Mapping[str, Any],
    results: Sequence[str] = (),
    license: str | None = None,
    needs_download: bool = False,
) -> str:
    """Return the card as Markdown with a head in YAML.

    Args:
        repository: `user/name`.
        template: the prompt template; several lines are an ensemble.
        class_texts: what CLIP reads for each label; empty if every call passes its own classes.
        model: name, weights, fingerprint, and number format of the CLIP, as a program's file has them.
        results: sentences on the accuracy; without them the card says nothing about it.
        license: name of a license, as the Hub lists them.
        needs_download: the model is not bundled, so that users have to allow its download.
    """
    from huggingface_hub import ModelCardData

    name = str(model.get("model"))
    base = name.partition(":")[2] if name.startswith(("hf-hub:", "transformers:")) else None
    head = ModelCardData(
        base_model=base,
        library_name="ipo_dspy",
        license=license,
        pipeline_tag="zero-shot-image-classification",
        tags=list(TAGS),
    )
    facts = {"CLIP": name, "weights": model.get("pretrained"), "fingerprint": model.get("fingerprint")}
    calibration = model.get("calibration") or {}
    facts |= {key: calibration.get(key) for key in ("temperature", "threshold", "threshold_score", "unknown_label")}
    argument = ", allow_download=True" if needs_download else ""
    call = "classifier(image='photo.jpg')" if class_texts else "classifier(image='photo.jpg', classes=['cat', 'dog'])"
    sections = {
        "Template": ["CLIP reads each class in this sentence:", fenced(printable(template).splitlines())],
        "Classes": [fenced(_class_lines(class_texts))] if class_texts else ["Each call passes its own classes."],
        "Accuracy": [fenced(results)] if results else [],
        "Model": [fenced([f"{key}: {value}" for key, value in facts.items() if value])],
        "Use": [
            "Install it with `pip install ipo_dspy`.",
            "```python\nfrom ipo_dspy import ClipClassifier\n\n"
            f"classifier = ClipClassifier.from_pretrained({repository!r}{argument})\n"
            f"print({call}.label)\n```",
        ],
    }
    intro = (
        "Zero-shot image classification with CLIP and a prompt template, as a program of "
        "[ipo_dspy](https://github.com/ipo-dspy/ipo_dspy) and [DSPy](https://dspy.ai). It is text only: the template "
        "and the classes below, in `best.json`. The weights are those of the CLIP that it names."
    )
    body = [f"# {repository.partition('/')[2]}", intro]
    for title, parts in sections.items():
        body += [f"## {title}", *parts] if parts else []
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n"


def fenced(lines: Sequence[str]) -> str:
    """Return lines as a fenced block, whose fence is longer than any run of backticks in them.

    >>> print(fenced(["a ``` b"]))
    ````text
    a ``` b
    ````
    """
    text = "\n".join(one_line(line, _LONGEST_LINE) for line in lines)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def _class_lines(class_texts: Mapping[str, Sequence[str]]) -> list[str]:
    rows = list(class_texts.items())
    lines = [label if list(texts) == [label] else f"{label}: {'; '.join(texts)}" for label, texts in rows]
    more = [f"... and {len(lines) - SHOWN_CLASSES} more in best.json"] if len(lines) > SHOWN_CLASSES else []
    return lines[:SHOWN_CLASSES] + more


def search_results(
    details: Any, template: str, texts: Mapping[str, Sequence[str]], fingerprint: str | None, is_calibrated: bool
) -> list[str]:
    """Return what the optimizer knows about a program, as sentences; none if the program was changed since.

    Args:
        details: `detailed_results` of the program; None if it has none.
        template: its template now.
        texts: the texts of its labels now; empty if every call passes its own.
        fingerprint: fingerprint of its model now.
        is_calibrated: it was calibrated after the search.
    """
    searches = [] if details is None else details.searches
    if len(searches) != 1:
        return []
    (search,) = searches
    is_same = str(search.best.template) == template and search.texts == texts
    if not texts or not is_same or search.fingerprint != fingerprint:
        return []
    choice, is_start = search.choice.fields, search.best == search.baseline
    expected = f"Expected{' before calibration' if is_calibrated else ''}"
    sizes = [pluralize(search.images, "training image")]
    sizes += [pluralize(search.validation_images, "validation image")] if search.validation_images else []
    return [
        f"{expected}: {choice_sentences.expectation(choice, search.decided_by)}.",
        *[f"Note: {note}." for note in [choice_sentences.limits(choice)] if note],
        f"Start template: {choice_sentences.against_start(choice, is_start=is_start)}.",
        *[f"Texts of classes: {choice_sentences.words(found.fields)}." for found in [search.class_texts] if found],
        f"Data: {' and '.join(sizes)}; {pluralize(choice['compared'], 'template')} compared.",
    ]


def evaluation_results(
    evaluation: Evaluation, program: Mapping[str, Any], calibration: Calibration | None = None
) -> list[str]:
    """Return the measures of an evaluation as sentences, with the interval of the accuracy.

    Args:
        evaluation: the result.
        program: the parts of the program now; see `ClipClassifier.scored_parts`.
        calibration: its calibration, whose threshold evaluations do not apply.

    Raises:
        InputError: it is of another program.
    """
    if other := [name for name, part in program.items() if evaluation.program.get(name) != part]:
        hint = "pass a result of evaluate(program, examples) for the program as it is"
        raise InputError(f"must be of the program's own {other[0]}", argument="evaluation", hint=hint)
    measures, images = evaluation.measures, len(evaluation.predicted)
    accuracy = f"accuracy {measures['accuracy']:.1f} %"
    if "mean_average_precision" not in measures:  # else a mean over labels, of which an image has several
        accuracy += f" (95 % interval {wilson_interval(measures['accuracy'], images)})"
    others = [ObjectiveText.of(name).show(measures[name]) for name in _MEASURED if name in measures]
    sentences = [f"Measured on {pluralize(images, 'image')}: {', '.join([accuracy, *others])}."]
    if calibration is not None and (threshold := calibration.threshold):
        is_confidence = calibration.threshold_score == "confidence"
        sure = [probability >= threshold for probability in evaluation.probabilities if is_confidence]
        share = f"; {100 * sum(sure) / images:.1f} % of the images reach it" if sure else ""
        score = "" if is_confidence else ", which applies to the in-distribution score"
        sentences.append(f"Note: measured before the threshold of {threshold:.3f}{share}{score}.")
    return sentences
