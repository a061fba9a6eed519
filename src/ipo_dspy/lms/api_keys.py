"""Whether there is a key for a language model: a missing one would show after images are encoded and requests retried.

Only that is seen here; whether a key is right, the provider alone knows (`checks.greet_once`).
"""

from collections.abc import Mapping
from typing import Any

import dspy

from ipo_dspy._internal.secrets import names_secret
from ipo_dspy.errors import Argument, Hint, LanguageModelError, LMCall
from ipo_dspy.lms.endpoints import custom_base_url
from ipo_dspy.lms.error_messages import key_variable
from ipo_dspy.lms.library import import_litellm


def missing_key(model: str, settings: Mapping[str, Any]) -> str | None:
    """The environment variable that a model's key is to be set in, if there is no key anywhere."""
    litellm = import_litellm()

    provider = model.partition("/")[0] if "/" in model else "openai"
    told = any(names_secret(name) for name, value in settings.items() if value is not None)
    if told or litellm.api_key or getattr(litellm, f"{provider}_key", None):
        return None
    keys = [name for name in litellm.validate_environment(model)["missing_keys"] if name.endswith("_API_KEY")]
    if not keys:
        return None
    return key_variable(model) if key_variable(model) in keys else keys[0]


def is_self_hosted(model: str, settings: Mapping[str, Any]) -> bool:
    """Whether a model is served by a server of one's own, named by `api_base` or in the environment."""
    litellm = import_litellm()

    missing = litellm.validate_environment(model)["missing_keys"]
    # Where an address is missing too, it is a provider's service.
    return bool(custom_base_url(model, settings)) and all(name.endswith("_API_KEY") for name in missing)


def check_key(lm: dspy.BaseLM, *, role: str) -> None:
    """See that there is a key where the provider wants one.

    Args:
        lm: of `dspy.LM`; others are their maker's business.
        role: the argument's name, for the message.

    Raises:
        LanguageModelError: there is none; the variable to set.
    """
    if getattr(lm, "engine", None) != "litellm":
        return
    wanted = missing_key(lm.model, lm.kwargs)
    if wanted is not None:
        self_hosted = LMCall(lm.model, (Argument("api_base", "http://HOST:PORT/v1"),))
        hint = Hint(f"set {wanted} in the environment, or use a self-hosted server: {{}}", Argument(role, self_hosted))
        raise LanguageModelError(f"{lm.model!r} needs a key", argument=role, hint=hint)
