"""Validate and normalize the body of a chat completion before a library parses it.

OpenAI-compatible servers may omit fields, send invalid token counts, or send the content as a list of parts. The
libraries in between fail on some of these with a traceback instead of a message.
"""

import json
from collections.abc import Mapping
from typing import Any

from ipo_dspy._internal.json_input import has_type, type_in_words
from ipo_dspy.lms.request_errors import UnreadableAnswerError

LONGEST_QUOTE = 80
"""Maximum number of characters that a message quotes of a body."""
MOST_TOKENS = 2**31
"""Upper bound of a token count; a larger one is invalid and could overflow."""


def usual_form(content: bytes) -> bytes:
    """Return a chat completion with text content and either valid token counts or none.

    >>> usual_form(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}], "usage": null}')
    b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'

    Raises:
        UnreadableAnswerError: the body is not a chat completion.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableAnswerError(f"the answer is not JSON: {quote(content)}") from None
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        error = body.get("error") if isinstance(body, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        if isinstance(message, str) and message:
            raise UnreadableAnswerError(f"the answer holds an error: {quote(message.encode('utf-8', 'replace'))}")
        raise UnreadableAnswerError(f"the answer has no list of choices: {quote(content)}")
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


def _choice(choice: Any, index: int) -> dict[str, Any]:
    name = f"choices[{index}]"
    if not isinstance(choice, dict):
        raise _wrong_kind(choice, name)
    message, reason = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise _wrong_kind(message, f"{name}.message")
    content = message.get("content")
    if not has_type(content, str | list[str | dict[str, Any]] | None):
        raise _wrong_kind(content, f"{name}.message.content")
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text") for part in content]
        content = "".join(text for text in texts if isinstance(text, str))
    message = {**message, "content": content}
    return {**choice, "message": message, "finish_reason": reason if isinstance(reason, str) else "stop"}


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return the valid counts; None if that of the prompt or the completion is not valid."""
    if not isinstance(usage, dict):
        return None
    sent: list[Any] = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(has_type(count, float) and _is_plain(count) and int(count) == count for count in sent):
        return None
    prompt, completion = map(int, sent)  # some servers send 15.0
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {name: value for name, value in usage.items() if _is_plain(value)} | counts


def _is_plain(value: Any) -> bool:
    """Return True if all numbers in a value can be counts or prices."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return 0 <= value < MOST_TOKENS if isinstance(value, int | float) else value is None or isinstance(value, str)


def _wrong_kind(value: Any, name: str) -> UnreadableAnswerError:
    """Return an error that quotes a JSON value if it is short, and otherwise names its type."""
    text = json.dumps(value)
    kind = text if len(text) <= 20 else type_in_words(type(value))
    return UnreadableAnswerError(f"the answer has {kind} for {name}")
