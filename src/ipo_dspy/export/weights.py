"""`ClassWeights`: a classifier as plain numbers, with which any runtime classifies image features.

The text tower is needed once, for the class embeddings. Then a classifier is an image tower and these numbers: its
labels are the arg max of a matrix product. All export formats are built from it, and it needs only numpy.

Letters: N images, C classes, D width of the features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipo_dspy.argument_checks import invalid
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.calibration import ThresholdScore
from ipo_dspy.scoring.calibration_fit import Scaling, log_softmax
from ipo_dspy.scoring.label_sets import PRESENT
from ipo_dspy.scoring.thresholds import in_distribution_scores
from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ClassWeights:
    """A classifier without its image tower; `ClipClassifier.class_weights` makes it.

    Attributes:
        labels: the C labels.
        class_embeddings: [C, D] float32, normalized; the features of the classes under the template.
        logit_scale: factor from cosine similarities to logits.
        logit_bias: added to the logits.
        temperature: divides the logits.
        class_weights: [C] float64; factors of the probabilities, 1 without calibration.
        threshold: an image with a lower score belongs to none of the classes; 0 without a threshold.
        threshold_score: the score: `confidence` or `in_distribution`, see `scores`.
        unknown_label: label of such an image.
        multi_label: every class has its own probability, and an image has several labels or none.
        template: lines of the prompt template, with `<CLASS>`.
        class_texts: texts of each class that are filled into the lines.
        preprocessing: how images are prepared for the image tower; see `Backbone.preprocessing`.
            None if that cannot be described.
        model: name, weights, fingerprint, and number format of the model, as saved programs record them.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=1)
    >>> weights = task.program.class_weights()
    >>> weights.class_embeddings.shape
    (25, 128)
    >>> features = weights.class_embeddings  # of images that look just like the classes
    >>> weights.labels_of(weights.probabilities(features), weights.scores(features)) == list(task.classes)
    True
    """

    labels: tuple[str, ...]
    class_embeddings: NDArray[np.float32]
    logit_scale: float
    logit_bias: float
    temperature: float
    class_weights: NDArray[np.float64]
    threshold: float
    unknown_label: str | None
    multi_label: bool
    template: tuple[str, ...]
    class_texts: tuple[tuple[str, ...], ...]
    preprocessing: Mapping[str, Any] | None
    model: Mapping[str, str]
    threshold_score: ThresholdScore = "confidence"

    @property
    def prompts(self) -> tuple[tuple[str, ...], ...]:
        """The prompts of each class: its embedding is the normalized mean of their normalized text features."""
        template = Template(self.template)
        return tuple(tuple(prompt for text in texts for prompt in template.fill(text)) for texts in self.class_texts)

    @property
    def can_change_labels(self) -> bool:
        """True if a calibration has class weights or a threshold; a temperature alone changes no label."""
        return self.threshold != 0 or bool((self.class_weights != 1).any())

    def probabilities(self, image_features: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities [N, C] of image features [N, D] of the same model, normalized or not.

        They are those of the classifier, after temperature and class weights, up to the rounding of its logits in
        float32. With `multi_label` they are independent.

        Raises:
            InputError: features of another shape.
        """
        scaling = Scaling(self.temperature, np.log(self.class_weights))
        logits = scaling.apply(self._logits(image_features))
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)) if self.multi_label else np.exp(log_softmax(logits)))

    def scores(self, image_features: ArrayLike) -> NDArray[np.float64]:
        """Return the scores [N] of image features [N, D] that are compared with the threshold; see `threshold_score`.

        They are the highest probabilities, after temperature and class weights, or the model's highest logits plus the
        log-odds of these, before calibration.

        Raises:
            InputError: features of another shape.
        """
        if self.threshold_score == "confidence":
            return np.asarray(self.probabilities(image_features).max(axis=1))
        return in_distribution_scores(self._logits(image_features))

    def _logits(self, image_features: ArrayLike) -> NDArray[np.float64]:
        """Return the logits before temperature and class weights, [N, C]."""
        features = np.asarray(image_features, dtype=np.float64)
        width = self.class_embeddings.shape[1]
        if features.ndim != 2 or features.shape[1] != width:
            shape = "x".join(map(str, features.shape)) or "a number"
            raise invalid("image_features", f"[N, {width}]", shape, "pass one row of features for each image")
        norms = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        similarities = (features / norms) @ self.class_embeddings.T  # [N, C]
        return np.asarray(self.logit_scale * similarities + self.logit_bias)

    def labels_of(
        self, probabilities: ArrayLike, scores: ArrayLike | None = None
    ) -> list[str | None] | list[list[str]]:
        """Return the label of each row of probabilities [N, C]; of several classes with the highest, the first.

        It is `unknown_label` if the score, of those that `scores` returns, [N], is below the threshold. With
        `multi_label` it is a list of labels, the most probable first.

        Raises:
            InputError: no scores, and the threshold is not for the confidence.
        """
        rows = np.asarray(probabilities)
        if self.multi_label:
            orders = np.argsort(-rows, axis=1, kind="stable")
            return [
                [self.labels[i] for i in order if row[i] >= PRESENT] for order, row in zip(orders, rows, strict=True)
            ]
        if scores is None and self.threshold_score != "confidence":
            raise InputError(
                "must be given for this threshold", argument="scores", hint="pass weights.scores(features)"
            )
        best = zip(rows.argmax(axis=1), rows.max(axis=1) if scores is None else np.asarray(scores), strict=True)
        return [self.unknown_label if score < self.threshold else self.labels[i] for i, score in best]

    def answers(self, probabilities: ArrayLike, scores: ArrayLike, top_k: int) -> list[dict[str, Any]]:
        """Return the answer of each row of probabilities [N, C], with the fields of `ipo-dspy classify --json`.

        The scores [N] are those that `scores` returns. The fields are `label`, `confidence`, the `scores` of the
        `top_k` classes, and `labels` with `multi_label`.
        """
        rows, answers = np.asarray(probabilities), []
        for row, label in zip(rows, self.labels_of(rows, scores), strict=True):
            several = {"labels": label} if isinstance(label, list) else {}
            one = next(iter(label), None) if isinstance(label, list) else label
            ranked = np.argsort(-row, kind="stable")[:top_k]
            highest = {self.labels[i]: float(row[i]) for i in ranked}
            answers.append({**several, "label": one, "confidence": float(row.max()), "scores": highest})
        return answers

    def plain(self) -> dict[str, Any]:
        """Return all fields but the two arrays as values that `json.dumps` takes."""
        return {
            "labels": list(self.labels),
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "threshold_score": self.threshold_score,
            "unknown_label": self.unknown_label,
            "multi_label": self.multi_label,
            "template": list(self.template),
            "class_texts": [list(texts) for texts in self.class_texts],
            "preprocessing": None if self.preprocessing is None else dict(self.preprocessing),
            "model": dict(self.model),
        }

    def __repr__(self) -> str:
        classes, width = self.class_embeddings.shape
        first, *others = self.template
        more = f" and {len(others)} more lines" if others else ""
        return f"ClassWeights({classes} classes, width {width}, {first!r}{more}, {self.model['model']!r})"
