"""Before anything slow: is a language model there, does it take the key, can a limit on its cost be kept."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from ipo_dspy.errors import Argument, BudgetError, Hint, InputError, LanguageModelError, LMCall
from ipo_dspy.lms.endpoints import check_port_open
from ipo_dspy.lms.error_messages import one_line_error, suggest_fix
from ipo_dspy.lms.requests import ping
from ipo_dspy.lms.usage import RATES, price_of
from ipo_dspy.run.ledger import Ledger, LMResponse


def check_prices(models: Mapping[str, dspy.BaseLM], max_cost: float | None) -> None:
    """Refuse a limit on cost where a price is unknown: it could never be kept.

    Raises:
        InputError: the model, and what to write instead.
    """
    for role, lm in models.items() if max_cost is not None else ():
        if price_of(lm, 1, 1) is None:
            name = str(getattr(lm, "model", type(lm).__name__))
            priced = LMCall(name, tuple(Argument(rate, ...) for rate in RATES))
            raise InputError(
                f"cannot be enforced: LiteLLM has no price for {name!r}",
                argument="max_cost",
                hint=Hint("pass {max_tokens}, or {priced}", max_tokens=..., priced=Argument(role, priced)),
            )


def check_rates(lm: dspy.BaseLM, *, role: str) -> None:
    """Refuse rates that name no price: one without the other, or one below 0.

    Raises:
        InputError: the setting, and what to write.
    """
    given = {name: getattr(lm, "kwargs", {}).get(name) for name in RATES}
    if all(rate is None for rate in given.values()):
        return
    for name, rate in given.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise InputError(
                f"{name} of {role} must be a number of USD, 0 or more, beside the other rate, got {rate!r}; pass both "
                f"{' and '.join(RATES)}"
            )


def unique_models(models: Mapping[str, dspy.BaseLM]) -> dict[str, dspy.BaseLM]:
    """Models by role, without one that another role asks already under the same name, address and key."""
    found: dict[str, dspy.BaseLM] = {}
    for role, lm in models.items():
        same = [other for other in found.values() if other is lm or _identity(other) == _identity(lm)]
        if not same:
            found[role] = lm
    return found


def _identity(lm: dspy.BaseLM) -> tuple[Any, ...]:
    return (
        getattr(lm, "model", None),
        *(getattr(lm, "kwargs", {}).get(k) for k in ("api_base", "base_url", "api_key")),
    )


def ping_once(ledger: Ledger, lm: dspy.BaseLM, *, role: str) -> None:
    """Find out with the smallest request whether a model is there and takes the key; once in the life of a run.

    Raises:
        LanguageModelError: it is not, and what to do.
    """
    if not isinstance(getattr(lm, "engine", None), str):
        return  # no address behind it: a stand-in, or an engine of the caller's own

    def ask() -> LMResponse:
        check_port_open(lm, role=role)
        return ping(lm)

    try:
        with contextlib.suppress(BudgetError):  # the search will meet the limit, and end as usual
            ledger.once("", f"greet {role} {lm.model}", ask)
    except (LMError, ImportError, OSError) as error:
        raise LanguageModelError(
            f"{lm.model!r} does not answer: {one_line_error(error, lm)}",
            argument=role,
            hint=suggest_fix(error, lm.model, lm),
        ) from None  # a traceback would print what `brief` took out
