"""The Hugging Face tokens in the files that `hf auth login` writes: the one in use, and those kept by name.

huggingface_hub fixes the places of these files when it is imported. Here the environment is read each time, so that
nothing has to be imported before a text can be redacted.
"""

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_LIMIT = 64 * 1024
"""Bytes read of a file; a token has at most a few thousand."""
_NAMED = re.compile(r"^[ \t]*(?:hf|refresh)_token[ \t]*[=:][ \t]*(\S.*?)\s*$", re.MULTILINE)


def hub_tokens() -> Iterator[str]:
    """Yield the tokens that huggingface_hub finds in files, in the order of `token_files`."""
    for path in token_files():
        try:
            seen = path.stat()
        except (OSError, ValueError):  # not there, or no path
            continue
        if stat.S_ISREG(seen.st_mode):  # a pipe would be waited for
            yield from _tokens(path, seen.st_mtime_ns, seen.st_size)


def token_files() -> tuple[Path, Path]:
    """Return where huggingface_hub looks for the token in use, and for those that `hf auth login` keeps by name."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.join("~", ".cache"))  # noqa: PTH118 - as huggingface_hub has it
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))  # noqa: PTH118
    token = Path(_expanded(os.environ.get("HF_TOKEN_PATH", os.path.join(_expanded(home), "token"))))  # noqa: PTH118
    return token, token.with_name("stored_tokens")


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no home


@lru_cache(maxsize=16)
def _tokens(path: Path, *_: int) -> tuple[str, ...]:
    """Return the tokens in a file as it was last changed: named ones, or else the whole as one."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(_NAMED.findall(text)) or ("".join(text.split("\n")).strip(),)
