"""The part of a classifier that needs no model: labels and their texts, template, calibration, and its saved state."""

import copy
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Self, cast

import dspy
import numpy as np
from dspy.utils.callback import BaseCallback

from ipo_dspy._internal.image_samples import sample_of, share_inside
from ipo_dspy._internal.json_input import has_type
from ipo_dspy.argument_checks import as_template, flag, require_int
from ipo_dspy.class_texts import LabeledTexts, check_texts, parse_classes, spoken_name
from ipo_dspy.classifier.predictions import ClassifyAmong, ClassifyImage, LabelAmong, LabelImage
from ipo_dspy.decision_types import label_type
from ipo_dspy.errors import InputError, ProgramFileError
from ipo_dspy.program_files import load_program, write_state
from ipo_dspy.scoring.calibration import Calibration, CalibrationReport
from ipo_dspy.scoring.calibration_fit import Scaling
from ipo_dspy.template import Template

logger = logging.getLogger(__name__)

STATE_KEY = "clip"
_PREDICT_STATE = ("traces", "train", "demos", "signature", "fields", "lm")
"""Keys that `dspy.Predict` saves. It sets every key of a file as an attribute, even `allow_url`, so others are
dropped."""


class LabeledPredictor(dspy.Predict):
    """A predictor whose instructions are a template, and whose label is one of several classes, or several of them."""

    signature: Any  # DSPy's metaclass type
    fields: dict[str, dict[str, Any]]  # DSPy's settings of decisions
    multi_label: bool = False
    calibration: Calibration | None = None
    calibration_report: CalibrationReport | None = None
    _lm: Any = None
    _given_texts: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # with several labels, no decision of DSPy
    _chosen_on: Mapping[str, Any] = MappingProxyType({})  # the template that a search chose, and a sample of its images
    _saved_under: dict[str, Any] | None = None  # the model's identity in the loaded file, until it is compared

    def __init__(
        self,
        classes: LabeledTexts | None,
        template: str | Template,
        top_k: int,
        multi_label: bool,
        callbacks: list[BaseCallback] | None,
    ) -> None:
        super().__init__(ClassifyAmong.with_instructions(str(as_template(template))), callbacks=callbacks)
        self.multi_label = flag("multi_label", multi_label)
        self.classes = classes
        self.top_k = require_int("top_k", top_k, 1)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The labels; None if every call passes its own.

        It is set to labels or to a mapping from labels to texts, as in the constructor. Texts of labels that remain are
        kept if only labels are given; class weights and calibration are dropped.

        Raises:
            DataError: as in the constructor, or a kept text is that of another label; pass a mapping then.
        """
        return self._labels

    @classes.setter
    def classes(self, classes: LabeledTexts | None) -> None:
        labels, texts = (None, {}) if classes is None else parse_classes(classes, least=self.least_classes)
        if labels is not None and not isinstance(classes, Mapping):
            texts = check_texts(labels, {label: self._texts[label] for label in labels if label in self._texts})
        bases = (LabelAmong, LabelImage) if self.multi_label else (ClassifyAmong, ClassifyImage)
        signature = bases[labels is not None].with_instructions(self.signature.instructions)
        if labels is not None and not self.multi_label:
            signature = signature.with_updated_fields("label", type_=label_type(labels))
        self._labels, self.signature, self.fields = labels, signature, {}
        self.calibration = self.calibration_report = None
        self._given_texts = texts if self.multi_label else {}
        if labels is not None and texts and not self.multi_label:
            criteria = {label: list(texts[label]) if label in texts else None for label in labels}
            self.fields = {"label": {"criteria": criteria}}

    @property
    def least_classes(self) -> int:
        """The smallest number of classes; with `multi_label`, one class is enough, as it can be present or absent."""
        return 1 if self.multi_label else 2

    def check_single_label(self, task: str) -> None:
        """Check that images have one label, which a task needs.

        Raises:
            InputError: they may have several.
        """
        if self.multi_label:
            condition, hint = f"False to {task}", "its probabilities are the model's own, one for each class"
            raise InputError(f"must be {condition}", argument="multi_label", value=True, hint=hint)

    @property
    def class_texts(self) -> dict[str, tuple[str, ...]]:
        """The texts of each label; a label without texts stands for itself."""
        return dict(zip(self.classes or (), self.texts_of(self.classes or ()), strict=True))

    def texts_of(self, labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return the texts that fill the template for each label; unknown labels stand for themselves."""
        texts = self._texts
        return tuple(texts.get(label, (label,)) for label in labels)

    def spoken_names(self, labels: Sequence[str]) -> list[str]:
        """Return the names of classes for people and language models: their texts if these are short."""
        return [spoken_name(label, texts) for label, texts in zip(labels, self.texts_of(labels), strict=True)]

    @property
    def _texts(self) -> dict[str, tuple[str, ...]]:
        """The texts of labels that are not read as they are."""
        criteria = self._given_texts or self.fields.get("label", {}).get("criteria") or {}
        return {
            label: (texts,) if isinstance(texts, str) else tuple(texts) for label, texts in criteria.items() if texts
        }

    @property
    def template(self) -> Template:
        """The prompt template, which is the signature's instructions.

        Setting another one drops class weights and calibration, which do not hold for it.

        Raises:
            TemplateError: another optimizer wrote instructions that are not a template.
        """
        return Template.parse(self.signature.instructions)

    @template.setter
    def template(self, template: str | Template) -> None:
        text = str(as_template(template))
        if text != self.signature.instructions:
            self._set_calibration(None, {})
        self.signature = self.signature.with_instructions(text)

    def set_criteria(self, field: str, criteria: Mapping[str, Any]) -> None:
        """Set the texts of every class, as DSPy sets the criteria of a decision; None stands for the label itself.

        Other texts drop class weights and calibration.

        Raises:
            DataError: as for the texts in `classes`.
        """
        before = self._texts
        if field == "label" and self.classes is not None and isinstance(criteria, Mapping):
            texts = check_texts(self.classes, {label: texts or label for label, texts in criteria.items()})
            if self.multi_label:
                self._given_texts = texts
                return
        super().set_criteria(field, criteria)
        if self._texts != before:
            self._set_calibration(None, {})

    @property
    def is_calibrated(self) -> bool:
        """True if class weights, a temperature, or a threshold are set; they may be of another template."""
        return self.calibration is not None or "weights" in self.fields.get("label", {})

    def scaling_of(self, template: Template, classes: Sequence[str]) -> Scaling:
        """Return temperature and weights, if they hold for this template and these classes.

        A weight of 0 counts as the smallest positive number, so its class is never chosen and losses remain finite.
        """
        if not self._is_calibrated_for(template, classes):
            return Scaling(1.0, np.zeros(len(classes)))
        factors = np.maximum([self._weights.get(label, 1.0) for label in classes], np.finfo(float).tiny)
        return Scaling(1.0 if self.calibration is None else self.calibration.temperature, np.log(factors))

    @property
    def _weights(self) -> Mapping[str, float]:
        """The weights of classes; a class without one has the weight 1."""
        return cast("Mapping[str, float]", self.fields.get("label", {}).get("weights", {}))

    def _is_calibrated_for(self, template: Template, classes: Sequence[str]) -> bool:
        is_own_template = self.calibration is None or self.calibration.template == str(template)
        is_own = not self.multi_label and tuple(classes) == self.classes and is_own_template
        return is_own and self.is_calibrated

    def _calibration_for(self, template: Template, classes: Sequence[str]) -> Calibration | None:
        return self.calibration if self._is_calibrated_for(template, classes) else None

    def note_choice(self, keys: Iterable[str]) -> None:
        """Remember that the template was chosen on images with these hashes; a sample of the hashes is saved."""
        self._chosen_on = {"template": self.signature.instructions, "images": sample_of(keys)}

    def share_that_chose(self, keys: Iterable[str], remedy: str) -> float:
        """Return the percentage of images with these hashes on which the template was chosen, as far as that is known.

        If there are any, log a warning that ends with the remedy. Less than 1 % counts as 0.
        """
        is_own = self._chosen_on.get("template") == self.signature.instructions
        share = 100.0 * share_inside(keys, self._chosen_on["images"]) if is_own else 0.0
        if share < 1.0:
            return 0.0
        fact = "about %.0f %% of the images were used to choose the template, so its accuracy on them is too high; %s"
        logger.warning(fact, share, remedy)
        return share

    def _set_calibration(self, calibration: Calibration | None, weights: Mapping[str, float]) -> None:
        self.calibration, self.calibration_report = calibration, None
        label = {key: value for key, value in self.fields.pop("label", {}).items() if key != "weights"}
        if weights:
            label["weights"] = dict(weights)
        if label:
            self.fields["label"] = label

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return DSPy's state plus class names, `top_k`, and calibration."""
        bare = copy.copy(self)
        bare._lm = None  # it is never called, and not every LM can be saved
        state = cast("dict[str, Any]", super(LabeledPredictor, bare).dump_state(json_mode=json_mode))
        calibration = {} if self.calibration is None else {"calibration": asdict(self.calibration)}
        chosen = {"chosen_on": dict(self._chosen_on)} if self._chosen_on else {}
        several = {"multi_label": True, "class_texts": self._given_texts} if self.multi_label else {}
        return {
            **state,
            "lm": None,
            STATE_KEY: {"classes": self.classes, "top_k": self.top_k, **several, **calibration, **chosen},
        }

    def save(self, path: str | os.PathLike[str], save_program: bool = False, modules_to_serialize: Any = None) -> None:
        """Save template, class names, `top_k`, and the model's name as JSON; `save_program` as in `dspy.Module.save`.

        Raises:
            ProgramFileError: the path does not end in .json or cannot be written.
        """
        if save_program:
            super().save(path, save_program=True, modules_to_serialize=modules_to_serialize)
            return
        name = os.fspath(path)
        if not name.endswith(".json"):
            raise ProgramFileError(f"path must end in .json, got {name!r}; for example program.save('best.json')")
        try:
            write_state(self.dump_state(), name)
        except OSError as error:
            raise ProgramFileError(
                f"{name!r} cannot be written ({error.strerror}); use a path in an existing folder"
            ) from error

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> Self:
        """Load template, class names, and `top_k` from a saved state; the model is not changed.

        `allow_url` is never loaded from a file: only the user decides whether URLs are fetched.

        Raises:
            ProgramFileError: the state belongs to another kind of program, or is malformed; the classifier is then not
                changed.
        """
        saved = state.get(STATE_KEY)
        if not isinstance(saved, dict) or not isinstance(state.get("signature"), dict):
            raise ProgramFileError("not a ClipClassifier state; load it into the program class that saved it")
        before = dict(vars(self))
        try:
            template = Template.parse(state["signature"].get("instructions"))
            self.fields = {}  # the texts so far are not kept
            self.multi_label = flag("multi_label", saved.get("multi_label", False))
            texts = saved.get("class_texts")
            self.classes = {name: texts.get(name, name) for name in saved["classes"]} if texts else saved.get("classes")
            fields = state["signature"]["fields"]
            if len(fields) != len(self.signature.fields):  # DSPy assigns them by position
                raise ValueError(f"it has {len(fields)} fields, not {len(self.signature.fields)}")
            super().load_state(
                {key: state[key] for key in _PREDICT_STATE if key in state}, allow_unsafe_lm_state=allow_unsafe_lm_state
            )
            self.signature = self.signature.with_instructions(str(template))
            check_texts(self.classes or (), self._texts)
            self.top_k = require_int("top_k", saved.get("top_k", self.top_k), 1)
            if saved.get("calibration") is not None:
                self.calibration = Calibration(**saved["calibration"])
            self.calibration_report = None
            self._chosen_on = saved.get("chosen_on") or {}
            if self._chosen_on and not (
                has_type(self._chosen_on, dict[str, Any]) and has_type(self._chosen_on.get("images"), list[str])
            ):
                raise ValueError("chosen_on must have a list of images")
        except Exception as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            if not isinstance(error, (ValueError, LookupError, TypeError, AttributeError, RecursionError)):
                raise
            fact = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used: {error}"
            raise ProgramFileError(f"the saved program {fact}; save it again with ClipClassifier.save") from error
        self._saved_under = saved
        return self

    def load(
        self, path: str | os.PathLike[str], allow_pickle: bool = False, allow_unsafe_lm_state: bool = False
    ) -> None:
        """Load a program that `save` wrote.

        Raises:
            ProgramFileError: the file is missing, truncated, or of another kind.
        """
        load_program(self, path, allow_unsafe_lm_state=allow_unsafe_lm_state)
