"""Resolve the endpoint of a language model, show it as host and port, and check that the port is open.

An address may contain a key or a password before its host or in its query, so neither part is ever shown.
"""

import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import dspy

from ipo_dspy.errors import LanguageModelError
from ipo_dspy.lms.litellm_import import import_litellm

SECONDS = 3.0
"""Timeout of the port check; a server that takes longer to accept a connection is still used."""
_PORTS = {"http": 80, "https": 443}
_BASE_URL = ("OPENAI", "ANTHROPIC")
"""Providers whose address LiteLLM also reads from PROVIDER_BASE_URL."""
_USUAL = {"OLLAMA": "http://localhost:11434"}
"""Default addresses in LiteLLM of servers that run on the local machine."""


def custom_base_url(model: str, settings: Mapping[str, Any]) -> str | None:
    """Return the custom base URL of a model, from its settings or else the environment.

    None if the provider's own address is used.

    >>> custom_base_url("openai/phi-3", {"api_base": "http://localhost:8000/v1"})
    'http://localhost:8000/v1'
    """
    name = provider_of(model)
    provider = "OLLAMA" if name == "ollama_chat" else name.upper()  # the prefix of its variables
    variables = (*([f"{provider}_BASE_URL"] if provider in _BASE_URL else []), f"{provider}_API_BASE")
    addresses = (*map(settings.get, ("api_base", "base_url")), *map(os.environ.get, variables), _USUAL.get(provider))
    address = next(filter(None, addresses), None)
    if not isinstance(address, str):
        return None
    host = _split(address).hostname or ""
    known = {
        _split(url if "//" in url else f"//{url}").hostname for url in import_litellm().openai_compatible_endpoints
    }
    is_a_providers = host in known or f".{host}".endswith((f".{provider.lower()}.com", ".openai.com"))
    return None if is_a_providers else address


def provider_of(model: str) -> str:
    """Return the provider in a LiteLLM name.

    >>> provider_of("groq/toy"), provider_of("gpt-4o-mini")
    ('groq', 'openai')
    """
    return model.partition("/")[0] if "/" in model else "openai"


def endpoint(lm: dspy.BaseLM) -> str:
    """Return host and port of a model's custom base URL; empty if the provider's own address is used.

    >>> import dspy
    >>> endpoint(dspy.LM("openai/x", engine="litellm", api_base="http://me:secret@localhost:8000/v1?key=secret"))
    'localhost:8000'
    """
    return _place(_split(_address_of(lm)))


def origin(address: str) -> str:
    """Return scheme, host and port of an address; credentials must not be sent to another origin.

    >>> origin("https://me:secret@Host/v1?key=secret")
    'https://host:443'
    """
    parts = _split(address)
    return f"{parts.scheme}://{_place(parts)}"


def check_port_open(lm: dspy.BaseLM, *, role: str) -> None:
    """Raise `LanguageModelError` if nothing listens at a custom base URL, instead of retrying requests to it."""
    parts = _split(_address_of(lm))
    if not parts.hostname or not (port := _port(parts)):
        return
    if {parts.scheme, "all"} & getproxies().keys() and not proxy_bypass(parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        fact = f"nothing listens at {_place(parts)}"
    except socket.gaierror:
        fact = f"host {parts.hostname!r} does not exist"
    except OSError:
        return  # the server may be slow or restarting; the request itself will show
    else:
        return
    hint = "start the server, or correct its api_base"
    raise LanguageModelError(f"{lm.model!r}: {fact}", argument=role, hint=hint) from None


def _address_of(lm: dspy.BaseLM) -> str:
    model = getattr(lm, "model", None)
    return custom_base_url(model, getattr(lm, "kwargs", {})) or "" if isinstance(model, str) else ""


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # e.g. half an IPv6 address
        return urlsplit("")


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def _place(parts: SplitResult) -> str:
    host, port = parts.hostname or "", _port(parts)
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if host and port else "")
