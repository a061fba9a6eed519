"""Validate and normalize the body of a chat completion before a library parses it.

OpenAI-compatible servers may omit fields, send invalid token counts, or send the content as a list of parts. The
libraries in between fail on some of these with a traceback instead of a message.
"""

import json
from collections.abc import Mapping
from typing import Any

LONGEST_QUOTE = 80
"""Maximum number of characters that a message quotes of a body."""
MOST_TOKENS = 2**31
"""Upper bound of a token count; a larger one is invalid and could overflow."""


class NoCompletionError(ValueError):
    """The body is not a chat completion; the message is a predicate without a subject."""


def usual_form(content: bytes) -> bytes:
    """Return a chat completion with text content and either valid token counts or none.

    >>> usual_form(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}], "usage": null}')
    b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'

    Raises:
        NoCompletionError: the body is not a chat completion.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise NoCompletionError(f"is not JSON: {quote(content)}") from None
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise NoCompletionError(_without_choices(body, content))
    body["choices"] = [_choice(choice, index) for index, choice in enumerate(body["choices"])]
    usage = _usage(body.pop("usage", None))
    return json.dumps({**body, **({"usage": usage} if usage else {})}).encode()


def quote(content: bytes) -> str:
    r"""Return the beginning of a body for a message.

    >>> quote(b"<html>\n  <body>")
    "'<html> <body>'"
    """
    text = " ".join(content[: 4 * LONGEST_QUOTE].decode("utf-8", "replace").split())
    return repr(text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "...")


def _without_choices(body: Any, content: bytes) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if isinstance(message, str) and message:
        return f"holds an error: {quote(message.encode('utf-8', 'replace'))}"
    return f"has no list of choices: {quote(content)}"


def _choice(choice: Any, index: int) -> dict[str, Any]:
    name = f"choices[{index}]"
    if not isinstance(choice, dict):
        raise NoCompletionError(f"has {_kind(choice)} for {name}")
    if not isinstance(choice.get("message"), dict):
        raise NoCompletionError(f"has {_kind(choice.get('message'))} for {name}.message")
    message = dict(choice["message"])
    message["content"] = _text(message.get("content"), f"{name}.message.content")
    reason = choice.get("finish_reason")
    return {**choice, "message": message, "finish_reason": reason if isinstance(reason, str) else "stop"}


def _text(content: Any, name: str) -> str | None:
    """Return the text of a message, joined if it is in parts."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        raise NoCompletionError(f"has {_kind(content)} for {name}")
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return the valid counts; None if that of the prompt or the completion is not valid."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is None or completion is None:
        return None
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    details = {name: value for name, value in usage.items() if name not in counts and _is_plain(value)}
    return {**details, **counts}


def _count(value: Any) -> int | None:
    """Return a token count as an integer, even if sent as 15.0; None if it is not valid."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_TOKENS:
        return None
    return int(value) if int(value) == value else None


def _is_plain(value: Any) -> bool:
    """Return True if all numbers in a value can be counts or prices."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return (
        value is None or isinstance(value, bool | str) or (isinstance(value, int | float) and 0 <= value < MOST_TOKENS)
    )


def _kind(value: Any) -> str:
    """Return a JSON value if it is short, otherwise the name of its type."""
    text = json.dumps(value)
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
    return text if len(text) <= 20 else kinds.get(type(value), "a number")
