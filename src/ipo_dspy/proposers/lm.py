"""Proposals by a language model: as few requests a step as it can do with, each paid for once.

What stays the same from step to step comes first in the prompt, so that providers' prompt caches hit, and the
descriptions keep to a budget of tokens however many classes and shots there are.
"""

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMError

from ipo_dspy._internal.renames import OLD_REQUEST_MODES, renamed_arguments
from ipo_dspy._internal.threads import in_threads
from ipo_dspy.errors import BudgetError, ProposalError
from ipo_dspy.history import Trial
from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.error_messages import FATAL, one_line_error
from ipo_dspy.lms.proposal_parsing import last_answers, parse_templates
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import PaperAdapter, ProposePrompts, ScoredTemplate, SummarizeDescriptions
from ipo_dspy.proposers.base import ProposalRequest, Proposals
from ipo_dspy.proposers.description_selection import CHOICES, DESCRIPTION_TOKENS, tokens_in
from ipo_dspy.proposers.feedback import Feedback, check_feedback, history_for_prompt
from ipo_dspy.run.ledger import LMResponse
from ipo_dspy.validation import one_of

RequestMode = Literal["auto", "batch", "samples", "single"]
"""How the templates of a step are requested.

- `batch`: all in one completion. Missing ones are requested once more; where the model wrote only one, one by one and
  concurrently.
- `samples`: one template a completion, all completions in one request (`n`): for models that run in this process.
- `single`: one template a request, all requests concurrently: for servers of small models.
- `auto`: `samples` for `transformers/` models, else `batch`.
"""

Fault = (LMError, ImportError, OSError)
DescriptionMode = Literal["even", "rotate", "summary"]
_TOLD = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")
"""Settings of a model that change what it writes, and are no secret."""


class LMProposer:
    """Asks a language model for templates in the form of the IPO paper.

    Args:
        lm: the model; `None` takes `dspy.settings.lm` when it is asked.
        adapter: how the question is written; the paper's form by default.
        request_mode: see `RequestMode`.
        descriptions: which of them are shown where not all fit: `even` over the classes, the same at each step;
            `rotate`, others at each step; `summary`, one by the model itself. See docs/experiments.md.
        description_tokens: budget for them; about as much as the paper's requests hold.
        feedback: which scores it is told: `both`, `accuracy` or `loss`.
        num_threads: requests at the same time; DSPy's setting by default.

    Draws differ by a `rollout_id` made of seed, step and slot: DSPy's cache makes a repeated run free.
    """

    @renamed_arguments(asking="request_mode")
    def __init__(
        self,
        lm: dspy.BaseLM | None = None,
        *,
        adapter: dspy.Adapter | None = None,
        request_mode: RequestMode = "auto",
        descriptions: DescriptionMode = "even",
        description_tokens: int = DESCRIPTION_TOKENS,
        feedback: Feedback = "both",
        num_threads: int | None = None,
    ) -> None:
        self.lm = lm
        self.adapter = adapter or PaperAdapter()
        self.request_mode = one_of("request_mode", request_mode, get_args(RequestMode), OLD_REQUEST_MODES)
        self.descriptions = one_of("descriptions", descriptions, get_args(DescriptionMode))
        self.num_threads = num_threads
        self.description_tokens = description_tokens
        self.feedback = check_feedback(feedback)
        self._share = 1.0
        """Of descriptions and history that the model's context has room for; halved when it overflows."""
        self._shrinking = threading.Lock()

    @property
    def settings(self) -> dict[str, object]:
        """What decides which way a search goes, for the journal of a run."""
        told = {name: self._lm.kwargs[name] for name in _TOLD if self._lm.kwargs.get(name) is not None}
        return {
            "adapter": type(self.adapter).__name__,
            "request_mode": self.request_mode,
            "descriptions": self.descriptions,
            "description_tokens": self.description_tokens,
            **({} if self.feedback == "both" else {"feedback": self.feedback}),
            **told,
        }

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Up to `ask.count` texts.

        Raises:
            ProposalError: the model could not be reached, or nothing in its answers could be read.
            BudgetError: a limit of the run leaves nothing to ask with.
        """
        if ask.step == 1:
            self._share = 1.0  # another search, perhaps of another model
        got = self._first(ask)
        if got.texts and len(got.texts) < ask.count and self._mode() == "batch":
            got = got.with_more(self._more(ask, len(got.texts)))
        if not got.texts and got.ended is not None:
            raise got.ended
        if not got.texts:
            raise ProposalError(f"the language model gave no proposals: {got.fault}", answered=True)
        return Proposals(tuple(last_answers(got.texts, ask.count)), ended=got.ended)

    def measure(self, ask: ProposalRequest) -> tuple[int, int]:
        """How many requests a step like this takes if each brings what it should, and about the tokens of one."""
        count = 1 if self._mode() in ("single", "samples") else ask.count
        choose = CHOICES["rotate" if self.descriptions == "rotate" else "even"]
        inputs = self._inputs(ask, count, choose(ask.descriptions, self.description_tokens, ask.step))
        messages = self.adapter.format(ProposePrompts, [], inputs)
        tokens = sum(tokens_in(str(message["content"])) for message in messages)
        return (ask.count if self._mode() == "single" else 1), tokens

    def _mode(self) -> str:
        local = str(getattr(self._lm, "model", "")).startswith(LOCAL)
        if self.request_mode == "auto":
            return "samples" if local else "batch"
        if self.request_mode == "samples" and not local and getattr(self._lm, "engine", None) != "litellm":
            return "single"  # other engines of DSPy would make `n` requests of one, in turn
        return self.request_mode

    @property
    def _lm(self) -> dspy.BaseLM:
        return self.lm or dspy.settings.lm

    def _first(self, ask: ProposalRequest) -> "_StepReplies":
        """The requests that should bring all of a step's templates.

        Raises:
            ProposalError: none of them was answered.
        """
        try:
            match self._mode():
                case "single":
                    return self._singles(ask, range(ask.count)).unless_silent()
                case "samples":
                    return _StepReplies([self._request(ask, 1, slot=0, samples=ask.count)])
                case _:
                    return _StepReplies([self._request(ask, ask.count, slot=0)])
        except Fault as error:
            # Not `from error`: a traceback would print what `brief` took out.
            message = f"the language model gave no proposals: {one_line_error(error, self._lm)}"
            raise ProposalError(message, fatal=isinstance(error, FATAL)) from None

    def _more(self, ask: ProposalRequest, found: int) -> "_StepReplies":
        """What is missing: once more, or one by one from a model that writes only one. What fails is left missing."""
        missing = ask.count - found
        if found == 1:
            return self._singles(ask, range(1, 1 + missing))
        return _StepReplies([self._try(ask, missing, slot=1)])

    def _singles(self, ask: ProposalRequest, slots: Sequence[int]) -> "_StepReplies":
        threads = self.num_threads or dspy.settings.num_threads
        return _StepReplies(in_threads(lambda slot: self._try(ask, 1, slot), slots, num_threads=threads))

    def _try(self, ask: ProposalRequest, count: int, slot: int) -> "LMResponse | Exception":
        try:
            return self._request(ask, count, slot=slot)
        except BudgetError as spent:
            return spent
        except Fault as error:
            ask.tell(f"one of several requests was not answered: {one_line_error(error, self._lm)}")
            return error

    def _request(self, ask: ProposalRequest, count: int, *, slot: int, samples: int = 1) -> LMResponse:
        """One request; where it overflows the model's context, with less of descriptions and history."""
        while True:
            share = self._share
            try:
                return ask.once(f"step {ask.step}/{slot}", self._asker(ask, count, slot, samples, share))
            except ContextWindowExceededError:
                if share < 1 / 64:
                    raise
                self._shrink(ask, share)

    def _shrink(self, ask: ProposalRequest, share: float) -> None:
        with self._shrinking:
            if self._share != share:
                return  # another request at the same time has seen to it
            self._share = share / 2
        ask.tell(
            f"the prompt overflows the context of {getattr(self._lm, 'model', 'the model')}; asking with "
            f"{share / 2:.1%} of the descriptions and history"
        )

    def _asker(
        self, ask: ProposalRequest, count: int, slot: int, samples: int, share: float
    ) -> Callable[[], LMResponse]:
        told = replace(ask, shown=tuple(_last(history_for_prompt(ask, self.feedback), share)))
        inputs = self._inputs(told, count, self._described(ask, share))
        config: dict[str, int] = {"rollout_id": zlib.crc32(f"{ask.seed}/{ask.step}/{slot}".encode())}
        if samples > 1:
            config["n"] = samples
        paper = isinstance(self.adapter, PaperAdapter)
        return lambda: request(
            self._lm,
            self.adapter,
            ProposePrompts,
            inputs,
            field="templates",
            read=(lambda text, cut: last_answers(parse_templates(text, cut), count)) if paper else None,
            config=config,
        )

    def _inputs(self, ask: ProposalRequest, count: int, descriptions: list[str]) -> dict[str, object]:
        return {
            "task": ask.task,
            "descriptions": descriptions,
            "history": [_scored(trial, self.feedback) for trial in ask.shown],
            "rejected": list(ask.rejected),
            "count": count,
        }

    def _described(self, ask: ProposalRequest, share: float) -> list[str]:
        budget = int(self.description_tokens * share)
        if self.descriptions == "summary" and sum(map(tokens_in, ask.descriptions)) > budget:
            return self._summary(ask, budget, share)
        choose = CHOICES["even" if self.descriptions == "summary" else self.descriptions]
        return choose(ask.descriptions, budget, ask.step)

    def _summary(self, ask: ProposalRequest, budget: int, share: float) -> list[str]:
        """The descriptions in fewer words, by the model itself, once a run."""
        shown = CHOICES["even"](ask.descriptions, int(4 * self.description_tokens * share), 0)
        inputs: Mapping[str, object] = {"descriptions": shown, "words": budget // 2}
        plain = _WithoutThoughts(use_json_adapter_fallback=False)  # which would be a second request, uncounted
        answer = ask.once(
            "summary",
            lambda: request(self._lm, plain, SummarizeDescriptions, inputs, field="summary"),
        )
        return CHOICES["even"](answer.texts or ask.descriptions, budget, 0)


class _WithoutThoughts(dspy.ChatAdapter):
    """Reads an answer without the thoughts before it, which may hold drafts of its fields."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        fields: dict[str, Any] = super().parse(signature, without_thoughts(completion).answer)
        return fields


class _StepReplies:
    """What the requests of a step brought: answers, faults, and the limit that one of them met."""

    def __init__(self, results: "Sequence[LMResponse | Exception]") -> None:
        self._results = list(results)
        self.answers = [result for result in results if isinstance(result, LMResponse)]
        self.texts = tuple(text for answer in self.answers for text in answer.texts)
        self.ended = next((result for result in results if isinstance(result, BudgetError)), None)
        self.fault = next((answer.fault for answer in self.answers if answer.fault), None)

    def with_more(self, more: "_StepReplies") -> "_StepReplies":
        return _StepReplies([*self._results, *more._results])

    def unless_silent(self) -> "_StepReplies":
        """Itself, unless no request was answered: then the first fault is raised."""
        if not self.answers and self.ended is None:
            raise next(result for result in self._results if isinstance(result, Exception))
        return self


def _last(trials: Sequence[Trial], share: float) -> Sequence[Trial]:
    """The best of them, which stand last, and at least one."""
    return trials[-max(1, int(len(trials) * share)) :] if trials else trials


def _scored(trial: Trial, feedback: Feedback) -> ScoredTemplate:
    loss, accuracy = trial.score.loss, trial.score.accuracy
    return ScoredTemplate(
        template=str(trial.template),
        loss=None if feedback == "accuracy" else loss,
        accuracy=None if feedback == "loss" else accuracy,
    )
