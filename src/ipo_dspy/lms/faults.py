"""What went wrong with a language model: whether asking again may help, in one line that may be kept, without keys."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from dspy.utils.exceptions import (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)

FATAL = (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
    ImportError,
)
"""Errors that asking again cannot mend: a wrong key, no credit, a model that does not exist."""

LONGEST = 300
_LOOKS_SECRET = re.compile(r"(?i)\b(?!HF_TOKEN\b)(?:sk|pk|hf|key)[-_][\w*-]{4,}|\bbearer\s+[^\s\"',}]+")
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET")
_GIVEN_NAMES = ("key", "token", "secret", "password", "credential")
IS_SECRET = re.compile(r"(?:^|_)(?:key|token|secret|password|credentials?)$|headers?$", re.IGNORECASE)
"""Names of settings of a language model that hold a secret: `api_key`, not `max_tokens`."""
_USERINFO = re.compile(r"\w+://([^/?#]+)@")


def brief(error: Exception, lm: Any = None) -> str:
    """The message of an error on one line; providers quote keys and headers, so these are taken out.

    Args:
        error: from a request to a language model.
        lm: the model asked; the keys, headers and address password that it was given are taken out in any form.

    >>> brief(ValueError("Incorrect API key provided: sk-abcdef123. Try again."))
    'Incorrect API key provided: [hidden]. Try again.'
    """
    text = str(error)
    for secret in _secrets(lm):
        # A short one, such as the header value "1", is hidden as a word, not inside every other.
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < 8 else re.escape(secret), "[hidden]", text)
    text = " ".join(_LOOKS_SECRET.sub("[hidden]", text[: 100 * LONGEST]).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def without_secrets(state: Any) -> Any:
    """A saved state without the keys, headers and address passwords of language models in it.

    >>> without_secrets({"lm": {"model": "openai/x", "extra_headers": {"Authorization": "Bearer s"}, "max_tokens": 9}})
    {'lm': {'model': 'openai/x', 'max_tokens': 9}}
    """
    if isinstance(state, list):
        return [without_secrets(item) for item in state]
    if not isinstance(state, dict):
        return state
    return {
        key: _plain_settings(value) if key == "lm" and isinstance(value, dict) else without_secrets(value)
        for key, value in state.items()
    }


def _plain_settings(lm: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in lm.items()
        if not IS_SECRET.search(name) and not (isinstance(value, str) and _USERINFO.match(value))
    }


def remedy(error: Exception, model: str) -> str:
    """What to do about a fault that asking again cannot mend.

    >>> remedy(LMAuthError("401"), "openai/gpt-4o-mini")
    'set OPENAI_API_KEY to a key that the provider takes'
    """
    if isinstance(error, LMAuthError):
        return f"set {key_variable(model)} to a key that the provider takes"
    if isinstance(error, LMBillingError):
        return "add credit to the provider's account, or name another model"
    if isinstance(error, LMUnsupportedModelError):
        return "name a model that the server has"
    return "check the model's name, key and address"


def key_variable(model: str) -> str:
    """The environment variable that LiteLLM reads the key of a model from.

    >>> key_variable("gemini/gemini-2.0-flash"), key_variable("vertex_ai/gemini-2.0-flash")
    ('GEMINI_API_KEY', 'GOOGLE_APPLICATION_CREDENTIALS')
    """
    provider = model.partition("/")[0] if "/" in model else "openai"
    return _KEY_VARIABLES.get(provider, f"{provider.upper()}_API_KEY")


_KEY_VARIABLES = {
    "vertex_ai": "GOOGLE_APPLICATION_CREDENTIALS",
    "bedrock": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "huggingface": "HF_TOKEN",
    "together_ai": "TOGETHERAI_API_KEY",
    "ollama_chat": "OLLAMA_API_KEY",
}
"""Where it is not PROVIDER_API_KEY."""


def _secrets(lm: Any) -> list[str]:
    values = [v for name, v in os.environ.items() if name.endswith(_SECRET_NAMES) and (len(v) >= 8 or v[:3] == "sk-")]
    for name, value in (getattr(lm, "kwargs", None) or {}).items():
        if "headers" in name and isinstance(value, Mapping):
            shown = [str(one) for one in value.values()]
            values += [part for one in shown for part in (one, one.split(" ")[-1])]  # with and without "Basic"
        elif isinstance(value, str) and any(word in name.lower() for word in _GIVEN_NAMES):
            values.append(value)
        elif isinstance(value, str):
            values += _userinfo(value)
    return sorted(filter(None, map(str.strip, values)), key=len, reverse=True)


def _userinfo(address: str) -> list[str]:
    """What stands before the host in e.g. `api_base`: whole, and its password as written and as sent."""
    found = _USERINFO.match(address)
    if found is None:
        return []
    password = found[1].partition(":")[2]
    return [found[1], password, unquote(password)]
