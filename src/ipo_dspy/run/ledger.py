"""The ledger through which all requests to language models go: deduplicated, checked against limits, sent, recorded.

A request has an id that is the same in every session of a run ("step 3/0"). Its response is in the journal before it is
used, so a run that is killed and resumed is billed for no response twice. Limits are exact to one request: while the
requests in flight could use up the rest of a limit, the next one waits for them.
"""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from ipo_dspy.errors import BudgetError
from ipo_dspy.run.budget import Budget, LMResponse, RunEnd, Usage, announce_request, run_ends
from ipo_dspy.run.events import LMFailureEvent, LMRequestEvent, LMResponseEvent
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import readable

__all__ = ["AskOnce", "Budget", "LMResponse", "Ledger", "Usage", "readable"]


class AskOnce(Protocol):
    """Sends a request at most once per run, over all its sessions: `Ledger.once` of one predictor."""

    def __call__(self, question: str, ask: Callable[[], LMResponse], /) -> LMResponse:
        """Return the recorded response, or that of `ask`, which is recorded first.

        Raises:
            BudgetError: a limit of the run is used up.
        """


class Ledger:
    """Sends each request once, within limits, and records the responses. Safe to use from several threads.

    Args:
        recorder: records the responses before they are used; its state has those of earlier sessions.
        limits: limits of the run.
        clock: monotonic clock, in seconds.

    >>> ledger = Ledger(limits=Budget(max_lm_calls=1))
    >>> ledger.once("self", "step 1/0", lambda: LMResponse(("a <CLASS>.",), prompt_tokens=9)).texts
    ('a <CLASS>.',)
    >>> ledger.once("self", "step 1/0", lambda: LMResponse(("never asked again",))).texts
    ('a <CLASS>.',)
    >>> ledger.spent.tokens
    9
    """

    def __init__(
        self,
        recorder: EventRecorder | None = None,
        limits: Budget | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recorder, self.limits, self.clock = recorder or EventRecorder(), limits or Budget(), clock
        self._state = self.recorder.state
        self._free = threading.Condition()
        self._in_flight: set[tuple[str, str]] = set()
        self._began = clock() - self._state.run_seconds

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, over all its sessions."""
        return self.clock() - self._began

    @property
    def spent(self) -> Usage:
        """The usage of the run so far."""
        return replace(self._state.usage, seconds=self.elapsed)

    def cost_of(self, predictor: str, requests: str) -> Usage:
        """Return the cost of a predictor's requests whose ids start with a prefix, e.g. `step 3/`."""
        answers = list(self._state.responses.items())
        counted = (
            answer for (owner, request), answer in answers if owner == predictor and request.startswith(requests)
        )
        return functools.reduce(Usage.plus, counted, Usage())

    def once(self, predictor: str, question: str, ask: Callable[[], LMResponse]) -> LMResponse:
        """Return the recorded response to a request, or send the request and record its response.

        Raises:
            BudgetError: a limit is used up; `ask` was not called, or stopped at `max_seconds`.
            JournalError: the response cannot be recorded.
        """
        key = predictor, question
        with self._free:
            while key in self._in_flight or (key not in self._state.responses and not self._may_send()):
                self._free.wait()
            if key in self._state.responses:
                return self._state.responses[key]
            self._in_flight.add(key)
        began = self.clock()
        try:
            answer = self._ask(predictor, question, ask)
            self.recorder.record(self._event(predictor, question, answer, self.clock() - began))
        except Exception:
            if key in self._state.requests:
                self.recorder.record(LMFailureEvent(event="lm_failure", predictor=predictor, request_id=question))
            raise
        finally:
            with self._free:
                self._in_flight.remove(key)
                self._free.notify_all()
        return answer

    def _ask(self, predictor: str, question: str, ask: Callable[[], LMResponse]) -> LMResponse:
        limit = self.limits.max_seconds
        left = None if limit is None else RunEnd(time.monotonic() + limit - self.elapsed, limit)
        tokens = run_ends.set(left), announce_request.set(functools.partial(self._announce, predictor, question))
        try:
            return ask()
        finally:
            run_ends.reset(tokens[0])
            announce_request.reset(tokens[1])

    def _announce(self, predictor: str, question: str, model: str, timeout: float | None) -> None:
        self.recorder.record(
            LMRequestEvent(
                event="lm_request",
                predictor=predictor,
                request_id=question,
                model=model,
                started=datetime.now(UTC).isoformat(timespec="milliseconds"),
                timeout=None if timeout is None else round(timeout, 3),
                run_seconds=round(self.elapsed, 3),
            )
        )

    def check_time(self) -> None:
        """Raise `BudgetError` if `max_seconds` is reached, the only limit that applies without requests."""
        limit, elapsed = self.limits.max_seconds, self.elapsed
        if limit is not None and elapsed >= limit:
            raise BudgetError("max_seconds", allowed=limit, spent=round(elapsed, 3))

    def _may_send(self) -> bool:
        """Return True if a request cannot exceed a limit by more than its own cost."""
        spent = self.spent
        if limit := self.limits.reached(spent):
            amount = self.limits.spent_of(spent)[limit]
            raise BudgetError(limit, allowed=getattr(self.limits, limit), spent=amount)
        # Each request in flight may cost twice the maximum of its kind.
        answers = list(self._state.responses.items())
        for _, question in self._in_flight:
            known = [answer for (_, other), answer in answers if answer.calls and _kind(other) == _kind(question)]
            if not known and (self.limits.max_tokens or self.limits.max_cost):
                return False  # the cost of a request of this kind is not known yet
            tokens = max((answer.prompt_tokens + answer.completion_tokens for answer in known), default=0)
            cost = max((answer.cost or 0.0 for answer in known), default=0.0)
            spent = spent.plus(LMResponse((), calls=1, prompt_tokens=2 * tokens, cost=2 * cost))
        return self.limits.reached(spent) is None

    def _event(self, predictor: str, question: str, answer: LMResponse, seconds: float) -> LMResponseEvent:
        return {
            "event": "lm_response",
            "predictor": predictor,
            "request_id": question,
            "model": answer.model,
            "texts": list(answer.texts),
            "truncated": answer.cut,
            "error": answer.fault,
            "calls": answer.calls,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cost": answer.cost,
            "estimated": answer.estimated,
            "seconds": round(seconds, 3),
            "run_seconds": round(self.elapsed, 3),
        }


def _kind(question: str) -> str:
    """Return `step`, `describe`, ...: requests of a kind cost about the same."""
    return question.partition(" ")[0]
