"""Generate answers with a local model: several samples in one call of `generate`, each with its own end."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ipo_dspy.lms.local.chat_format import Encoded
from ipo_dspy.lms.local.models import LoadedModel, LocalModelError

MAX_TOKENS = 512
"""Default token limit of an answer."""

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>")
"""End-of-turn tokens of common chat templates; some models lack theirs in their generation settings."""


@dataclass(frozen=True)
class GenerationConfig:
    """Sampling settings; None uses the model's own generation settings.

    Attributes:
        n: number of samples.
        temperature: 0 is greedy decoding, which makes all samples identical.
        seed: makes samples reproducible; None gives new ones each time.
        stop: stop strings; the answer ends before the first one.
    """

    n: int = 1
    max_tokens: int = MAX_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """An answer, its length in tokens, and its finish reason."""

    text: str
    tokens: int
    reason: Literal["stop", "length"]


def generate(loaded: LoadedModel, encoded: Encoded, sampling: GenerationConfig) -> list[Completion]:
    """Return all samples of a request.

    Call it from one thread at a time, because all threads share PyTorch's random generator.

    Raises:
        LocalModelError: the prompt fills the model's context.
    """
    sampled = _sampled(loaded, sampling)
    watch = StopStringCriteria(loaded.tokenizer, (*encoded.stops, *sampling.stop))
    settings = {
        **_settings(loaded, sampling, sampled),
        "max_new_tokens": _max_new_tokens(loaded, encoded, sampling),
        # Without sampling all answers would be identical, so only one is generated.
        "num_return_sequences": sampling.n if sampled else 1,
        "stopping_criteria": StoppingCriteriaList([watch]),
    }
    rows = _generate(loaded.model, encoded.inputs, settings, sampling.seed)
    draws = [watch.read(index, row, settings["eos_token_id"] or ()) for index, row in enumerate(rows)]
    return draws if sampled else draws * sampling.n


def _generate(model: Any, inputs: Any, settings: dict[str, Any], seed: int | None) -> Any:
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(secrets.randbits(63) if seed is None else seed)
        return model.generate(**inputs, **settings).cpu()  # [n, L]


def _sampled(loaded: LoadedModel, sampling: GenerationConfig) -> bool:
    if sampling.temperature is None:
        return bool(loaded.model.generation_config.do_sample)
    return sampling.temperature > 0


def _settings(loaded: LoadedModel, sampling: GenerationConfig, sampled: bool) -> dict[str, Any]:
    defaults = loaded.model.generation_config
    ends = _ends(loaded)
    pad = loaded.tokenizer.pad_token_id
    settings: dict[str, Any] = {"do_sample": sampled, "eos_token_id": ends, "pad_token_id": pad}
    if pad is None:
        settings["pad_token_id"] = ends[0] if ends else 0
    if sampling.repetition_penalty is not None:
        settings["repetition_penalty"] = sampling.repetition_penalty
    if sampled:
        overrides = {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p}
        settings |= {name: value for name, value in overrides.items() if value is not None}
        # Without a value, transformers would use its default top_k of 50.
        settings["top_k"] = sampling.top_k if sampling.top_k is not None else (defaults.top_k or 0)
    return settings


def _ends(loaded: LoadedModel) -> list[int] | None:
    eos = loaded.model.generation_config.eos_token_id
    added = loaded.tokenizer.get_added_vocab()
    ends = [*(eos if isinstance(eos, list) else [eos]), loaded.tokenizer.eos_token_id, *map(added.get, _TURN_ENDS)]
    return list(dict.fromkeys(end for end in ends if end is not None)) or None


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
            if row not in self.ended and self._stopped(ids[max(self.start, length - self.tail) :]):
                self.ended[row] = length
        return torch.tensor([row in self.ended for row in range(len(input_ids))], device=input_ids.device)

    def _stopped(self, ids: torch.Tensor) -> bool:
        text = self._decode(ids)
        return any(stop in text for stop in self.stops)

    def _decode(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def read(self, row: int, ids: torch.Tensor, ends: Sequence[int]) -> Completion:
        """Return the sample in a row [L] of the padded output of `generate`."""
        answer = ids[self.start : self.ended.get(row, len(ids))]
        ended = row in self.ended
        at = [i for i, token in enumerate(answer.tolist()) if token in ends]
        if at and not ended:
            answer, ended = answer[: at[0] + 1], True
        text = self._decode(answer)
        cut = min((text.index(stop) for stop in self.stops if stop in text), default=len(text))
        return Completion(text[:cut].strip(), len(answer), "stop" if ended else "length")
