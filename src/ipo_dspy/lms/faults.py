"""What went wrong with a language model: whether asking again may help, in one line that may be kept, without keys."""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from dspy.utils.exceptions import (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMInvalidRequestError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)

from ipo_dspy.lms.addresses import own_address, place
from ipo_dspy.lms.request_errors import RetryLaterError

FATAL = (
    RetryLaterError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
    ImportError,
)
"""Errors that asking again cannot mend: a wrong key, no credit, a model that does not exist."""

OUT_OF_REACH = (LMTransportError, LMServerError, LMTimeoutError)
"""Errors behind which may be a server that is not there; LiteLLM calls also a refused connection a server's error."""

NO_KEY = "none"
"""Sent as the key to a server of one's own that was given none: LiteLLM asks for one, such servers do not."""

LONGEST = 300
_LOOKS_SECRET = re.compile(r"(?i)\b(?!HF_TOKEN\b)(?:sk|pk|hf|key)[-_][\w*-]{4,}|\bbearer\s+[^\s\"',}]+")
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_GIVEN_NAMES = ("key", "token", "secret", "password", "credential")
IS_SECRET = re.compile(r"(?:^|_|api)(?<!per_)(?:key|token|secret|password|credentials?)$|headers?$", re.IGNORECASE)
"""Names of settings of a language model that hold a secret: `api_key`, not `max_tokens`."""
_USERINFO = re.compile(r"\w+://([^/?#]+)@")
_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[\w+/=%-]*")
_PACKED = re.compile(r"[\w+/-]{12,}={0,2}", re.ASCII)
_LONG_PACKED = re.compile(r"[\w+/-]{200,}={0,2}", re.ASCII)
"""No word is so long: an image, or something else that nobody reads."""
_BEGINNING = 8
"""So many first characters of a long secret are hidden too, with what follows: errors mask keys, and are cut."""


def brief(error: Exception, lm: Any = None) -> str:
    """The message of an error on one line; providers quote keys and headers, so these are taken out.

    Where the server may be at fault, its host and port are told, if it is one of the user's own.

    Args:
        error: from a request to a language model.
        lm: the model asked; the keys, headers and address password that it was given are taken out in any form.

    >>> brief(ValueError("Incorrect API key provided: sk-abcdef123. Try again."))
    'Incorrect API key provided: [hidden]. Try again.'
    """
    text = _LONG_PACKED.sub("[...]", without_keys(str(error), lm)[: 100 * LONGEST])
    text = " ".join(_LOOKS_SECRET.sub("[hidden]", text).split())
    at = place(lm) if isinstance(error, OUT_OF_REACH) else ""
    where = f" (asked at {at})" if at else ""
    room = LONGEST - len(where)
    return (text if len(text) <= room else text[: room - 3] + "...") + where


def without_keys(text: str, lm: Any = None, *, words: bool = True) -> str:
    """A text without the secrets of the environment and of a model, also masked or encoded, and without images.

    Args:
        text: of a provider.
        lm: the model asked.
        words: also secrets that may be words: a header such as "photo" must not be missing from an answer.

    >>> without_keys("I see data:image/png;base64,iVBORw0KGgo= and data")
    'I see [image] and data'
    """
    text = _IMAGE.sub("[image]", text)
    secrets = [secret for secret in _secrets(lm) if words or _is_random(secret)]
    forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
    for pattern in [*map(_entire, forms), *map(_cut, forms)]:
        text = re.sub(pattern, "[hidden]", text)
    beginnings = [secret[:_BEGINNING].encode() for secret in secrets if len(secret) >= _BEGINNING]
    return _PACKED.sub(lambda found: "[hidden]" if _holds(found[0], beginnings) else found[0], text)


def has_password(lm: Any) -> bool:
    """Whether the address of a model holds a password: the one that it was given, else one in the environment."""
    given = getattr(lm, "kwargs", None) or {}
    addresses = [given[name] for name in ("api_base", "base_url") if isinstance(given.get(name), str)]
    addresses = addresses or [v for name, v in os.environ.items() if name.endswith(("_API_BASE", "_BASE_URL"))]
    return any(map(_userinfo, addresses))


def _forms(secret: str) -> set[str]:
    """A secret as it is and as it stands in an address."""
    return {secret, unquote(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)}


def _entire(secret: str) -> str:
    whole = re.escape(secret)
    # A short one, such as the header value "1", is hidden as a word, not inside every other.
    return whole if len(secret) >= _BEGINNING else rf"(?<!\w){whole}(?!\w)"


def _cut(secret: str) -> str:
    """What is left of a secret that was masked or cut; nothing of what may be words, which begin as others do."""
    if len(secret) < 2 * _BEGINNING or not _is_random(secret):
        return r"(?!)"
    return rf"{re.escape(secret[:_BEGINNING])}[^\s\"'<>,;&]*"


def _is_random(secret: str) -> bool:
    """Whether no text holds it by chance."""
    return len(secret) >= _BEGINNING and " " not in secret and any(map(str.isdigit, secret))


def _holds(packed: str, beginnings: list[bytes]) -> bool:
    """Whether a secret begins in what may be base64, e.g. of `Basic user:password`."""
    text = packed.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        plain = base64.b64decode(text[: len(text) // 4 * 4])
    except binascii.Error:
        return False
    return any(beginning in plain for beginning in beginnings)


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


def _plain_settings(lm: Any) -> Any:
    """Settings of a language model without secrets, however deep."""
    if isinstance(lm, list | tuple):
        return [_plain_settings(value) for value in lm]
    if not isinstance(lm, Mapping):
        return lm
    return {
        name: _plain_settings(value)
        for name, value in lm.items()
        if not IS_SECRET.search(str(name).replace("-", "_")) and not (isinstance(value, str) and _USERINFO.match(value))
    }


def remedy(error: Exception, model: str, lm: Any = None) -> str:
    """What to do about a fault that asking again cannot mend.

    Args:
        error: from a request to a language model.
        model: its name.
        lm: the model, whose address may be at fault.

    >>> remedy(LMAuthError("401"), "openai/gpt-4o-mini")
    'set OPENAI_API_KEY to a key that the provider takes'
    """
    if hint := getattr(error, "hint", ""):
        return str(hint)
    if model.startswith("transformers/"):
        return "docs/backends.md says what a model of this process needs"
    if isinstance(error, LMAuthError):
        return f"set {key_variable(model)} to a key that the provider takes"
    if isinstance(error, LMBillingError):
        return "add credit to the provider's account, or name another model"
    if setting := _refused_setting(error):
        return f"leave {setting} out: set it to None (--lm-arg {setting}=null)"
    if isinstance(error, LMUnsupportedModelError):
        instead = "name a model that the server has"
        own = own_address(model, getattr(lm, "kwargs", None) or {})
        return f"{instead}, or correct api_base: most servers want it to end in /v1" if own else instead
    return "check the model's name, key and address"


_SETTINGS = r"temperature|top_p|top_k|seed|stop|logprobs|presence_penalty|frequency_penalty"
_REFUSES = re.compile(
    rf"(?i)(?:unsupported|not supported|(?:does|do) not support|only|unknown|unrecognized)\b.{{0,80}}?\b({_SETTINGS})\b"
    rf"|\b({_SETTINGS})\b.{{0,40}}?(?:unsupported|not supported|not support|only|deprecated)"
)


def _refused_setting(error: Exception) -> str | None:
    """The setting that a model does not take, if an error says so."""
    if not isinstance(error, LMInvalidRequestError | LMUnsupportedFeatureError):
        return None
    found = _REFUSES.search(" ".join(str(error).split()))
    return (found[1] or found[2]) if found else None


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
    values = [*_in_the_environment()]
    for name, value in (getattr(lm, "kwargs", None) or {}).items():
        if "headers" in name and isinstance(value, Mapping):
            shown = [str(one) for one in value.values()]
            values += [part for one in shown for part in (one, one.split(" ")[-1])]  # with and without "Basic"
        elif isinstance(value, str) and any(word in name.lower() for word in _GIVEN_NAMES):
            values.append(value)
        elif isinstance(value, str):
            values += _userinfo(value)
    return [value for value in map(str.strip, values) if value and value != NO_KEY]


def _in_the_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.endswith(_SECRET_NAMES) and (len(value) >= 8 or value[:3] == "sk-"):
            yield value
        yield from (one for one in _userinfo(value) if len(one) >= 8)  # of OPENAI_API_BASE or a proxy


def _userinfo(address: str) -> list[str]:
    """What stands before the host in e.g. `api_base`: whole, and its password as written and as sent."""
    found = _USERINFO.match(address)
    if found is None:
        return []
    user, _, password = found[1].partition(":")
    secret = password or user  # some take a key for the user
    return [found[1], secret, unquote(secret)]
