"""The secrets of language models: redacted from now on, and kept out of DSPy's cache, saved programs, and logs."""

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
from ipo_dspy.lms.library import keep_prices_local

_LOGGERS = ("LiteLLM", "httpx", "openai._base_client", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
"""They write addresses, headers, and pieces of answers; LiteLLM and its clients are imported by the first request."""


def remember_lm(lm: dspy.BaseLM | None) -> None:
    """Have the keys, headers, and address passwords of a language model redacted from now on, wherever they turn up."""
    keep_prices_local()
    remember_settings(getattr(lm, "kwargs", None) or {})
    own = getattr(lm, "__dict__", {})  # of a class of the caller's own
    remember_settings({name: value for name, value in own.items() if isinstance(value, str)})
    if litellm := sys.modules.get("litellm"):
        keys = (value for name, value in vars(litellm).items() if name.islower() and names_secret(name))
        remember_secrets(key for key in keys if isinstance(key, str))
    _guard_cache()
    _guard_logs()


def has_credentials(lm: dspy.BaseLM) -> bool:
    """Return whether the address of a model, given or of the environment, holds a user, a password, or a query."""
    given = getattr(lm, "kwargs", None) or {}
    addresses = [given[name] for name in ("api_base", "base_url") if isinstance(given.get(name), str)]
    addresses = addresses or [v for name, v in os.environ.items() if name.endswith(("_API_BASE", "_BASE_URL"))]
    return any(map(holds_credentials, addresses))


def without_lm_secrets(state: Any) -> Any:
    """Return a saved state without the keys, headers, and address passwords of language models in it.

    >>> without_lm_secrets({"lm": {"model": "openai/x", "extra_headers": {"Authorization": "Bearer s"}, "n": 9}})
    {'lm': {'model': 'openai/x', 'n': 9}}
    """
    if isinstance(state, list):
        return [without_lm_secrets(item) for item in state]
    if not isinstance(state, Mapping):
        return state
    return {
        key: without_secrets(value) if key == "lm" and isinstance(value, Mapping) else without_lm_secrets(value)
        for key, value in state.items()
    }


def _guard_cache() -> None:
    """Keep answers that quote a secret out of DSPy's cache, which writes them to disk as they came."""
    put = dspy.cache.put
    if hasattr(put, "__wrapped__"):
        return

    @functools.wraps(put)
    def guarded(request: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        if not holds_secret(_content(value)):
            put(request, value, *args, **kwargs)

    dspy.cache.put = guarded


def _guard_logs() -> None:
    """Redact what the libraries in between log, by themselves or because the user has turned their logs on."""
    dspys = [name for name in list(logging.root.manager.loggerDict) if name.startswith("dspy")]
    for name in (*_LOGGERS, *dspys):
        logging.getLogger(name).addFilter(_redact_record)  # once, however often it is added


def _redact_record(record: logging.LogRecord) -> bool:
    try:
        said = record.getMessage()
    except (TypeError, ValueError):  # which logging would print, arguments and all
        said = str(record.msg)
    record.msg, record.args = redact(said), ()
    if record.exc_info:
        record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None  # a handler with a format of its own would print it as it is
    return True


def _content(value: Any) -> str:
    """Return what the cache would write."""
    try:
        return pickle.dumps(value).decode("utf-8", "replace")
    except (pickle.PicklingError, TypeError, AttributeError):
        return repr(value)
