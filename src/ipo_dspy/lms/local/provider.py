"""LiteLLM provider `transformers/`: text-only and multimodal language models that run in this process.

LiteLLM passes on every setting of `dspy.LM` that it does not know, so device and dtype are ordinary settings. PyTorch
and transformers are loaded by the first request, not at registration.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import litellm
from litellm.utils import custom_llm_setup

if TYPE_CHECKING:
    from ipo_dspy.lms.local.generation import Completion, GenerationConfig
    from ipo_dspy.lms.local.models import LocalModelError, LocalModelSpec

PROVIDER = "transformers"

_registering = threading.Lock()

_answering = threading.Lock()
"""Held for one request at a time: all threads share PyTorch's random generator, and a tokenizer is not thread-safe if
its settings differ."""

_IGNORED = {"max_retries", "response_format", "stream", "stream_options", "timeout", "user"}
"""Settings that DSPy or LiteLLM add; the prompt also describes the response format."""


class TransformersLLM(litellm.CustomLLM):
    """Answers requests for `transformers/NAME_OR_FOLDER`.

    Settings: `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`, `max_tokens`, `stop`, `n`, `seed`, and
    `device`, `dtype`, `trust_remote_code` as in `LocalModelSpec`. Unknown settings are refused.
    """

    def completion(
        self, model: str, messages: list[Any], model_response: Any, optional_params: Mapping[str, Any], **_: Any
    ) -> Any:
        """Return a complete response.

        Raises:
            NotFoundError: the model does not exist or is incomplete.
            UnsupportedParamsError: a setting is unknown or out of range.
            ContextWindowExceededError: the prompt is too long for the model.
            BadRequestError: an image cannot be used.
        """
        from ipo_dspy.lms.local.models import LocalModelError

        try:
            prompt_tokens, draws = _answer(model, messages, optional_params)
        except LocalModelError as error:
            raise _litellm_error(error, model) from error
        except Exception as error:  # LiteLLM would report a lost connection, and DSPy would retry
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            message = f"{model!r} could not answer ({reason}); use a smaller max_tokens or n, or another model"
            raise litellm.BadRequestError(message, model=model, llm_provider=PROVIDER) from error
        return _filled(model_response, model, prompt_tokens, draws)

    async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
        """Run `completion` in a separate thread."""
        return await asyncio.to_thread(self.completion, *args, **kwargs)

    def streaming(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield the complete response as one chunk."""
        yield _chunk(self.completion(*args, **kwargs))

    async def astreaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the complete response as one chunk."""
        yield _chunk(await self.acompletion(*args, **kwargs))


def register() -> None:
    """Add the provider to LiteLLM's list, once."""
    with _registering:
        if all(item["provider"] != PROVIDER for item in litellm.custom_provider_map):
            litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": TransformersLLM()})
        custom_llm_setup()  # otherwise only the first request would add it


def _answer(name: str, messages: list[Any], given: Mapping[str, Any]) -> tuple[int, list["Completion"]]:
    from ipo_dspy.lms.local.chat_format import encode, read_turns
    from ipo_dspy.lms.local.generation import generate
    from ipo_dspy.lms.local.models import load

    source, sampling = _settings(name, {key: value for key, value in given.items() if key not in _IGNORED})
    turns = read_turns(messages)
    loaded = load(source)
    with _answering:
        encoded = encode(loaded, turns)
        return encoded.tokens, generate(loaded, encoded, sampling)


def _settings(name: str, given: dict[str, Any]) -> tuple["LocalModelSpec", "GenerationConfig"]:
    from ipo_dspy.lms.local.models import LocalModelSpec

    where = {key: given.pop(key) for key in ("device", "dtype", "trust_remote_code") if given.get(key) is not None}
    if "dtype" in where:
        where["dtype"] = str(where["dtype"])
    return LocalModelSpec(name, **where), _sampling({key: value for key, value in given.items() if value is not None})


def _sampling(given: dict[str, Any]) -> "GenerationConfig":
    from ipo_dspy.lms.local.generation import GenerationConfig

    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    known = [field.name for field in fields(GenerationConfig)]
    for key, value in given.items():
        if key not in known:
            raise _setting_error(f"{key!r} is not a setting of a local model; supported: {', '.join(known)}")
        if not _RANGES[key](value):
            raise _setting_error(
                f"{value!r} is out of range for the setting {key!r} of a local model; see docs/backends.md"
            )
    return GenerationConfig(**{**given, "stop": tuple(given.get("stop", ()))})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_RANGES: Mapping[str, Callable[[Any], bool]] = {
    "n": lambda v: _is_int(v) and v > 0,
    "max_tokens": lambda v: _is_int(v) and v > 0,
    "temperature": lambda v: isinstance(v, int | float) and v >= 0,
    "top_p": lambda v: isinstance(v, int | float) and 0 < v <= 1,
    "top_k": lambda v: _is_int(v) and v >= 0,
    "min_p": lambda v: isinstance(v, int | float) and 0 <= v <= 1,
    "repetition_penalty": lambda v: isinstance(v, int | float) and v > 0,
    "seed": lambda v: _is_int(v) and -(2**63) <= v < 2**63,
    "stop": lambda v: isinstance(v, list | tuple) and all(isinstance(stop, str) for stop in v),
}


def _setting_error(message: str) -> "LocalModelError":
    from ipo_dspy.lms.local.models import LocalModelError

    return LocalModelError(message, kind="setting")


def _litellm_error(error: "LocalModelError", model: str) -> Exception:
    kinds = {
        "missing": litellm.NotFoundError,
        "setting": litellm.UnsupportedParamsError,
        "prompt": litellm.BadRequestError,
        "context": litellm.ContextWindowExceededError,
    }
    translated: Exception = kinds[error.kind](message=str(error), model=model, llm_provider=PROVIDER)
    return translated


def _filled(response: Any, model: str, prompt_tokens: int, draws: list["Completion"]) -> Any:
    response.choices = [
        litellm.Choices(
            index=index, finish_reason=draw.reason, message=litellm.Message(role="assistant", content=draw.text)
        )
        for index, draw in enumerate(draws)
    ]
    written = sum(draw.tokens for draw in draws)
    response.usage = litellm.Usage(
        prompt_tokens=prompt_tokens, completion_tokens=written, total_tokens=prompt_tokens + written
    )
    response.model = model
    return response


def _chunk(response: Any) -> dict[str, Any]:
    """Return a response as LiteLLM's `GenericStreamingChunk`."""
    choice, usage = response.choices[0], response.usage
    counts = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    text = {"text": choice.message.content, "index": 0, "tool_use": None}
    return {**text, "is_finished": True, "finish_reason": choice.finish_reason, "usage": counts}
