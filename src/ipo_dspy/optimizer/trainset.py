"""Collect the training inputs and labels of every `ClipClassifier` in a program.

For a bare classifier the inputs are the fields of the examples. Inside a program the classifier may receive other
inputs than the program (a crop, class names from an upstream module), so they are read from a trace of the program. A
trace may call the program's own language models, so only the first few examples are traced if the classifier receives
the fields of these examples unchanged.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dspy

from ipo_dspy._internal.threads import in_threads
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.data.split_folders import PART_WORDS
from ipo_dspy.decisions import find_image
from ipo_dspy.errors import DataError, Hint, ImageError, InputError
from ipo_dspy.optimizer.decision_outputs import DecisionOutput, decision_outputs
from ipo_dspy.scoring.label_sets import label_text
from ipo_dspy.template import check_classes, same_class

PROBED = 3
_INPUTS = ("image", "classes")
_INSIDE = re.compile(r"(?<=\.tar)#.*|#\d+$")
"""End of a source that names an image inside a tar file, a table, or a data set of the Hub."""


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """Images as one classifier receives them.

    Attributes:
        images: input images of the classifier.
        labels: correct class of each image; with several labels, these as one text.
        classes: class names; the union if they differ from image to image.
        choices: candidate class names of each image, if they are passed with each call.
        sources: path of each image; empty if unknown.
        examples: the example of each image, for a metric.
        label_sets: labels of each image of a classifier with `multi_label=True`, in the order of the classes.
    """

    images: tuple[Any, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...] | None
    sources: tuple[str, ...]
    examples: tuple[dspy.Example, ...] = field(default=(), repr=False)
    label_sets: tuple[tuple[str, ...], ...] | None = None

    @property
    def options(self) -> int:
        """Largest number of classes that an image is classified among."""
        return len(self.classes) if self.choices is None else max(map(len, self.choices))

    @property
    def data_name(self) -> str:
        """Name of the folder or table that holds all images; empty if there is none, or if it is the home folder."""
        files = {_INSIDE.sub("", source) for source in self.sources if source}
        try:
            common, home = Path(os.path.commonpath(files)), Path.home()
        except (ValueError, RuntimeError):  # no sources, several drives, or no home folder
            return ""
        if common.name.lower() in PART_WORDS:
            common = common.parent
        return "" if common == home else common.name.removesuffix(".parquet")

    def keep(self, indices: Sequence[int]) -> "TrainingImages":
        """Return only these images, in this order."""
        columns = {name: getattr(self, name) for name in ("images", "labels", "choices", "sources", "label_sets")}
        columns["examples"] = self.examples or None
        kept = {name: tuple(column[i] for i in indices) for name, column in columns.items() if column is not None}
        return replace(self, **kept)


def find_classifiers(program: dspy.Module) -> dict[str, ClipClassifier]:
    """Return every `ClipClassifier` of a program by its DSPy name; a bare one is `self`.

    Outputs of predictors that a `ClipDecider` answers count as classifiers; see `optimizer.decision_outputs`.

    Raises:
        InputError: the program has none, or has an output that CLIP cannot answer.
    """
    if not isinstance(program, dspy.Module):
        raise InputError(
            f"student is a {type(program).__name__}; pass a dspy.Module, e.g. ClipClassifier(classes=[...])"
        )
    classifiers: dict[str, ClipClassifier] = {}
    for name, predictor in program.named_predictors():
        classifiers |= {name: predictor} if isinstance(predictor, ClipClassifier) else decision_outputs(name, predictor)
    if not classifiers:
        raise InputError(
            f"student {type(program).__name__} holds no ClipClassifier to optimize; "
            "make one an attribute, e.g. self.classify = ClipClassifier(classes=[...]), or let a ClipDecider answer a "
            "dspy.Predict with a Choice output"
        )
    return classifiers


def collect_training_images(
    program: dspy.Module,
    classifiers: Mapping[str, ClipClassifier],
    examples: Sequence[dspy.Example],
    *,
    name: str,
    label_field: str | Mapping[str, str] = "label",
    num_threads: int | None = None,
    skip_unreadable: bool = False,
) -> dict[str, TrainingImages]:
    """Return the training images of each classifier.

    Args:
        program: program with the classifiers; it is not changed.
        classifiers: result of `find_classifiers`.
        examples: examples with the program's inputs and the labels.
        name: name of the argument for messages: `trainset` or `valset`.
        label_field: field with the correct class, for all classifiers or by name.
        num_threads: threads for tracing.
        skip_unreadable: skip examples on which the program raises `ImageError`.

    Raises:
        ImageError: an image cannot be read (without `skip_unreadable`).
        Exception: any error of the program, with a note that names the example.
        DataError: no examples, a field is missing, or a label is outside the classes.
    """
    if not examples:
        raise DataError(f"{name} is empty; pass a list of dspy.Example(image=..., label=...).with_inputs('image')")
    threads = num_threads or dspy.settings.num_threads
    examples, inputs = _inputs(program, classifiers, examples, name, threads, skip_unreadable)
    fields = {key: _field(label_field, key, classifier, examples[0]) for key, classifier in classifiers.items()}
    return {
        key: _build_training_images(classifier, inputs[key], examples, name, fields[key])
        for key, classifier in classifiers.items()
    }


def _inputs(
    program: dspy.Module,
    classifiers: Mapping[str, ClipClassifier],
    examples: Sequence[dspy.Example],
    name: str,
    num_threads: int,
    skip_unreadable: bool,
) -> tuple[Sequence[dspy.Example], dict[str, list[dict[str, Any]]]]:
    """Return the usable examples and, for each classifier, its inputs for each of them."""
    if isinstance(program, dspy.Predict):
        return examples, _without_tracing(classifiers, examples, name)
    for i, example in enumerate(examples):
        if example._input_keys is None:
            raise DataError(f"{name}[{i}] does not declare its input fields; call .with_inputs('image')")

    def trace(index: int) -> dict[str, dict[str, Any]] | None:
        try:
            return _trace(program, classifiers, examples[index])
        except Exception as error:
            if skip_unreadable and isinstance(error, ImageError):
                return None
            error.add_note(
                f"your program failed on {name}[{index}]: {name} is run through it to trace the inputs of its "
                f"classifiers; fix it so that program(**{name}[{index}].inputs()) works"
            )
            raise

    probed = [trace(index) for index in range(min(PROBED, len(examples)))]
    pairs = [(inputs, example) for inputs, example in zip(probed, examples, strict=False) if inputs is not None]
    if pairs and all(_is_unchanged(inputs, example) for inputs, example in pairs):
        return examples, _without_tracing(classifiers, examples, name)
    traced = [*probed, *in_threads(trace, range(PROBED, len(examples)), num_threads=num_threads)]
    usable = [(i, inputs) for i, inputs in enumerate(traced) if inputs is not None]
    for key in classifiers:
        if missing := [i for i, inputs in usable if key not in inputs]:
            place = f"{name}[{missing[0]}]"
            raise DataError(f"the program never called its classifier {key!r} on {place}; remove such examples")
    by_classifier = {key: [inputs[key] for _, inputs in usable] for key in classifiers}
    return [examples[i] for i, _ in usable], by_classifier


def _trace(
    program: dspy.Module, classifiers: Mapping[str, ClipClassifier], example: dspy.Example
) -> dict[str, dict[str, Any]]:
    """Return the inputs of each classifier's first call for one example."""
    by_predictor: dict[int, list[str]] = {}
    for key, classifier in classifiers.items():
        by_predictor.setdefault(id(getattr(classifier, "predictor", classifier)), []).append(key)
    with dspy.context(trace=[]):
        program(**example.inputs())
        calls = list(dspy.settings.trace)
    traced: dict[str, dict[str, Any]] = {}
    for predictor, inputs, _ in calls:
        for key in by_predictor.get(id(predictor), ()):
            is_output = isinstance(classifiers[key], DecisionOutput)
            received = {"image": find_image(inputs)} if is_output else {k: inputs[k] for k in _INPUTS if k in inputs}
            traced.setdefault(key, received)
    return traced


def _is_unchanged(seen: Mapping[str, dict[str, Any]], example: dspy.Example) -> bool:
    fields = example.inputs()
    received = [item for inputs in seen.values() for item in inputs.items()]
    return bool(seen) and all(field in fields and fields[field] is value for field, value in received)


def _without_tracing(
    classifiers: Mapping[str, ClipClassifier], examples: Sequence[dspy.Example], name: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the fields of the examples that each classifier receives."""
    return {
        key: [_own_fields(classifier, example, f"{name}[{i}]") for i, example in enumerate(examples)]
        for key, classifier in classifiers.items()
    }


def _own_fields(classifier: ClipClassifier, example: dspy.Example, place: str) -> dict[str, Any]:
    if isinstance(classifier, DecisionOutput):
        fields = classifier.predictor.signature.input_fields
        given = {name: _trusted(example[name], info.annotation) for name, info in fields.items() if name in example}
        try:
            return {"image": find_image(given)}
        except ImageError as error:
            raise DataError(f"{place}: {error}") from error
    if example.get("image") is None:
        raise DataError(
            f"{place} has no field 'image' (it has {', '.join(example.keys()) or 'none'}); "
            "pass dspy.Example(image=..., label=...).with_inputs('image')"
        )
    marked = example._input_keys or _INPUTS
    return {
        field: example[field]
        for field in _INPUTS
        if example.get(field) is not None and (field == "image" or field in marked)
    }


def _trusted(value: Any, annotation: Any) -> Any:
    """Return a path in an image field as a `Path`: examples are the user's own, unlike texts in a request."""
    is_path = isinstance(value, str) and not value.startswith(("data:", "http:", "https:", "<<"))
    return Path(value) if annotation is dspy.Image and is_path else value


def _field(label_field: str | Mapping[str, str], key: str, classifier: ClipClassifier, first: dspy.Example) -> str:
    """Return the field with the labels: for an output of a predictor the one of its name, if there is one."""
    if isinstance(label_field, str):
        return (
            classifier.output if isinstance(classifier, DecisionOutput) and classifier.output in first else label_field
        )
    if key not in label_field:
        raise DataError(f"label_field has no entry for classifier {key!r}; pass label_field={{{key!r}: 'label'}}")
    return label_field[key]


def _build_training_images(
    classifier: ClipClassifier,
    inputs: Sequence[dict[str, Any]],
    examples: Sequence[dspy.Example],
    name: str,
    field: str,
) -> TrainingImages:
    given, places = [entry.get("classes") for entry in inputs], [f"{name}[{i}]" for i in range(len(examples))]
    classes, choices, label_sets = classifier.classes, None, None
    if classes is None or any(given):
        least = classifier.least_classes
        choices = tuple(_names(own or classes, place, least) for own, place in zip(given, places, strict=True))
        classes = tuple(dict.fromkeys(label for names in choices for label in names))
    if classifier.multi_label:
        if choices is not None:
            raise DataError(
                f"{name} must have no field 'classes' with multi_label=True; use ClipClassifier(classes=[...])"
            )
        label_sets = tuple(_labels(e, place, field, classes) for e, place in zip(examples, places, strict=True))
        labels = tuple(map(label_text, label_sets))
    else:
        texts = [example.get(field) for example in examples]
        if isinstance(classifier, DecisionOutput):  # labels may be numbers; DSPy names options by their text
            texts = [None if label is None else str(label) for label in texts]
        among = choices or (classes,) * len(examples)
        labels = tuple(
            _label(example, label, place, field, names)
            for example, label, place, names in zip(examples, texts, places, among, strict=True)
        )
    return TrainingImages(
        images=tuple(entry["image"] for entry in inputs),
        labels=labels,
        classes=classes,
        choices=choices,
        sources=tuple(_source(example) for example in examples),
        examples=tuple(examples),
        label_sets=label_sets,
    )


def _names(classes: Any, place: str, least: int) -> tuple[str, ...]:
    if not classes:
        raise DataError(f"{place} has no class names; use ClipClassifier(classes=[...]) or add a field 'classes'")
    try:
        return check_classes(classes, least=least)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _labels(example: dspy.Example, place: str, field: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of an image in the order of the classes; one alone may be given without a list."""
    given = example.get(field)
    each = given if isinstance(given, list | tuple | set | frozenset) else (given,)
    found = {_label(example, label, place, field, classes) for label in each}
    return tuple(label for label in classes if label in found)


def _label(example: dspy.Example, label: Any, place: str, field: str, classes: Sequence[str]) -> str:
    if label is None:
        raise DataError(
            f"{place} has no field {field!r} (it has {', '.join(example.keys())}); "
            "pass the field with the correct class: IPO(label_field='...')"
        )
    known = same_class(label, classes) if isinstance(label, str) else None
    if known is None:
        shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        source = f" ({source!r:.120})" if (source := example.get("source")) else ""
        raise DataError(
            f"{place}{source} has the label {label!r}, which is not among the {len(classes)} classes ({shown})",
            hint=Hint("correct the label, or add it: {classes}", classes=...),
        )
    return known


def _source(example: dspy.Example) -> str:
    """Return the absolute path of the image, so that a report can open it from any folder.

    Empty for URLs, which may contain a token, and for images in memory.
    """
    source = example.get("source")
    if source is None and isinstance(example.get("image"), (str, os.PathLike)):
        source = example["image"]
    text = "" if source is None else os.fspath(source)
    return "" if not text or text.startswith(("http:", "https:", "data:")) else str(Path(text).absolute())
