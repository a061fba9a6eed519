"""Every request to a language model passes here: answered before? allowed? then asked, counted and kept.

A question has a name that is the same in every attempt at a run ("step 3/0"). Its answer is in the journal before it
is used, so a run that is killed and taken up again pays for no answer twice. Limits are exact to one request: where
those in flight could use up what is left, the next one waits for them.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

from ipo_dspy.errors import BudgetError
from ipo_dspy.run.budget import Answer, Limits, RunEnd, Spent, run_ends
from ipo_dspy.run.events import AnswerEvent, Event, Keeper, Observer

__all__ = ["Answer", "Ledger", "Limits", "Once", "Spent", "readable"]


class Once(Protocol):
    """Asks a question at most once in the life of a run: `Ledger.once` of one predictor."""

    def __call__(self, question: str, ask: Callable[[], Answer], /) -> Answer:
        """The answer that is there, or else the one that `ask` gives, kept and counted first.

        Raises:
            BudgetError: a limit of the run leaves nothing for it.
        """


class Ledger:
    """Asks each question once, within limits, and keeps what was answered. Safe to use from several threads.

    Args:
        journal: answers go there before they are used.
        limits: what may be spent.
        past: events of the run's earlier sessions.
        observers: told of every answer.
        clock: seconds, monotonic.
        order: held while an answer is kept and told, so that observers hear of answers in the order of the journal.

    >>> ledger = Ledger(limits=Limits(max_lm_calls=1))
    >>> ledger.once("self", "step 1/0", lambda: Answer(("a <CLASS>.",), prompt_tokens=9)).texts
    ('a <CLASS>.',)
    >>> ledger.once("self", "step 1/0", lambda: Answer(("never asked again",))).texts
    ('a <CLASS>.',)
    >>> ledger.spent.tokens
    9
    """

    def __init__(
        self,
        journal: Keeper | None = None,
        limits: Limits | None = None,
        *,
        past: Iterable[Event] = (),
        observers: Iterable[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
        order: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.journal, self.limits, self.clock = journal, limits or Limits(), clock
        self._observers, self._order = tuple(observers), order or threading.RLock()
        self._free = threading.Condition()
        self._answers: dict[tuple[str, str], Answer] = {}
        self._spent = Spent()
        self._dearest: dict[str, Spent] = {}
        self._in_flight: set[tuple[str, str]] = set()
        before = 0.0
        for event in past:
            if event["event"] == "answer":
                self._add(event["predictor"], event["question"], _answer(event))
            if event["event"] in ("answer", "step"):
                before = max(before, event.get("elapsed") or 0.0)
        self._began = clock() - before

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, over all its sessions."""
        return self.clock() - self._began

    @property
    def spent(self) -> Spent:
        """What the run has cost so far."""
        return Spent(**{**asdict(self._spent), "seconds": self.elapsed})

    def cost_of(self, predictor: str, questions: str) -> Spent:
        """What the answers cost whose question begins so, e.g. `step 3/`."""
        total = Spent()
        for (owner, question), answer in list(self._answers.items()):
            if owner == predictor and question.startswith(questions):
                total = total.plus(answer)
        return total

    def once(self, predictor: str, question: str, ask: Callable[[], Answer]) -> Answer:
        """The answer to a question: the one that is there, else asked for, kept and counted.

        Raises:
            BudgetError: a limit leaves nothing; `ask` was not called, or had to stop at `max_seconds`.
            JournalError: the answer cannot be kept.
        """
        key = predictor, question
        with self._free:
            while key in self._in_flight or (key not in self._answers and not self._may_send()):
                self._free.wait()
            if key in self._answers:
                return self._answers[key]
            self._in_flight.add(key)
        began = self.clock()
        try:
            answer = self._ask(ask)
            event = self._event(predictor, question, answer, self.clock() - began)
            with self._order:
                with self._free:
                    if self.journal is not None:
                        self.journal.append("answer", **{k: v for k, v in event.items() if k != "event"})
                    self._add(predictor, question, answer)
                for observer in self._observers:
                    observer(event)
        finally:
            with self._free:
                self._in_flight.remove(key)
                self._free.notify_all()
        return answer

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        limit = self.limits.max_seconds
        left = None if limit is None else RunEnd(time.monotonic() + limit - self.elapsed, limit)
        token = run_ends.set(left)
        try:
            return ask()
        finally:
            run_ends.reset(token)

    def check_time(self) -> None:
        """Raise `BudgetError` if the time is up: the only limit that work without requests can reach."""
        limit, elapsed = self.limits.max_seconds, self.elapsed
        if limit is not None and elapsed >= limit:
            raise BudgetError("max_seconds", allowed=limit, spent=round(elapsed, 3))

    def _may_send(self) -> bool:
        """Whether one more request oversteps no limit by more than itself; if not, wait for those in flight."""
        spent = self.spent
        if limit := self.limits.reached(spent):
            amount = self.limits.spent_of(spent)[limit]
            raise BudgetError(limit, allowed=getattr(self.limits, limit), spent=amount)
        return not self._in_flight or self._leaves_room(spent)

    def _leaves_room(self, spent: Spent) -> bool:
        """Whether something is left if each request in flight costs twice as much as the dearest of its kind so far."""
        for _, question in self._in_flight:
            dearest = self._dearest.get(_kind(question))
            if dearest is None and (self.limits.max_tokens or self.limits.max_cost):
                return False  # nothing is known yet of what one costs
            spent = spent.plus(Answer((), calls=1))
            if dearest is not None:
                spent = spent.plus(Answer((), calls=0, prompt_tokens=2 * dearest.tokens, cost=2 * dearest.cost))
        return self.limits.reached(spent) is None

    def _add(self, predictor: str, question: str, answer: Answer) -> None:
        self._answers[predictor, question] = answer
        self._spent = self._spent.plus(answer)
        if answer.calls:
            before, this = self._dearest.get(_kind(question), Spent()), Spent().plus(answer)
            self._dearest[_kind(question)] = Spent(
                prompt_tokens=max(before.tokens, this.tokens), cost=max(before.cost, this.cost)
            )

    def _event(self, predictor: str, question: str, answer: Answer, seconds: float) -> AnswerEvent:
        return {
            "event": "answer",
            "predictor": predictor,
            "question": question,
            "model": answer.model,
            "texts": list(answer.texts),
            "cut": answer.cut,
            "fault": answer.fault,
            "calls": answer.calls,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cost": answer.cost,
            "estimated": answer.estimated,
            "seconds": round(seconds, 3),
            "elapsed": round(self.elapsed, 3),
        }


def _kind(question: str) -> str:
    """`step`, `describe`, ...: requests of a kind cost about the same."""
    return question.partition(" ")[0]


def readable(text: str) -> str:
    r"""A text without half surrogate pairs, which a model can send and no request can hold.

    >>> readable("a \ud83d <CLASS>")
    'a ? <CLASS>'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _answer(event: AnswerEvent) -> Answer:
    return Answer(
        texts=tuple(map(readable, event["texts"])),
        model=event["model"],
        calls=event["calls"],
        prompt_tokens=max(0, event["prompt_tokens"]),  # older versions believed a server that said less
        completion_tokens=max(0, event["completion_tokens"]),
        cost=None if event["cost"] is None else max(0.0, event["cost"]),
        cut=event["cut"],
        fault=event["fault"],
        estimated=event.get("estimated", 0),
    )
