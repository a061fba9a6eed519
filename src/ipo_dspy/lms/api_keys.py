"""Check that a language model has an API key.

Without this check, a missing key would only be noticed after images are encoded and requests are retried. An invalid
key is only detected by the provider; see `preflight.ping_once`.
"""

from collections.abc import Mapping
from typing import Any

import dspy

from ipo_dspy._internal.secrets import names_secret
from ipo_dspy.errors import Argument, Hint, LanguageModelError, LMCall
from ipo_dspy.lms.endpoints import custom_base_url, provider_of
from ipo_dspy.lms.error_messages import key_variable
from ipo_dspy.lms.litellm_import import import_litellm


def missing_key(model: str, settings: Mapping[str, Any]) -> str | None:
    """Return the environment variable for a model's missing key; None if a key is set or not needed."""
    litellm = import_litellm()
    has_key_setting = any(names_secret(name) for name, value in settings.items() if value is not None)
    if has_key_setting or litellm.api_key or getattr(litellm, f"{provider_of(model)}_key", None):
        return None
    keys = [name for name in litellm.validate_environment(model)["missing_keys"] if name.endswith("_API_KEY")]
    return key_variable(model) if key_variable(model) in keys else next(iter(keys), None)


def is_self_hosted(model: str, settings: Mapping[str, Any]) -> bool:
    """Return True if a model runs on a self-hosted server, set by `api_base` or in the environment."""
    missing = import_litellm().validate_environment(model)["missing_keys"]
    # If an address is missing as well, the model is a provider's service.
    return bool(custom_base_url(model, settings)) and all(name.endswith("_API_KEY") for name in missing)


def check_key(lm: dspy.BaseLM, *, role: str) -> None:
    """Raise `LanguageModelError` if a model uses LiteLLM, its provider requires a key, and none is set."""
    if getattr(lm, "engine", None) != "litellm":
        return
    if variable := missing_key(lm.model, lm.kwargs):
        self_hosted = LMCall(lm.model, (Argument("api_base", "http://HOST:PORT/v1"),))
        fix = f"set {variable} in the environment, or use a self-hosted server: {{}}"
        hint = Hint(fix, Argument(role, self_hosted))
        raise LanguageModelError(f"{lm.model!r} needs a key", argument=role, hint=hint)
