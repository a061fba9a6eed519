"""Estimate the cost of a run before any request is sent: requests, tokens and USD.

The largest prompt of the run is rendered and counted: full history, descriptions up to their budget. So the estimate
tends to be too high. The length of responses and the tokens of an image cannot be known, so this module assumes
them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import dspy

from ipo_dspy.history import Trial
from ipo_dspy.lms.preflight import unique_models
from ipo_dspy.lms.signatures import ClassMistakes
from ipo_dspy.lms.usage import TOKENS_PER_IMAGE, price_of
from ipo_dspy.optimizer.class_text_search import LABELS_ASKED, ROUNDS, SHOWN_TRIED, TEXTS_ASKED
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.proposers import LMProposer, ProposalRequest, Proposer
from ipo_dspy.proposers.base import REWORDINGS, SHOWN_TO_POLISH, ClassTextRequest
from ipo_dspy.run.ledger import Usage
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

TOKENS_PER_TEMPLATE = 20
"""Tokens of a template in a response, including tags; selected templates have 10 to 16."""
LATE_TEMPLATE = "a dark grainy close-up photo of a small <CLASS> in front of a plain background."
TOKENS_PER_CLASS_TEXT = 6
TOKENS_OF_THOUGHT = 100
"""Tokens before the templates of a response."""
TOKENS_PER_DESCRIPTION = 60
DESCRIPTION_PROMPT = 150
"""Tokens of the prompt for an image description, without the image."""
PING = (10, 5)
"""Prompt and completion tokens of the request that checks the connection to a model."""


@dataclass(frozen=True, slots=True)
class CostItem:
    """One kind of request.

    Attributes:
        what: kind of the requests, e.g. `descriptions`.
        model: name of the model.
        calls: number of requests.
        prompt_tokens, completion_tokens: totals of all requests.
        cost: USD; `None` if the price is unknown.
    """

    what: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Approximate cost of a run, for the largest prompts and responses of typical length."""

    items: tuple[CostItem, ...]

    @property
    def total(self) -> Usage:
        """Usage of all kinds of requests."""
        return Usage(
            calls=sum(item.calls for item in self.items),
            prompt_tokens=sum(item.prompt_tokens for item in self.items),
            completion_tokens=sum(item.completion_tokens for item in self.items),
            cost=sum(item.cost or 0.0 for item in self.items),
            unpriced=sum(item.calls for item in self.items if item.cost is None),
        )


def estimate(
    models: Mapping[str, dspy.BaseLM], proposer: Proposer, config: OptimizerConfig, searches: Sequence[tuple[str, int]]
) -> Estimate:
    """Estimate the requests of a run.

    Args:
        models: language models by argument: `prompt_model`, `description_model`.
        proposer: proposer of the run.
        config: configuration of the run.
        searches: task description and number of described images of each classifier.
    """
    items = []
    for role, lm in unique_models(models).items():
        image = TOKENS_PER_IMAGE if role == "prompt_model" and config.images_in_request else 0
        items.append(_item("ping", lm, 1, PING[0] + image, PING[1]))
    for task, described in searches:
        if "description_model" in models and described:
            prompt = DESCRIPTION_PROMPT + TOKENS_PER_IMAGE
            items.append(_item("descriptions", models["description_model"], described, prompt, TOKENS_PER_DESCRIPTION))
        if "prompt_model" in models and isinstance(proposer, LMProposer):
            lm = models["prompt_model"]
            if config.searches_class_texts:
                items.append(_class_texts(lm, proposer, config, task))
            if config.searches_template:
                items += _templates(lm, proposer, config, _ask(config, task, described))
    return Estimate(tuple(item for item in items if item.calls))


def _class_texts(lm: dspy.BaseLM, proposer: LMProposer, config: OptimizerConfig, task: str) -> CostItem:
    worst = ClassMistakes(
        label="long class name",
        texts=["long class name"],
        images=16,
        correct=0,
        taken_for=["long class name 16"] * 4,
        tried=["a short description of what is visible 12"] * SHOWN_TRIED,
    )
    ask = ClassTextRequest(ROUNDS, TEXTS_ASKED, LATE_TEMPLATE, (worst,) * LABELS_ASKED, task=task)
    prompt = proposer.measure_class_texts(ask) + TOKENS_PER_IMAGE * config.images_in_request
    return _item("class texts", lm, ROUNDS, prompt, TOKENS_PER_CLASS_TEXT * LABELS_ASKED * TEXTS_ASKED)


def _templates(
    lm: dspy.BaseLM, proposer: LMProposer, config: OptimizerConfig, ask: ProposalRequest
) -> Iterator[CostItem]:
    calls, prompt = proposer.measure(ask)
    prompt += TOKENS_PER_IMAGE * config.images_in_request
    described, budget = len(ask.descriptions) * TOKENS_PER_DESCRIPTION, proposer.description_tokens
    if proposer.descriptions == "summary" and described > budget:
        yield _item("summary", lm, 1, DESCRIPTION_PROMPT + min(described, 4 * budget), budget)
    answer = TOKENS_OF_THOUGHT + TOKENS_PER_TEMPLATE * config.prompts_per_step // calls
    yield _item("templates", lm, config.num_steps * calls, prompt, answer)
    if config.polish and config.choose == "plainest" and config.num_steps:
        tied = replace(ask, count=REWORDINGS, shown=ask.trials[:1] * SHOWN_TO_POLISH)
        yield _item("rewordings", lm, 1, proposer.measure_polish(tied), TOKENS_PER_TEMPLATE * REWORDINGS)


def _ask(config: OptimizerConfig, task: str, described: int) -> ProposalRequest:
    """Return the proposal request of a late step, with a full history."""
    template = Template.parse(LATE_TEMPLATE)
    trials = [
        Trial(template, Score(50.0, 1.0), index=i, step=0, tokens=20, key=str(i))
        for i in range(1 + config.history_size)
    ]
    return ProposalRequest(
        step=config.num_steps,
        count=config.prompts_per_step,
        shown=tuple(trials),
        trials=tuple(trials),
        descriptions=("x" * 4 * TOKENS_PER_DESCRIPTION,) * described,
        task=task,
    )


def _item(what: str, lm: dspy.BaseLM, calls: int, prompt: int, completion: int) -> CostItem:
    cost = price_of(lm, calls * prompt, calls * completion)
    name = str(getattr(lm, "model", type(lm).__name__))
    return CostItem(what, name, calls, calls * prompt, calls * completion, cost)
