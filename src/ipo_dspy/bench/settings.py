"""Settings of all cells of a sweep; each method reads those that apply to it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ipo_dspy.clip.bundled import DEMO
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.proposers import Feedback

LONGEST = 1000
"""Maximum length of a hyper-parameter in a row; longer ones are replaced by a digest."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that affect results.

    Attributes:
        model, pretrained: the CLIP model, as `ClipClassifier` takes them.
        steps, prompts_per_step, history_size, max_described_images: of IPO; the first two also give the budget of
            DSPy's optimizers: as many single-image evaluations as IPO makes.
        descriptions: whether IPO's proposer receives descriptions of training images.
        feedback: the scores that the proposer sees.
        history_only: the built-in proposer sees the shown history only, as a language model does, instead of all.
        lm, vlm: names of the proposer and describer models; the built-in ones are used without them.
        lm_kwargs, vlm_kwargs: settings of these models.
        request_mode: how templates are requested from `lm`, see `LMProposer`.
        arguments: hyper-parameters by method that override those of its paper; `METHOD@DATASET` for one data set.
    """

    model: str = DEMO
    pretrained: str | None = None
    steps: int = 40
    prompts_per_step: int = OptimizerConfig.prompts_per_step
    history_size: int = OptimizerConfig.history_size
    max_described_images: int = OptimizerConfig.max_described_images
    descriptions: bool = True
    feedback: Feedback = "both"
    history_only: bool = False
    lm: str | None = None
    vlm: str | None = None
    lm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    vlm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    request_mode: str = "auto"
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """All settings as plain values, short enough for every row."""
        return {**asdict(self), "arguments": {name: brief(values) for name, values in self.arguments.items()}}


def digest(decisive: Mapping[str, Any]) -> str:
    """Return the key of a cell: a digest of every input that determines its result."""
    return hashlib.sha256(_json(decisive).encode()).hexdigest()[:16]


def brief(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters with long values, such as sentences for all classes, replaced by a digest.

    >>> brief({"weight": 2.0, "sentences": {"cat": ["a cat has whiskers."] * 100}})["sentences"]
    'sha256:6e7d3d387d1dfc69fda47ecf326de0d4bd7887456c6ae6add35a8f69368cad7c'
    """
    long = {name: text for name, value in arguments.items() if len(text := _json(value)) > LONGEST}
    return {**arguments, **{name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for name, text in long.items()}}


def digest_contents(contents: Iterable[bytes]) -> str:
    """Return a digest of files."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(f"{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
