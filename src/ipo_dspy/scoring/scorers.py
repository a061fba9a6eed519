"""Scorers turn templates into scores, behind one Protocol.

The search does not know whether a scorer is one model on this machine or many on a cluster. A scorer keeps the image
features, so scoring a template costs one pass of the text tower.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.cpu_threads import limited_to, threads_for
from ipo_dspy.clip.feature_dtype import to_scoring_device, to_storage_dtype
from ipo_dspy.clip.template_tokens import ClassTexts, TemplateTokens, template_tokens
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import DataError, Hint
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.metrics import Tally, predict, tally_pairs, tally_templates
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


class Scorer(Protocol):
    """Checks and scores templates against a fixed set of images."""

    def check(self, template: Template) -> TemplateTokens:
        """Return identity and length of a template, which are known before it is scored.

        Raises:
            TemplateError: filled with the longest class name, it exceeds the context length.
        """

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return one score per template, in order, over all images."""

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates over all images."""


class ImageScorer(Scorer, Protocol):
    """A scorer that can also predict the class of each image."""

    def predict(self, template: Template) -> list[str]:
        """Return the predicted class of each image."""


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Encoded images and the scorer over them.

    Attributes:
        scorer: scores templates on these images.
        kept: index of the source of each encoded image.
        keys: content hash of each encoded image.
        skipped: index and error message of each source that could not be read.
    """

    scorer: ImageScorer
    kept: tuple[int, ...]
    keys: tuple[str, ...]
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class RemoteImageSet:
    """A scorer over more images than fit on this machine.

    Attributes:
        scorer: scores templates on these images.
        images: number of images.
        fingerprint: identity of the image set.
        skipped: error message of each image that could not be read.
    """

    scorer: Scorer
    images: int
    fingerprint: str
    skipped: tuple[str, ...] = ()


class ScoringBackend(Protocol):
    """Encodes and scores images outside this process; see `RayScorer`."""

    def check(self, backbone: Backbone) -> None:
        """Check that the backend is reachable and has the model.

        Raises:
            InputError: the backend does not answer, or cannot load the model.
        """

    def hold(
        self,
        backbone: Backbone,
        images: Sequence[Any],
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        texts: ClassTexts | None,
        choices: Sequence[tuple[str, ...]] | None,
        skip_unreadable: bool,
        allow_url: bool,
        progress: Callable[[int, int], None],
    ) -> EncodedSet:
        """Encode images there; see `encode_images` and `ClipScorer` for the arguments.

        Raises:
            ImageError: an image that cannot be read, unless `skip_unreadable`.
            DataError: none can be.
        """

    def wide(
        self,
        backbone: Backbone,
        classes: Sequence[str] | None,
        *,
        texts: ClassTexts | None,
        skip_unreadable: bool,
        progress: Callable[[int, int], None],
    ) -> RemoteImageSet | None:
        """Return the image set to score candidates on instead of the training set, if the backend has one.

        Raises:
            InputError: it has one, but `classes` is None because candidate classes differ from image to image.
        """


class ClipScorer:
    """Scores templates with one CLIP model on this machine, in blocks; see `scoring.metrics`.

    Large image sets are stored in float16, and on the model's GPU if they fit; see `clip.feature_dtype`.

    Args:
        backbone: the loaded model.
        image_features: [N, D] normalized.
        labels: N class names.
        classes: C class names.
        texts: what is filled into templates for each class; the class names by default.
        choices: candidate classes of each image, if they differ from image to image.
    """

    def __init__(
        self,
        backbone: Backbone,
        image_features: Tensor,
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        texts: ClassTexts | None = None,
        choices: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.classes = tuple(classes)
        self.texts = tuple(texts or classes)
        self.labels = tuple(labels)
        self.image_features = to_storage_dtype(image_features)
        index = {name: i for i, name in enumerate(self.classes)}
        for name in itertools.chain(self.labels, *{tuple(names) for names in choices or ()}):
            if name not in index:
                raise DataError(
                    f"label {name!r} is not among the {len(index)} classes ({', '.join(self.classes[:5])}, ...)",
                    hint=Hint("correct the label, or add it: {classes}", classes=...),
                )
        self._targets = torch.tensor([index[label] for label in self.labels], dtype=torch.long)  # [N]
        self._allowed = None if choices is None else CandidateClasses.of(choices, index)
        # Other accelerators lack double precision, in which losses are summed.
        self._device = backbone.device if backbone.device.type == "cuda" else torch.device("cpu")
        self._features = to_scoring_device(self.image_features, self._device)

    def check(self, template: Template) -> TemplateTokens:
        """Return token key and length; raises TemplateError if the context is too short."""
        return template_tokens(self.backbone, template, self.texts)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return loss and accuracy of each template over all images."""
        return [tally.score for tally in self.tally(templates)]

    def tally(self, templates: Sequence[Template]) -> list[Tally]:
        """Return the tally of each template over all images; tallies of disjoint image sets add up."""
        with self._on_features(templates) as features:
            return tally_templates(self._features, self._targets, features, **self._logits)

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates; those of disjoint image sets add up."""
        with self._on_features(templates) as features:
            return tally_pairs(self._features, self._targets, features, **self._logits)

    def predict(self, template: Template) -> list[str]:
        """Return the predicted class of each image."""
        return [name for name, _ in self.predict_with_probability(template)]

    def predict_with_probability(self, template: Template) -> list[tuple[str, float]]:
        """Return the predicted class of each image and its probability."""
        with self._on_features([template]) as features:
            predicted, probabilities = predict(self._features, features[0], **self._logits)
        names = [self.classes[i] for i in predicted.tolist()]
        return list(zip(names, probabilities.tolist(), strict=True))

    @contextlib.contextmanager
    def _on_features(self, templates: Sequence[Template]) -> Iterator[Tensor]:
        """Yield the class features of templates, [T, C, D], with as many threads as are useful for them."""
        features = class_features(self.backbone, templates, self.texts).to(self._device)
        with limited_to(threads_for(len(self._features), *features[0].shape)):
            yield features

    @property
    def _logits(self) -> dict[str, Any]:
        scale, bias = self.backbone.logit_scale, self.backbone.logit_bias
        return {"logit_scale": scale, "logit_bias": bias, "allowed": self._allowed}
