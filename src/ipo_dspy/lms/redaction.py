"""Keep the secrets of language models out of messages, logs, saved programs and DSPy's cache."""

import functools
import logging
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import dspy

from ipo_dspy._internal.secrets import (
    holds_credentials,
    holds_secret,
    names_secret,
    redact,
    remember_secrets,
    remember_settings,
    without_secrets,
)
from ipo_dspy.lms.litellm_import import keep_prices_local

_LOGGERS = ("LiteLLM", "httpx", "openai._base_client", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
"""Loggers that log addresses, headers and parts of responses; their libraries are imported by the first request."""


def remember_lm(lm: dspy.BaseLM | str | None) -> None:
    """Register the keys, headers and address passwords of a language model for redaction."""
    keep_prices_local()
    remember_settings(getattr(lm, "kwargs", None) or {})
    attributes = getattr(lm, "__dict__", {})  # a custom class may keep its key there
    remember_settings({name: value for name, value in list(attributes.items()) if isinstance(value, str)})
    if litellm := sys.modules.get("litellm"):
        keys = (value for name, value in list(vars(litellm).items()) if name.islower() and names_secret(name))
        remember_secrets(key for key in keys if isinstance(key, str))
    _guard_cache()
    _guard_logs()


def has_credentials(lm: dspy.BaseLM) -> bool:
    """Return True if the address of a model, from its settings or the environment, has a user, password or query."""
    kwargs = getattr(lm, "kwargs", None) or {}
    addresses = [kwargs[name] for name in ("api_base", "base_url") if isinstance(kwargs.get(name), str)]
    addresses = addresses or [v for name, v in os.environ.items() if name.endswith(("_API_BASE", "_BASE_URL"))]
    return any(map(holds_credentials, addresses))


def without_lm_secrets(state: Any) -> Any:
    """Return a saved state without the keys, headers and address passwords of its language models.

    >>> without_lm_secrets({"lm": {"model": "openai/x", "extra_headers": {"Authorization": "Bearer s"}, "n": 9}})
    {'lm': {'model': 'openai/x', 'n': 9}}
    """
    if isinstance(state, list):
        return list(map(without_lm_secrets, state))
    if not isinstance(state, Mapping):
        return state
    return {
        key: without_secrets(value) if key == "lm" and isinstance(value, Mapping) else without_lm_secrets(value)
        for key, value in state.items()
    }


def _guard_cache() -> None:
    """Keep responses that quote a secret out of DSPy's cache, which writes them to disk unchanged."""
    put = dspy.cache.put
    if hasattr(put, "__wrapped__"):
        return

    @functools.wraps(put)
    def guarded(request: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        try:
            written = pickle.dumps(value).decode("utf-8", "replace")
        except (pickle.PicklingError, TypeError, AttributeError):
            written = repr(value)
        if not holds_secret(written):
            put(request, value, *args, **kwargs)

    dspy.cache.put = guarded


def _guard_logs() -> None:
    """Redact the log records of DSPy, LiteLLM and the HTTP clients."""
    dspys = [name for name in list(logging.root.manager.loggerDict) if name.startswith("dspy")]
    for name in (*_LOGGERS, *dspys):
        logging.getLogger(name).addFilter(_redact_record)  # adding it again has no effect


def _redact_record(record: logging.LogRecord) -> bool:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # logging would print the arguments as well
        message = str(record.msg)
    record.msg, record.args = redact(message), ()
    if record.exc_info:
        record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None  # a handler with a custom format would print it unredacted
    return True
