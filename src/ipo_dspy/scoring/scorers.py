"""Scorers: what turns templates into scores, behind one Protocol.

The search only asks a scorer; whether that is one model on this machine or many on a cluster is not its
concern. A scorer holds the images' features, so a candidate costs one pass of the text tower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ipo_dspy.clip.cpu_threads import limited_to, threads_for
from ipo_dspy.clip.feature_dtype import to_scoring_device, to_storage_dtype
from ipo_dspy.clip.text_features import TemplateTokens, class_features, template_tokens
from ipo_dspy.errors import DataError, Hint
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.metrics import Tally, count_correct_by_template, predict
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone


class TemplateInfo(Protocol):
    """What a scorer knows of a template before it is scored."""

    @property
    def key(self) -> str:
        """Equal for templates that the model cannot tell apart."""

    @property
    def longest(self) -> int:
        """Tokens of the longest filled prompt, end marks included."""


class Scorer(Protocol):
    """Checks and scores templates against a fixed set of images."""

    def check(self, template: Template) -> TemplateInfo:
        """Identity and length of a template.

        Raises:
            TemplateError: filled with the longest class name it does not fit the model.
        """

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """One score a template, in order, over all images."""


class ImageScorer(Scorer, Protocol):
    """A scorer that can also say which class it gives to each image."""

    def predict(self, template: Template) -> list[str]:
        """The class given to each image."""


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Images that a scorer now holds the features of.

    Attributes:
        scorer: over these images.
        kept: for each of its images, the index of its source.
        keys: for each, a hash of its content.
        skipped: index and message of each source that could not be read.
    """

    scorer: ImageScorer
    kept: tuple[int, ...]
    keys: tuple[str, ...]
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class RemoteImageSet:
    """A scorer over more images than can be listed.

    Attributes:
        scorer: over these images.
        images: how many they are.
        fingerprint: which they are.
        skipped: what is wrong with each that could not be read.
    """

    scorer: Scorer
    images: int
    fingerprint: str
    skipped: tuple[str, ...] = ()


class ScoringBackend(Protocol):
    """Where images are encoded and scored, other than in this process; `RayScorer` is one."""

    def check(self, backbone: "Backbone") -> None:
        """See that the work can begin there with this model.

        Raises:
            InputError: nobody answers there, or the model is not there.
        """

    def hold(
        self,
        backbone: "Backbone",
        images: Sequence[Any],
        labels: Sequence[str],
        classes: Sequence[str],
        *,
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
        backbone: "Backbone",
        classes: Sequence[str] | None,
        *,
        skip_unreadable: bool,
        progress: Callable[[int, int], None],
    ) -> RemoteImageSet | None:
        """The images that candidates are to be scored on instead of the training set, if there are such.

        Raises:
            InputError: there are, and `classes` is None, for they differ from image to image.
        """


class ClipScorer:
    """Scores templates with one CLIP model on this machine, block by block: see `metric`.

    Many images are kept in float16, and on the model's GPU where they fit: see `clip.feature_dtype`.

    Args:
        backbone: the loaded model.
        image_features: [N, D] normalised.
        labels: N class names.
        classes: C class names; the text side of the classifier.
        choices: for each image the classes that it may be given, where they differ from image to image.
    """

    def __init__(
        self,
        backbone: "Backbone",
        image_features: "Tensor",
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        choices: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.classes = tuple(classes)
        self.labels = tuple(labels)
        self.image_features = to_storage_dtype(image_features)
        index = {name: i for i, name in enumerate(self.classes)}
        self._targets = torch.tensor([_known(label, index) for label in self.labels], dtype=torch.long)  # [N]
        self._allowed = None if choices is None else _allowed(choices, index)
        # Scoring on other accelerators would lack double precision, in which losses are added.
        self._device = backbone.device if backbone.device.type == "cuda" else torch.device("cpu")
        self._near = to_scoring_device(self.image_features, self._device)

    def check(self, template: Template) -> TemplateTokens:
        """Token key and length; raises TemplateError where the context is too short."""
        return template_tokens(self.backbone, template, self.classes)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Loss and accuracy of each template over all images."""
        return [tally.score for tally in self.tally(templates)]

    def tally(self, templates: Sequence[Template]) -> list[Tally]:
        """What each template comes to on all images; tallies of several scorers' images add up."""
        features = class_features(self.backbone, templates, self.classes).to(self._device)  # [T, C, D]
        with limited_to(threads_for(len(self._near), *features[0].shape)):
            return count_correct_by_template(
                self._near,
                self._targets,
                features,
                logit_scale=self.backbone.logit_scale,
                logit_bias=self.backbone.logit_bias,
                allowed=self._allowed,
            )

    def predict(self, template: Template) -> list[str]:
        """The class given to each image."""
        features = class_features(self.backbone, [template], self.classes)[0].to(self._device)  # [C, D]
        with limited_to(threads_for(len(self._near), *features.shape)):
            given = predict(
                self._near,
                features,
                logit_scale=self.backbone.logit_scale,
                logit_bias=self.backbone.logit_bias,
                allowed=self._allowed,
            )
        return [self.classes[i] for i in given.tolist()]


def _known(label: str, index: dict[str, int]) -> int:
    if label not in index:
        raise DataError(
            f"label {label!r} is not among the {len(index)} classes ({', '.join(list(index)[:5])}, ...)",
            hint=Hint("correct the label, or add it: {classes}", classes=...),
        )
    return index[label]


def _allowed(choices: Sequence[Sequence[str]], index: dict[str, int]) -> CandidateClasses:
    for names in {tuple(names) for names in choices}:
        for name in names:
            _known(name, index)
    return CandidateClasses.of(choices, index)
