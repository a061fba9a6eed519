"""Build `dspy.LM`s from LiteLLM names; existing LMs are passed through."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from ipo_dspy._internal.json_input import has_type
from ipo_dspy._internal.secrets import NO_KEY, remember_settings
from ipo_dspy.errors import Argument, Hint, LanguageModelError
from ipo_dspy.lms.api_keys import is_self_hosted, missing_key
from ipo_dspy.lms.error_messages import one_line_error
from ipo_dspy.lms.litellm_import import import_litellm
from ipo_dspy.lms.redaction import has_credentials, remember_lm

LOCAL = "transformers/"
"""Prefix of models that run in this process: names on the Hugging Face Hub, or local folders."""

SETTINGS: Mapping[str, Any] = {"temperature": 1.0, "num_retries": 5, "timeout": 120}
"""Default settings of models given by name. Five retries take about 30 s; `timeout` covers a whole request."""


def build_lm(
    model: "str | dspy.BaseLM",
    *,
    role: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dspy.BaseLM:
    """Return a DSPy language model for a LiteLLM name, e.g. `openai/gpt-4o-mini` or `ollama_chat/phi3`.

    `transformers/NAME_OR_FOLDER` runs in this process; see `register_transformers`. The API key is not checked here but
    by `check_key`.

    Args:
        model: a LiteLLM name, or a ready LM, which is returned as it is.
        role: the argument's name, for messages.
        settings: of `dspy.LM`; they override `SETTINGS` and are ignored for a ready LM.

    Raises:
        LanguageModelError: LiteLLM does not know the provider or model, or a setting is invalid.
    """
    prepare(model)
    if isinstance(model, dspy.BaseLM):
        return model
    if not isinstance(model, str):
        example = Hint("for example {}", Argument(role, "openai/gpt-4o-mini"))
        raise LanguageModelError("must be a name or a dspy.BaseLM", argument=role, value=model, hint=example)
    _check_name(model, role)
    timeout = settings.get("timeout")
    if timeout is not None and (not has_type(timeout, float) or timeout <= 0):
        hint = Hint("for example {timeout}", timeout=120)
        raise LanguageModelError("must be a positive number of seconds", argument="timeout", value=timeout, hint=hint)
    key = {"api_key": NO_KEY} if missing_key(model, settings) and is_self_hosted(model, settings) else {}
    remember_settings(settings)
    try:
        lm = dspy.LM(model, engine="litellm", **{**SETTINGS, **settings, **key})
    except (LMError, TypeError, ValueError) as error:
        raise LanguageModelError(
            f"{model!r} cannot be set up: {one_line_error(error)}",
            argument=role,
            hint=f"fix the name or its settings ({', '.join(settings) or 'none given'})",
        ) from None  # a traceback would print what `one_line_error` redacted
    remember_lm(lm)
    if has_credentials(lm):
        lm.cache = False  # DSPy's disk cache stores the address with each response
    return lm


def require_lm(lm: dspy.BaseLM | None) -> dspy.BaseLM | None:
    """Return a ready LM, or None; raise `LanguageModelError` for anything else, such as a name."""
    if not isinstance(lm, dspy.BaseLM | None):
        example = "for example lm=dspy.LM('openai/gpt-4o-mini')"
        raise LanguageModelError("must be a dspy.BaseLM or None", argument="lm", value=lm, hint=example)
    return lm


def prepare(model: "str | dspy.BaseLM") -> None:
    """Register the provider and the secrets of a model, before it is asked."""
    if str(getattr(model, "model", model)).startswith(LOCAL):
        register_transformers()
    remember_lm(model)


def register_transformers() -> None:
    """Register the provider `transformers/` with LiteLLM: models that run in this process.

    IPO calls it automatically. Call it once before you use `dspy.LM("transformers/...", engine="litellm")` elsewhere:
    importing ipo_dspy does not register the provider, because that would load LiteLLM for every user.
    """
    import_litellm()
    from ipo_dspy.lms.local.provider import register

    register()


def _check_name(model: str, role: str) -> None:
    litellm = import_litellm()
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as error:
        providers = [str(getattr(p, "value", p)) for p in litellm.provider_list]
        known = [*litellm.model_list, *(f"{p}/{model.partition('/')[2] or '...'}" for p in providers)]
        close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise LanguageModelError(
            f"{model!r} is not a model that LiteLLM knows{hint}",
            argument=role,
            hint="use provider/name, e.g. 'openai/gpt-4o-mini' or 'ollama_chat/phi3'",
        ) from error
