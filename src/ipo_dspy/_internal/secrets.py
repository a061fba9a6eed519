"""Remember the secrets of this process, and redact them from text.

A server may quote keys, headers, and addresses with passwords in an error or in a response: complete, masked,
truncated, or encoded. Code that builds or calls a model registers its settings here. Text from outside goes through
`redact` before it is stored or shown.

Declared secrets are redacted everywhere: settings, headers, query fields, and environment variables whose name says so,
the password of an address, a path segment of an address that looks like a key (`_looks_like_a_key`), and the Hugging
Face tokens in files. Other headers and query values may be plain words, such as the title "photo". They are redacted in
errors, and in responses unless they read as words.
"""

import base64
import contextlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from ipo_dspy._internal.hub_tokens import hub_tokens

HIDDEN = "[hidden]"
NO_KEY = "none"
"""Placeholder key for a server that needs none; LiteLLM requires a key."""
_NO_SECRETS = frozenset({NO_KEY, "true", "false", "null", "yes", "no"})
_SHORTEST = 4
"""Minimum length of a secret in a response; a shorter value, such as the key "x" of a local server, is left in."""
_WORD = 8
"""Length below which a secret is redacted only as a separate word, not inside other words."""
_BEFORE_WORD = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])|(?<=\\u[0-9A-Fa-f]{4}))"
"""Matches where no letter or digit precedes, or where an escape of a URL or of JSON ends."""
_PIECE, _PLAIN_PIECE = 8, 12
"""Lengths of a piece that identifies a secret: with a digit, and without one."""

_SECRET_NAME = re.compile(
    r"(?:^|_)(?<!per_)(?:key|token|secret|password|passw?d?|passphrase|pwd|pat|auth|bearer|cookie|credential|header)s?$"
    r"(?<!_tokens)(?<!^tokens)|(?:password|secret|apikey|authtoken)s?$|authori[sz]ation|authentication"
)
_SIGNED = ("sig", "signature", "code")
"""Names of query values that authorize a request."""
_PATHS = ("application_credentials", "key_file", "token_file")
"""Endings of environment variables that hold the path of a secret."""
_WORKING_FOLDERS = ("PWD", "OLDPWD")
"""Variables that every shell sets; in other names `pwd` means a password."""
_USERINFO = re.compile(r"\w+://([^/?#\s]+)@")
_ANY_USERINFO = re.compile(r"(?<=://)[^/?#\s\"'<>@]+@")
_PATH = re.compile(r"((?i:https?)://[^/?#]*/)([^?#]*)")
_SHORTEST_KEY = 16
"""Minimum length of a path segment that may be a key."""
_LONGEST_WORD, _LONGEST_NUMBER = 15, 8
"""Maximum lengths of the parts of model, project, and region names: letters only, and with digits."""
_WORDS = re.compile(r"[A-Za-z]?[a-z]*(?:[ _.,'-]+[A-Za-z]?[a-z]+)*[.,]?")
_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[\w+/=%-]*")
_LOOKS_SECRET = re.compile(r"(?i)\b(?!HF_TOKEN\b)(?:sk|pk|hf|key)[-_][\w*-]{4,}|\bbearer\s+[^\s\"',}]+")
_DELIMITER = re.compile(r"[\s\"'<>,;&\\]")
"""Characters that end a secret of which one piece was found."""

_known: dict[str, bool] = {}
"""Registered secrets; the value is True for a declared secret, False for one that may be a plain word."""


@lru_cache(maxsize=4096)  # LiteLLM's module alone has a thousand names, read for each model
def names_secret(name: str) -> bool:
    """Return True if a setting, header, or variable of this name holds a secret.

    >>> [name for name in ("apiKey", "X-Api-Key", "auth", "max_tokens", "cost_per_token") if names_secret(name)]
    ['apiKey', 'X-Api-Key', 'auth']
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return _SECRET_NAME.search(re.sub(r"[\s.-]+", "_", words).lower().rstrip("_0123456789")) is not None


def remember_secrets(values: Iterable[str], *, certain: bool = True) -> None:
    """Redact values from now on; pass `certain=False` for values that may be plain words."""
    for value in map(str.strip, values):
        if value and value.lower() not in _NO_SECRETS:
            _known[value] = certain or _known.get(value, False)


def remember_settings(settings: Any, name: str = "") -> None:
    """Redact the secrets in the settings of a language model, or in the setting `name`, from now on, at any depth."""
    in_headers = name.lower().endswith(("headers", "header"))
    if isinstance(settings, Mapping):
        for inner, value in settings.items():
            if in_headers and isinstance(value, str):
                _remember_header(str(inner), value)
            else:
                remember_settings(value, str(inner))
    elif isinstance(settings, list | tuple):
        for value in settings:
            remember_settings(value, name)
    elif isinstance(settings, str):
        if names_secret(name):
            _remember_header(name, settings)
        for value, certain in _in_address(settings):
            remember_secrets([value, unquote(value)], certain=certain)


def _remember_header(name: str, value: str) -> None:
    certain = names_secret(name)
    remember_secrets([value], certain=certain)
    if not certain:
        return
    scheme, _, credentials = value.strip().partition(" ")
    if scheme.lower() in ("basic", "bearer", "token", "apikey", "digest"):
        remember_secrets([credentials])
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):  # not base64
            remember_secrets(base64.b64decode(credentials, validate=True).decode().partition(":")[2:])
    if "cookie" in name.lower():
        remember_secrets(part.partition("=")[2] for part in value.split(";"))


def _in_address(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each secret in an address, with True for a declared secret."""
    if match := _USERINFO.match(text):
        user, _, password = match[1].partition(":")
        yield match[1], True
        yield password or user, True  # some servers take a key as the user
    if match := _PATH.match(text):
        yield from ((segment, True) for segment in match[2].split("/") if _looks_like_a_key(segment))
    if "://" not in text or "?" not in text:
        return
    for part in text.partition("?")[2].partition("#")[0].split("&"):
        name, _, value = part.partition("=")
        name = unquote_plus(name)
        certain = names_secret(name) or name.lower() in _SIGNED
        yield from ((value, certain), (unquote_plus(value), certain))


def _looks_like_a_key(segment: str) -> bool:
    """Return True for a long path segment that is not words and numbers, as `gpt-4o-mini-2024-07-18` is."""
    plain = unquote(segment)
    parts = filter(None, re.split(r"[ _.,:@~-]+", plain))
    return len(plain) >= _SHORTEST_KEY and not all(
        part.isalnum() and len(part) <= (_LONGEST_WORD if part.isalpha() else _LONGEST_NUMBER) for part in parts
    )


def holds_credentials(address: str) -> bool:
    """Return True if an address holds a user, a password, a query, or a key in its path.

    >>> addresses = ("http://me:word@host/v1", "http://host/0f9d8c7b6a5e4d3c/v1", "http://host/openai/gpt-4o-mini/v1")
    >>> list(map(holds_credentials, addresses))
    [True, True, False]
    """
    return any(_in_address(address))


def without_secrets(value: Any) -> Any:
    """Return settings without secrets at any depth, and addresses without the secrets in them.

    >>> without_secrets({"api_key": "s", "api_base": "http://me:s@host:80/v1?key=s", "extra": [{"auth": 1, "n": 2}]})
    {'api_base': 'http://host:80/v1', 'extra': [{'n': 2}]}
    >>> without_secrets("http://host/0f9d8c7b6a5e4d3c/v1")
    'http://host/[hidden]/v1'
    """
    if isinstance(value, Mapping):
        return {name: without_secrets(inner) for name, inner in value.items() if not names_secret(str(name))}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    if isinstance(value, str) and "://" in value:
        bare = re.sub(r"(\w+://)[^/?#\s]+@", r"\1", value).partition("?")[0].partition("#")[0]
        return without_path_keys(bare)
    return value


def without_path_keys(address: str, instead: str = HIDDEN) -> str:
    """Return an address, or a setting with one, with each path segment that looks like a key replaced.

    >>> without_path_keys("api_base=http://host/0f9d8c7b6a5e4d3c/v1", "KEY")
    'api_base=http://host/KEY/v1'
    """

    def replaced(match: re.Match[str]) -> str:
        path = [instead if _looks_like_a_key(segment) else segment for segment in match[2].split("/")]
        return match[1] + "/".join(path)

    return _PATH.sub(replaced, address, count=1)


def redact(text: str, *, keep_words: bool = False) -> str:
    """Return a text without the secrets of this process, in any form, and without images.

    Args:
        text: text from outside.
        keep_words: keep undeclared values that read as words; used for responses.

    >>> remember_secrets(["quite secret"])
    >>> redact("Incorrect API key: quite%20secret, data:image/png;base64,iVBORw0KGgo=")
    'Incorrect API key: [hidden], [image]'
    """
    text = _IMAGE.sub("[image]", text)
    pieces, end = [], 0
    for start, stop in _spans(text, keep_words):
        if stop > end:
            pieces += [text[end : max(start, end)], HIDDEN if start >= end else ""]
            end = stop
    text = _ANY_USERINFO.sub(f"{HIDDEN}@", "".join([*pieces, text[end:]]))
    return text if keep_words else _LOOKS_SECRET.sub(HIDDEN, text)


def holds_secret(text: str) -> bool:
    """Return True if a text holds anything that `redact` removes from a response."""
    return bool(_spans(text, keep_words=True))


def _spans(text: str, keep_words: bool) -> list[tuple[int, int]]:
    """Return the start and end of each secret, sorted by start."""
    whole, pieces = _patterns(tuple(sorted(_secrets(keep_words))))
    spans = [match.span() for match in whole.finditer(text)]
    for size, known in pieces.items():
        for start in range(len(text) - size + 1):
            if text[start : start + size] in known:
                end = _DELIMITER.search(text, start + size)
                spans.append((start, end.start() if end else len(text)))
    return sorted(spans)


def _secrets(keep_words: bool) -> Iterator[str]:
    remember_secrets(filter(_is_long, hub_tokens()))  # also tokens that are not active
    for value, certain in {**dict(_in_the_environment()), **_known}.items():
        reads_as_words = len(value) < _WORD or _WORDS.fullmatch(value) is not None
        if not keep_words or (len(value) >= _SHORTEST and (certain or not reads_as_words)):
            yield value


def _in_the_environment() -> Iterator[tuple[str, bool]]:
    for name, value in os.environ.items():
        # Messages must be able to name existing paths.
        is_path = names_secret(name) and os.path.isabs(value) and os.path.exists(value)  # noqa: PTH110, PTH117 - Path.exists may raise
        yield from _in_variable(name, value, is_path)


@lru_cache(maxsize=1024)  # every line that is shown asks for all variables
def _in_variable(name: str, value: str, is_path: bool) -> tuple[tuple[str, bool], ...]:
    if name in _WORKING_FOLDERS:
        return ()
    is_secret = names_secret(name) and not name.lower().endswith(_PATHS) and not is_path
    # Addresses are in OPENAI_API_BASE, or in the variables of a proxy.
    secrets = [(value.strip(), True)] if is_secret else _in_address(value)
    return tuple((secret, certain) for secret, certain in secrets if _is_long(secret))


def _is_long(value: str) -> bool:
    """Return True if a value from the environment or a file is long enough to be a secret."""
    return len(value) >= _SHORTEST and value.lower() not in _NO_SECRETS


@lru_cache(maxsize=16)
def _patterns(secrets: tuple[str, ...]) -> tuple[re.Pattern[str], Mapping[int, frozenset[str]]]:
    """Return a pattern of complete secrets, and the pieces by size that identify a masked or truncated one."""
    forms = sorted({form for secret in secrets for form in _forms(secret)}, key=lambda form: (-len(form), form))
    whole = re.compile("|".join(map(_whole, forms)) or "(?!)")  # which matches nothing
    short, long = ({piece for form in forms for piece in _pieces(form, size)} for size in (_PIECE, _PLAIN_PIECE))
    known = {_PIECE: {piece for piece in short if any(map(str.isdigit, piece))}, _PLAIN_PIECE: long}
    return whole, {size: frozenset(pieces) for size, pieces in known.items() if pieces}


def _pieces(form: str, size: int) -> Iterator[str]:
    starts = range(len(form) - size + 1)
    return (form[start : start + size] for start in starts if not form[start].isspace())


def _whole(form: str) -> str:
    pattern = r"\s+".join(map(re.escape, form.split()))
    return pattern if len(form) >= _WORD else rf"{_BEFORE_WORD}{pattern}(?!\w)"


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as it is encoded in URLs, in JSON, in HTML, and in base64."""
    for plain in {secret, unquote(secret)}:
        encoded = {quote(plain), quote(plain, safe=""), quote_plus(plain)}
        lower_hex = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
        yield from (plain, *encoded, *map(quote, encoded), *lower_hex)
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1].replace("/", r"\/"))
        yield html.escape(plain)
        for packed in _packed(plain):
            yield from (packed, quote(packed, safe=""), packed.replace("+", "-").replace("/", "_"))


def _packed(plain: str) -> Iterator[str]:
    """Yield the base64 characters that depend on the secret only, for each of its three alignments."""
    raw = plain.encode("utf-8", "replace")
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        first = -(-8 * shift // 6)
        last = 8 * (shift + len(raw)) // 6
        if last - first >= _WORD - 1:
            yield encoded[first:last]
