"""`ClipClassifier`: zero-shot CLIP as a `dspy.Predict` whose instructions ARE the prompt template.

Because the template is the signature's instructions, everything that DSPy does to a predictor also works
here: `named_predictors`, `save` and `load`, `deepcopy`, `dspy.Evaluate`, and any optimizer that rewrites
instructions. It calls no language model. Model weights are loaded on first use and shared by all copies.
"""

import asyncio
import contextlib
import heapq
import logging
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dspy
import numpy as np
from dspy.utils.callback import BaseCallback

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy.argument_checks import flag
from ipo_dspy.class_texts import LabeledTexts, check_distinct
from ipo_dspy.classifier.encoding_predictor import saved_model
from ipo_dspy.classifier.image_lists import example_list, image_list
from ipo_dspy.classifier.portable_predictor import PortablePredictor
from ipo_dspy.classifier.predictions import (
    Classification,
    MultiLabelClassification,
    Question,
    apply_weights,
    class_index,
)
from ipo_dspy.clip.model_spec import ModelSpec, check_sigmoid_head, resolve_model
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED, Downloads
from ipo_dspy.decision_types import record_evidence
from ipo_dspy.errors import DataError, Hint, ImageError, InputError, ModelError, ProgramFileError, TemplateError
from ipo_dspy.program_files import apply_state, read_state
from ipo_dspy.scoring.calibration import (
    Calibration,
    CalibrationObjective,
    CalibrationSettings,
    ThresholdScore,
    calibrate_logits,
)
from ipo_dspy.scoring.label_sets import PRESENT
from ipo_dspy.scoring.objectives import build_objective
from ipo_dspy.scoring.thresholds import in_distribution_scores
from ipo_dspy.template import DEFAULT_TEMPLATE, Template, check_classes

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

_OF_BATCH = "clip_call_of_batch"
"""Setting of DSPy, which reaches the threads of `batch`."""

logger = logging.getLogger(__name__)


class ClipClassifier(PortablePredictor):
    """Zero-shot image classification by CLIP: `image -> label`, with `confidence`, top-k `scores`, and `probabilities`.

    Args:
        classes: class names, or a mapping from each label to its text or texts. A label is what the program answers,
            its texts are what CLIP reads, e.g. `{"crane": "crane bird", "nail": ["metal nail", "fingernail"]}`; several
            are averaged. `None` if every call passes its own names (`classes=[...]`), e.g. from an upstream module.
        template: prompt with `<CLASS>` in place of the class name. Several lines are an ensemble: their normalized
            text features are averaged.
        model: an open_clip architecture, `local-dir:PATH`, `hf-hub:NAME`, `transformers:NAME_OR_FOLDER` (a model of the
            transformers library), `demo` (the bundled one, which needs no download), or a loaded `Backbone`.
        pretrained: open_clip tag or checkpoint path, only for an open_clip architecture; other models have
            their own weights.
        device: `auto`, `cpu`, `cuda`, `mps`, ...
        dtype: `float32`, `float16` or `bfloat16`.
        top_k: number of classes in `scores`.
        allow_url: fetch images given as http(s) URLs.
        cache: `encode`, `batch`, `predict`, `calibrate`, and optimizers keep the features of images on disk for later
            processes (docs/cache.md). Single calls always keep them in memory only.
        multi_label: images have several labels, or none: every class has its own probability, the sigmoid of
            its logit, and `labels` are the classes with at least 0.5; `label` is the most probable of them, or None. A
            single class is allowed. The model must have been trained this way, like SigLIP; see docs/multi-label.md.

    Raises:
        TemplateError, DataError: immediately, for an invalid template or class names.
        ModelError: immediately, for a model, a family or weights that are unknown, or a known model without a sigmoid
            head with `multi_label=True`; on first use, for weights that are not available.

    A calibrated classifier (see `calibrate`) divides the logits by the temperature, multiplies the probabilities by the
    class weights, and answers `unknown_label` if a score is below the threshold: the confidence, or the score by which
    `calibrate` separates unknown images. `confidence` and `scores` are the probabilities after temperature and weights.
    All three hold for the classes and the template that they were fitted with, and are ignored with others.
    Weights without a calibration, such as those of DSPy's `ReAnchor`, are not tied to a template; as in DSPy they apply
    to any, until `template`, `classes`, or texts are set.

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
        cache: bool = True,
        multi_label: bool = False,
        callbacks: list[BaseCallback] | None = None,
    ) -> None:
        super().__init__(classes, template, top_k, multi_label, callbacks)
        self.allow_url = flag("allow_url", allow_url)
        self.cache = flag("cache", cache)
        self._spec, self._backbone = resolve_model(model, pretrained, device, dtype)
        if multi_label:
            check_sigmoid_head(self._spec, self._backbone)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Classify one image: `image=` in any form of `clip.image_io.ImageSource`; `classes=` replaces the class names.

        Raises:
            ImageError: no image, or one that cannot be read.
            DataError: no class names, or names with identical prompts.
        """
        from ipo_dspy.clip.image_features import encode_images

        if (question := self._question(inputs)) is None:
            return self._finish(inputs)
        on_disk = self.cache and dspy.settings.get(_OF_BATCH, False)
        encoded = encode_images(self.backbone, [question.image], allow_url=self.allow_url, on_disk=on_disk)
        return self._finish(inputs, question, *self._answer(encoded.features, question))

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
        return self._finish(inputs, question, *await asyncio.to_thread(self._answer, features, question))

    def batch(self, examples: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        """Classify many images like `dspy.Module.batch`, after encoding all of them together.

        The examples have the field `image`, or are images in any form that a call accepts; an array or tensor of images
        counts as a list of them. The other arguments are those of `dspy.Module.batch`.
        """
        rows = [
            row if isinstance(row, dspy.Example) else dspy.Example(image=row).with_inputs("image")
            for row in image_list(examples, "examples")
        ]
        images = [row["image"] for row in rows if row.get("image") is not None]
        with contextlib.suppress(DataError):  # no image can be read: each call raises its own error
            self.encode(images, skip_unreadable=True)
        with dspy.context(**{_OF_BATCH: True}):  # more images than memory holds are read from the disk
            return super().batch(rows, *args, **kwargs)

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
        costs: Mapping[tuple[str, str], float] | None = None,
        min_recall: Mapping[str, float] | None = None,
        label_field: str = "label",
        skip_unreadable: bool = False,
    ) -> "ClipClassifier":
        """Return a copy whose probabilities were fitted to labeled images; this classifier is not changed.

        A temperature and a weight for each class are fitted to minimize the loss. Weights are kept if they are clearly
        better on images that they were not fitted to, in five folds. The threshold is set by `threshold`, `coverage`,
        or `precision`, else so that it best separates `unknown`; without any of these, every image is answered. An
        earlier threshold and its label are kept only if neither temperature nor weights are fitted, because it belongs
        to the scaled logits. With `unknown`, the threshold is for the in-distribution score, the highest logit plus the
        log-odds of its probability, unless `threshold` or `precision` sets it, which are about the confidence.

        Args:
            valset: labeled images, ideally not those used to choose the template; a class without any keeps the weight
                1.
            objective: the criterion for weights besides the loss. With `balanced_accuracy` and `macro_f1` each class
                counts the same in the fit, whatever its number of images.
            temperature: fit a temperature; otherwise that of an earlier calibration for this template is kept.
            weights: fit class weights; otherwise earlier ones are kept.
            threshold: confidence below which an image is unknown.
            coverage: share of `valset` that must be answered, 0 to 1.
            precision: share of the answered images of `valset` that must be right, 0 to 1.
            unknown: images that belong to none of the classes, or examples with the field `image`.
            unknown_label: label of unknown images.
            costs: cost of an error by its true and its predicted class, instead of `objective`; other errors cost 1.
                Weights then also shift decisions to lower the mean cost; for `min_recall`, to meet the floors.
            min_recall: minimum recall of classes, 0 to 1.
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
        is_kept = self._is_calibrated_for(self.template, self.classes or ())
        earlier = self.calibration if is_kept and not (temperature or weights) else None
        is_for_unknown = unknown is not None and threshold is precision is None
        score: ThresholdScore = "in_distribution" if is_for_unknown else "confidence"
        if earlier is not None and all(rule is None for rule in (threshold, coverage, precision, unknown)):
            threshold, unknown_label = earlier.threshold, unknown_label or earlier.unknown_label
            score = earlier.threshold_score
        settings = CalibrationSettings(
            objective=objective,
            temperature=temperature,
            weights=weights,
            threshold=threshold,
            coverage=coverage,
            precision=precision,
            threshold_score=score,
            costs=costs,
            min_recall=min_recall,
        )
        self.check_single_label("calibrate")
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
        valset = example_list(valset, "valset")
        labels = [class_index(example, i, label_field, classes) for i, example in enumerate(valset)]
        goal = build_objective(objective, costs, min_recall, None)
        goal.check(classes, {classes[k] for k in labels}, "valset", options=len(classes))
        images = {"valset": [example.get("image") for example in valset]}
        if unknown is not None:
            listed = image_list(unknown, "unknown")
            images["unknown"] = [each.get("image") if isinstance(each, dspy.Example) else each for each in listed]
        for name, pictures in images.items():
            if not pictures or any(picture is None for picture in pictures):
                raise DataError(f"{name} must be a list of examples with an image; pass dspy.Example(image=...)")
        known, encoded = self._logits_of(images["valset"], skip_unreadable)
        others = None if unknown is None else self._logits_of(images["unknown"], skip_unreadable)[0]
        scaling = self.scaling_of(self.template, classes)
        report = calibrate_logits(known, np.array(labels)[list(encoded.kept)], others, classes, settings, scaling)
        remedy = "confidences on new images may also be too high: calibrate on other images to check"
        report = replace(report, chose_template=self.share_that_chose(encoded.keys, remedy))
        calibrated: ClipClassifier = self.deepcopy()
        calibration = Calibration(template, report.temperature, report.threshold, unknown_label, report.threshold_score)
        calibrated._set_calibration(calibration, self._weights if is_kept and not weights else report.weights)
        calibrated.calibration_report = report
        return calibrated

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
            model: as for the class; the file's own model if None. If its weights differ from those of the saved model,
                class weights and calibration are dropped with a warning; it is loaded immediately to compare them.
            pretrained: as for the class; requires `model`. None is the default of the class.
            device: as for the class.
            allow_download: download the model that the file names if it is not on this machine, without your hub
                token. A model that is passed as `model` is downloaded in any case.

        Raises:
            ProgramFileError: the file is missing, truncated, or of another kind.
            ModelError: on first use, if the file names a model that is not available and may not be downloaded; at once
                for `model`, if the program is calibrated.

        Warns:
            UserWarning: the weights of `model` are not those that the program was saved with.
        """
        state = read_state(path)
        if model is None:
            if pretrained is not None:
                hint = Hint("pass {model} too", model=...)
                raise ModelError("must be None without a model", argument="pretrained", value=pretrained, hint=hint)
            classifier = cls(**saved_model(state, os.fspath(path)), device=device)
            downloads: Downloads = "anonymous" if allow_download else "refused"
            classifier._spec = replace(classifier._spec, downloads=downloads)
        else:
            classifier = cls(model=model, pretrained=pretrained or DEFAULT_PRETRAINED, device=device)
        apply_state(classifier, state, path)
        if model is not None and classifier.is_calibrated:
            _ = classifier.backbone  # a calibration for another model is dropped here, not later
        return classifier

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
        allow_download: bool = False,
    ) -> "ClipClassifier":
        """Return a classifier from a repository of the Hugging Face Hub that `push_to_hub` wrote.

        Only `best.json` is downloaded, into the Hub cache. It contains no code.

        Args:
            name: `user/name`, or a folder on this machine with `best.json` in it.
            revision: branch, tag, or commit; the main branch if None.
            token: token for a private repository; the one of this machine if None.
            model: as for `from_file`.
            pretrained: as for `from_file`.
            device: as for `from_file`.
            allow_download: as for `from_file`: download also the CLIP that the program names, without your token.

        Raises:
            ProgramFileError: the Hub does not answer, has no such program, or refuses; a revision is passed with a
                folder of this machine; or as for `from_file`.
            ModelError: as for `from_file`.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ClipClassifier(["cat", "dog"], model="demo").save(f"{folder}/best.json")
        ...     ClipClassifier.from_pretrained(folder).classes
        ('cat', 'dog')
        """
        place = os.fspath(name) if isinstance(name, os.PathLike) else name
        if isinstance(place, str) and os.path.exists(place):  # noqa: PTH110  # that of `Path` raises for a long name
            if revision is not None:
                condition, hint = f"None for {place!r} on this machine", "omit it, or rename the file or folder"
                raise ProgramFileError(f"must be {condition}", argument="revision", value=revision, hint=hint)
            path = Path(place) / PROGRAM_FILE if Path(place).is_dir() else Path(place)
        else:
            from ipo_dspy.hub.repository import check_repository_name, fetch_program

            check_repository_name(place)
            path = fetch_program(place, revision=revision, token=token)
        return cls.from_file(path, model=model, pretrained=pretrained, device=device, allow_download=allow_download)

    def _classes_for(self, inputs: dict[str, Any]) -> tuple[str, ...]:
        classes = inputs.get("classes")
        if classes is not None:
            names = check_classes(classes, least=self.least_classes)
            check_distinct(names, self.texts_of(names))
            return names
        if self.classes is None:
            raise DataError("no class names; pass them, e.g. classifier(image=..., classes=['cat', 'dog'])")
        return self.classes

    def _question(self, inputs: dict[str, Any]) -> Question | None:
        """Check the inputs of one call; return None and log a warning if the instructions are not a template."""
        classes = self._classes_for(inputs)
        if inputs.get("image") is None:
            raise ImageError("no image; pass one, e.g. classifier(image=dspy.Image.from_path('x.jpg'))")
        try:
            return Question(inputs["image"], classes, self.template)
        except TemplateError as error:
            logger.warning("prediction is None: %s", error)
            return None

    def _answer(self, image_features: "Tensor", question: Question) -> "tuple[Tensor, float | None]":
        """Return the probabilities [C] of the classes for one image with features [1, D], before class weights.

        The number is its in-distribution score, if the threshold is for that.
        """
        if self.multi_label:
            return self.probabilities(image_features, question.template, question.classes)[0], None
        logits, score = self._logits(image_features, question.template, question.classes), None
        if (calibration := self._calibration_for(question.template, question.classes)) is not None:
            if calibration.threshold_score == "in_distribution":
                score = float(in_distribution_scores(logits.double().cpu().numpy())[0])
            logits = logits / calibration.temperature
        return logits[0].softmax(dim=0), score

    def _finish(
        self,
        inputs: dict[str, Any],
        question: Question | None = None,
        row: "Tensor | None" = None,
        score: float | None = None,
    ) -> "Classification":
        """Build the prediction and record it in the trace like every DSPy predictor (GEPA reads it).

        Args:
            inputs: inputs of the call.
            question: the checked inputs; None if the instructions are not a template.
            row: probabilities [C].
            score: what is compared with the threshold; the confidence if None.
        """
        classes, shares = ((), []) if question is None or row is None else (question.classes, row.tolist())
        calibration: Calibration | None = None
        weights: Mapping[str, float] = {}
        if classes and classes == self.classes and not self.multi_label:
            record_evidence(self, "label", classes, shares)
        if question is not None and self._is_calibrated_for(question.template, classes):
            calibration, weights = self.calibration, self._weights
        most_probable = max(range(len(classes)), key=shares.__getitem__, default=0)
        weighted = apply_weights(classes, shares, weights) if weights else shares
        # As in DSPy, ties prefer the most probable class before weights.
        ranked = heapq.nlargest(self.top_k, range(len(classes)), key=lambda i: (weighted[i], i == most_probable))
        scores = {classes[i]: weighted[i] for i in ranked}
        label, confidence = next(iter(scores.items()), (None, 0.0))
        if calibration is not None and (confidence if score is None else score) < calibration.threshold:
            label = calibration.unknown_label
        answer: dict[str, Any] = {"confidence": confidence, "scores": scores}
        if self.multi_label:
            present = [i for i, share in enumerate(shares) if share >= PRESENT]
            answer["labels"] = [classes[i] for i in sorted(present, key=lambda i: -shares[i])]
            label = label if present else None
        answer["label"] = label  # the last field, which `dspy.majority` counts
        prediction = self._forward_postprocess([answer], self.signature, **inputs)
        # DSPy has built a plain one, and may have put it into the trace.
        prediction.__class__ = MultiLabelClassification if self.multi_label else Classification
        prediction._classes, prediction._shares = classes, array("d", weighted)
        return cast("Classification", prediction)
