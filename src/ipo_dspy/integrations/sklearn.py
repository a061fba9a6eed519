"""A scikit-learn estimator that searches for a prompt template in `fit`, for pipelines, grid searches, and scores.

A fitted estimator contains only text: the template, and the labels with their texts. CLIP is loaded from the
parameters, once per process, so an estimator is small to pickle and safe to send to other processes.

Letters: N images, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import dspy
import numpy as np
from numpy.typing import NDArray

from ipo_dspy.argument_checks import check_class_names, invalid
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.classifier.image_lists import image_list
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.optimizer import IPO
from ipo_dspy.template import DEFAULT_TEMPLATE

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    message = "scikit-learn 1.6 or later must be installed for ClipEstimator; run pip install -U scikit-learn"
    raise InputError(message) from error

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone


class ClipEstimator(ClassifierMixin, BaseEstimator):
    """CLIP with a template that `fit` searches for, as a scikit-learn estimator.

    `X` is a list of images as `ClipClassifier.predict` takes them: paths, PIL images, bytes, an array [N, H, W, 3], an
    array of paths. Labels `y` are texts that CLIP reads, unless `class_texts` has others.

    Args:
        model: as for `ClipClassifier`.
        pretrained: as for `ClipClassifier`.
        device: as for `ClipClassifier`.
        template: the start template.
        class_texts: what CLIP reads for a label, if not the label itself: `{0: "cat", 1: ["dog", "puppy"]}`.
        ipo: arguments of `IPO`, e.g. `{"steps": 20, "proposer": "evolution"}`; with `{"steps": 0}` the start
            template is kept, for plain zero-shot CLIP.
        image_shape: shape of an image if `X` is a table [N, features] of flattened gray or RGB pixels, as in the data
            sets of scikit-learn: (8, 8) for its digits. Numbers from 0 to 1, or as `ClipClassifier` reads arrays.

    Attributes:
        classes_: labels [C], sorted.
        template_: the template that was found.
        class_texts_: texts of each label, in order of `classes_`.
        n_features_in_: number of pixels, with `image_shape`.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=2)
    >>> images, labels = [example.image for example in task.trainset], task.trainset.labels()
    >>> estimator = ClipEstimator(model="demo", ipo={"steps": 2, "proposer": "evolution"}).fit(images, labels)
    >>> bool(estimator.score(images, labels) >= np.mean(task.program.predict(images) == labels))
    True
    """

    def __init__(
        self,
        *,
        model: "str | Backbone" = DEFAULT_MODEL,
        pretrained: str | None = DEFAULT_PRETRAINED,
        device: str = "auto",
        template: str = str(DEFAULT_TEMPLATE),
        class_texts: Mapping[Any, str | Sequence[str]] | None = None,
        ipo: Mapping[str, Any] | None = None,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.model = model
        self.pretrained = pretrained
        self.device = device
        self.template = template
        self.class_texts = class_texts
        self.ipo = ipo
        self.image_shape = image_shape

    @property
    def classifier_(self) -> ClipClassifier:
        """The fitted classifier, e.g. to `save`, `calibrate` or `export` it."""
        check_is_fitted(self)
        texts = dict(zip(_names(self.classes_), self.class_texts_, strict=True))
        return self._classifier(texts, self.template_)

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - the name in scikit-learn
        """Search for a template on labeled images.

        Raises:
            DataError: images or labels that cannot be used.
            ModelError, InputError: parameters that `ClipClassifier` or `IPO` do not take, or texts of other labels.
        """
        if self.image_shape is None:
            if getattr(X, "ndim", 1) == 2:
                condition = "the shape of an image if X is a table of pixels"
                raise invalid("image_shape", condition, None, "for example (28, 28)")
            images, y = image_list(X, "X"), column_or_1d(y, warn=True)
            check_consistent_length(images, y)
        else:
            table, y = validate_data(self, X, y)
            images = self._images(table)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        names = _names(self.classes_)
        if len(names) < 2:
            raise DataError(f"y must have at least two classes, got one class, {names[0]!r}; add images of another")
        given = self.class_texts or {}
        check_class_names("class_texts", given, self.classes_.tolist())
        texts = {name: given.get(label, name) for name, label in zip(names, self.classes_.tolist(), strict=True)}
        examples = [
            dspy.Example(image=image, label=names[target]).with_inputs("image")
            for image, target in zip(images, targets, strict=True)
        ]
        best = IPO(**(self.ipo or {})).compile(self._classifier(texts, self.template), examples)
        self.template_ = str(best.template)
        self.class_texts_ = list(best.class_texts.values())
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most probable label of each image, [N]."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probabilities of each image, [N, C], in order of `classes_`."""
        classifier = self.classifier_
        if self.image_shape is None:
            return classifier.predict_proba(X)
        return classifier.predict_proba(self._images(validate_data(self, X, reset=False)))

    def _classifier(self, texts: Mapping[str, str | Sequence[str]], template: str) -> ClipClassifier:
        return ClipClassifier(
            texts, template=template, model=self.model, pretrained=self.pretrained, device=self.device
        )

    def _images(self, table: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            return list(table.reshape(len(table), *(self.image_shape or ())))
        except ValueError as error:
            fits = f"the {table.shape[1]} features of X"
            raise InputError(f"image_shape must fit {fits}, got {self.image_shape}; for example (28, 28)") from error

    def __sklearn_tags__(self) -> Any:
        """Return the tags of a classifier that finds no rule in arbitrary numbers, for the checks of scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


def _names(labels: NDArray[Any]) -> list[str]:
    return [str(label) for label in labels.tolist()]
