"""Convert chat messages to the inputs of a local model, by its chat template or else as plain text."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import BatchFeature

from ipo_dspy.clip.image_io import open_image
from ipo_dspy.errors import ImageError
from ipo_dspy.lms.local.models import LoadedModel, LocalModelError

Part = str | Image.Image


@dataclass(frozen=True)
class Message:
    """A turn of the conversation: texts and images in order."""

    role: str
    parts: tuple[Part, ...]

    def text(self, image: str) -> str:
        """Return the texts, with a placeholder for each image."""
        return "".join(part if isinstance(part, str) else image for part in self.parts)


@dataclass(frozen=True)
class Encoded:
    """Inputs of `generate`, each [1, ...], and stop strings."""

    inputs: Mapping[str, Any]
    stops: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens in the prompt, including those of images."""
        return int(self.inputs["input_ids"].shape[1])


@dataclass(frozen=True)
class PlainPromptFormat:
    """Prompt format of models without a chat template."""

    user: str = "User: {}"
    assistant: str = "Assistant:"
    stops: tuple[str, ...] = ("\nUser:", "\nSystem:", "\nAssistant:")
    one_image: bool = False
    """True if the processor itself inserts exactly one image before the text."""


_PLAIN = {
    "phi": PlainPromptFormat("Instruct: {}", "Output:", ("\nInstruct:", "\nOutput:")),
    "blip-2": PlainPromptFormat("Question: {}", "Answer:", ("\nQuestion:",), one_image=True),
    "fuyu": PlainPromptFormat("{}", "", (), one_image=True),
}
"""Formats from the model cards, by `model_type` of the configuration; others use `PlainPromptFormat()`."""


def read_turns(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Parse OpenAI-style messages, with images in the messages themselves."""
    contents = [message.get("content") or "" for message in messages]
    parts = [(content,) if isinstance(content, str) else tuple(map(_read_part, content)) for content in contents]
    return [Message(str(message["role"]), content) for message, content in zip(messages, parts, strict=True)]


def encode(loaded: LoadedModel, turns: Sequence[Message]) -> Encoded:
    """Return the inputs of a model for a conversation."""
    images = [part for turn in turns for part in turn.parts if not isinstance(part, str)]
    name, plain = loaded.source.name, _plain(loaded)
    if images and loaded.processor is None:
        example = "'transformers/llava-hf/llava-1.5-7b-hf'"
        raise LocalModelError(f"{name!r} accepts text only; use a multimodal model, e.g. {example}", kind="prompt")
    if loaded.processor and plain.one_image and len(images) != 1:
        message = f"{name!r} accepts exactly one image, got {len(images)}; use another model"
        raise LocalModelError(message, kind="prompt")
    if _templated(loaded):
        return Encoded(_inputs(loaded, _chat(loaded, turns, len(images)), images), stops=())
    return Encoded(_inputs(loaded, _plain_prompt(loaded, turns), images), plain.stops)


def _read_part(part: Mapping[str, Any]) -> Part:
    kind = part.get("type")
    if kind == "text":
        return str(part["text"])
    if kind != "image_url":
        raise LocalModelError(
            f"a message holds {kind!r}, but local models accept only texts and images; leave it out", kind="prompt"
        )
    image_url = part["image_url"]
    url = str(image_url["url"] if isinstance(image_url, Mapping) else image_url)
    head = url.partition(",")[0]
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise LocalModelError(
            f"local models do not fetch URLs ({url[:60]!r}); pass the image, e.g. dspy.Image(PIL.Image.open(...))",
            kind="prompt",
        )
    try:
        return open_image(url)
    except ImageError as error:
        raise LocalModelError(f"an image in the message cannot be read: {error}", kind="prompt") from error


def _plain(loaded: LoadedModel) -> PlainPromptFormat:
    return _PLAIN.get(loaded.model.config.model_type, PlainPromptFormat())


def _templated(loaded: LoadedModel) -> bool:
    return bool(getattr(loaded.processor, "chat_template", None) or loaded.tokenizer.chat_template)


def _plain_prompt(loaded: LoadedModel, turns: Sequence[Message]) -> str:
    plain = _plain(loaded)
    marker = f"{_image_token(loaded)}\n" if loaded.processor and not plain.one_image else ""
    forms = {"user": plain.user, "assistant": plain.assistant + " {}"}
    turns_text = [forms.get(turn.role, "{}").format(turn.text(marker).strip()) for turn in turns]
    # No trailing space: tokens of words start with their space, so a lone one would be unfamiliar to the model here.
    return "\n\n".join([*turns_text, ""]) + plain.assistant


def _chat(loaded: LoadedModel, turns: Sequence[Message], images: int) -> str:
    """Return the prompt by the chat template, with contents as parts, or as text that holds the image token."""
    marker = f"{_image_token(loaded)}\n" if images else ""
    as_text = [{"role": turn.role, "content": turn.text(marker)} for turn in turns]
    if loaded.processor is None:
        return _render(loaded.tokenizer, as_text)
    owner = loaded.processor if loaded.processor.chat_template else loaded.tokenizer
    as_parts = [{"role": turn.role, "content": list(map(_part, turn.parts))} for turn in turns]
    try:
        text = _render(owner, as_parts)
    except (LocalModelError, TypeError):
        text = ""  # a template that accepts contents as text only
    # Such a template may also print the parts as Python objects, without the image token.
    understood = text and "'type'" not in text and text.count(_image_token(loaded)) == images
    return text if understood else _render(owner, as_text)


def _part(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _render(owner: Any, messages: list[dict[str, Any]]) -> str:
    try:
        return str(owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:
        if not any(cls.__name__ == "TemplateError" for cls in type(error).__mro__):  # of Jinja, which is not imported
            raise
        if messages[0]["role"] == "system" and len(messages) > 1:
            # Some templates reject a system message, so its text is put before the first user message.
            system, first, *rest = messages
            between: Any = "\n\n" if isinstance(system["content"], str) else [{"type": "text", "text": "\n\n"}]
            return _render(owner, [{**first, "content": system["content"] + between + first["content"]}, *rest])
        message = f"the chat template rejects the messages ({error}); use another model"
        raise LocalModelError(message, kind="prompt") from error


def _image_token(loaded: LoadedModel) -> str:
    token = getattr(loaded.processor, "image_token", "")
    return str(getattr(token, "content", token))


def _inputs(loaded: LoadedModel, text: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    bos = loaded.tokenizer.bos_token
    # The chat template already adds the BOS token.
    special = {"add_special_tokens": False} if _templated(loaded) and (not bos or text.startswith(bos)) else {}
    if loaded.processor is None:
        encoded = loaded.tokenizer(text, return_tensors="pt", **special)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    else:
        image_inputs = {"images": list(images)} if images else {}
        inputs = dict(loaded.processor(text=[text], return_tensors="pt", **image_inputs, **special))
        if "token_type_ids" not in inspect.signature(loaded.model.forward).parameters:
            inputs.pop("token_type_ids", None)  # many tokenizers return them, but few models accept them
    return dict(BatchFeature(inputs).to(loaded.model.device, loaded.model.dtype))
