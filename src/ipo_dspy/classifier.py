"""`ClipClassifier`: zero-shot CLIP as a `dspy.Predict` whose instructions ARE the prompt template.

Because the template is the signature's instructions, everything that DSPy does to a predictor also works
here: `named_predictors`, `save` and `load`, `deepcopy`, `dspy.Evaluate`, and any optimizer that rewrites
instructions. It calls no language model. Model weights are loaded on first use and shared by all copies.
"""

import asyncio
import contextlib
import copy
import heapq
import logging
import math
import os
import warnings
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import dspy
import numpy as np
from dspy.utils.callback import BaseCallback

from ipo_dspy._internal.renames import renamed_arguments
from ipo_dspy.argument_checks import as_template, flag, require_int
from ipo_dspy.class_texts import LabeledTexts, check_texts, parse_classes, spoken_name
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.clip.image_io import name_image
from ipo_dspy.clip.model_spec import ModelSpec, has_own_weights, resolve_model
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED, Downloads
from ipo_dspy.decision_types import label_type, record_evidence
from ipo_dspy.decisions import ClipDecider, class_logits
from ipo_dspy.errors import DataError, Hint, ImageError, InputError, ModelError, ProgramFileError, TemplateError
from ipo_dspy.program_files import apply_state, load_program, read_state, write_state
from ipo_dspy.scoring.calibration import Scaling
from ipo_dspy.scoring.calibrator import (
    Calibration,
    CalibrationObjective,
    CalibrationReport,
    CalibrationSettings,
    calibrate_logits,
)
from ipo_dspy.template import DEFAULT_TEMPLATE, Template, check_classes, same_class

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

logger = logging.getLogger(__name__)

_STATE_KEY = "clip"
_PREDICT_STATE = ("traces", "train", "demos", "signature", "fields", "lm")
"""Keys that `dspy.Predict` saves. It sets every key of a file as an attribute, even `allow_url`, so others are
dropped."""


class ClassifyImage(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to classify")
    label: str = dspy.OutputField(desc="the class whose filled template matches the picture best")


class ClassifyAmong(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to classify")
    classes: list[str] = dspy.InputField(desc="the class names to choose from")
    label: str = dspy.OutputField(desc="the class whose filled template matches the picture best")


@dataclass(frozen=True, slots=True)
class _Question:
    """The checked inputs of one call."""

    image: Any
    classes: tuple[str, ...]
    template: Template


class Classification(dspy.Prediction):
    """Prediction of a `ClipClassifier`: `confidence`, the top-k `scores`, `label`, and all `probabilities`."""

    _classes: tuple[str, ...] = ()
    _shares: Sequence[float] = ()

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of every class, after class weights; empty if the instructions are not a template.

        It is not one of the fields, because optimizers show these to language models, and takes little memory.
        """
        return dict(zip(self._classes, self._shares, strict=True))


class ClipClassifier(dspy.Predict):
    """Zero-shot image classification by CLIP: `image -> label`, with `confidence`, top-k `scores`, and `probabilities`.

    Args:
        classes: class names, or a mapping from each label to its text or texts. A label is what the program answers,
            its texts are what CLIP reads, e.g. `{"crane": "crane bird", "nail": ["metal nail", "fingernail"]}`; several
            are averaged. `None` if every call passes its own names (`classes=[...]`), e.g. from an upstream module.
        template: prompt with `<CLASS>` in place of the class name. Several lines are an ensemble: their normalized
            text features are averaged.
        model: an open_clip architecture, `local-dir:PATH`, `hf-hub:NAME`, `demo` (the bundled one, which needs no
            download), or a loaded `Backbone`.
        pretrained: open_clip tag or checkpoint path, only for an open_clip architecture; other models have
            their own weights.
        device: `auto`, `cpu`, `cuda`, `mps`, ...
        dtype: `float32`, `float16` or `bfloat16`.
        top_k: number of classes in `scores`.
        allow_url: fetch images given as http(s) URLs.

    Raises:
        TemplateError, DataError: immediately, for an invalid template or class names.
        ModelError: immediately, for a name that open_clip does not know; on first use, for weights that are not
            available.

    A calibrated classifier (see `calibrate`) divides the logits by the temperature, multiplies the probabilities by the
    class weights, and answers `unknown_label` if the confidence is below the threshold. `confidence` and `scores` are
    the probabilities after temperature and weights. All three hold for the classes and the template that they were
    fitted with, and are ignored with others.

    Attributes:
        calibration: temperature, threshold, and unknown label; None unless it was calibrated.
        calibration_report: what calibration changed, after `calibrate`; it is not saved.

    If an optimizer writes instructions without `<CLASS>`, predictions have `label=None`, which is wrong under any
    metric, and a warning is logged. No error is raised.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=1)
    >>> classifier = ClipClassifier(task.classes, model="demo")
    >>> prediction = classifier(image=task.testset[0].image)
    >>> prediction.label in task.classes
    True
    >>> ClipClassifier({"crane": "crane bird", "dog": ["dog", "puppy"]}, model="demo").class_texts
    {'crane': ('crane bird',), 'dog': ('dog', 'puppy')}
    """

    signature: Any  # DSPy's metaclass type
    _lm: Any = None
    fields: dict[str, dict[str, Any]]  # DSPy's settings of decisions
    calibration: Calibration | None = None
    calibration_report: CalibrationReport | None = None

    def __init__(
        self,
        classes: LabeledTexts | None = None,
        *,
        template: str | Template = DEFAULT_TEMPLATE,
        model: "str | Backbone | ModelSpec" = DEFAULT_MODEL,
        pretrained: str | None = DEFAULT_PRETRAINED,
        device: str = "auto",
        dtype: str = "float32",
        top_k: int = 5,
        allow_url: bool = False,
        callbacks: list[BaseCallback] | None = None,
    ) -> None:
        super().__init__(ClassifyAmong.with_instructions(str(as_template(template))), callbacks=callbacks)
        self.classes = classes
        self._saved_under: dict[str, Any] | None = None
        self.top_k = require_int("top_k", top_k, 1)
        self.allow_url = flag("allow_url", allow_url)
        self._spec, self._backbone = resolve_model(model, pretrained, device, dtype)

    @property
    def backbone(self) -> "Backbone":
        """The CLIP model, loaded on first access.

        Warns:
            UserWarning: the program was saved with another model; the message has both fingerprints.
        """
        if self._backbone is None:
            from ipo_dspy.clip.loading import load_backbone

            self._backbone = load_backbone(**self._spec.arguments)
            self._warn_of_another_model(self._backbone)
        return self._backbone

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The labels; None if every call passes its own.

        It is set to labels or to a mapping from labels to texts, as in the constructor. Texts of labels that remain are
        kept if only labels are given; class weights and calibration are dropped.
        """
        return self._labels

    @classes.setter
    def classes(self, classes: LabeledTexts | None) -> None:
        labels, texts = (None, {}) if classes is None else parse_classes(classes)
        if labels is not None and not isinstance(classes, Mapping):
            texts = {label: self._texts[label] for label in labels if label in self._texts}
        base = ClassifyAmong if labels is None else ClassifyImage
        signature = base.with_instructions(self.signature.instructions)
        if labels is not None:
            signature = signature.with_updated_fields("label", type_=label_type(labels))
        self._labels, self.signature, self.fields = labels, signature, {}
        self.calibration = self.calibration_report = None
        if labels is not None and texts:
            criteria = {label: list(texts[label]) if label in texts else None for label in labels}
            self.fields = {"label": {"criteria": criteria}}

    @property
    def class_texts(self) -> dict[str, tuple[str, ...]]:
        """The texts of each label; a label without its own is read as it is."""
        return dict(zip(self.classes or (), self.texts_of(self.classes or ()), strict=True))

    def texts_of(self, labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return what is filled into the template for each of some labels; unknown labels are read as they are."""
        texts = self._texts
        return tuple(texts.get(label, (label,)) for label in labels)

    def spoken_names(self, labels: Sequence[str]) -> list[str]:
        """Return the names of classes for people and language models: their texts if these are short."""
        return [spoken_name(label, texts) for label, texts in zip(labels, self.texts_of(labels), strict=True)]

    @property
    def _texts(self) -> dict[str, tuple[str, ...]]:
        """The texts of labels that are not read as they are."""
        criteria = self.fields.get("label", {}).get("criteria") or {}
        return {
            label: (texts,) if isinstance(texts, str) else tuple(texts) for label, texts in criteria.items() if texts
        }

    @property
    def model_name(self) -> str:
        """The model's name as the user gave it, or `demo` for a bundled one; nothing is loaded."""
        return self._spec.model

    def warm_up(self) -> None:
        """Load the model and encode the class names in advance; otherwise the first call does both.

        Raises:
            ModelError: weights that are not available, or that do not fit the model.
        """
        from ipo_dspy.clip.text_features import class_features

        backbone = self.backbone
        if self.classes is not None:
            class_features(backbone, [self.template], self.texts_of(self.classes))

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

    @property
    def lm(self) -> Any:
        """The language model that an optimizer set; it is never called. Otherwise CLIP itself, as a decision client.

        Optimizers of decisions ask it whether asking again is cheap, and `dspy.BetterTogether` needs one.
        """
        return self._lm or ClipDecider(self._backbone or self._spec, allow_url=self.allow_url)

    @lm.setter
    def lm(self, lm: Any) -> None:
        self._lm = lm

    def set_criteria(self, field: str, criteria: Mapping[str, Any]) -> None:
        """Set the texts of every class, as DSPy sets the criteria of a decision; None stands for the label itself.

        Other texts drop class weights and calibration.

        Raises:
            DataError: as for the texts in `classes`.
        """
        before = self._texts
        if field == "label" and self.classes is not None and isinstance(criteria, Mapping):
            check_texts(self.classes, {label: texts or label for label, texts in criteria.items()})
        super().set_criteria(field, criteria)
        if self._texts != before:
            self._set_calibration(None, {})

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Classify one image: `image=` in any form of `clip.image_io.ImageSource`; `classes=` replaces the class names.

        Raises:
            ImageError: no image, or one that cannot be read.
            DataError: no class names, or names with identical prompts.
        """
        from ipo_dspy.clip.image_features import encode_images

        if (question := self._question(inputs)) is None:
            return self._finish(inputs)
        encoded = encode_images(self.backbone, [question.image], allow_url=self.allow_url)
        return self._finish(inputs, question, self._answer(encoded.features, question))

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Classify one image without blocking the event loop; concurrent calls share a batch.

        Raises:
            ImageError, DataError: as for a synchronous call; other calls of the batch are not affected.
        """
        from ipo_dspy.clip.batching import encode_together

        if (question := self._question(inputs)) is None:
            return self._finish(inputs)
        if self._backbone is None:
            await asyncio.to_thread(lambda: self.backbone)  # loading is slow
        features = await encode_together(self.backbone, question.image, allow_url=self.allow_url)
        return self._finish(inputs, question, await asyncio.to_thread(self._answer, features, question))

    def batch(self, examples: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        """Classify many images like `dspy.Module.batch`, after encoding all of them together.

        The examples have the field `image`, or are images in any form that a call accepts; an array or tensor of images
        counts as a list of them. The other arguments are those of `dspy.Module.batch`.
        """
        if getattr(examples, "ndim", 4) != 4:
            raise ImageError(f"examples must be a list of images, got one {name_image(examples)}; pass [image]")
        rows = [
            row if isinstance(row, dspy.Example) else dspy.Example(image=row).with_inputs("image") for row in examples
        ]
        images = [row["image"] for row in rows if row.get("image") is not None]
        with contextlib.suppress(DataError):  # no image can be read: each call raises its own error
            self.encode(images, skip_unreadable=True)
        return super().batch(rows, *args, **kwargs)

    @renamed_arguments(skip_bad="skip_unreadable")
    def encode(self, images: Sequence[Any], *, skip_unreadable: bool = False) -> None:
        """Encode images together, in batches, so that later calls reuse their features."""
        from ipo_dspy.clip.image_features import encode_images

        if images:
            encode_images(self.backbone, images, skip_unreadable=skip_unreadable, allow_url=self.allow_url)

    def probabilities(self, image_features: "Tensor", template: Template, classes: Sequence[str]) -> "Tensor":
        """Return the softmax over classes, whose texts are the classifier's: [N, D] normalized features to [N, C].

        It is that of CLIP itself, without calibration.
        """
        return self._logits(image_features, template, classes).softmax(dim=1)

    def _logits(self, image_features: "Tensor", template: Template, classes: Sequence[str]) -> "Tensor":
        return class_logits(self.backbone, image_features, template, self.texts_of(classes))

    @property
    def is_calibrated(self) -> bool:
        """True if class weights, a temperature, or a threshold are set; they may be of another template."""
        return self.calibration is not None or "weights" in self.fields.get("label", {})

    def scaling_of(self, template: Template, classes: Sequence[str]) -> Scaling:
        """Return temperature and weights, if they hold for this template and these classes."""
        if not self._is_calibrated_for(template, classes):
            return Scaling(1.0, np.zeros(len(classes)))
        weights = self.fields.get("label", {}).get("weights", {})
        with np.errstate(divide="ignore"):  # a weight may be zero
            log_weights = np.log([weights.get(label, 1.0) for label in classes])
        return Scaling(1.0 if self.calibration is None else self.calibration.temperature, log_weights)

    def _is_calibrated_for(self, template: Template, classes: Sequence[str]) -> bool:
        calibration = self.calibration
        is_own = tuple(classes) == self.classes and (calibration is None or calibration.template == str(template))
        return is_own and self.is_calibrated

    def calibrate(
        self,
        valset: Sequence[dspy.Example],
        *,
        objective: CalibrationObjective = "accuracy",
        temperature: bool = True,
        weights: bool = True,
        threshold: float | None = None,
        coverage: float | None = None,
        precision: float | None = None,
        unknown: Sequence[Any] | None = None,
        unknown_label: str | None = None,
        label_field: str = "label",
        skip_unreadable: bool = False,
    ) -> "ClipClassifier":
        """Return a copy whose probabilities were fitted to labeled images; this classifier is not changed.

        One temperature and a weight for each class are fitted by the loss. Weights are kept if they prove better on
        images that they were not fitted to, in five folds. The threshold is set by one of `threshold`, `coverage`, and
        `precision`, else so that it separates `unknown` best; without all of them every image is answered.

        Args:
            valset: labeled images, ideally not those that chose the template; a class without any keeps the weight 1.
            objective: what weights are judged by besides the loss. With `balanced_accuracy` and `macro_f1` each class
                counts the same in the fit, whatever its number of images.
            temperature: fit a temperature.
            weights: fit class weights.
            threshold: confidence below which an image is unknown.
            coverage: share of `valset` that must be answered, 0 to 1.
            precision: share of the answered images of `valset` that must be right, 0 to 1.
            unknown: images that belong to none of the classes, or examples with the field `image`.
            unknown_label: label of unknown images.
            label_field: field of the examples with the correct class.
            skip_unreadable: skip images that cannot be read instead of raising.

        Raises:
            InputError: arguments that cannot be used, or a precision that no threshold reaches.
            DataError: no class names, no images, or a label outside the classes.
            ImageError: an image cannot be read (without `skip_unreadable`).

        >>> from ipo_dspy import demo
        >>> task = demo.load("pixel-animals", shots=16)
        >>> calibrated = task.program.calibrate(task.valset, coverage=0.9)
        >>> report = calibrated.calibration_report
        >>> report.after.calibration_error < report.before.calibration_error
        True
        """
        settings = CalibrationSettings(
            objective=objective,
            temperature=temperature,
            weights=weights,
            threshold=threshold,
            coverage=coverage,
            precision=precision,
        )
        if (classes := self.classes) is None:
            raise DataError("a classifier without class names cannot be calibrated; use ClipClassifier(classes=[...])")
        if unknown_label in classes:
            raise InputError(
                "must not be one of the classes",
                argument="unknown_label",
                value=unknown_label,
                hint=Hint("for example {unknown_label}", unknown_label="other"),
            )
        template = str(self.template)
        Calibration(template, unknown_label=unknown_label)
        labels = [_class_index(example, i, label_field, classes) for i, example in enumerate(valset)]
        known, kept = self._logits_of([example.get("image") for example in valset], "valset", skip_unreadable)
        others = None
        if unknown is not None:
            pictures = [each.get("image") if isinstance(each, dspy.Example) else each for each in unknown]
            others, _ = self._logits_of(pictures, "unknown", skip_unreadable)
        report = calibrate_logits(known, np.array(labels)[list(kept)], others, classes, settings)
        calibrated: ClipClassifier = self.deepcopy()
        calibration = Calibration(template, report.temperature, report.threshold, unknown_label)
        calibrated._set_calibration(calibration, report.weights)
        calibrated.calibration_report = report
        return calibrated

    def _set_calibration(self, calibration: Calibration | None, weights: Mapping[str, float]) -> None:
        self.calibration, self.calibration_report = calibration, None
        label = {key: value for key, value in self.fields.pop("label", {}).items() if key != "weights"}
        if weights:
            label["weights"] = dict(weights)
        if label:
            self.fields["label"] = label

    def _logits_of(
        self, images: Sequence[Any], name: str, skip_unreadable: bool
    ) -> "tuple[NDArray[np.float64], tuple[int, ...]]":
        """Return the logits of those images that can be read, [N, C], and their indices."""
        from ipo_dspy.clip.image_features import encode_images

        if not images or None in images:
            raise DataError(f"{name} must be a list of examples with an image; pass dspy.Example(image=...)")
        encoded = encode_images(self.backbone, images, skip_unreadable=skip_unreadable, allow_url=self.allow_url)
        logits = self._logits(encoded.features, self.template, self.classes or ())
        return logits.double().cpu().numpy(), encoded.kept

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return DSPy's state plus class names and the model's identity; never weights.

        The fingerprint is None if the model is not loaded, because saving does not need weights.
        """
        bare = copy.copy(self)
        bare._lm = None  # it is never called, and not every LM can be saved
        state = cast("dict[str, Any]", super(ClipClassifier, bare).dump_state(json_mode=json_mode))
        spec = self._spec
        unloaded = {"model": spec.model, "pretrained": spec.pretrained or "", "fingerprint": None, "dtype": spec.dtype}
        identity = unloaded if self._backbone is None else {**self._backbone.identity, "model": spec.model}
        calibration = {} if self.calibration is None else {"calibration": asdict(self.calibration)}
        return {
            **state,
            "lm": None,
            _STATE_KEY: {"classes": self.classes, "top_k": self.top_k, **calibration, **identity},
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

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> "ClipClassifier":
        """Load template, class names, and `top_k` from a saved state; the model is not changed.

        `allow_url` is never loaded from a file: only the user decides whether URLs are fetched.

        Raises:
            ProgramFileError: the state belongs to another kind of program, or is malformed; the classifier is then not
                changed.

        Warns:
            UserWarning: it was saved with another model; the message has both fingerprints. If the model is not
                loaded yet, the warning is issued when it is loaded.
        """
        saved = state.get(_STATE_KEY)
        if not isinstance(saved, dict) or not isinstance(state.get("signature"), dict):
            raise ProgramFileError("not a ClipClassifier state; load it into the program class that saved it")
        before = dict(vars(self))
        try:
            template = Template.parse(state["signature"].get("instructions"))
            self.classes = saved.get("classes")
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
        except Exception as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            if not isinstance(error, (ValueError, LookupError, TypeError, AttributeError, RecursionError)):
                raise
            fact = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used: {error}"
            raise ProgramFileError(f"the saved program {fact}; save it again with ClipClassifier.save") from error
        self._saved_under = saved
        if self._backbone is not None:
            self._warn_of_another_model(self._backbone)
        return self

    def load(
        self, path: str | os.PathLike[str], allow_pickle: bool = False, allow_unsafe_lm_state: bool = False
    ) -> None:
        """Load a program that `save` wrote.

        Raises:
            ProgramFileError: the file is missing, truncated, or of another kind.
        """
        load_program(self, path, allow_unsafe_lm_state=allow_unsafe_lm_state)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
        allow_download: bool = False,
    ) -> "ClipClassifier":
        """Return a classifier from a saved program, with the saved model unless another one is passed.

        Args:
            path: a file that `save` wrote.
            model: as for the class; the file's own model if None.
            pretrained: as for the class; requires `model`. None is the default of the class.
            device: as for the class.
            allow_download: download the model that the file names if it is not on this machine, without your hub
                token. A model that is passed as `model` is downloaded in any case.

        Raises:
            ProgramFileError: the file is missing, truncated, or of another kind.
            ModelError: on first use, if the file names a model that is not available and may not be downloaded.
        """
        state = read_state(path)
        if model is None:
            if pretrained is not None:
                hint = Hint("pass {model} too", model=...)
                raise ModelError("must be None without a model", argument="pretrained", value=pretrained, hint=hint)
            classifier = cls._as_saved(state, os.fspath(path), device, "anonymous" if allow_download else "refused")
        else:
            classifier = cls(model=model, pretrained=pretrained or DEFAULT_PRETRAINED, device=device)
        apply_state(classifier, state, path)
        return classifier

    @classmethod
    def _as_saved(cls, state: Mapping[str, Any], path: str, device: str, downloads: Downloads) -> "ClipClassifier":
        """Return a classifier with the model that a state names, without loading it."""
        saved = state.get(_STATE_KEY)
        if not isinstance(saved, dict):
            raise ProgramFileError(
                f"{path!r} does not contain a saved ClipClassifier; pass a file written by ClipClassifier.save"
            )
        name = saved.get("model")
        if not isinstance(name, str):
            hint = Hint("pass one, e.g. {model}", model=DEFAULT_MODEL)
            raise ProgramFileError(f"{path!r} names no model", hint=hint)
        pretrained = None if has_own_weights(canonical_model_name(name)) else str(saved.get("pretrained") or "") or None
        classifier = cls(model=name, pretrained=pretrained, device=device, dtype=str(saved.get("dtype") or "float32"))
        classifier._spec = replace(classifier._spec, downloads=downloads)
        return classifier

    def _classes_for(self, inputs: dict[str, Any]) -> tuple[str, ...]:
        classes = inputs.get("classes")
        if classes is not None:
            return check_classes(classes)
        if self.classes is None:
            raise DataError("no class names; pass them, e.g. classifier(image=..., classes=['cat', 'dog'])")
        return self.classes

    def _question(self, inputs: dict[str, Any]) -> _Question | None:
        """Check the inputs of one call; return None and log a warning if the instructions are not a template."""
        classes = self._classes_for(inputs)
        if inputs.get("image") is None:
            raise ImageError("no image; pass one, e.g. classifier(image=dspy.Image.from_path('x.jpg'))")
        try:
            return _Question(inputs["image"], classes, self.template)
        except TemplateError as error:
            logger.warning("prediction is None: %s", error)
            return None

    def _answer(self, image_features: "Tensor", question: _Question) -> "Tensor":
        """Return the probabilities [C] of the classes for one image with features [1, D], before class weights."""
        logits = self._logits(image_features, question.template, question.classes)[0]
        if self.calibration is not None and self._is_calibrated_for(question.template, question.classes):
            logits = logits / self.calibration.temperature
        return logits.softmax(dim=0)

    def _finish(
        self, inputs: dict[str, Any], question: _Question | None = None, row: "Tensor | None" = None
    ) -> "Classification":
        """Build the prediction and record it in the trace like every DSPy predictor (GEPA reads it).

        Args:
            inputs: inputs of the call.
            question: the checked inputs; None if the instructions are not a template.
            row: probabilities [C].
        """
        classes, shares = ((), []) if question is None or row is None else (question.classes, row.tolist())
        weights: Mapping[str, float] = {}
        threshold = 0.0
        if classes and classes == self.classes:
            record_evidence(self, "label", classes, shares)
        if question is not None and self._is_calibrated_for(question.template, classes):
            weights = self.fields.get("label", {}).get("weights", {})
            threshold = 0.0 if self.calibration is None else self.calibration.threshold
        most_probable = max(range(len(classes)), key=shares.__getitem__, default=0)
        weighted = _weighted(classes, shares, weights) if weights else shares
        # As in DSPy, ties prefer the most probable class before weights.
        ranked = heapq.nlargest(self.top_k, range(len(classes)), key=lambda i: (weighted[i], i == most_probable))
        scores = {classes[i]: weighted[i] for i in ranked}
        label, confidence = next(iter(scores.items()), (None, 0.0))
        if self.calibration is not None and confidence < threshold:
            label = self.calibration.unknown_label
        # `dspy.majority` counts the last field.
        answer = {"confidence": confidence, "scores": scores, "label": label}
        prediction = self._forward_postprocess([answer], self.signature, **inputs)
        prediction.__class__ = Classification  # DSPy has built a plain one, and may have put it into the trace
        prediction._classes, prediction._shares = classes, array("d", weighted)
        return cast("Classification", prediction)

    def _warn_of_another_model(self, backbone: "Backbone") -> None:
        """Warn once if the model is not the saved one; without a fingerprint they cannot be compared."""
        saved, self._saved_under = self._saved_under or {}, None
        identity = backbone.identity
        if saved.get("fingerprint") not in (None, identity["fingerprint"]):
            warnings.warn(
                f"saved under {saved.get('model')} (fingerprint {saved.get('fingerprint')}), loaded under "
                f"{canonical_model_name(identity['model'])} (fingerprint {identity['fingerprint']}); "
                "predictions will differ, re-evaluate",
                stacklevel=3,
            )


def _weighted(classes: Sequence[str], shares: Sequence[float], weights: Mapping[str, float]) -> list[float]:
    """Return the probabilities times the weights of their classes, normalized.

    Raises:
        DataError: all are zero.
    """
    products = [share * weights.get(label, 1.0) for label, share in zip(classes, shares, strict=True)]
    if (total := math.fsum(products)) <= 0:
        raise DataError("class weights must leave a class with a positive probability; raise a weight above 0")
    return [product / total for product in products]


def _class_index(example: dspy.Example, index: int, field: str, classes: tuple[str, ...]) -> int:
    label = example.get(field)
    known = same_class(label, classes) if isinstance(label, str) else None
    if known is None:
        hint = Hint("correct it, or name its field: {label_field}", label_field=...)
        raise DataError(
            f"valset[{index}] must have one of the {len(classes)} classes as its {field}, got {label!r:.120}", hint=hint
        )
    return classes.index(known)
