"""Proposals by a language model: as few requests a step as it can do with, each paid for once.

What stays the same from step to step comes first in the prompt, so that providers' prompt caches hit, and the
descriptions keep to a budget of tokens however many classes and shots there are.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMError

from ipo_dspy.errors import BudgetError, InputError
from ipo_dspy.history import Trial
from ipo_dspy.ledger import Answer
from ipo_dspy.lms.asking import request
from ipo_dspy.lms.faults import FATAL, brief
from ipo_dspy.proposers.base import Ask, ProposalError, Proposals
from ipo_dspy.proposers.budget import CHOICES, DESCRIPTION_TOKENS, tokens_in
from ipo_dspy.signatures import PaperAdapter, ProposePrompts, ScoredPrompt, SummariseLooks, read_answers
from ipo_dspy.threads import in_threads

logger = logging.getLogger(__name__)

Asking = Literal["auto", "list", "draws", "singles"]
"""How a step's templates are asked for.

- `list`: all in one completion. What is missing is asked for once more; where the model wrote only one, one by one
  and at the same time.
- `draws`: one template a completion, all completions in one request (`n`): for models that run in this process.
- `singles`: one template a request, all requests at the same time: for servers of small models.
- `auto`: `draws` for `transformers/` models, else `list`.
"""

Fault = (LMError, ImportError, OSError)
Described = Literal["even", "rotate", "summary"]


class LMProposer:
    """Asks a language model for templates in the form of the IPO paper.

    Args:
        lm: the model; `None` takes `dspy.settings.lm` when it is asked.
        adapter: how the question is written; the paper's form by default.
        asking: see `Asking`.
        descriptions: which of them are shown where not all fit: `even` over the classes, the same at each step;
            `rotate`, others at each step; `summary`, one by the model itself. See docs/experiments.md.
        description_tokens: budget for them; about as much as the paper's requests hold.
        num_threads: requests at the same time; DSPy's setting by default.

    Draws differ by a `rollout_id` made of seed, step and slot: DSPy's cache makes a repeated run free.
    """

    def __init__(
        self,
        lm: dspy.BaseLM | None = None,
        *,
        adapter: dspy.Adapter | None = None,
        asking: Asking = "auto",
        descriptions: Described = "even",
        description_tokens: int = DESCRIPTION_TOKENS,
        num_threads: int | None = None,
    ) -> None:
        if asking not in get_args(Asking):
            raise InputError(f"asking={asking!r} is unknown; write one of {', '.join(map(repr, get_args(Asking)))}")
        if descriptions not in get_args(Described):
            known = ", ".join(map(repr, get_args(Described)))
            raise InputError(f"descriptions={descriptions!r} is unknown; write one of {known}")
        self.lm = lm
        self.adapter = adapter or PaperAdapter()
        self.asking, self.descriptions, self.num_threads = asking, descriptions, num_threads
        self.description_tokens = description_tokens
        self.share = 1.0
        """Of descriptions and history that the model's context has room for; halved when it overflows."""

    def propose(self, ask: Ask) -> Proposals:
        """Up to `ask.count` texts.

        Raises:
            ProposalError: the model could not be reached, or nothing in its answers could be read.
            BudgetError: a limit of the run leaves nothing to ask with.
        """
        answers = [*self._first(ask)]
        texts = [text for answer in answers for text in answer.texts]
        if texts and len(texts) < ask.count and self._way() == "list":
            answers = self._more(ask, len(texts))
            texts += [text for answer in answers for text in answer.texts]
        if not texts:
            raise ProposalError(f"the language model gave no proposals: {answers[0].fault}", answered=True)
        return Proposals(tuple(texts[: ask.count]))

    def measure(self, ask: Ask) -> tuple[int, int]:
        """How many requests a step like this takes if each brings what it should, and about the tokens of one."""
        count = 1 if self._way() in ("singles", "draws") else ask.count
        messages = self.adapter.format(ProposePrompts, [], self._inputs(ask, count))
        tokens = sum(tokens_in(str(message["content"])) for message in messages)
        return (ask.count if self._way() == "singles" else 1), tokens

    def _way(self) -> str:
        if self.asking != "auto":
            return self.asking
        return "draws" if str(getattr(self._lm, "model", "")).startswith("transformers/") else "list"

    @property
    def _lm(self) -> dspy.BaseLM:
        return self.lm or dspy.settings.lm

    def _first(self, ask: Ask) -> Sequence[Answer]:
        """The requests that should bring all of a step's templates."""
        try:
            match self._way():
                case "singles":
                    answers = self._singles(ask, range(ask.count))
                    faults = [answer for answer in answers if isinstance(answer, Exception)]
                    if len(faults) == len(answers):
                        raise faults[0]
                    return [answer for answer in answers if isinstance(answer, Answer)]
                case "draws":
                    return [self._request(ask, 1, slot=0, draws=ask.count)]
                case _:
                    return [self._request(ask, ask.count, slot=0)]
        except Fault as error:
            # Not `from error`: a traceback would print what `brief` took out.
            message = f"the language model gave no proposals: {brief(error, self._lm)}"
            raise ProposalError(message, fatal=isinstance(error, FATAL)) from None

    def _more(self, ask: Ask, found: int) -> list[Answer]:
        """What is missing: once more, or one by one from a model that writes only one. What fails is left missing."""
        missing = ask.count - found
        answers = self._singles(ask, range(1, 1 + missing)) if found == 1 else [self._try(ask, missing, slot=1)]
        return [answer for answer in answers if isinstance(answer, Answer)]

    def _singles(self, ask: Ask, slots: Sequence[int]) -> list[Answer | Exception]:
        threads = self.num_threads or dspy.settings.num_threads
        return in_threads(lambda slot: self._try(ask, 1, slot), slots, num_threads=threads)

    def _try(self, ask: Ask, count: int, slot: int) -> Answer | Exception:
        try:
            return self._request(ask, count, slot=slot)
        except (*Fault, BudgetError) as error:
            logger.debug("step %d, request %d failed: %s", ask.step, slot, brief(error, self._lm))
            return error

    def _request(self, ask: Ask, count: int, *, slot: int, draws: int = 1) -> Answer:
        """One request; where it overflows the model's context, with less of descriptions and history."""
        while True:
            try:
                return ask.once(f"step {ask.step}/{slot}", self._asker(ask, count, slot, draws))
            except ContextWindowExceededError:
                if self.share < 1 / 64:
                    raise
                self.share /= 2
                ask.tell(
                    f"the prompt overflows the context of {getattr(self._lm, 'model', 'the model')}; asking with "
                    f"{self.share:.1%} of the descriptions and history"
                )

    def _asker(self, ask: Ask, count: int, slot: int, draws: int) -> Callable[[], Answer]:
        inputs = self._inputs(ask, count)
        config: dict[str, int] = {"rollout_id": zlib.crc32(f"{ask.seed}/{ask.step}/{slot}".encode())}
        if draws > 1:
            config["n"] = draws
        paper = isinstance(self.adapter, PaperAdapter)
        return lambda: request(
            self._lm,
            self.adapter,
            ProposePrompts,
            inputs,
            field="templates",
            read=read_answers if paper else None,
            config=config,
        )

    def _inputs(self, ask: Ask, count: int) -> dict[str, object]:
        return {
            "task": ask.task,
            "descriptions": self._described(ask),
            "history": [_scored(trial) for trial in _last(ask.shown, self.share)],
            "rejected": list(ask.rejected),
            "count": count,
        }

    def _described(self, ask: Ask) -> list[str]:
        budget = int(self.description_tokens * self.share)
        if self.descriptions == "summary" and sum(map(tokens_in, ask.descriptions)) > budget:
            return self._summary(ask, budget)
        choose = CHOICES["even" if self.descriptions == "summary" else self.descriptions]
        return choose(ask.descriptions, budget, ask.step)

    def _summary(self, ask: Ask, budget: int) -> list[str]:
        """The descriptions in fewer words, by the model itself, once a run."""
        shown = CHOICES["even"](ask.descriptions, int(4 * self.description_tokens * self.share), 0)
        inputs: Mapping[str, object] = {"descriptions": shown, "words": budget // 2}
        answer = ask.once(
            "summary",
            lambda: request(self._lm, dspy.ChatAdapter(), SummariseLooks, inputs, field="summary"),
        )
        return CHOICES["even"](answer.texts or ask.descriptions, budget, 0)


def _last(trials: Sequence[Trial], share: float) -> Sequence[Trial]:
    """The best of them, which stand last, and at least one."""
    return trials[-max(1, int(len(trials) * share)) :] if trials else trials


def _scored(trial: Trial) -> ScoredPrompt:
    return ScoredPrompt(template=str(trial.template), loss=trial.score.loss, accuracy=trial.score.accuracy)
