"""Scorers turn templates into scores, behind one Protocol.

The search does not know whether a scorer is one model on this machine or many on a cluster. A scorer keeps the image
features, so scoring a template costs one pass of the text tower.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.cpu_threads import limited_to, threads_for
from ipo_dspy.clip.feature_dtype import to_scoring_device, to_storage_dtype
from ipo_dspy.clip.template_tokens import ClassTexts, TemplateTokens, template_tokens
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import DataError, Hint
from ipo_dspy.scoring.calibration_fit import Scaling
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.class_columns import ColumnTally, tally_column
from ipo_dspy.scoring.class_objectives import ClassObjective, ImageMetric, OutcomeRule
from ipo_dspy.scoring.comparison import Floats, PairTally
from ipo_dspy.scoring.metrics import outcome_tables, predict, probabilities, tally_pairs, tally_templates
from ipo_dspy.scoring.objectives import DEFAULT, Objective
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.tally import Tally
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

    def tally(self, templates: Sequence[Template], *, by_class: bool = False) -> list[Tally]:
        """Return the tally of each template over all images, with counts by class if they are asked for."""

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
        objective: Objective,
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
        objective: Objective,
    ) -> RemoteImageSet | None:
        """Return the image set to score candidates on instead of the training set, if the backend has one.

        Raises:
            InputError: it has one, but `classes` is None because candidate classes differ from image to image.
        """


class LocalScorer:
    """The features of images and the texts of classes, for a scorer with one CLIP model on this machine.

    Large image sets are stored in float16, and on the model's GPU if they fit; see `clip.feature_dtype`.
    """

    def __init__(
        self,
        backbone: Backbone,
        image_features: Tensor,
        classes: Sequence[str],
        texts: ClassTexts,
        objective: Objective,
    ) -> None:
        self.backbone, self.classes, self.texts = backbone, tuple(classes), tuple(texts)
        self.objective = ClassObjective.of(objective, self.classes)
        self.image_features = to_storage_dtype(image_features)
        # Other accelerators lack double precision, in which losses are summed.
        self._device = backbone.device if backbone.device.type == "cuda" else torch.device("cpu")
        self._features = to_scoring_device(self.image_features, self._device)

    def check(self, template: Template) -> TemplateTokens:
        """Return token key and length; raises TemplateError if the context is too short."""
        return template_tokens(self.backbone, template, self.texts)

    @contextlib.contextmanager
    def _on_features(self, templates: Sequence[Template]) -> Iterator[Tensor]:
        """Yield the class features of templates, [T, C, D], with as many threads as are useful for them."""
        features = class_features(self.backbone, templates, self.texts).to(self._device)
        with limited_to(threads_for(len(self._features), *features[0].shape)):
            yield features


class ClipScorer(LocalScorer):
    """Scores templates with one CLIP model on this machine, in blocks; see `scoring.metrics`.

    Args:
        backbone: the loaded model.
        image_features: [N, D] normalized.
        labels: N class names.
        classes: C class names.
        texts: what is filled into templates for each class; the class names by default.
        choices: candidate classes of each image, if they differ from image to image.
        objective: what scores are by; the accuracy by default.
        metric: the metric on these images, if the objective is one.
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
        objective: Objective = DEFAULT,
        metric: ImageMetric | None = None,
    ) -> None:
        super().__init__(backbone, image_features, classes, texts or classes, objective)
        self.labels, self._metric = tuple(labels), metric
        self._scaling: Scaling | None = None
        index = {name: i for i, name in enumerate(self.classes)}
        for name in itertools.chain(self.labels, *{tuple(names) for names in choices or ()}):
            if name not in index:
                raise DataError(
                    f"label {name!r} is not among the {len(index)} classes ({', '.join(self.classes[:5])}, ...)",
                    hint=Hint("correct the label, or add it: {classes}", classes=...),
                )
        self._targets = torch.tensor([index[label] for label in self.labels], dtype=torch.long)  # [N]
        self._allowed = None if choices is None else CandidateClasses.of(choices, index)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return the score of each template over all images."""
        with self._on_features(templates) as features:
            return self._scores(features, self._tally(features, by_class=self.objective.needs_classes))

    def tally(self, templates: Sequence[Template], *, by_class: bool = False) -> list[Tally]:
        """Return the tally of each template over all images; tallies of disjoint image sets add up."""
        with self._on_features(templates) as features:
            return self._tally(features, by_class=by_class)

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates; those of disjoint image sets add up."""
        objective = self.objective
        with self._on_features(templates) as features:
            if objective.is_default:
                return tally_pairs(self._features, self._targets, features, **self._logits)
            tallies = self._tally(features, by_class=objective.needs_classes)
            scores = tuple(self._scores(features, tallies))
            if self._metric is None:
                outcomes = objective.outcomes(tallies)
                pairs = tally_pairs(self._features, self._targets, features, outcomes=outcomes, **self._logits)
            else:
                pairs = self._metric_pairs(features, self._metric)
        return replace(pairs, unit=objective.unit, scores=scores)

    def _tally(self, features: Tensor, *, by_class: bool) -> list[Tally]:
        pairs = self.objective.pairs if by_class else None
        return tally_templates(self._features, self._targets, features, pairs=pairs, **self._logits)

    def _scores(self, features: Tensor, tallies: Sequence[Tally]) -> list[Score]:
        if self._metric is None:
            return [self.objective.score(tally) for tally in tallies]
        values = [self._metric.value(table) for table in self._probabilities(features)]
        return [self.objective.score(*pair) for pair in zip(tallies, values, strict=True)]

    def _metric_pairs(self, features: Tensor, metric: ImageMetric) -> PairTally:
        """Return the pair tally of a metric, which cannot be counted block by block."""
        rows, targets = np.arange(len(self.labels)), self._targets.numpy()
        outcomes, losses = [], []
        for table in self._probabilities(features):
            outcomes.append(metric.outcomes(table))
            losses.append(-np.log(np.maximum(table[rows, targets], np.finfo(np.float64).tiny)))
        return PairTally.of(np.array([*outcomes, *losses]).T, targets, len(self.classes))

    def _probabilities(self, features: Tensor) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities [N, C] of one template after the other."""
        return (probabilities(self._features, text, **self._logits).numpy() for text in features)

    def outcome_rule(self, templates: Sequence[Template]) -> OutcomeRule:
        """Return what the outcomes of templates are by, for `outcomes`; it depends on all images."""
        if self.objective.is_default:
            return None
        return self.objective.outcomes(self.tally(templates, by_class=self.objective.needs_classes))

    def outcomes(self, templates: Sequence[Template], rows: slice = slice(None), rule: OutcomeRule = None) -> Floats:
        """Return the outcomes of K templates on these images, [n, 2K] as in `PairTally`; correct or not by default."""
        allowed = None if self._allowed is None else replace(self._allowed, which=self._allowed.which[rows])
        with self._on_features(templates) as features:
            tables = outcome_tables(
                self._features[rows],
                self._targets[rows],
                features,
                outcomes=rule,
                **{**self._logits, "allowed": allowed},
            )
            return torch.cat([table for _, table in tables]).cpu().numpy()

    def predict(self, template: Template) -> list[str]:
        """Return the predicted class of each image."""
        return [name for name, _ in self.predict_with_probability(template)]

    def predict_with_probability(self, template: Template) -> list[tuple[str, float]]:
        """Return the predicted class of each image and its probability."""
        with self._on_features([template]) as features:
            predicted, probabilities = predict(self._features, features[0], **self._logits)
        names = [self.classes[i] for i in predicted.tolist()]
        return list(zip(names, probabilities.tolist(), strict=True))

    def text_features(self, template: Template) -> Tensor:
        """Return the features of the classes by a template, [C, D], normalized."""
        with self._on_features([template]) as features:
            return features[0]

    def on_images(self, rows: NDArray[np.int64]) -> "ClipScorer":
        """Return a scorer by accuracy over some of the images, whose features are copied."""
        images, labels = self.image_features[rows], [self.labels[row] for row in rows]
        return ClipScorer(self.backbone, images, labels, self.classes, texts=self.texts)

    def with_texts(self, texts: ClassTexts) -> "ClipScorer":
        """Return a scorer over the same images with other texts of the classes."""
        other = copy.copy(self)
        other.texts = tuple(texts)
        return other

    def tally_texts(self, template: Template, column: int, candidates: ClassTexts) -> ColumnTally:
        """Return the tally of M candidate texts for the class of a column, with the other classes as they are.

        The candidate classes must be the same for all images.
        """
        scale, bias = self.backbone.logit_scale, self.backbone.logit_bias
        with self._on_features([template]) as features:
            replaced = class_features(self.backbone, [template], candidates).to(self._device)[0]  # [M, D]
            arguments = self._features, self._targets, features[0], column, replaced
            return tally_column(*arguments, logit_scale=scale, logit_bias=bias)

    def tally_text_pairs(self, template: Template, column: int, candidates: ClassTexts) -> PairTally:
        """Return the pair tally of the present texts, which come first, and of candidates for the class of a column."""
        with self._on_features([template]) as features:
            tables = features.repeat(1 + len(candidates), 1, 1)  # [1 + M, C, D]
            tables[1:, column] = class_features(self.backbone, [template], candidates)[0].to(self._device)
            return tally_pairs(self._features, self._targets, tables, **self._logits)

    def tally_variants(self, variants: Sequence[tuple[Template, ClassTexts]]) -> PairTally:
        """Return the pair tally of templates, each with its own texts of the classes."""
        tables = [class_features(self.backbone, [template], texts) for template, texts in variants]  # [1, C, D] each
        return tally_pairs(self._features, self._targets, torch.cat(tables).to(self._device), **self._logits)

    @property
    def _logits(self) -> dict[str, Any]:
        scale = self.backbone.logit_scale
        bias: float | Tensor = self.backbone.logit_bias
        if self._scaling is not None:
            scale /= self._scaling.temperature
            bias = torch.tensor(bias / self._scaling.temperature + self._scaling.log_weights, dtype=torch.float32)
            bias = bias.to(self._device)
        return {"logit_scale": scale, "logit_bias": bias, "allowed": self._allowed}

    def scaled(self, scaling: Scaling) -> "ClipScorer":
        """Return a scorer over the same images whose logits are scaled, as those of a calibrated classifier."""
        scorer = copy.copy(self)
        scorer._scaling = scaling
        return scorer
