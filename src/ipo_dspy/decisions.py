"""`ClipDecider`: CLIP as the `lm` of any `dspy.Predict` whose outputs are decisions about one image.

DSPy sends a decision client the inputs and typed questions and gets a probability for every option. The questions of
one request share one encoding of the image, and features are cached by content, so asking again is cheap.
"""

import asyncio
import functools
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy
from dspy.utils.callback import BaseCallback, with_callbacks
from PIL import Image

from ipo_dspy._internal.json_input import parse_json
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.argument_checks import as_template, flag
from ipo_dspy.class_texts import parse_classes
from ipo_dspy.clip.image_formats import image_suffixes
from ipo_dspy.clip.image_io import MAX_FILE_BYTES, ImageSource, is_url
from ipo_dspy.clip.model_spec import ModelSpec, resolve_model
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.errors import ImageError, InputError, ProgramFileError
from ipo_dspy.template import DEFAULT_TEMPLATE, Template, has_placeholder

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.clip.template_tokens import ClassTexts

_CLASS_PATH = "ipo_dspy.decisions.ClipDecider"
_CLASS_KEY = "_dspy_lm_class"
"""Key under which DSPy saves the class of a language model."""
_START, _END = "<<CUSTOM-TYPE-START-IDENTIFIER>>", "<<CUSTOM-TYPE-END-IDENTIFIER>>"
"""Marks that DSPy puts around an image that it turns into text."""
_MAX_CHARACTERS = MAX_FILE_BYTES // 3 * 4 + 1000
_MAX_NESTING = 8
_MAX_CACHED = 100_000
_IMAGES = (dspy.Image, Image.Image, bytes, bytearray, io.BytesIO, os.PathLike)


class Question(NamedTuple):
    """One question, with the texts that CLIP reads for each option.

    Attributes:
        kind: `choice` or `noul`.
        template: the prompt template.
        options: labels of the options; of a `noul` they are `true` and `false`.
        texts: what is filled into the template for each option.
    """

    kind: str
    template: Template
    options: tuple[str, ...]
    texts: "ClassTexts"

    def answer(self, probabilities: list[float]) -> dict[str, Any]:
        """Return the answer in the form that DSPy expects from a decision client."""
        if self.kind == "noul":
            return {"noul": probabilities[0]}
        by_option = dict(zip(self.options, probabilities, strict=True))
        return {"probabilities": by_option, "confidence": max(probabilities)}


class ClipDecider(dspy.BaseLM):
    """CLIP as the `lm` of a `dspy.Predict` with one image input, and `Choice` or `Noul` outputs.

    The texts of an option fill the `<CLASS>` of a template. The template of an output is the first of
    these that contains `<CLASS>`: its description (or its `fields[...]["instructions"]`), the signature's instructions,
    and `template`. The texts of an option are its criteria (a text, or a list of texts, which are averaged), else the
    option itself. A `Noul` needs criteria for both outcomes, since CLIP does not understand "no".

    Args:
        model: as for `ClipClassifier`.
        pretrained: as for `ClipClassifier`.
        template: the template where the signature contains none.
        device: as for `ClipClassifier`.
        dtype: as for `ClipClassifier`.
        allow_url: fetch images given as http(s) URLs.

    Attributes:
        cache: True, because image features are cached; `dspy.experimental.ReAnchor` reads it.

    Raises:
        TemplateError: immediately, for an invalid template; in a call, for one in the signature.
        ModelError: as for `ClipClassifier`.

    >>> from typing import Literal
    >>> from ipo_dspy import demo
    >>> class Animal(dspy.Signature):
    ...     '''pixel art of a <CLASS>.'''
    ...     image: dspy.Image = dspy.InputField()
    ...     animal: Literal["cat", "horse", "frog"] = dspy.OutputField(desc="the animal in the picture")
    >>> predict = dspy.Predict(Animal)
    >>> predict.lm = ClipDecider("demo")
    >>> predict(image=demo.load("pixel-animals").testset[0].image).animal in ("cat", "horse", "frog")
    True
    """

    supports_decision_requests = True

    def __init__(
        self,
        model: "str | Backbone | ModelSpec" = DEFAULT_MODEL,
        pretrained: str | None = DEFAULT_PRETRAINED,
        *,
        template: str | Template = DEFAULT_TEMPLATE,
        device: str = "auto",
        dtype: str = "float32",
        allow_url: bool = False,
        callbacks: list[BaseCallback] | None = None,
    ) -> None:
        self._spec, self._backbone = resolve_model(model, pretrained, device, dtype)
        super().__init__(self._spec.model, cache=True, callbacks=callbacks)
        self.template = as_template(template)
        self.allow_url = flag("allow_url", allow_url)

    @property
    def model_source(self) -> "Backbone | ModelSpec":
        """The model if it is loaded, else its names."""
        return self._backbone or self._spec

    @property
    def backbone(self) -> "Backbone":
        """The CLIP model, loaded on first access."""
        if self._backbone is None:
            from ipo_dspy.clip.loading import load_backbone

            self._backbone = load_backbone(**self._spec.arguments)
        return self._backbone

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(
        self, state: Mapping[str, Any] | None = None, questions: Mapping[str, Any] | None = None, **request: Any
    ) -> dict[str, dict[str, Any]]:
        """Answer questions about the image in a request of `dspy.Predict`.

        Returns:
            For each question `{"probabilities": {option: probability}, "confidence": ...}`, where the confidence is
            that of the most probable option; for a `noul` `{"noul": probability}`.

        Raises:
            ImageError: no image, several, or one that cannot be read.
            DataError: an option without words, or with those of another option.
            InputError: a `score`, a `noul` without two criteria, or a request for text.
            TemplateError: instructions with `<CLASS>` that are not a template, or are too long for the model.
        """
        from ipo_dspy.clip.image_features import encode_images

        image, asked = self._read(state, questions)
        encoded = encode_images(self.backbone, [image], allow_url=self.allow_url, on_disk=False)
        return answer_questions(self.backbone, encoded.features, asked)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(
        self, state: Mapping[str, Any] | None = None, questions: Mapping[str, Any] | None = None, **request: Any
    ) -> dict[str, dict[str, Any]]:
        """Answer questions without blocking the event loop; concurrent calls share a batch."""
        from ipo_dspy.clip.batching import encode_together

        image, asked = self._read(state, questions)
        if self._backbone is None:
            await asyncio.to_thread(lambda: self.backbone)  # loading is slow
        features = await encode_together(self.backbone, image, allow_url=self.allow_url)
        return await asyncio.to_thread(answer_questions, self.backbone, features, asked)

    def dump_state(self) -> dict[str, Any]:
        """Return the names of the model and the template; never weights."""
        spec = self._spec
        model = {"model": spec.model, "pretrained": spec.pretrained, "dtype": spec.dtype}
        return {_CLASS_KEY: _CLASS_PATH, **model, "template": str(self.template)}

    @classmethod
    def load_state(cls, state: Mapping[str, Any], *, allow_custom_lm_class: bool = False) -> "ClipDecider":
        """Return a decider from a saved state; a model that only the state names is not downloaded.

        Raises:
            InputError: the state names no model, or none that is known, or its template is not valid.
        """
        names: dict[str, Any] = {key: state.get(key) for key in ("model", "pretrained", "dtype", "template")}
        if wrong := [key for key, name in names.items() if not isinstance(name, str) and key != "pretrained"]:
            raise ProgramFileError(f"the saved ClipDecider must have a {wrong[0]}, got {names[wrong[0]]!r:.80}")
        decider = cls(**names)
        decider._spec = replace(decider._spec, downloads="refused")
        return decider

    def launch(self) -> None:
        """Do nothing; `dspy.BetterTogether` launches every model of a program."""

    def kill(self) -> None:
        """Do nothing; the model remains loaded, because other programs may share it."""

    def _read(self, state: Any, questions: Any) -> tuple[ImageSource, dict[str, Question]]:
        """Check a request: return its image and its questions."""
        if not isinstance(state, Mapping) or not isinstance(questions, Mapping):
            raise InputError(
                "a ClipDecider answers decisions about an image, not text; pass it to a dspy.Predict "
                "whose outputs are decisions, and a dspy.LM to the others"
            )
        general = state.get("instructions")
        asked = {name: parse_question(name, question, general, self.template) for name, question in questions.items()}
        return find_image(state.get("inputs")), asked


def is_decider(state: object) -> bool:
    """Return True for the saved state of a `ClipDecider`."""
    return isinstance(state, dict) and state.get(_CLASS_KEY) == _CLASS_PATH


def answer_questions(
    backbone: "Backbone", image_features: "Tensor", asked: Mapping[str, Question]
) -> dict[str, dict[str, Any]]:
    """Answer questions about an image with features [1, D]."""
    return {
        name: question.answer(
            class_logits(backbone, image_features, question.template, question.texts)[0].softmax(dim=0).tolist()
        )
        for name, question in asked.items()
    }


def class_logits(backbone: "Backbone", image_features: "Tensor", template: Template, texts: "ClassTexts") -> "Tensor":
    """Return the logits of classes: [N, D] normalized features to [N, C]."""
    from ipo_dspy.clip.text_features import class_features
    from ipo_dspy.scoring import metrics

    text = class_features(backbone, [template], texts)[0]  # [C, D]
    terms = {"logit_scale": backbone.logit_scale, "logit_bias": backbone.logit_bias}
    return metrics.class_logits(image_features, text, **terms)


def parse_question(name: str, question: Mapping[str, Any], instructions: Any, default: Template) -> Question:
    """Check a question of DSPy's decision requests.

    Args:
        name: name of the output.
        question: its `type`, `instructions` and `criteria`.
        instructions: instructions of the signature.
        default: the template if neither instructions contain `<CLASS>`.

    Raises:
        InputError: a type that CLIP cannot answer, or a `noul` without two criteria.
        DataError: an option without words, or with those of another option.
        TemplateError: instructions with `<CLASS>` that are not a template.
    """
    kind, criteria = question.get("type"), question.get("criteria")
    texts = (question.get("instructions"), instructions)
    template = next((Template.parse(t) for t in texts if isinstance(t, str) and has_placeholder(t)), default)
    if kind == "noul":
        criteria = criteria if isinstance(criteria, Mapping) else {}
        both = {outcome: criteria.get(outcome) for outcome in ("true", "false")}
        if not all(both.values()):
            raise InputError(
                f"output {name!r} must have criteria for both outcomes, got {dict(criteria)!r:.200}; pass what the "
                f'image shows in either case, for example Noul[(True, "helmet"), (False, "bare head")]'
            )
        criteria = both
    elif kind != "choice" or not isinstance(criteria, Mapping):
        raise InputError(
            f"output {name!r} must be a Choice, a Noul, a Literal, or a bool, got the question type "
            f"{one_line(str(kind), 40)!r}; instead of a Score use a Choice, for example "
            "Choice[('poor', 'blurry photo'), ('good', 'sharp photo')]"
        )
    text = json.dumps(criteria)
    read = _read_criteria if len(text) <= _MAX_CACHED else _read_criteria.__wrapped__
    options, words = read(text)
    return Question(kind, template, options, words)


@functools.lru_cache(maxsize=64)  # read for every image
def _read_criteria(criteria: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the options and the texts of each; an option without criteria is read as it is."""
    options, texts = parse_classes({option: text or option for option, text in json.loads(criteria).items()})
    return options, tuple(texts.get(option, (option,)) for option in options)


def find_image(inputs: Any) -> ImageSource:
    """Return the only image among the inputs of a decision request.

    Images that DSPy wrote as text are data URIs or URLs; a path in such a text is rejected, because others may
    have written it.

    Raises:
        ImageError: no image, or several.
    """
    images = list(_images(inputs, _MAX_NESTING))
    if len(images) == 1:
        return images[0]
    fields = inputs if isinstance(inputs, Mapping) else {}
    texts = [value for value in fields.values() if isinstance(value, str) and not value.startswith(_START)]
    if not images and (paths := [text for text in texts if PurePath(text).suffix.lower() in image_suffixes()]):
        shown = repr(one_line(paths[0], 80))
        raise ImageError(
            f"got the text {shown} where an image is expected (got 0 in the inputs); pass dspy.Image.from_path({shown})"
        )
    names = ", ".join(map(repr, fields)) or "none"
    raise ImageError(
        f"a decision by CLIP is about one image, got {len(images)} in the inputs ({one_line(names, 200)}); "
        "pass one, e.g. image=dspy.Image.from_path('x.jpg')"
    )


def _images(value: Any, depth: int) -> Iterator[ImageSource]:
    if isinstance(value, str):
        yield from _images_in_text(value)
    elif isinstance(value, Mapping | list | tuple):
        if not depth:
            raise ImageError(f"an input is nested deeper than {_MAX_NESTING} levels; pass the image itself")
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _images(item, depth - 1)
    elif isinstance(value, _IMAGES) or getattr(value, "ndim", None):  # arrays and tensors have dimensions
        yield value


def _images_in_text(text: str) -> Iterator[str]:
    """Yield the image that a text is as a data URI, or those that DSPy wrote as text; other texts contain none."""
    if text.startswith("data:image/"):
        yield text
        return
    if not (text.startswith(_START) and text.endswith(_END)):
        return
    try:
        parts = parse_json(text.removeprefix(_START).removesuffix(_END), limit=_MAX_CHARACTERS, max_depth=_MAX_NESTING)
    except ValueError as error:
        raise ImageError(f"an input is not an image as DSPy writes it ({error}); pass a dspy.Image") from error
    for part in parts if isinstance(parts, list) else [parts]:
        image = part.get("image_url") if isinstance(part, dict) else None
        address = image.get("url") if isinstance(image, dict) else None
        if not isinstance(address, str):
            continue  # a file or audio
        if not (address.startswith("data:") or is_url(address)):
            raise ImageError("an image in the inputs must be a data URI or a URL; pass dspy.Image.from_path('x.jpg')")
        yield address
