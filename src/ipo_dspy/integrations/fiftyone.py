"""A classifier as a model of FiftyOne, for `dataset.apply_model` and `dataset.compute_embeddings`.

FiftyOne's own CLIP supports one prompt that ends in the class name. Here a program supplies the class features: its
template may continue after the class name or be an ensemble, classes have texts, and a calibration is applied.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.clip.model_spec import ModelSpec
from ipo_dspy.clip.weights import Downloads
from ipo_dspy.errors import InputError, ModelError
from ipo_dspy.export.npz import read_npz
from ipo_dspy.export.weights import ClassWeights
from ipo_dspy.scoring.label_sets import PRESENT

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.clip.backbone import Backbone


class ImageModel:
    """The methods that FiftyOne calls; `fiftyone_model` makes an instance that is also a FiftyOne `Model`.

    Images are arrays [H, W, 3] of uint8, which FiftyOne reads.
    """

    media_type = "image"
    has_embeddings = True
    ragged_batches = False  # images of different sizes may come together: they are resized here
    transforms = None
    preprocess = True
    config = None

    def __init__(self, weights: ClassWeights, backbone: "Backbone") -> None:
        self.weights, self.backbone = weights, backbone
        self._last: NDArray[np.float32] | None = None

    def predict(self, arg: Any) -> Any:
        """Return the label of an image as a `Classification`; see `predict_all`."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[Any]) -> list[Any]:
        """Return a `Classification` for each image, None below the threshold of a calibration without an unknown label.

        With several labels it is `Classifications`, of all labels with a probability of at least 0.5.
        """
        from fiftyone import Classification, Classifications

        features = self.embed_all(args)
        probabilities = self.weights.probabilities(features)
        if self.weights.multi_label:
            several = [
                [(self.weights.labels[i], row[i]) for i in np.flatnonzero(row >= PRESENT)] for row in probabilities
            ]
            return [
                Classifications(classifications=[Classification(label=n, confidence=float(p)) for n, p in pairs])
                for pairs in several
            ]
        labels = self.weights.labels_of(probabilities, self.weights.scores(features))
        return [
            None if label is None else Classification(label=label, confidence=float(p))
            for label, p in zip(labels, probabilities.max(axis=1), strict=True)
        ]

    def embed(self, arg: Any) -> NDArray[np.float32]:
        """Return the normalized features [D] of an image."""
        return np.asarray(self.embed_all([arg])[0])

    def embed_all(self, args: Sequence[Any]) -> NDArray[np.float32]:
        """Return the normalized features [N, D] of images."""
        from ipo_dspy.clip.image_features import encode_images

        self._last = encode_images(self.backbone, list(args), on_disk=False).features.float().numpy()
        return self._last

    def get_embeddings(self) -> NDArray[np.float32] | None:
        """Return the features of the last images; None before the first."""
        return self._last


def fiftyone_model(classifier: "ClipClassifier") -> Any:
    """Return a classifier as a FiftyOne model.

    ::

        dataset.apply_model(fiftyone_model(best), label_field="clip")
        dataset.compute_embeddings(fiftyone_model(best), embeddings_field="features")

    Later changes of the classifier do not change the model.

    Raises:
        InputError: FiftyOne is not installed.
        DataError, TemplateError, ModelError: as for `ClipClassifier.class_weights`.
    """
    return _as_model(classifier.class_weights(), classifier.backbone)


def load_model(path: str | os.PathLike[str], *, device: str = "auto", allow_download: bool = False) -> Any:
    """Return the FiftyOne model of the weights in a folder that `export(..., format="fiftyone")` wrote.

    Args:
        path: the file of weights.
        device: as for `ClipClassifier`.
        allow_download: as for `ClipClassifier.from_file`.

    Raises:
        InputError: FiftyOne is not installed.
        ProgramFileError: the file cannot be read.
        ModelError: the CLIP is not available, or has other weights than those that the classes were encoded with.
    """
    from ipo_dspy.clip.loading import load_backbone

    weights = read_npz(path)
    model = weights.model
    downloads: Downloads = "anonymous" if allow_download else "refused"
    spec = ModelSpec(model["model"], model["pretrained"] or None, device, model["dtype"], downloads)
    backbone = load_backbone(**spec.arguments)
    if backbone.fingerprint != model["fingerprint"]:
        fact = f"{model['model']!r} has other weights now ({backbone.fingerprint}, not {model['fingerprint']})"
        raise ModelError(f"{fact}; export the program again")
    return _as_model(weights, backbone)


def _as_model(weights: ClassWeights, backbone: "Backbone") -> Any:
    try:
        from fiftyone.core.models import EmbeddingsMixin, Model
    except ImportError as error:
        raise InputError("FiftyOne must be installed to make a model for it; run pip install fiftyone") from error
    return type("ClipModel", (ImageModel, EmbeddingsMixin, Model), {})(weights, backbone)
