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
from ipo_dspy.lms.library import import_litellm

SECONDS = 3.0
"""Timeout of the port check; a server that takes longer to accept a connection is still used."""
_PORTS = {"http": 80, "https": 443}
_PROVIDERS = {"ollama_chat": "OLLAMA"}
"""Providers whose environment variables have another prefix than their name."""
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
    provider = _provider(model)
    from_settings = [settings.get("api_base"), settings.get("base_url")]
    names = (*(["BASE_URL"] if provider in _BASE_URL else []), "API_BASE")
    from_environment = [os.environ.get(f"{provider}_{name}") for name in names]
    address = next((url for url in (*from_settings, *from_environment, _USUAL.get(provider)) if url), None)
    return address if isinstance(address, str) and not _is_a_providers(address, provider) else None


def _is_a_providers(address: str, provider: str) -> bool:
    """Return True if an address belongs to the provider itself, e.g. that of a region."""
    litellm = import_litellm()

    host = _split(address).hostname or ""
    known = {_split(url if "//" in url else f"//{url}").hostname for url in litellm.openai_compatible_endpoints}
    return host in known or f".{host}".endswith((f".{provider.lower()}.com", ".openai.com"))


def endpoint(lm: dspy.BaseLM) -> str:
    """Return host and port of a model's custom base URL; empty if the provider's own address is used.

    >>> import dspy
    >>> endpoint(dspy.LM("openai/x", engine="litellm", api_base="http://me:secret@localhost:8000/v1?key=secret"))
    'localhost:8000'
    """
    address = _address_of(lm)
    return _place(_split(address)) if address else ""


def origin(address: str) -> str:
    """Return scheme, host and port of an address; credentials must not be sent to another origin.

    >>> origin("https://me:secret@Host/v1?key=secret")
    'https://host:443'
    """
    parts = _split(address)
    return f"{parts.scheme}://{_place(parts)}"


def check_port_open(lm: dspy.BaseLM, *, role: str) -> None:
    """Check that a server listens at a model's custom base URL, instead of retrying requests to a closed port.

    Raises:
        LanguageModelError: the host does not exist, or refuses the connection.
    """
    address = _address_of(lm)
    parts = _split(address or "")
    if not parts.hostname or not (port := _port(parts)) or _goes_through_a_proxy(parts):
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


def _address_of(lm: dspy.BaseLM) -> str | None:
    model = getattr(lm, "model", None)
    return custom_base_url(model, getattr(lm, "kwargs", {})) if isinstance(model, str) else None


def _provider(model: str) -> str:
    """Return the prefix of the provider's environment variables."""
    provider = model.partition("/")[0] if "/" in model else "openai"
    return _PROVIDERS.get(provider, provider.upper())


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
    host = parts.hostname or ""
    port = _port(parts)
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if host and port else "")


def _goes_through_a_proxy(parts: SplitResult) -> bool:
    return bool({parts.scheme, "all"} & getproxies().keys()) and not proxy_bypass(parts.hostname or "")
