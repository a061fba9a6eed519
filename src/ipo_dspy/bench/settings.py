"""What a sweep sets for all of its cells; methods read those that concern them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ipo_dspy.bundled import DEMO
from ipo_dspy.proposers import Feedback


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that decide results.

    Attributes:
        model, pretrained: the CLIP model, as `ClipClassifier` takes them.
        steps, prompts_per_step, history_size, max_descriptions: of IPO; the first two also give the budget of DSPy's
            optimizers: as many single-image evaluations as IPO makes.
        descriptions: whether IPO's proposer is told how training images look.
        feedback: which scores the proposer is told.
        window: whether the embedded proposer sees the shown history only, as a language model does, instead of all.
        lm, vlm: names of the language models that propose and describe; without them the embedded ones do.
        lm_settings, vlm_settings: of these models.
        asking: how `lm` is asked, see `LMProposer`.
        arguments: hyper-parameters by method, other than its paper's; of `METHOD@DATASET` for one data set.
    """

    model: str = DEMO
    pretrained: str | None = None
    steps: int = 40
    prompts_per_step: int = 8
    history_size: int = 20
    max_descriptions: int = 64
    descriptions: bool = True
    feedback: Feedback = "both"
    window: bool = False
    lm: str | None = None
    vlm: str | None = None
    lm_settings: Mapping[str, Any] = field(default_factory=dict)
    vlm_settings: Mapping[str, Any] = field(default_factory=dict)
    asking: str = "auto"
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def templates(self) -> int:
        """Templates that IPO scores besides those that it begins with."""
        return self.steps * self.prompts_per_step
