"""Propose templates with a language model, with as few requests per step as possible, each billed once.

What a request says is in `proposers.search_summary`, how it says it in `lms.adapters`.

The parts of the prompt that do not change between steps come first, so that the prompt caches of providers hit. The
descriptions have a token budget that does not depend on the number of classes and shots.
"""

import hashlib
import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMError

from ipo_dspy._internal.renames import OLD_REQUEST_MODES, renamed_arguments
from ipo_dspy._internal.threads import in_threads
from ipo_dspy.argument_checks import one_of, require_int
from ipo_dspy.errors import BudgetError, ProposalError
from ipo_dspy.lms import LOCAL, require_lm
from ipo_dspy.lms.adapters import ClassTextAdapter, PaperAdapter, ProposalAdapter, TaggedAdapter
from ipo_dspy.lms.class_text_parsing import read_class_texts, texts_of_labels
from ipo_dspy.lms.error_messages import FATAL, one_line_error
from ipo_dspy.lms.proposal_parsing import read_answer
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import (
    ProposeClassTexts,
    ProposeClassTextsFromImages,
    ProposePrompts,
    ProposeTemplates,
    ProposeTemplatesFromImages,
    RewordPrompts,
    SummarizeDescriptions,
)
from ipo_dspy.proposers.base import ClassTextRequest, ProposalRequest, Proposals
from ipo_dspy.proposers.description_selection import DESCRIPTION_TOKENS, rotate, select_evenly, tokens_in
from ipo_dspy.proposers.feedback import Feedback, history_for_prompt
from ipo_dspy.proposers.search_summary import briefing, scored
from ipo_dspy.run.ledger import LMResponse

RequestMode = Literal["auto", "batch", "samples", "single"]
"""Strategy for the requests of a step.

- `batch`: all templates in one completion. If it has fewer, the step has fewer.
- `samples`: one template per completion, all completions in one request (`n`): for models that run in this process.
- `single`: one template per request, all requests concurrently: for servers of small models.
- `auto`: `samples` for `transformers/` models, else `batch`.
"""

Replies = Sequence[LMResponse | Exception]
"""The responses to the requests of a step, and the errors of those that failed."""
Fault = (LMError, ImportError, OSError)
DescriptionMode = Literal["even", "rotate", "summary"]
_RECORDED = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")
"""Settings of a model that affect its output and contain no secrets."""
_SHRINKING = threading.Lock()
"""Held while a share is halved; not in each proposer, which could then be neither copied nor pickled."""


class LMProposer:
    """Requests templates from a language model.

    Args:
        lm: the model; `None` uses `dspy.settings.lm` at the time of a request.
        adapter: formats the request. With `PaperAdapter()` it is that of the IPO paper: descriptions, and all of the
            shown history with the best last.
        request_mode: see `RequestMode`.
        descriptions: selection if not all fit: `even` over the classes, the same at each step; `rotate`, others at
            each step; `summary`, a summary by the model itself. See docs/experiments.md.
        description_tokens: token budget of the descriptions; about the size of the requests in the paper.
        feedback: the scores in the prompt: `both`, `accuracy`, or `loss`.
        num_threads: number of concurrent requests; DSPy's setting by default.

    Each request has a `rollout_id` derived from seed, step, and slot, so DSPy's cache makes a repeated run free.
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
        self.lm = require_lm(lm)
        self.adapter = adapter or ProposalAdapter()
        self._signature = ProposePrompts if isinstance(self.adapter, PaperAdapter) else ProposeTemplates
        self.request_mode = one_of("request_mode", request_mode, get_args(RequestMode), OLD_REQUEST_MODES)
        self.descriptions = one_of("descriptions", descriptions, get_args(DescriptionMode))
        one_of("feedback", feedback, get_args(Feedback))
        self.description_tokens, self.feedback = require_int("description_tokens", description_tokens, 0), feedback
        self.num_threads = None if num_threads is None else require_int("num_threads", num_threads, 1)
        self._choose = rotate if descriptions == "rotate" else select_evenly
        self._share = 1.0
        """Fraction of descriptions and history that fits the context window; halved on overflow."""

    @property
    def shows_error(self) -> bool:
        """True if a request shows the standard error of differences (`ProposalRequest.error`)."""
        return self._signature is ProposeTemplates

    @property
    def shows_images(self) -> bool:
        """True if a request shows images that the best template gets wrong (`ProposalRequest.mistakes`)."""
        return self.shows_error

    @property
    def settings(self) -> dict[str, object]:
        """Settings that affect the search, for the journal of a run."""
        lm_settings = {name: self._lm.kwargs[name] for name in _RECORDED if self._lm.kwargs.get(name) is not None}
        return {
            "adapter": type(self.adapter).__name__,
            "request_mode": self.request_mode,
            "descriptions": self.descriptions,
            "description_tokens": self.description_tokens,
            **({} if self.feedback == "both" else {"feedback": self.feedback}),
            **lm_settings,
        }

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Return all texts that could be read, which may be fewer or more than `ask.count`.

        Raises:
            ProposalError: the model could not be reached, or none of its answers could be parsed.
            BudgetError: a limit of the run is exhausted.
        """
        if ask.step == 1:
            self._share = 1.0  # a new search, perhaps with another model
        replies = self._replies(ask)
        texts = tuple(text for reply in replies if isinstance(reply, LMResponse) for text in reply.texts)
        ended = next((reply for reply in replies if isinstance(reply, BudgetError)), None)
        if not texts and ended is not None:
            raise ended
        if not texts:
            fault = next((reply.fault for reply in replies if isinstance(reply, LMResponse) and reply.fault), None)
            raise ProposalError(f"the language model gave no proposals: {fault}", answered=True)
        return Proposals(texts, ended=ended)

    def polish(self, ask: ProposalRequest) -> Proposals:
        """Return rewordings of the templates in `ask.shown`, from one request for at most `ask.count`.

        Raises:
            ProposalError: the model could not be reached, or its answer could not be parsed.
            BudgetError: a limit of the run is exhausted.
        """
        tied = "\n\n".join(str(trial.template) for trial in ask.shown)
        answer = self._ask_about(f"polish {_digest(tied)}", ask, RewordPrompts, self._reword_inputs(ask))
        if not answer.texts:
            raise ProposalError(f"the language model gave no proposals: {answer.fault}", answered=True)
        return Proposals(answer.texts)

    def propose_class_texts(self, ask: ClassTextRequest) -> dict[str, list[str]]:
        """Return texts by label, from one request about all classes of `ask`.

        Raises:
            ProposalError: the model could not be reached, or its answer could not be parsed.
            BudgetError: a limit of the run is exhausted.
        """
        present = [ask.round, ask.template, sorted((c.label, c.texts) for c in ask.classes)]
        signature = ProposeClassTextsFromImages if ask.mistakes else ProposeClassTexts
        answer = self._ask_about(f"class_texts {_digest(json.dumps(present))}", ask, signature, _class_text_inputs(ask))
        texts = texts_of_labels(answer.texts, [c.label for c in ask.classes], count=ask.count)
        if not texts:
            raise ProposalError(
                f"the language model gave no texts of classes: {answer.fault or 'no known label'}", answered=True
            )
        return texts

    def measure_class_texts(self, ask: ClassTextRequest) -> int:
        """Return the approximate prompt tokens of a request for texts of classes, without images."""
        return _prompt_tokens(ClassTextAdapter(), ProposeClassTexts, _class_text_inputs(ask))

    def measure_polish(self, ask: ProposalRequest) -> int:
        """Return the approximate prompt tokens of the request for rewordings."""
        return _prompt_tokens(self.adapter, RewordPrompts, self._reword_inputs(ask))

    def measure(self, ask: ProposalRequest) -> tuple[int, int]:
        """Return the number of requests of a step if each succeeds, and the approximate prompt tokens of one."""
        count = 1 if self._mode() in ("single", "samples") else ask.count
        inputs = self._inputs(ask, count, self._choose(ask.descriptions, self.description_tokens, ask.step))
        tokens = _prompt_tokens(self.adapter, self._signature, inputs)
        return (ask.count if self._mode() == "single" else 1), tokens

    def _mode(self) -> str:
        local = str(getattr(self._lm, "model", "")).startswith(LOCAL)
        if self.request_mode == "auto":
            return "samples" if local else "batch"
        if self.request_mode == "samples" and not local and getattr(self._lm, "engine", None) != "litellm":
            return "single"  # other engines of DSPy turn `n` into sequential requests
        return self.request_mode

    @property
    def _lm(self) -> dspy.BaseLM:
        return self.lm or dspy.settings.lm

    def _replies(self, ask: ProposalRequest) -> Replies:
        """Send the requests of a step.

        Raises:
            ProposalError: all of them failed.
        """
        try:
            match self._mode():
                case "single":
                    threads = self.num_threads or dspy.settings.num_threads
                    replies = in_threads(lambda slot: self._try(ask, slot), range(ask.count), num_threads=threads)
                    errors = [reply for reply in replies if isinstance(reply, Fault)]
                    if len(errors) == len(replies):
                        raise errors[0]
                    return replies
                case "samples":
                    return [self._request(ask, 1, slot=0, samples=ask.count)]
                case _:
                    return [self._request(ask, ask.count, slot=0)]
        except Fault as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> ProposalError:
        """Return the error to raise `from None`: a traceback of its cause would print what `one_line_error` removed."""
        message = f"the language model gave no proposals: {one_line_error(error, self._lm)}"
        return ProposalError(message, fatal=isinstance(error, FATAL))

    def _try(self, ask: ProposalRequest, slot: int) -> LMResponse | Exception:
        try:
            return self._request(ask, 1, slot=slot)
        except BudgetError as spent:
            return spent
        except Fault as error:
            ask.log(f"one of the parallel requests failed: {one_line_error(error, self._lm)}")
            return error

    def _request(self, ask: ProposalRequest, count: int, *, slot: int, samples: int = 1) -> LMResponse:
        """Send one request; retry with fewer descriptions and less history if it overflows the context window."""
        while True:
            share = self._share
            try:
                return ask.once(f"step {ask.step}/{slot}", self._asker(ask, count, slot, samples, share))
            except ContextWindowExceededError:
                if share < 1 / 64:
                    raise
                self._shrink(ask, share)

    def _shrink(self, ask: ProposalRequest, share: float) -> None:
        with _SHRINKING:
            if self._share != share:
                return  # a concurrent request has already halved it
            self._share = share / 2
        ask.log(
            f"the prompt exceeds the context window of {getattr(self._lm, 'model', 'the model')}; retrying with "
            f"{share / 2:.1%} of the descriptions and history"
        )

    def _asker(
        self, ask: ProposalRequest, count: int, slot: int, samples: int, share: float
    ) -> Callable[[], LMResponse]:
        trials = history_for_prompt(ask, self.feedback)  # the best come last
        mistakes = ask.mistakes[: int(len(ask.mistakes) * share)]
        visible = replace(ask, shown=tuple(trials[-max(1, int(len(trials) * share)) :]), mistakes=mistakes)
        inputs = self._inputs(visible, count, self._described(ask, share))
        config: dict[str, int] = {"rollout_id": zlib.crc32(f"{ask.seed}/{ask.step}/{slot}".encode())}
        if samples > 1:
            config["n"] = samples
        return self._sender(ProposeTemplatesFromImages if mistakes else self._signature, inputs, config)

    def _ask_about(
        self,
        name: str,
        ask: ProposalRequest | ClassTextRequest,
        signature: type[dspy.Signature],
        inputs: Mapping[str, object],
    ) -> LMResponse:
        """Send the only request of this name, whose id depends on what it is about.

        Raises:
            ProposalError: the model could not be reached.
        """
        config = {"rollout_id": zlib.crc32(f"{ask.seed}/{name}".encode())}
        try:
            return ask.once(name, self._sender(signature, inputs, config))
        except Fault as error:
            raise self._failed(error) from None

    def _sender(
        self, signature: type[dspy.Signature], inputs: Mapping[str, object], config: Mapping[str, int]
    ) -> Callable[[], LMResponse]:
        (field,), adapter, read = signature.output_fields, self.adapter, None
        if isinstance(adapter, TaggedAdapter):  # others parse their own answers
            adapter, read = (adapter, read_answer) if field == "templates" else (ClassTextAdapter(), read_class_texts)
        return lambda: request(self._lm, adapter, signature, inputs, field=field, read=read, config=config)

    def _inputs(self, ask: ProposalRequest, count: int, descriptions: list[str]) -> dict[str, object]:
        if self._signature is ProposeTemplates:
            return briefing(ask, count, descriptions, self.feedback)
        return {
            "task": ask.task,
            "descriptions": descriptions,
            "history": [scored(trial, self.feedback, ask.objective) for trial in ask.shown],
            "rejected": list(ask.rejected),
            "count": count,
        }

    def _reword_inputs(self, ask: ProposalRequest) -> dict[str, object]:
        tied = [scored(trial, self.feedback, ask.objective) for trial in ask.shown]
        return {"task": ask.task, "tied": tied, "count": ask.count}

    def _described(self, ask: ProposalRequest, share: float) -> list[str]:
        budget = int(self.description_tokens * share)
        if self.descriptions == "summary" and sum(map(tokens_in, ask.descriptions)) > budget:
            return self._summary(ask, budget, share)
        return self._choose(ask.descriptions, budget, ask.step)

    def _summary(self, ask: ProposalRequest, budget: int, share: float) -> list[str]:
        """Return a summary of the descriptions by the model itself, requested once per run."""
        shown = select_evenly(ask.descriptions, int(4 * self.description_tokens * share))
        inputs: Mapping[str, object] = {"descriptions": shown, "words": budget // 2}
        plain = _WithoutThoughts(use_json_adapter_fallback=False)  # the fallback would be a second, uncounted request
        answer = ask.once("summary", lambda: request(self._lm, plain, SummarizeDescriptions, inputs, field="summary"))
        return select_evenly(answer.texts or ask.descriptions, budget)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _class_text_inputs(ask: ClassTextRequest) -> dict[str, Any]:
    return {
        "task": ask.task,
        "template": ask.template,
        "classes": list(ask.classes),
        "rejected": list(ask.rejected),
        "count": ask.count,
        **({"mistakes": list(ask.mistakes)} if ask.mistakes else {}),
    }


def _prompt_tokens(adapter: dspy.Adapter, signature: type[dspy.Signature], inputs: dict[str, Any]) -> int:
    return sum(tokens_in(str(message["content"])) for message in adapter.format(signature, [], inputs))


class _WithoutThoughts(dspy.ChatAdapter):
    """Parses an answer without its reasoning, which may contain drafts of the fields."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        fields: dict[str, Any] = super().parse(signature, without_thoughts(completion).answer)
        return fields
