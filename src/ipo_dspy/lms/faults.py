"""What went wrong with a language model, in one line that may be kept: short, and without keys."""

import os
import re
from typing import Any

LONGEST = 300
_LOOKS_SECRET = re.compile(r"(?i)\b(?:sk|pk|hf|key)[-_][\w*-]{4,}|\bbearer\s+[^\s\"',}]+")
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET")


def brief(error: Exception, lm: Any = None) -> str:
    """The message of an error on one line; providers quote keys and headers, so these are taken out.

    Args:
        error: from a request to a language model.
        lm: the model asked; the key that it was given is taken out in any form.

    >>> brief(ValueError("Incorrect API key provided: sk-abcdef123. Try again."))
    'Incorrect API key provided: [hidden]. Try again.'
    """
    text = str(error)
    for secret in _secrets(lm):
        text = text.replace(secret, "[hidden]")
    text = " ".join(_LOOKS_SECRET.sub("[hidden]", text[: 100 * LONGEST]).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _secrets(lm: Any) -> list[str]:
    given = getattr(lm, "kwargs", None) or {}
    values = [str(value) for name, value in given.items() if "key" in name.lower() or "token" in name.lower()]
    values += [value for name, value in os.environ.items() if name.endswith(_SECRET_NAMES)]
    return sorted((v for v in values if len(v) >= 8 or v.startswith("sk-")), key=len, reverse=True)
