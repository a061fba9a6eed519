"""Send one request to a language model through DSPy; return its response and usage.

The texts are parsed from the completions themselves. So a completion that cannot be parsed does not affect the others,
and a response that was paid for is recorded even if nothing in it can be used.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError
from PIL import Image

from ipo_dspy._internal.untrusted import one_line, redact
from ipo_dspy.lms import prepare
from ipo_dspy.lms.adapters import PlainAdapter
from ipo_dspy.lms.client import bounded, longest_wait
from ipo_dspy.lms.error_messages import LONGEST
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.redaction import has_credentials
from ipo_dspy.lms.request_errors import EmptyGreetingError
from ipo_dspy.lms.usage import usage_of
from ipo_dspy.run.budget import LMResponse, Usage, announce_request
from ipo_dspy.run.ledger import readable

MAX_TEXTS = 64
_REQUESTS = 8
"""Number of history entries to keep: more than an adapter makes for one response."""
MAX_TEXT = 6000
"""Maximum number of characters kept of a text. No template may be that long, so a longer text is still rejected."""

PIXELS = 32
"""Side of the image that `ping` sends; some models refuse smaller images."""
MAX_COMPLETION = 500_000
"""Maximum number of characters parsed of a completion."""

Read = Callable[[str, bool], Sequence[str]]
"""Function from a completion to its texts; the flag says whether the token limit truncated it."""


def request(
    lm: dspy.BaseLM,
    adapter: dspy.Adapter,
    signature: type[dspy.Signature],
    inputs: Mapping[str, Any],
    *,
    field: str,
    read: Read | None = None,
    config: Mapping[str, Any] | None = None,
) -> LMResponse:
    """Send a request, and retry it after transient errors (`retry_notices`); raise `LMError` without a response.

    `field` is the output with a text or a list of texts; `read` parses a completion instead of the adapter; `config`
    has settings of this request, such as `n` and `rollout_id`.
    """
    prepare(lm)
    predict = dspy.Predict(signature)
    # DSPy's disk cache stores the address with each response.
    settings = {**(config or {}), **({"cache": False} if has_credentials(lm) else {})}
    texts: list[str] = []
    model = bounded(lm)
    is_single = type(adapter).__call__ is dspy.Adapter.__call__  # others may send a second request
    announce_request.get()(_name(lm), longest_wait(model) if is_single else None)
    with dspy.context(lm=model, adapter=adapter, trace=None, **_history()):
        try:
            completions = predict(**inputs, config=settings).completions  # None without choices
            values = completions[field] if completions is not None and field in completions else ()
            lists = [value if isinstance(value, list | tuple) else [value] for value in values]
            texts = [str(text) for texts in lists for text in texts if text]
        except AdapterParseError:
            pass  # usable texts are parsed from the completions below
    entry = predict.history[-1] if predict.history else {}
    unfinished = any(without_thoughts(text).unfinished for text in _outputs(entry))
    cut = unfinished or "length" in _finish_reasons(entry)
    if read is not None:
        # Gateways return errors that quote the request as answers. Redact before parsing, which could split a secret.
        completions = [redact(completion[:MAX_COMPLETION], keep_words=True) for completion in _outputs(entry)]
        texts = [text for completion in completions for text in read(completion, cut)]
    texts = [readable(redact(text[:MAX_TEXT], keep_words=True)) for text in texts[:MAX_TEXTS]]
    fault = None if texts else _unreadable(entry, unfinished)
    return replace(_response(lm, predict.history), texts=tuple(texts), cut=cut, fault=fault)


def ping(lm: dspy.BaseLM, *, with_image: bool = False) -> LMResponse:
    """Send a minimal request to check that a model is available and the key is valid; the cache is not used.

    `with_image` checks that it takes images; any response counts, since some models answer without seeing it.

    Raises:
        LMError: no response was received, or the token limit was used up before a word was written.
    """
    prepare(lm)
    model = bounded(lm)
    if not with_image:  # `request` announces itself
        announce_request.get()(_name(lm), longest_wait(model))
    with dspy.context(**_history()):
        if with_image:
            signature = dspy.Signature("image: dspy.Image -> answer: str", "Say: ready")
            image = dspy.Image(Image.new("RGB", (PIXELS, PIXELS), "red"))
            request(lm, PlainAdapter(), signature, {"image": image}, field="answer", config={"cache": False})
        else:
            model("Say: ready", cache=False)
    entry = lm.history[-1] if lm.history else {}
    if "length" in _finish_reasons(entry) and not any(_outputs(entry)):
        raise EmptyGreetingError("the token limit was spent on thinking before a word was written")
    return _response(lm, lm.history[-1:])


def _name(lm: dspy.BaseLM) -> str:
    return str(getattr(lm, "model", type(lm).__name__))


def _response(lm: dspy.BaseLM, entries: Iterable[Mapping[str, Any]]) -> LMResponse:
    """Return a response with the usage of its requests in DSPy's history; an adapter may have made two."""
    usage = reduce(Usage.plus, (usage_of(lm, entry) for entry in entries if _was_sent(entry)), Usage())
    cost = None if usage.unpriced else usage.cost
    tokens = usage.prompt_tokens, usage.completion_tokens
    return LMResponse((), _name(lm), usage.calls, *tokens, cost, estimated=usage.estimated)


def _history() -> dict[str, Any]:
    """Return settings that enable DSPy's history, which has the usage, even if the user disabled it."""
    return {"disable_history": False, "max_history_size": max(_REQUESTS, dspy.settings.max_history_size)}


def _was_sent(entry: Mapping[str, Any]) -> bool:
    """Return True unless DSPy marks a response as one from its cache."""
    response = entry.get("response")
    if entry.get("usage") or getattr(response, "cache_hit", False):
        return bool(entry.get("usage"))
    counts = getattr(response, "usage", None)  # DSPy's own client caches them with a response
    return getattr(counts, "input_tokens", None) is None


def _outputs(entry: Mapping[str, Any]) -> list[str]:
    """Return the completions of a history entry as texts."""
    outputs = [output.get("text") if isinstance(output, Mapping) else output for output in entry.get("outputs") or ()]
    return [text for text in outputs if isinstance(text, str)]


def _finish_reasons(entry: Mapping[str, Any]) -> set[str]:
    response = entry.get("response")
    parts = [response, *(_get(response, "choices") or ())]
    return {str(_get(part, "finish_reason")) for part in parts}


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _unreadable(entry: Mapping[str, Any], unfinished: bool) -> str:
    reasons = _finish_reasons(entry)
    if "content_filter" in reasons:
        return "the provider's content filter withheld the answer"
    text = one_line(" ".join(_outputs(entry))[:MAX_TEXT], LONGEST)
    if not text:
        outputs = [output for output in entry.get("outputs") or () if isinstance(output, Mapping)]
        if "length" in reasons:
            return f"the token limit was spent on thinking; {EmptyGreetingError.hint}"
        if any(output.get("tool_calls") for output in outputs):
            return "the answer calls a tool and has no text; use a model or a server setting without tools"
        if any(output.get("reasoning_content") for output in outputs):
            return "the answer has only reasoning and no text; turn the model's thinking off, or use another model"
        return "the answer is empty"
    if unfinished:
        return "the answer was cut off within its thoughts; raise max_tokens, or have the model think less"
    return f"nothing in the answer can be used: {text!r}"
