"""Find the Hugging Face tokens in the files that `hf auth login` writes, without importing huggingface_hub."""

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_LIMIT = 64 * 1024
"""Maximum number of bytes to read from a file; a token has at most a few thousand."""
_NAMED = re.compile(r"^[ \t]*(?:hf|refresh)_token[ \t]*[=:][ \t]*(\S.*?)\s*$", re.MULTILINE)


def hub_tokens() -> Iterator[str]:
    """Yield the tokens that huggingface_hub finds in files, in the order of `token_files`."""
    for path in token_files():
        try:
            status = path.stat()
        except (OSError, ValueError):  # missing, or not a valid path
            continue
        if stat.S_ISREG(status.st_mode):  # reading a pipe could block
            yield from _tokens(path, status.st_mtime_ns, status.st_size)


def token_files() -> tuple[Path, Path]:
    """Return the paths of the active token and of the named tokens, as huggingface_hub resolves them."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.join("~", ".cache"))  # noqa: PTH118 - the same code as huggingface_hub
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))  # noqa: PTH118
    token = Path(_expanded(os.environ.get("HF_TOKEN_PATH", os.path.join(_expanded(home), "token"))))  # noqa: PTH118
    return token, token.with_name("stored_tokens")


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises without a home


@lru_cache(maxsize=16)
def _tokens(path: Path, *_: int) -> tuple[str, ...]:
    """Return the named tokens in a file, or its complete text as one token; the other arguments key the cache."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(_NAMED.findall(text)) or ("".join(text.split("\n")).strip(),)
