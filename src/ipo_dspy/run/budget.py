"""The cost of one request to a language model, the usage of all of them, and the limits of a run."""

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace

from ipo_dspy.errors import Argument, BudgetError, Hint, InputError


@dataclass(frozen=True, slots=True)
class LMResponse:
    """The response of a language model to one request, and its cost.

    Attributes:
        texts: untrusted; empty if no text could be read.
        model: name of the model that responded.
        calls: 0 for a response from DSPy's cache.
        prompt_tokens, completion_tokens: as the provider counted, or estimated.
        cost: USD; `None` if the price is unknown.
        cut: True if the token limit was reached.
        fault: the reason why `texts` is empty.
        estimated: number of calls whose tokens were counted here because the server reported none or implausible ones.
    """

    texts: tuple[str, ...]
    model: str = ""
    calls: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    cut: bool = False
    fault: str | None = None
    estimated: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of all requests so far.

    Attributes:
        calls: requests with a response.
        prompt_tokens, completion_tokens: as the providers counted, or estimated.
        cost: USD, of the requests whose price is known.
        unpriced: requests whose price is unknown.
        seconds: wall-clock time of the run, over all its sessions.
        estimated: requests whose tokens, and with them their cost, are estimated.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0
    estimated: int = 0

    @property
    def tokens(self) -> int:
        """Number of prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, answer: LMResponse) -> "Usage":
        """Return the usage with one more response."""
        return replace(
            self,
            calls=self.calls + answer.calls,
            prompt_tokens=self.prompt_tokens + answer.prompt_tokens,
            completion_tokens=self.completion_tokens + answer.completion_tokens,
            cost=self.cost + (answer.cost or 0.0),
            unpriced=self.unpriced + (answer.calls if answer.cost is None else 0),
            estimated=self.estimated + answer.estimated,
        )

    def __repr__(self) -> str:
        unknown = f" + {self.unpriced} calls of unknown price" if self.unpriced else ""
        tokens = f"{self.tokens} tokens" + (" (estimated)" if self.estimated else "")
        return f"Spent({self.calls} calls, {tokens}, {self.cost:.4f} USD{unknown}, {self.seconds:.1f} s)"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of what a run may spend; `None` disables a limit.

    Attributes:
        max_lm_calls: requests to language models.
        max_tokens: prompt and completion tokens of all of them.
        max_cost: USD.
        max_seconds: wall-clock time, over all sessions of the run.
    """

    max_lm_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_count = name in ("max_lm_calls", "max_tokens")
            kinds = int if is_count else int | float
            if value is None or (isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf):
                continue
            fact = f"must be a positive {'integer' if is_count else 'number'}, or None for no limit"
            hint = Hint("for example {}", Argument(name, 100 if is_count else 2.5))
            raise InputError(fact, argument=name, value=value, hint=hint)

    def spent_of(self, spent: Usage) -> dict[str, float]:
        """Return the amount spent of each limit that is set."""
        amounts = (spent.calls, spent.tokens, spent.cost, spent.seconds)  # in the order of the fields
        limits = asdict(self).items()
        return {name: amount for (name, limit), amount in zip(limits, amounts, strict=True) if limit is not None}

    def reached(self, spent: Usage) -> str | None:
        """Return the name of the first limit that is used up, or None."""
        return next((name for name, amount in self.spent_of(spent).items() if amount >= getattr(self, name)), None)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The deadline of a run, by `time.monotonic()`, and the seconds that the run may take."""

    at: float
    allowed: float

    def seconds_left(self) -> float:
        """Return the seconds until the deadline; 0 after it."""
        return max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Raise `BudgetError` if the time is up."""
        if not self.seconds_left():
            raise BudgetError("max_seconds", allowed=self.allowed, spent=self.allowed)


run_ends: ContextVar[RunEnd | None] = ContextVar("run_ends", default=None)
"""Set while `Ledger.once` sends a request, for the code that waits for the server."""


def _ignore(model: str, timeout: float | None) -> None:
    pass


announce_request: ContextVar[Callable[[str, float | None], None]] = ContextVar("announce_request", default=_ignore)
"""Called just before a request is sent, with `model` and `timeout` as in `LMRequestEvent`; set like `run_ends`."""
