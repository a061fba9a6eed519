"""The body of a chat completion, checked and put into its usual form before a library reads it.

Servers that call themselves compatible with OpenAI's leave fields out, send counts that are none, or send the content
as a list of parts. The libraries in between stop at some of these with a traceback for a message.
"""

import json
from collections.abc import Mapping
from typing import Any

LONGEST_QUOTE = 80
"""Characters of a body that a message quotes."""
MOST_TOKENS = 2**31
"""No request has so many; a larger count overflows what reads it."""


class NoCompletionError(ValueError):
    """A body that is no chat completion; the message is the fact, without a subject."""


def usual_form(content: bytes) -> bytes:
    """Return a chat completion with texts for content, and with counts that are counts or none.

    >>> usual_form(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}], "usage": null}')
    b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'

    Raises:
        NoCompletionError: the body is something else.
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
    said = error.get("message") if isinstance(error, dict) else error
    if isinstance(said, str) and said:
        return f"holds an error: {quote(said.encode('utf-8', 'replace'))}"
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
    """The text of a message: as it is, or of its parts that are text."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        raise NoCompletionError(f"has {_kind(content)} for {name}")
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(usage: Any) -> dict[str, Any] | None:
    """Counts that can be read: all that were sent, those of prompt and completion, or none."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is None or completion is None:
        return None
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    details = {name: value for name, value in usage.items() if name not in counts and _is_plain(value)}
    return {**details, **counts}


def _count(value: Any) -> int | None:
    """A whole number that can be a count, also one written as 15.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_TOKENS:
        return None
    return int(value) if int(value) == value else None


def _is_plain(value: Any) -> bool:
    """Whether all numbers in it can be counts or prices."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return (
        value is None or isinstance(value, bool | str) or (isinstance(value, int | float) and 0 <= value < MOST_TOKENS)
    )


def _kind(value: Any) -> str:
    """A value of JSON by its kind, or itself where that is short."""
    text = json.dumps(value)
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
    return text if len(text) <= 20 else kinds.get(type(value), "a number")
