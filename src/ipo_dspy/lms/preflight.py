"""Check connectivity, authentication and prices of language models before a run does anything slow."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.utils.exceptions import LMError, LMInvalidRequestError, LMUnsupportedFeatureError

from ipo_dspy._internal.json_input import has_type
from ipo_dspy.errors import Argument, BudgetError, Hint, InputError, LanguageModelError, LMCall
from ipo_dspy.lms.endpoints import check_port_open
from ipo_dspy.lms.error_messages import one_line_error, suggest_fix
from ipo_dspy.lms.requests import ping
from ipo_dspy.lms.usage import RATES, price_of
from ipo_dspy.run.ledger import Ledger, LMResponse


def check_prices(models: Mapping[str, dspy.BaseLM], max_cost: float | None) -> None:
    """Raise `InputError` for a cost limit if a model has no price, because it could not be enforced."""
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
    """Raise `InputError` for incomplete or negative prices."""
    rates: dict[str, Any] = {name: getattr(lm, "kwargs", {}).get(name) for name in RATES}
    for name, rate in rates.items() if any(rate is not None for rate in rates.values()) else ():
        if not has_type(rate, float, largest=math.inf) or rate < 0:
            raise InputError(
                f"{name} of {role} must be a number of USD >= 0, got {rate!r}; pass both {' and '.join(RATES)}"
            )


def unique_models(models: Mapping[str, dspy.BaseLM]) -> dict[str, dspy.BaseLM]:
    """Return models by role, each model once: roles may share name, address and key."""
    unique: dict[str, dspy.BaseLM] = {}
    for role, lm in models.items():
        if _identity(lm) not in map(_identity, unique.values()):
            unique[role] = lm
    return unique


def _identity(lm: dspy.BaseLM) -> tuple[Any, ...]:
    kwargs = getattr(lm, "kwargs", {})
    return getattr(lm, "model", None), *(kwargs.get(name) for name in ("api_base", "base_url", "api_key"))


def ping_once(ledger: Ledger, lm: dspy.BaseLM, *, role: str, with_image: bool = False) -> None:
    """Raise `LanguageModelError` unless a model is available and accepts the key (and images); asked once per run."""
    if not isinstance(getattr(lm, "engine", None), str):
        return  # a stub or a custom engine, which has no address

    def ask() -> LMResponse:
        check_port_open(lm, role=role)
        return ping(lm, with_image=with_image)

    try:
        with contextlib.suppress(BudgetError):  # the search will reach the limit and end as usual
            ledger.once("", f"greet {role} {lm.model}{' with an image' * with_image}", ask)  # kept: in journals
    except (LMError, ImportError, OSError) as error:
        multimodal = Hint("choose a multimodal model, or pass {images_in_request}", images_in_request=0)
        is_refused = with_image and isinstance(error, LMInvalidRequestError | LMUnsupportedFeatureError)
        raise LanguageModelError(
            f"{lm.model!r} does not answer: {one_line_error(error, lm)}",
            argument=role,
            hint=multimodal if is_refused else suggest_fix(error, lm.model, lm),
        ) from None  # a traceback would print what `one_line_error` redacted
