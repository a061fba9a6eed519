"""Language models by name: strings become `dspy.LM`s that go through LiteLLM, ready ones pass as they are."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from ipo_dspy._internal.secrets import NO_KEY, remember_settings
from ipo_dspy.errors import Argument, Hint, LanguageModelError
from ipo_dspy.lms.api_keys import is_self_hosted, missing_key
from ipo_dspy.lms.error_messages import one_line_error
from ipo_dspy.lms.library import import_litellm
from ipo_dspy.lms.redaction import has_credentials, remember_lm

LOCAL = "transformers/"
"""Names that begin so are models of the Hugging Face hub, or folders of one, and run in this process."""

SETTINGS: Mapping[str, Any] = {"temperature": 1.0, "num_retries": 5, "timeout": 120}
"""Of models given by name. Five retries wait out half a minute. `timeout` is of a request as a whole."""


def build_lm(
    model: "str | dspy.BaseLM",
    *,
    role: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dspy.BaseLM:
    """A DSPy language model for a LiteLLM name, e.g. `openai/gpt-4o-mini` or `ollama_chat/phi3`.

    `transformers/NAME_OR_FOLDER` runs in this process; see `register_transformers`. Whether there is a key, `check_key`
    looks.

    Args:
        model: a LiteLLM name, or a ready LM, which is returned as it is.
        role: the argument's name, for messages.
        settings: of `dspy.LM` besides or instead of `SETTINGS`; ignored for a ready LM.

    Raises:
        LanguageModelError: LiteLLM knows no such provider or model.
    """
    if str(getattr(model, "model", model)).startswith(LOCAL):
        register_transformers()
    if isinstance(model, dspy.BaseLM):
        remember_lm(model)
        return model
    if not isinstance(model, str):
        raise LanguageModelError(
            "must be a name or a dspy.BaseLM",
            argument=role,
            value=model,
            hint=Hint("for example {}", Argument(role, "openai/gpt-4o-mini")),
        )
    _check_name(model, role)
    _check_timeout(settings.get("timeout"))
    key = {"api_key": NO_KEY} if missing_key(model, settings) and is_self_hosted(model, settings) else {}
    remember_settings(settings)
    try:
        lm = dspy.LM(model, engine="litellm", **{**SETTINGS, **settings, **key})
    except (LMError, TypeError, ValueError) as error:
        raise LanguageModelError(
            f"{model!r} cannot be set up: {one_line_error(error)}",
            argument=role,
            hint=f"fix the name or its settings ({', '.join(settings) or 'none given'})",
        ) from None  # a traceback would print what `brief` took out
    remember_lm(lm)
    if has_credentials(lm):
        lm.cache = False  # DSPy's cache on disk keeps the address with each answer
    return lm


def register_transformers() -> None:
    """Teach LiteLLM the provider `transformers/`: models that run in this process.

    IPO does this by itself. Call it once before `dspy.LM("transformers/...", engine="litellm")` is used outside of it:
    LiteLLM has no other way to learn of a provider, and importing ipo_dspy must not load LiteLLM for everyone.
    """
    import_litellm()
    from ipo_dspy.lms.local.provider import register

    register()


def _check_timeout(timeout: Any) -> None:
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float | NoneType)
        or (timeout is not None and timeout <= 0)
    ):
        hint = Hint("for example {timeout}", timeout=120)
        raise LanguageModelError("must be a positive number of seconds", argument="timeout", value=timeout, hint=hint)


def _check_name(model: str, role: str) -> None:
    litellm = import_litellm()
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as error:
        providers = [str(getattr(p, "value", p)) for p in litellm.provider_list]
        rest = model.partition("/")[2] or "..."
        known = [*litellm.model_list, *(f"{provider}/{rest}" for provider in providers)]
        close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise LanguageModelError(
            f"{model!r} is not a model that LiteLLM knows{hint}",
            argument=role,
            hint="write provider/name, e.g. 'openai/gpt-4o-mini' or 'ollama_chat/phi3'",
        ) from error
