"""LiteLLM provider `transformers/`: text-only and multimodal language models that run in this process.

LiteLLM passes on every setting of `dspy.LM` that it does not know, so device and dtype are ordinary settings. PyTorch
and transformers are loaded by the first request, not at registration.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import litellm
from litellm.utils import custom_llm_setup

PROVIDER = "transformers"

_registering = threading.Lock()


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
        from ipo_dspy.lms.local.generation import answer
        from ipo_dspy.lms.local.models import LocalModelError

        try:
            prompt_tokens, draws = answer(model, messages, optional_params)
        except LocalModelError as error:
            kinds = {
                "missing": litellm.NotFoundError,
                "setting": litellm.UnsupportedParamsError,
                "prompt": litellm.BadRequestError,
                "context": litellm.ContextWindowExceededError,
            }
            raise kinds[error.kind](message=str(error), model=model, llm_provider=PROVIDER) from error
        except Exception as error:  # LiteLLM would report a lost connection, and DSPy would retry
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            message = f"{model!r} could not answer ({reason}); use a smaller max_tokens or n, or another model"
            raise litellm.BadRequestError(message, model=model, llm_provider=PROVIDER) from error
        model_response.choices = [
            litellm.Choices(
                index=index, finish_reason=draw.reason, message=litellm.Message(role="assistant", content=draw.text)
            )
            for index, draw in enumerate(draws)
        ]
        written = sum(draw.tokens for draw in draws)
        model_response.usage = litellm.Usage(
            prompt_tokens=prompt_tokens, completion_tokens=written, total_tokens=prompt_tokens + written
        )
        model_response.model = model
        return model_response

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


def _chunk(response: Any) -> dict[str, Any]:
    """Return a response as LiteLLM's `GenericStreamingChunk`."""
    choice, usage = response.choices[0], response.usage
    counts = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    text = {"text": choice.message.content, "index": 0, "tool_use": None}
    return {**text, "is_finished": True, "finish_reason": choice.finish_reason, "usage": counts}
