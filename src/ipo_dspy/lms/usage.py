"""Count the tokens of a request and their cost: as the server reports if plausible, otherwise estimated.

A count is plausible if it lies within these bounds. The wide margins allow for other tokenizers, for chat templates
and system prompts of servers, and for reasoning that is billed but not shown:

- at least an eighth of the count of a common tokenizer;
- for a prompt, at most a token per byte, plus 10,000 per image and for text that the server adds;
- for a completion, at most four times `max_tokens` plus 1,000; without `max_tokens`, at most a million.

Other counts are replaced by that of the tokenizer, so that limits hold whatever a server reports.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from ipo_dspy._internal.json_input import has_type
from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.litellm_import import import_litellm
from ipo_dspy.run.budget import LMResponse

TOKENS_PER_IMAGE = 765
"""OpenAI's count for an image of 768 x 768 pixels, the largest that is sent; other providers count fewer."""
_LOWEST_SHARE = 1 / 8
_ADDED = 10_000
_LONGEST_COMPLETION = 1_000_000
_SIZES = ("n", "max_tokens", "max_completion_tokens")
_PIECE, _COUNTED = 4_000, 200_000
"""Numbers of characters: texts are tokenized in pieces, because long words are slow; of long texts, only a part is."""


def usage_of(lm: dspy.BaseLM, entry: Mapping[str, Any]) -> LMResponse:
    """Return a response without texts, with the usage of a request from its entry in DSPy's history."""
    reported = entry.get("usage")
    counts: Mapping[str, Any] = reported if isinstance(reported, Mapping) else {}
    settings = {**(getattr(lm, "kwargs", None) or {}), **(entry.get("kwargs") or {})}
    prompt, images = _sent(entry)
    written = list(_written(entry))
    sizes: list[Any] = [size if has_type(size, int) else 0 for size in map(settings.get, _SIZES)]
    n, *limits = sizes
    longest = 4 * max(limits) + 1000 if any(limits) else _LONGEST_COMPLETION
    prompt_tokens, completion_tokens = tokens_in(prompt), sum(map(tokens_in, written))
    longest_prompt = len(prompt.encode("utf-8", "replace")) + _ADDED * (1 + images)
    longest_completions = max(1, len(written), n) * longest
    sent = _believed(counts.get("prompt_tokens"), prompt_tokens, longest_prompt)
    received = _believed(counts.get("completion_tokens"), completion_tokens, longest_completions)
    estimated = sent is None or received is None
    prompt_tokens = prompt_tokens + TOKENS_PER_IMAGE * images if sent is None else sent
    completion_tokens = completion_tokens if received is None else received
    cost = _cost(lm, None if estimated else entry.get("cost"), prompt_tokens, completion_tokens)
    return LMResponse((), "", 1, prompt_tokens, completion_tokens, cost, estimated=int(estimated))


def tokens_in(text: str) -> int:
    """Return the number of tokens in a text by a common tokenizer; nothing is downloaded.

    >>> tokens_in("a photo of a dog."), tokens_in("")
    (6, 0)
    """
    litellm = import_litellm()
    counted = text[:_COUNTED]
    pieces = [counted[begin : begin + _PIECE] for begin in range(0, len(counted), _PIECE)]
    tokens = sum(int(litellm.token_counter(model="", text=piece)) for piece in pieces)
    return round(tokens * len(text) / max(1, len(counted)))


def cost_usd(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Return the cost in USD by LiteLLM's price list; None if it does not have the model.

    >>> cost_usd("openai/gpt-3.5-turbo", 1000, 100)
    0.00065
    >>> cost_usd("hosted_vllm/a-model-of-ones-own", 1000, 100) is None
    True
    """
    if model.startswith(LOCAL):
        return 0.0  # it runs in this process
    litellm = import_litellm()
    errors = litellm.exceptions
    try:
        parts = litellm.cost_per_token(model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    except (errors.BadRequestError, errors.NotFoundError, ValueError, KeyError):
        return None
    except Exception as error:
        if "isn't mapped yet" in str(error):  # a plain Exception, or in newer releases a class derived from it
            return None
        raise
    return round(float(sum(parts)), 10)


def price_of(lm: dspy.BaseLM, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Return the cost in USD by the rates in a model's settings, or else by LiteLLM's price list.

    >>> import dspy
    >>> rates = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    >>> price_of(dspy.LM("openai/my-own", engine="litellm", **rates), 1000, 100)
    0.0012
    """
    kwargs = getattr(lm, "kwargs", None) or {}
    of_prompt, of_completion = (kwargs.get(name) for name in RATES)
    if isinstance(of_prompt, int | float) and isinstance(of_completion, int | float):
        return round(float(of_prompt * prompt_tokens + of_completion * completion_tokens), 10)
    name = str(getattr(lm, "model", ""))
    return cost_usd(name, prompt_tokens, completion_tokens) if "/" in name else None


RATES = ("input_cost_per_token", "output_cost_per_token")
"""Settings of a model that set its price."""


def _cost(lm: dspy.BaseLM, said: Any, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Return LiteLLM's cost, which includes cache discounts, unless it is far from the list price."""
    plain = price_of(lm, prompt_tokens, completion_tokens)
    # LiteLLM reports 0 if it has no price.
    if not isinstance(said, int | float) or not math.isfinite(said) or said <= 0:
        return plain
    return plain if plain is not None and not plain / 20 <= said <= plain * 20 else float(said)


def _believed(count: Any, low: int, high: int) -> int | None:
    return count if has_type(count, int) and math.ceil(low * _LOWEST_SHARE) <= count <= high else None


def _sent(entry: Mapping[str, Any]) -> tuple[str, int]:
    """Return the text of a request and its number of images."""
    parts: list[Any] = [entry.get("prompt")]
    for message in entry.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        parts += content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    images = sum(isinstance(part, Mapping) and not isinstance(part.get("text"), str) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str)), images


def _written(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the completions, with reasoning and tool calls."""
    for output in entry.get("outputs") or ():
        if isinstance(output, str):
            yield output
        elif isinstance(output, Mapping):
            values = (output.get("text"), output.get("reasoning_content"), output.get("tool_calls"))
            yield "\n".join(v if isinstance(v, str) else json.dumps(v, default=str) for v in values if v)
