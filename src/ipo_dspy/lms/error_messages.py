"""Classify errors of language models, suggest a fix, and format them on one line without secrets."""

import re

import dspy
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

from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.lms.endpoints import custom_base_url, endpoint, provider_of
from ipo_dspy.lms.redaction import remember_lm
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
"""Errors that a retry cannot fix: an invalid key, no credit, a model that does not exist."""

OUT_OF_REACH = (LMTransportError, LMServerError, LMTimeoutError)
"""Errors that may mean that the server is down; LiteLLM reports a refused connection as a server error, too."""

LONGEST = 300
"""Maximum number of characters of an error message."""


def one_line_error(error: Exception, lm: dspy.BaseLM | None = None) -> str:
    """Return the message of an error on one line, with secrets redacted: providers quote keys and headers.

    If a self-hosted server may be the cause, its host and port are appended.

    >>> one_line_error(ValueError("Incorrect API key provided: sk-abcdef123. Try again."))
    'Incorrect API key provided: [hidden]. Try again.'
    """
    remember_lm(lm)
    at = endpoint(lm) if isinstance(error, OUT_OF_REACH) else ""
    where = f" (asked at {at})" if at else ""
    return one_line(str(error), LONGEST - len(where)) + where


def suggest_fix(error: Exception, model: str, lm: dspy.BaseLM | None = None) -> str:
    """Return a fix for an error that a retry cannot resolve.

    >>> suggest_fix(LMAuthError("401"), "openai/gpt-4o-mini")
    'set OPENAI_API_KEY to a valid API key'
    """
    if hint := getattr(error, "hint", ""):
        return str(hint)
    if model.startswith("transformers/"):
        return "see docs/backends.md for the requirements of in-process models"
    if isinstance(error, LMAuthError):
        return f"set {key_variable(model)} to a valid API key"
    if isinstance(error, LMBillingError):
        return "add credit to the provider's account, or use another model"
    is_invalid = isinstance(error, LMInvalidRequestError | LMUnsupportedFeatureError)
    if is_invalid and (match := _REFUSES.search(" ".join(str(error).split()))):
        return f"remove its setting {match[1] or match[2]}: set it to None (null on the command line)"
    if isinstance(error, LMUnsupportedModelError):
        instead = "choose a model that the server provides"
        base_url = custom_base_url(model, getattr(lm, "kwargs", None) or {})
        return f"{instead}, or correct api_base: most servers want it to end in /v1" if base_url else instead
    return "check the model's name, key and address"


_SETTINGS = r"temperature|top_p|top_k|seed|stop|logprobs|presence_penalty|frequency_penalty"
_REFUSES = re.compile(
    rf"(?i)(?:unsupported|not supported|(?:does|do) not support|only|unknown|unrecognized)\b.{{0,80}}?\b({_SETTINGS})\b"
    rf"|\b({_SETTINGS})\b.{{0,40}}?(?:unsupported|not supported|not support|only|deprecated)"
)


def key_variable(model: str) -> str:
    """Return the environment variable from which LiteLLM reads the key of a model.

    >>> key_variable("gemini/gemini-2.0-flash"), key_variable("vertex_ai/gemini-2.0-flash")
    ('GEMINI_API_KEY', 'GOOGLE_APPLICATION_CREDENTIALS')
    """
    provider = provider_of(model)
    return _KEY_VARIABLES.get(provider, f"{provider.upper()}_API_KEY")


_KEY_VARIABLES = {
    "vertex_ai": "GOOGLE_APPLICATION_CREDENTIALS",
    "bedrock": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "huggingface": "HF_TOKEN",
    "together_ai": "TOGETHERAI_API_KEY",
    "ollama_chat": "OLLAMA_API_KEY",
}
"""Variables of providers that do not use PROVIDER_API_KEY."""
