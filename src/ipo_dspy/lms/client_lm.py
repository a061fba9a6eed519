"""A `dspy.LM` as this package asks it: the same model, with each request through the one client.

Only the call is another one; what is sent, cached and recorded stays DSPy's.
"""

from functools import partial
from typing import Any

import dspy

from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.client import SECONDS, exchange
from ipo_dspy.lms.retry_notices import ask_again


class _Bounded:
    """Comes before `dspy.LM` among the bases of a bounded model."""

    original: dspy.BaseLM
    kwargs: dict[str, Any]

    def __call__(self, prompt: str | None = None, **kwargs: Any) -> Any:
        once = partial(super().__call__, prompt, **kwargs)  # type: ignore[misc]
        seconds = seconds_of({**self.kwargs, **kwargs})
        return ask_again(self.original, lambda: exchange(once, seconds=seconds), retries=self.original.num_retries)


def bounded(lm: dspy.BaseLM) -> dspy.BaseLM:
    """Return a model whose requests end in time and in size, stay at their address, and are asked again if need be.

    Models that run in this process and engines or models of the caller's own come back as they are: there is no server
    behind them that we know of.
    """
    if not isinstance(lm, dspy.LM) or not is_asked_over_http(lm) or isinstance(lm, _Bounded):
        return lm
    copied: Any = lm.copy(num_retries=0)
    copied.history, copied.original = lm.history, lm
    copied._warned_zero_temp_rollout = lm._warned_zero_temp_rollout
    copied.__class__ = type(type(lm).__name__, (_Bounded, type(lm)), {})
    return copied


def is_asked_over_http(lm: dspy.BaseLM) -> bool:
    """Whether a model is a `dspy.LM` that asks a server by LiteLLM or by DSPy's own client."""
    ours = isinstance(lm, dspy.LM) and isinstance(lm.engine, str) and not lm.model.startswith(LOCAL)
    return ours and type(lm).forward is dspy.LM.forward and "forward" not in vars(lm)


def seconds_of(settings: dict[str, Any]) -> float:
    """Return the time limit of a request as a whole, by the settings of its model.

    >>> seconds_of({"timeout": 120}), seconds_of({})
    (120.0, 600.0)
    """
    given = settings.get("timeout", settings.get("request_timeout"))
    return float(given) if isinstance(given, int | float) and given > 0 else SECONDS
