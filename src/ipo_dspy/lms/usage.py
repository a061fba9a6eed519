"""How many tokens a request took and what they cost: as the server says where that can be true, else estimated.

A count can be true if it lies between these borders; the wide margins are for tokenizers other than the one at hand,
chat templates and system prompts of servers, and thoughts that are charged but not shown:

- at least an eighth of what a common tokenizer counts in the text;
- for a prompt, at most a token for each byte of it, and 10,000 for each image and for what the server adds;
- for a completion, at most four times `max_tokens` and 1,000, or a million tokens where there is no such limit.

Whatever lies outside is replaced by the tokenizer's count, so a limit holds whatever a server says.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.library import import_litellm

TOKENS_PER_IMAGE = 765
"""What OpenAI counts for an image of 768 x 768 pixels, the largest that is sent; other providers count fewer."""
_LOWEST_SHARE = 1 / 8
_ADDED = 10_000
_LONGEST_COMPLETION = 1_000_000
_PIECE, _COUNTED = 4_000, 200_000
"""Characters: a tokenizer takes very long for a long word, and of a very long text a part is counted."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request took.

    Attributes:
        prompt_tokens, completion_tokens: as the server counted, or estimated.
        cost: USD; `None` where the price is unknown.
        estimated: at least one of the counts is.
    """

    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    estimated: bool


def usage_of(lm: dspy.BaseLM, entry: Mapping[str, Any]) -> Usage:
    """Return what a request took, by DSPy's record of it.

    Args:
        lm: the model asked.
        entry: of its history.
    """
    said: Any = entry.get("usage")
    counts = said if isinstance(said, Mapping) else {}
    settings = {**(getattr(lm, "kwargs", None) or {}), **(entry.get("kwargs") or {})}
    prompt, images = _sent(entry)
    written = list(_written(entry))
    at_least = tokens_in(prompt), sum(map(tokens_in, written))
    at_most = (
        len(prompt.encode("utf-8", "replace")) + _ADDED * (1 + images),
        max(len(written), _whole(settings.get("n")) or 1) * _longest_completion(settings),
    )
    believed = [
        _believed(counts.get(name), low, high)
        for name, low, high in zip(("prompt_tokens", "completion_tokens"), at_least, at_most, strict=True)
    ]
    taken = (
        at_least[0] + TOKENS_PER_IMAGE * images if believed[0] is None else believed[0],
        at_least[1] if believed[1] is None else believed[1],
    )
    estimated = None in believed
    return Usage(*taken, _cost(lm, None if estimated else entry.get("cost"), *taken), estimated)


def tokens_in(text: str) -> int:
    """Return how many tokens a common tokenizer sees in a text; no tokenizer is fetched for it.

    >>> tokens_in("a photo of a dog."), tokens_in("")
    (6, 0)
    """
    litellm = import_litellm()

    counted = text[:_COUNTED]
    pieces = [counted[begin : begin + _PIECE] for begin in range(0, len(counted), _PIECE)]
    tokens = sum(int(litellm.token_counter(model="", text=piece)) for piece in pieces)
    return round(tokens * len(text) / max(1, len(counted)))


def cost_usd(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """USD by LiteLLM's price list; `None` where it does not know the model.

    >>> cost_usd("openai/gpt-3.5-turbo", 1000, 100)
    0.00065
    >>> cost_usd("hosted_vllm/a-model-of-ones-own", 1000, 100) is None
    True
    """
    if model.startswith(LOCAL):
        return 0.0  # it runs in this process
    litellm = import_litellm()
    try:
        parts = litellm.cost_per_token(model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    except (litellm.exceptions.BadRequestError, litellm.exceptions.NotFoundError, ValueError, KeyError):
        return None
    except Exception as error:
        if type(error).__name__ == "ModelNotMappedError":  # an Exception of no other class
            return None
        raise
    return round(float(sum(parts)), 10)


def price_of(lm: dspy.BaseLM, prompt_tokens: int, completion_tokens: int) -> float | None:
    """USD by the rates that a model was given, else by LiteLLM's list.

    >>> import dspy
    >>> rates = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    >>> price_of(dspy.LM("openai/my-own", engine="litellm", **rates), 1000, 100)
    0.0012
    """
    given = getattr(lm, "kwargs", None) or {}
    of_prompt, of_completion = (given.get(name) for name in RATES)
    if isinstance(of_prompt, int | float) and isinstance(of_completion, int | float):
        return round(float(of_prompt * prompt_tokens + of_completion * completion_tokens), 10)
    name = str(getattr(lm, "model", ""))
    return cost_usd(name, prompt_tokens, completion_tokens) if "/" in name else None


RATES = ("input_cost_per_token", "output_cost_per_token")
"""Settings of a model that name its price."""


def _cost(lm: dspy.BaseLM, said: Any, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What LiteLLM made of the usage: discounts of caches are in it. Not where it is far from the plain price."""
    plain = price_of(lm, prompt_tokens, completion_tokens)
    if not isinstance(said, int | float) or not math.isfinite(said) or said <= 0:  # 0 for want of a price
        return plain
    return plain if plain is not None and not plain / 20 <= said <= plain * 20 else float(said)


def _believed(count: Any, low: int, high: int) -> int | None:
    whole = _whole(count)
    return whole if whole is not None and math.ceil(low * _LOWEST_SHARE) <= whole <= high else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _longest_completion(settings: Mapping[str, Any]) -> int:
    limits = (_whole(settings.get(name)) for name in ("max_tokens", "max_completion_tokens"))
    limit = max((limit for limit in limits if limit), default=None)
    return _LONGEST_COMPLETION if limit is None else 4 * limit + 1000


def _sent(entry: Mapping[str, Any]) -> tuple[str, int]:
    """The text of a request and how many images it had."""
    parts: list[Any] = [entry.get("prompt")]
    for message in entry.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        parts += content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    images = sum(isinstance(part, Mapping) and not isinstance(part.get("text"), str) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str)), images


def _written(entry: Mapping[str, Any]) -> Iterator[str]:
    """What a model wrote, with thoughts and calls of tools."""
    for output in entry.get("outputs") or ():
        if isinstance(output, str):
            yield output
        elif isinstance(output, Mapping):
            values = (output.get("text"), output.get("reasoning_content"), output.get("tool_calls"))
            yield "\n".join(v if isinstance(v, str) else json.dumps(v, default=str) for v in values if v)
