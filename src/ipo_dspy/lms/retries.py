"""Say that a question is being asked again: DSPy does so with longer and longer pauses, and in silence.

LiteLLM, which makes each try, tells whoever listens of a failed one; nothing about the tries themselves changes.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ipo_dspy.lms.addresses import place
from ipo_dspy.lms.faults import brief

QUIET = 60.0
"""Seconds between two words about the same model."""
_TIME_OUT, _TOO_MANY, _SERVER = 408, 429, 500
"""Statuses after which DSPy asks again, the last with all above it."""


@contextlib.contextmanager
def telling_of_retries(lms: Sequence[Any], tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile, tell of a failed try of these models that is followed by another one; each model once a minute.

    Args:
        lms: of `dspy.LM`; others have tries of their own.
        tell: takes a line without keys; it may be called by any thread.
    """
    retrying = [lm for lm in lms if getattr(lm, "engine", None) == "litellm" and lm.num_retries]
    if not retrying:
        yield
        return
    import litellm

    told: dict[int, float] = {}
    lock = threading.Lock()

    def failed(call: dict[str, Any], *_: Any) -> None:
        lm = next((lm for lm in retrying if _asked(lm, call)), None)
        error = call.get("exception")
        if lm is None or not isinstance(error, Exception) or not _may_pass(error):
            return
        with lock:
            if time.monotonic() - told.get(id(lm), -QUIET) < QUIET:
                return
            told[id(lm)] = time.monotonic()
        at = f" at {place(lm)}" if place(lm) else ""
        tell(
            f"{lm.model}{at} gave no answer ({brief(error, lm)}); a question is asked up to {lm.num_retries + 1} "
            "times, with longer and longer pauses"
        )

    litellm.failure_callback.append(failed)
    try:
        yield
    finally:
        litellm.failure_callback.remove(failed)


def _asked(lm: Any, call: Mapping[str, Any]) -> bool:
    """Whether a call was made by a model: by name, and by address where the model has one of its own."""
    if call.get("model") not in (lm.model, lm.model.partition("/")[2]):
        return False
    address = lm.kwargs.get("api_base") or lm.kwargs.get("base_url")
    told = call.get("litellm_params", {}).get("api_base")
    return not address or not told or f"{told}/".startswith(f"{address.rstrip('/')}/")


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and (status in (_TIME_OUT, _TOO_MANY) or status >= _SERVER)
