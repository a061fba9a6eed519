"""Generate answers with a local model: several samples in one call of `generate`, each with its own end."""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import torch
from pydantic import Field
from transformers import StoppingCriteria, StoppingCriteriaList

from ipo_dspy.lms.local.chat_format import Encoded, encode, read_turns
from ipo_dspy.lms.local.models import LoadedModel, LocalModelError, LocalModelSpec, load

MAX_TOKENS = 512
"""Default token limit of an answer."""

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>")
"""End-of-turn tokens of common chat templates; some models lack theirs in their generation settings."""

_answering = threading.Lock()
"""Held for one request at a time: all threads share PyTorch's random generator, and a tokenizer is not thread-safe if
its settings differ."""

_IGNORED = {"max_retries", "response_format", "stream", "stream_options", "timeout", "user"}
"""Settings that DSPy or LiteLLM add; the prompt also describes the response format."""


class GenerationConfig(pydantic.BaseModel):
    """Sampling settings; None uses the model's own generation settings."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="forbid")

    n: int = Field(1, gt=0)  # number of samples
    max_tokens: int = Field(MAX_TOKENS, gt=0)
    temperature: float | None = Field(None, ge=0)  # 0 is greedy decoding, which makes all samples identical
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)  # makes samples reproducible; None gives new ones each time
    stop: Sequence[str] = ()  # stop strings; the answer ends before the first one


@dataclass(frozen=True)
class Completion:
    """An answer, its length in tokens, and its finish reason."""

    text: str
    tokens: int
    reason: Literal["stop", "length"]


def answer(name: str, messages: Sequence[Any], settings: Mapping[str, Any]) -> tuple[int, list[Completion]]:
    """Return the number of tokens in the prompt, and all samples of a request for a model, which is loaded if needed.

    Raises:
        LocalModelError: the model, a setting or the prompt cannot be used.
    """
    given = {key: value for key, value in settings.items() if key not in _IGNORED and value is not None}
    where = {key: given.pop(key) for key in ("device", "dtype", "trust_remote_code") if key in given}
    if "dtype" in where:
        where["dtype"] = str(where["dtype"])
    sampling, turns = _read_settings(given), read_turns(messages)
    loaded = load(LocalModelSpec(name, **where))
    with _answering:
        encoded = encode(loaded, turns)
        return encoded.tokens, generate(loaded, encoded, sampling)


def _read_settings(given: dict[str, Any]) -> GenerationConfig:
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    try:
        return GenerationConfig(**given)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0])
        message = f"{given[key]!r} is out of range for the setting {key!r} of a local model; see docs/backends.md"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(GenerationConfig.model_fields)
            message = f"{key!r} is not a setting of a local model; supported: {known}"
        raise LocalModelError(message, kind="setting") from error


def generate(loaded: LoadedModel, encoded: Encoded, sampling: GenerationConfig) -> list[Completion]:
    """Return all samples of a request; call it from one thread at a time."""
    temperature = sampling.temperature
    sampled = bool(loaded.model.generation_config.do_sample) if temperature is None else temperature > 0
    watch = StopStringCriteria(loaded.tokenizer, (*encoded.stops, *sampling.stop))
    settings = {
        **_settings(loaded, sampling, sampled),
        "max_new_tokens": _max_new_tokens(loaded, encoded, sampling),
        # Without sampling all answers would be identical, so only one is generated.
        "num_return_sequences": sampling.n if sampled else 1,
        "stopping_criteria": StoppingCriteriaList([watch]),
    }
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.inference_mode():
        torch.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
        rows = loaded.model.generate(**encoded.inputs, **settings).cpu()  # [n, L]
    draws = [watch.read(index, row, settings["eos_token_id"] or ()) for index, row in enumerate(rows)]
    return draws if sampled else draws * sampling.n


def _settings(loaded: LoadedModel, sampling: GenerationConfig, sampled: bool) -> dict[str, Any]:
    defaults = loaded.model.generation_config
    eos, tokenizer = defaults.eos_token_id, loaded.tokenizer
    turn_ends = map(tokenizer.get_added_vocab().get, _TURN_ENDS)
    ends = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, *turn_ends]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    pad = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    names = ("repetition_penalty", *(("temperature", "top_p", "min_p") if sampled else ()))
    settings = {name: value for name in names if (value := getattr(sampling, name)) is not None}
    if sampled:
        # Without a value, transformers would use its default top_k of 50.
        settings["top_k"] = sampling.top_k if sampling.top_k is not None else (defaults.top_k or 0)
    return {**settings, "do_sample": sampled, "eos_token_id": ends or None, "pad_token_id": pad}


def _max_new_tokens(loaded: LoadedModel, encoded: Encoded, sampling: GenerationConfig) -> int:
    if loaded.context is None:
        return sampling.max_tokens
    room = loaded.context - encoded.tokens
    if room < 1:
        raise LocalModelError(
            f"the prompt has {encoded.tokens} tokens but {loaded.source.name!r} has a context of {loaded.context}; "
            "shorten it, or use a model with a longer context",
            kind="context",
        )
    return min(sampling.max_tokens, room)


class StopStringCriteria(StoppingCriteria):
    """Ends a sample at a stop string and records where each one began and ended.

    Stop strings are searched in the decoded text, because they may begin or end within a token.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        # A stop string has at most as many tokens as bytes; the margin is for tokens that the decoder may drop.
        self.tail = max((len(stop.encode()) for stop in self.stops), default=0) + 8
        self.start = 0
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: D102
        length = input_ids.shape[1]
        if not self.start:
            # Some models return the prompt before their answer. At the first call, the answer has one token.
            self.start = length - 1
        for row, ids in enumerate(input_ids if self.stops else ()):
            if row not in self.ended:
                text = self._decode(ids[max(self.start, length - self.tail) :])
                if any(stop in text for stop in self.stops):
                    self.ended[row] = length
        return torch.tensor([row in self.ended for row in range(len(input_ids))], device=input_ids.device)

    def _decode(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def read(self, row: int, ids: torch.Tensor, ends: Sequence[int]) -> Completion:
        """Return the sample in a row [L] of the padded output of `generate`."""
        tokens = ids[self.start :].tolist()
        at = next((i for i, token in enumerate(tokens, self.start + 1) if token in ends), None)
        end = self.ended.get(row, at)
        answer = ids[self.start : end]
        text = self._decode(answer)
        cut = min((text.index(stop) for stop in self.stops if stop in text), default=len(text))
        return Completion(text[:cut].strip(), len(answer), "length" if end is None else "stop")
