"""Build the requests for proposals from the state of a search.

A request must not depend on timing, or a resumed run would take another path: it sees the trials of the steps before
the last one if the next request is prefetched while a step is scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ipo_dspy.errors import ImageError
from ipo_dspy.history import History, Trial
from ipo_dspy.lms.signatures import Mistake
from ipo_dspy.optimizer.final_stage import MANY_LOGITS
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.proposers.base import ProposalRequest
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.scoring.scorers import Scorer

SHOWN_REJECTIONS = 5
REMEDIES = {
    "no class placeholder": ": write <CLASS> where the class name goes",
    "too long": ": write a shorter one",
    "duplicate": ": tried before",
}
"""Advice to a proposer behind the reason of a rejection."""
COMPARED_IN_REQUEST = 8
"""Number of the best trials whose differences are measured for a request."""


@dataclass(frozen=True)
class RequestBuilder:
    """Builds the requests of one search.

    Attributes:
        scorer: scores templates on the training images.
        context: the surroundings of the search.
        descriptions: descriptions of training images.
        mistakes: returns the training images that a template gets wrong.
        max_tokens: longest template that the model takes, filled with a class name.
    """

    scorer: "Scorer"
    context: SearchContext
    descriptions: tuple[str, ...]
    mistakes: Callable[[Template], tuple[Mistake, ...]]
    max_tokens: int | None

    def build(self, step: int, in_progress: Sequence[Template] = ()) -> ProposalRequest:
        """Return the request of a step, while the templates `in_progress` are scored."""
        config, state = self.context.config, self.context.state
        visible_steps = step - 1 if config.prefetch else step
        found = [t for t in state.history if t.stage == "search"]
        trials = [t for t in found if t.step == 0 or t.step < visible_steps]
        pending = in_progress or [t.template for t in found if t.step >= max(1, visible_steps)]
        rejected = [
            r
            for r in state.rejections
            if r.step < step and (r.reason != "duplicate" or r.step == step - 1)  # a duplicate is shown once
        ][-SHOWN_REJECTIONS:]
        return ProposalRequest(
            step=step,
            count=config.prompts_per_step,
            shown=tuple(History(trials).shown(config.history_size)),
            trials=tuple(trials),
            rejected=tuple(f"{r.text[:120]} ({r.reason}{REMEDIES.get(r.reason, '')})" for r in rejected),
            descriptions=self.descriptions,
            guessed=state.guessed,
            task=self.context.task,
            steps=config.num_steps,
            images=state.setup.get("images", 0),
            error=self._error(trials),
            mistakes=self._mistakes(step, trials),
            max_tokens=self.max_tokens,
            objective=config.goal.name,
            pending=tuple(map(str, pending)),
            seed=config.seed,
            once=self.context.once,
            log=partial(self.context.error, step),
        )

    def _error(self, trials: Sequence[Trial]) -> float | None:
        """Return the median standard error of the differences in accuracy among the best trials, if it is shown."""
        setup, is_shown = self.context.state.setup, getattr(self.context.proposer, "shows_error", False)
        images, classes = setup.get("images", 0), setup.get("classes", ())
        if not is_shown or len(trials) < 2 or images * len(classes) > MANY_LOGITS:
            return None
        best = sorted(trials, key=lambda trial: trial.rank)[:COMPARED_IN_REQUEST]
        errors = Comparison(self.scorer.tally_pairs([trial.template for trial in best])).accuracy_errors
        return float(np.median(errors[np.triu_indices(len(best), 1)]))

    def _mistakes(self, step: int, trials: Sequence[Trial]) -> tuple[Mistake, ...]:
        try:
            return self.mistakes(min(trials, key=lambda trial: trial.rank).template)
        except ImageError as error:
            self.context.error(step, f"the request has no images: {error}")
            return ()
