"""One request to a language model through DSPy: what was answered, and what it cost.

The texts are read from the completions themselves, so that one completion of several that cannot be read takes
nothing from the others, and an answer that was paid for is an answer also where nothing in it can be used.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.usage_tracker import UsageTracker, track_usage

from ipo_dspy._internal.untrusted import one_line, redact
from ipo_dspy.ledger import Answer, readable
from ipo_dspy.lms import LOCAL, register_transformers
from ipo_dspy.lms.faults import LONGEST
from ipo_dspy.lms.redaction import has_credentials, remember_lm
from ipo_dspy.thoughts import without_thoughts

MAX_TEXTS = 64
MAX_TEXT = 6000
"""Characters kept of a text: more than any template may have, so a runaway one is still seen to be too long."""

MAX_COMPLETION = 500_000
"""Characters read of a completion."""

Read = Callable[[str, bool], Sequence[str]]
"""Texts in a completion; the flag says whether the token limit cut it."""


def request(
    lm: Any,
    adapter: dspy.Adapter,
    signature: type[dspy.Signature],
    inputs: Mapping[str, Any],
    *,
    field: str,
    read: Read | None = None,
    config: Mapping[str, Any] | None = None,
) -> Answer:
    """Ask once; retries and back-off after passing faults are DSPy's.

    Args:
        lm: a `dspy.BaseLM`.
        adapter: writes the question.
        signature: what is asked.
        inputs: of the signature.
        field: output field with a text or a list of texts.
        read: reads a completion instead of the adapter.
        config: settings of this request, e.g. `n` and `rollout_id`.

    Raises:
        LMError: no answer came.
    """
    _register(lm)
    remember_lm(lm)
    predict = dspy.Predict(signature)
    # DSPy's cache on disk keeps the address with each answer.
    settings = {**(config or {}), **({"cache": False} if has_credentials(lm) else {})}
    texts: list[str] = []
    with dspy.context(lm=lm, adapter=adapter, trace=None, **_history()), track_usage() as usage:
        try:
            prediction = predict(**inputs, config=settings)
            texts = [text for value in _completions(prediction, field) for text in _texts(value)]
        except AdapterParseError:
            pass  # what can be used is read from the completions below
    entry = predict.history[-1] if predict.history else {}
    unfinished = any(without_thoughts(said).unfinished for said in _outputs(entry))
    cut = unfinished or "length" in _finish_reasons(entry)
    if read is not None:
        # Gateways put errors into answers, and those quote the request. Reading must not take a secret apart.
        completions = [redact(completion[:MAX_COMPLETION], keep_words=True) for completion in _outputs(entry)]
        texts = [text for completion in completions for text in read(completion, cut)]
    texts = [readable(redact(text[:MAX_TEXT], keep_words=True)) for text in texts[:MAX_TEXTS]]
    return _bill(
        lm, predict.history, usage, texts=texts, cut=cut, fault=None if texts else _unreadable(entry, unfinished)
    )


def greet(lm: Any) -> Answer:
    """The smallest request: shows whether a model is there and the key is right. Never from the cache.

    Raises:
        LMError: no answer came.
    """
    _register(lm)
    remember_lm(lm)
    with dspy.context(**_history()), track_usage() as usage:
        lm("Say: ready", cache=False)
    return _bill(lm, lm.history[-1:], usage)


def price(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """USD by LiteLLM's price list; `None` where it does not know the model.

    >>> price("openai/gpt-3.5-turbo", 1000, 100)
    0.00065
    >>> price("hosted_vllm/a-model-of-ones-own", 1000, 100) is None
    True
    """
    if model.startswith(LOCAL):
        return 0.0  # it runs in this process
    import litellm

    litellm.suppress_debug_info = True  # else it prints advice on stdout
    try:
        parts = litellm.cost_per_token(model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    except (litellm.exceptions.BadRequestError, litellm.exceptions.NotFoundError, ValueError, KeyError):
        return None
    except Exception as error:
        if type(error).__name__ == "ModelNotMappedError":  # an Exception of no other class
            return None
        raise
    return round(float(sum(parts)), 10)


def _bill(
    lm: Any,
    entries: Sequence[Mapping[str, Any]],
    usage: UsageTracker,
    *,
    texts: Sequence[str] = (),
    cut: bool = False,
    fault: str | None = None,
) -> Answer:
    """An answer with what its requests cost, by DSPy's record of them: an adapter may have made two."""
    counted: dict[str, Any] = next(iter(usage.get_total_tokens().values()), {})
    sent = [entry for entry in entries if _sent(lm, entry)]
    costs = [_cost(lm, entry) for entry in sent]
    return Answer(
        texts=tuple(texts),
        model=str(getattr(lm, "model", type(lm).__name__)),
        calls=len(sent),
        prompt_tokens=_whole(counted.get("prompt_tokens")),
        completion_tokens=_whole(counted.get("completion_tokens")),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        cut=cut,
        fault=fault,
    )


def _history() -> dict[str, Any]:
    """DSPy's record of requests, which tells what one cost, also where the caller has turned it off."""
    return {"disable_history": False, "max_history_size": max(1, dspy.settings.max_history_size)}


def _sent(lm: Any, entry: Mapping[str, Any]) -> bool:
    """Whether a request was sent: an answer from DSPy's cache has no usage, and only a `dspy.LM` has that cache."""
    return bool(entry.get("usage")) or not (isinstance(lm, dspy.LM) and lm.cache)


def _register(lm: Any) -> None:
    if str(getattr(lm, "model", "")).startswith(LOCAL):
        register_transformers()


def _completions(prediction: dspy.Prediction, field: str) -> list[Any]:
    completions = prediction.completions  # of an answer without choices it has no fields, and no length either
    return list(completions[field]) if completions is not None and field in completions else []


def _texts(value: Any) -> list[str]:
    return [str(text) for text in (value if isinstance(value, list | tuple) else [value]) if text]


def _outputs(entry: Mapping[str, Any]) -> list[str]:
    """The completions of a history entry as texts."""
    outputs = [o.get("text") if isinstance(o, Mapping) else o for o in entry.get("outputs") or ()]
    return [text for text in outputs if isinstance(text, str)]


def _choices(entry: Mapping[str, Any]) -> list[Any]:
    response = entry.get("response")
    choices = response.get("choices") if isinstance(response, Mapping) else getattr(response, "choices", None)
    return list(choices or ())


def _finish_reasons(entry: Mapping[str, Any]) -> set[str]:
    reasons = (c.get("finish_reason") if isinstance(c, Mapping) else c.finish_reason for c in _choices(entry))
    return {str(reason) for reason in reasons}


def _cost(lm: Any, entry: Mapping[str, Any]) -> float | None:
    """What DSPy says it cost, unless that is a zero for want of a price."""
    if entry.get("cost"):
        return float(entry["cost"])
    model, usage = str(getattr(lm, "model", "")), entry.get("usage") or {}
    tokens = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
    return price(model, *tokens) if "/" in model else None


def _unreadable(entry: Mapping[str, Any], unfinished: bool) -> str:
    if "content_filter" in _finish_reasons(entry):
        return "the provider's content filter withheld the answer"
    said = one_line(" ".join(_outputs(entry))[:MAX_TEXT], LONGEST)
    if not said:
        return "the answer is empty"
    if unfinished:
        return "the answer was cut off within its thoughts; raise max_tokens, or have the model think less"
    return f"nothing in the answer can be used: {said!r}"


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
