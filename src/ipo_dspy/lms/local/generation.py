"""Answers of a local model: several draws in one `generate`, each with its own end."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ipo_dspy.lms.local.chat_format import Encoded
from ipo_dspy.lms.local.models import LoadedModel, LocalModelError

MAX_TOKENS = 512
"""Of an answer, where the caller sets no limit."""

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>")
"""Ends of an answer in common chat templates; the generation settings of some models forget theirs."""


@dataclass(frozen=True)
class GenerationConfig:
    """How an answer is drawn; what is None is as the model's own generation settings say.

    Attributes:
        n: draws.
        temperature: 0 takes the likeliest token each time, which makes all draws the same.
        seed: the same one gives the same draws; None gives new ones each time.
        stop: the answer ends before the first of these.
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
    """One answer, its length, and whether it came to an end by itself."""

    text: str
    tokens: int
    reason: Literal["stop", "length"]


def generate(loaded: LoadedModel, encoded: Encoded, sampling: GenerationConfig) -> list[Completion]:
    """All draws of a request. One thread at a time, for they come from PyTorch's generator, which all threads share.

    Raises:
        UnusableError: the prompt leaves no room in the model's context.
    """
    sampled = _sampled(loaded, sampling)
    watch = StopStringCriteria(loaded.tokenizer, (*encoded.stops, *sampling.stop))
    settings = {
        **_settings(loaded, sampling, sampled),
        "max_new_tokens": _max_new_tokens(loaded, encoded, sampling),
        # Without sampling all draws would be the same: one is made.
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
    own = loaded.model.generation_config
    ends = _ends(loaded)
    pad = loaded.tokenizer.pad_token_id
    settings: dict[str, Any] = {"do_sample": sampled, "eos_token_id": ends, "pad_token_id": pad}
    if pad is None:
        settings["pad_token_id"] = ends[0] if ends else 0
    if sampling.repetition_penalty is not None:
        settings["repetition_penalty"] = sampling.repetition_penalty
    if sampled:
        given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p}
        settings |= {name: value for name, value in given.items() if value is not None}
        # transformers would keep the 50 likeliest tokens where nobody asked for it.
        settings["top_k"] = sampling.top_k if sampling.top_k is not None else (own.top_k or 0)
    return settings


def _ends(loaded: LoadedModel) -> list[int] | None:
    own = loaded.model.generation_config.eos_token_id
    added = loaded.tokenizer.get_added_vocab()
    found = [*(own if isinstance(own, list) else [own]), loaded.tokenizer.eos_token_id, *map(added.get, _TURN_ENDS)]
    return list(dict.fromkeys(end for end in found if end is not None)) or None


def _max_new_tokens(loaded: LoadedModel, encoded: Encoded, sampling: GenerationConfig) -> int:
    if loaded.context is None:
        return sampling.max_tokens
    room = loaded.context - encoded.tokens
    if room < 1:
        raise LocalModelError(
            f"the prompt has {encoded.tokens} tokens and the context of {loaded.source.name!r} is {loaded.context}; "
            "shorten it, or name a model with a longer context",
            kind="context",
        )
    return min(sampling.max_tokens, room)


class StopStringCriteria(StoppingCriteria):
    """Ends a draw at a stop string and remembers where each one began and ended.

    Strings are sought in the decoded text: they need not begin or end where a token does.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        # Bytes of a stop string at most, so tokens of it at most, and some that a decoder may swallow.
        self.tail = max((len(stop.encode()) for stop in self.stops), default=0) + 8
        self.start = 0
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: D102
        length = input_ids.shape[1]
        if not self.start:
            # Whether the model repeats the prompt before its answer differs; the first call has one token of answer.
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
        """The draw of a row [L] of what `generate` returned, which fills ended ones up."""
        answer = ids[self.start : self.ended.get(row, len(ids))]
        ended = row in self.ended
        at = [i for i, token in enumerate(answer.tolist()) if token in ends]
        if at and not ended:
            answer, ended = answer[: at[0] + 1], True
        text = self._decode(answer)
        cut = min((text.index(stop) for stop in self.stops if stop in text), default=len(text))
        return Completion(text[:cut].strip(), len(answer), "stop" if ended else "length")
