"""`ClipClassifier`: zero-shot CLIP as a `dspy.Predict` whose instructions ARE the prompt template.

Because the template is the signature's instructions, everything that DSPy does to a predictor works on
it: `named_predictors`, `save` and `load`, `deepcopy`, `dspy.Evaluate`, and any optimizer that rewrites
instructions. It calls no language model. Model weights are loaded on first use and shared by all copies.
"""

import copy
import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dspy
from dspy.utils.callback import BaseCallback

from ipo_dspy.bundled import BUNDLED, located, named
from ipo_dspy.errors import DataError, ImageError, ProgramFileError, TemplateError
from ipo_dspy.template import DEFAULT_TEMPLATE, Template, check_classes

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

logger = logging.getLogger(__name__)

_STATE_KEY = "clip"
_PREDICT_STATE = ("traces", "train", "demos", "signature", "fields", "lm")
"""What `dspy.Predict` saves. It sets any key of a file as an attribute, `allow_url` too, so others stay out."""


class ClassifyImage(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to classify")
    label: str = dspy.OutputField(desc="the class whose filled template matches the picture best")


class ClassifyAmong(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to classify")
    classes: list[str] = dspy.InputField(desc="the class names to choose from")
    label: str = dspy.OutputField(desc="the class whose filled template matches the picture best")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What to load, in the words of the user: `demo` is the bundled model, wherever it lies."""

    model: str
    pretrained: str | None
    device: str = "auto"
    dtype: str = "float32"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `clip.backbone.load_backbone`."""
        return {**asdict(self), "model": located(self.model)}


class ClipClassifier(dspy.Predict):
    """Zero-shot image classification by CLIP: `image -> label`, with `confidence` and top-k `scores`.

    Args:
        classes: class names; `None` if every call gives its own (`classes=[...]`), e.g. from an upstream module.
        template: where `<CLASS>` stands for the class name. Several lines are an ensemble: their normalised
            text features are averaged.
        model: an open_clip architecture, `local-dir:PATH`, `hf-hub:NAME`, `demo` (the bundled one, which needs no
            download), or a loaded `Backbone`.
        pretrained: open_clip tag or checkpoint path; ignored for the last four.
        device: `auto`, `cpu`, `cuda`, `mps`, ...
        dtype: `float32`, `float16` or `bfloat16`.
        top_k: how many classes `scores` holds.
        allow_url: fetch images given as http(s) URLs.

    Raises:
        TemplateError, DataError: at once, for a bad template or class names.
        ModelError: on first use, for an unknown model or weights that are not at hand.

    An optimizer that writes instructions without `<CLASS>` gets predictions with `label=None`, wrong under
    any metric, and a warning; it is not stopped.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=1)
    >>> classifier = ClipClassifier(task.classes, model="demo")
    >>> prediction = classifier(image=task.testset[0].image)
    >>> prediction.label in task.classes
    True
    """

    signature: Any  # DSPy's metaclass type

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        *,
        template: str | Template = DEFAULT_TEMPLATE,
        model: "str | Backbone" = "ViT-B-16-quickgelu",
        pretrained: str | None = "openai",
        device: str = "auto",
        dtype: str = "float32",
        top_k: int = 5,
        allow_url: bool = False,
        callbacks: list[BaseCallback] | None = None,
    ) -> None:
        parsed = template if isinstance(template, Template) else Template.parse(template)
        base = ClassifyAmong if classes is None else ClassifyImage
        super().__init__(base.with_instructions(str(parsed)), callbacks=callbacks)
        self.classes = None if classes is None else check_classes(classes)
        self._saved_under: dict[str, Any] | None = None
        self.top_k = top_k
        self.allow_url = allow_url
        if isinstance(model, str):
            name = named(model)
            self._spec = ModelSpec(name, None if name in BUNDLED else pretrained, device, dtype)
            self._backbone: Backbone | None = None
        else:
            self._spec = ModelSpec(named(model.name), model.pretrained, str(model.device), model.identity["dtype"])
            self._backbone = model

    @property
    def backbone(self) -> "Backbone":
        """The loaded CLIP model; loading happens here, once.

        Warns:
            UserWarning: a program was loaded that was saved under another model; both fingerprints are named.
        """
        if self._backbone is None:
            from ipo_dspy.clip.backbone import load_backbone

            self._backbone = load_backbone(**self._spec.arguments)
            self._warn_of_another_model(self._backbone)
        return self._backbone

    @property
    def template(self) -> Template:
        """The prompt template, which is the signature's instructions.

        Raises:
            TemplateError: another optimizer has written instructions that are no template.
        """
        return Template.parse(self.signature.instructions)

    @template.setter
    def template(self, template: str | Template) -> None:
        parsed = template if isinstance(template, Template) else Template.parse(template)
        self.signature = self.signature.with_instructions(str(parsed))

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Classify one image: `image=` a dspy.Image, PIL image or path; `classes=` replaces the class names."""
        from ipo_dspy.clip.images import encode_images

        classes = self._classes_for(inputs)
        if inputs.get("image") is None:
            raise ImageError("no image given; write classifier(image=dspy.Image.from_path('x.jpg'))")
        try:
            template = self.template
        except TemplateError as error:
            return self._abstain(inputs, error)
        encoded = encode_images(self.backbone, [inputs["image"]], allow_url=self.allow_url)
        probabilities = self.probabilities(encoded.features, template, classes)[0]  # [C]
        return self._finish(inputs, _answer(probabilities, classes, self.top_k))

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """The same; CLIP runs in this thread."""
        return self.forward(**inputs)

    def batch(self, examples: list[dspy.Example], *args: Any, **kwargs: Any) -> Any:
        """`dspy.Module.batch`, with all images encoded together first."""
        images = [example["image"] for example in examples if example.get("image") is not None]
        self.encode(images, skip_bad=True)
        return super().batch(examples, *args, **kwargs)

    def encode(self, images: Sequence[Any], *, skip_bad: bool = False) -> None:
        """Encode images together, in batches, so that the calls that follow find their features ready."""
        from ipo_dspy.clip.images import encode_images

        if images:
            encode_images(self.backbone, images, skip_bad=skip_bad, allow_url=self.allow_url)

    def probabilities(self, image_features: "Tensor", template: Template, classes: Sequence[str]) -> "Tensor":
        """Softmax over classes: [N, D] normalised features to [N, C]."""
        from ipo_dspy.clip.text import class_features
        from ipo_dspy.metric import logits

        text = class_features(self.backbone, [template], classes)[0]  # [C, D]
        scores = logits(
            image_features, text, logit_scale=self.backbone.logit_scale, logit_bias=self.backbone.logit_bias
        )
        return scores.softmax(dim=1)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state plus class names and the model's identity; never weights.

        The fingerprint is None while the model is not loaded: saving needs no weights.
        """
        bare = copy.copy(self)
        bare.lm = None  # it is never asked, and perhaps of a kind that cannot be saved
        state = cast("dict[str, Any]", super(ClipClassifier, bare).dump_state(json_mode=json_mode))
        spec = self._spec
        unloaded = {
            "model": spec.model,
            "pretrained": spec.pretrained or "",
            "fingerprint": None,
            "dtype": spec.dtype,
        }
        identity = unloaded if self._backbone is None else {**self._backbone.identity, "model": spec.model}
        return {**state, _STATE_KEY: {"classes": self.classes, **identity}}

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> "ClipClassifier":
        """Take template and class names from a saved state; the model stays the one given here.

        Raises:
            ProgramFileError: the state is that of another kind of program, or malformed; nothing is changed then.

        Warns:
            UserWarning: it was saved under another model; both fingerprints are named. Where the model is not
                loaded yet, the warning comes when it is.
        """
        saved = state.get(_STATE_KEY)
        if not isinstance(saved, dict) or not isinstance(state.get("signature"), dict):
            raise ProgramFileError(
                "this is not the state of a ClipClassifier; load it into the kind of program that wrote it"
            )
        before = dict(vars(self))
        try:
            template = Template.parse(state["signature"].get("instructions"))
            self.classes = None if saved.get("classes") is None else check_classes(saved["classes"])
            self.signature = self._signature_for(state["signature"]["fields"])
            super().load_state(
                {key: state[key] for key in _PREDICT_STATE if key in state},
                allow_unsafe_lm_state=allow_unsafe_lm_state,
            )
            self.template = template
        except Exception as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            if not isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
                raise
            fact = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used: {error}"
            raise ProgramFileError(f"the saved program {fact}; save it again with ClipClassifier.save") from error
        self._saved_under = saved
        if self._backbone is not None:
            self._warn_of_another_model(self._backbone)
        return self

    def load(
        self, path: str | os.PathLike[str], allow_pickle: bool = False, allow_unsafe_lm_state: bool = False
    ) -> None:
        """Load a program that `save` wrote.

        Raises:
            ProgramFileError: the file is missing, cut in the middle, or of another kind.
        """
        read_program(path)
        super().load(path, allow_pickle=allow_pickle, allow_unsafe_lm_state=allow_unsafe_lm_state)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
    ) -> "ClipClassifier":
        """A classifier from a saved program alone: its own model, unless another one is named.

        Raises:
            ProgramFileError: the file is missing, cut in the middle, or of another kind.
        """
        saved = read_program(path)[_STATE_KEY]
        spec = (saved.get("model"), saved.get("pretrained") or None) if model is None else (model, pretrained)
        if not isinstance(spec[0], str):
            raise ProgramFileError(f"{os.fspath(path)!r} names no model; pass one, e.g. model='ViT-B-16-quickgelu'")
        dtype = "float32" if model is not None else str(saved.get("dtype") or "float32")
        classifier = cls(model=spec[0], pretrained=spec[1], device=device, dtype=dtype)
        classifier.load(path)
        return classifier

    def _signature_for(self, saved_fields: list[Any]) -> Any:
        """The signature that belongs to `classes`: DSPy pairs saved fields with it by position alone."""
        signature = self.signature
        if ("classes" in signature.input_fields) != (self.classes is None):
            signature = ClassifyAmong if self.classes is None else ClassifyImage
        if len(saved_fields) != len(signature.fields):
            raise ValueError(f"it has {len(saved_fields)} fields, not {len(signature.fields)}")
        return signature

    def _classes_for(self, inputs: dict[str, Any]) -> tuple[str, ...]:
        given = inputs.get("classes")
        if given is not None:
            return check_classes(given)
        if self.classes is None:
            raise DataError("no class names given; write classifier(image=..., classes=['cat', 'dog'])")
        return self.classes

    def _abstain(self, inputs: dict[str, Any], error: TemplateError) -> dspy.Prediction:
        logger.warning("prediction is None: %s", error)
        return self._finish(inputs, {"label": None, "confidence": 0.0, "scores": {}})

    def _finish(self, inputs: dict[str, Any], answer: dict[str, Any]) -> dspy.Prediction:
        """Build the prediction and record it in the trace as every DSPy predictor does (GEPA reads it)."""
        return cast("dspy.Prediction", self._forward_postprocess([answer], self.signature, **inputs))

    def _warn_of_another_model(self, backbone: "Backbone") -> None:
        """Compare with what the program was saved under, once; nothing is known where the fingerprint is None."""
        saved, self._saved_under = self._saved_under or {}, None
        mine = backbone.identity
        if saved.get("fingerprint") not in (None, mine["fingerprint"]):
            warnings.warn(
                f"saved under {saved.get('model')} (fingerprint {saved.get('fingerprint')}), loaded under "
                f"{named(mine['model'])} (fingerprint {mine['fingerprint']}); predictions will differ, evaluate again",
                stacklevel=3,
            )


def read_program(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of a saved `ClipClassifier`.

    Raises:
        ProgramFileError: missing, cut in the middle, or of another kind.
    """
    name = os.fspath(path)
    if (Path(name) / "best.json").is_file():
        raise ProgramFileError(f"{name!r} is a folder; write {str(Path(name) / 'best.json')!r}")
    if not name.endswith(".json"):
        raise ProgramFileError(f"{name!r} is not a .json file; save programs with program.save('best.json')")
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - fspath may be any PathLike
            state = json.loads(file.read())
    except OSError as error:
        raise ProgramFileError(
            f"{name!r} cannot be read ({error.strerror}); give the path that save() was given"
        ) from error
    except ValueError as error:
        raise ProgramFileError(f"{name!r} is not whole JSON ({error}); save the program again") from error
    metadata = state.get("metadata") if isinstance(state, dict) else None
    whole = isinstance(metadata, dict) and isinstance(metadata.get("dependency_versions"), dict)
    if not whole or not isinstance(state, dict) or not isinstance(state.get(_STATE_KEY), dict):
        raise ProgramFileError(f"{name!r} holds no saved ClipClassifier; give a file that ClipClassifier.save wrote")
    return state


def _answer(probabilities: "Tensor", classes: Sequence[str], top_k: int) -> dict[str, Any]:
    values, indices = probabilities.topk(min(top_k, len(classes)))
    scores = {classes[i]: p for i, p in zip(indices.tolist(), values.tolist(), strict=True)}
    label = next(iter(scores))
    return {"label": label, "confidence": scores[label], "scores": scores}
