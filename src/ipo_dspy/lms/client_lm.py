"""Wrap a `dspy.LM` so that its requests go through `client`, with limits and retries.

Only the call changes; DSPy still builds, caches and records the requests.
"""

from functools import partial
from typing import Any

import dspy

from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.client import SECONDS, exchange
from ipo_dspy.lms.retry_notices import ask_again


class _Bounded:
    """Mixin that precedes `dspy.LM` among the bases of a bounded model."""

    original: dspy.BaseLM
    kwargs: dict[str, Any]

    def __call__(self, prompt: str | None = None, **kwargs: Any) -> Any:
        once = partial(super().__call__, prompt, **kwargs)  # type: ignore[misc]
        seconds = seconds_of({**self.kwargs, **kwargs})
        return ask_again(self.original, lambda: exchange(once, seconds=seconds), retries=self.original.num_retries)


def bounded(lm: dspy.BaseLM) -> dspy.BaseLM:
    """Return a model whose requests are limited in time and size, stay at their host, and are retried.

    Models that run in this process and custom engines or models are returned unchanged, because they may not use a
    server.
    """
    if not isinstance(lm, dspy.LM) or not is_asked_over_http(lm) or isinstance(lm, _Bounded):
        return lm
    copied: Any = lm.copy(num_retries=0)
    copied.history, copied.original = lm.history, lm
    copied._warned_zero_temp_rollout = lm._warned_zero_temp_rollout
    copied.__class__ = type(type(lm).__name__, (_Bounded, type(lm)), {})
    return copied


def is_asked_over_http(lm: dspy.BaseLM) -> bool:
    """Return True if a model is a `dspy.LM` that calls a server through LiteLLM or DSPy's own client."""
    is_http = isinstance(lm, dspy.LM) and isinstance(lm.engine, str) and not lm.model.startswith(LOCAL)
    return is_http and type(lm).forward is dspy.LM.forward and "forward" not in vars(lm)


def seconds_of(settings: dict[str, Any]) -> float:
    """Return the time limit of a whole request, from the settings of its model.

    >>> seconds_of({"timeout": 120}), seconds_of({})
    (120.0, 600.0)
    """
    timeout = settings.get("timeout", settings.get("request_timeout"))
    return float(timeout) if isinstance(timeout, int | float) and timeout > 0 else SECONDS
