"""Where a language model is asked: its address, told by host and port alone, and whether anything listens there.

A key or a password may stand before the host of an address or in its query, so neither is ever told.
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
"""To wait for a connection; a server that is farther away than that is asked all the same."""
_PORTS = {"http": 80, "https": 443}
_PROVIDERS = {"ollama_chat": "OLLAMA"}
"""Where the variable is not named after the provider."""
_BASE_URL = ("OPENAI", "ANTHROPIC")
"""Providers whose address LiteLLM reads from this variable, too."""
_USUAL = {"OLLAMA": "http://localhost:11434"}
"""What LiteLLM asks where no address is given; of servers that run on one's own machine."""


def custom_base_url(model: str, settings: Mapping[str, Any]) -> str | None:
    """The address of one's own that a model is asked at: of its settings, else of the environment.

    None where the provider is asked at its own address.

    >>> custom_base_url("openai/phi-3", {"api_base": "http://localhost:8000/v1"})
    'http://localhost:8000/v1'
    """
    provider = _provider(model)
    given = [settings.get("api_base"), settings.get("base_url")]
    names = (*(["BASE_URL"] if provider in _BASE_URL else []), "API_BASE")
    told = [os.environ.get(f"{provider}_{name}") for name in names]
    address = next((one for one in (*given, *told, _USUAL.get(provider)) if one), None)
    return address if isinstance(address, str) and not _is_a_providers(address, provider) else None


def _is_a_providers(address: str, provider: str) -> bool:
    """Whether a provider's own address was given, e.g. that of a region."""
    litellm = import_litellm()

    host = _split(address).hostname or ""
    known = {_split(one if "//" in one else f"//{one}").hostname for one in litellm.openai_compatible_endpoints}
    return host in known or f".{host}".endswith((f".{provider.lower()}.com", ".openai.com"))


def endpoint(lm: dspy.BaseLM) -> str:
    """Host and port of a model's own address; empty where the provider is asked at its own.

    >>> import dspy
    >>> endpoint(dspy.LM("openai/x", engine="litellm", api_base="http://me:secret@localhost:8000/v1?key=secret"))
    'localhost:8000'
    """
    address = _address_of(lm)
    return _place(_split(address)) if address else ""


def origin(address: str) -> str:
    """Return scheme, host and port of an address: as far as a key that is sent there may go.

    >>> origin("https://me:secret@Host/v1?key=secret")
    'https://host:443'
    """
    parts = _split(address)
    return f"{parts.scheme}://{_place(parts)}"


def check_port_open(lm: dspy.BaseLM, *, role: str) -> None:
    """See that something listens at a model's own address, so that nobody waits for retries where nothing is.

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
        fact = f"there is no host {parts.hostname!r}"
    except OSError:
        return  # it may be slow, or come back; the request will tell
    else:
        return
    hint = "start the server, or correct its api_base"
    raise LanguageModelError(f"{lm.model!r}: {fact}", argument=role, hint=hint) from None


def _address_of(lm: dspy.BaseLM) -> str | None:
    model = getattr(lm, "model", None)
    return custom_base_url(model, getattr(lm, "kwargs", {})) if isinstance(model, str) else None


def _provider(model: str) -> str:
    """As its environment variables begin."""
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
