"""The CLIP model of a classifier: it is loaded on first use, shared by all copies, and named in the saved file."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy._internal.renames import renamed_arguments
from ipo_dspy.classifier.image_lists import image_list
from ipo_dspy.classifier.labeled_predictor import STATE_KEY, LabeledPredictor
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.clip.model_spec import ModelSpec, check_sigmoid_head, has_own_weights, resolve_model
from ipo_dspy.clip.weights import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.decisions import ClipDecider, class_logits
from ipo_dspy.errors import Hint, ProgramFileError
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.clip.image_features import EncodedImages


class EncodingPredictor(LabeledPredictor):
    """A labeled predictor with a CLIP model."""

    _spec: ModelSpec
    _backbone: "Backbone | None"
    allow_url: bool
    cache: bool = True

    @property
    def backbone(self) -> "Backbone":
        """The CLIP model, loaded on first access.

        Warns:
            UserWarning: the program was saved with another model; the message has both fingerprints. Class weights
                and calibration are dropped then, because they do not hold for it.

        Raises:
            ModelError: weights that are not available, or a model without a sigmoid head with `multi_label=True`.
        """
        if self._backbone is None:
            from ipo_dspy.clip.loading import load_backbone

            backbone = load_backbone(**self._spec.arguments)
            if self.multi_label:
                check_sigmoid_head(self._spec, backbone)
            self._backbone = backbone
            self._warn_of_another_model(backbone)
        return self._backbone

    def __repr__(self) -> str:
        names = "no classes"
        if self.classes is not None:
            names = f"{pluralize(len(self.classes), 'class')} ({first_few([*map(repr, self.classes)], 3)})"
        return f"{type(self).__name__}({names}, template={self.signature.instructions!r}, model={self.model_name!r})"

    @property
    def model_name(self) -> str:
        """The model's name as the user gave it, or `demo` for a bundled one; nothing is loaded."""
        return self._spec.model

    def with_model(self, model: "str | Backbone", *, pretrained: str | None = DEFAULT_PRETRAINED) -> Self:
        """Return a copy that classifies with another model, on the same device and in the same number format.

        Class weights and calibration are dropped, because they do not hold for it.

        Raises:
            ModelError: as for the constructor.
        """
        other = cast("Self", self.deepcopy())
        other._spec, other._backbone = resolve_model(model, pretrained, self._spec.device, self._spec.dtype)
        if other.multi_label:
            check_sigmoid_head(other._spec, other._backbone)
        other._saved_under = None
        other._set_calibration(None, {})
        return other

    def warm_up(self) -> Self:
        """Load the model and encode the texts of the classes in advance; otherwise the first call does both.

        Returns:
            The classifier itself, so `ClipClassifier.from_file(path).warm_up()` is ready to answer.

        Raises:
            ModelError: weights that are not available, or that do not fit the model.
        """
        from ipo_dspy.clip.text_features import class_features

        backbone = self.backbone
        if self.classes is not None:
            class_features(backbone, [self.template], self.texts_of(self.classes))
        return self

    @property
    def lm(self) -> Any:
        """The language model that an optimizer set; it is never called. Otherwise CLIP itself, as a decision client.

        Optimizers of decisions use it to find out whether repeated calls are cheap, and `dspy.BetterTogether` needs
        one.
        """
        return self._lm or ClipDecider(self._backbone or self._spec, allow_url=self.allow_url)

    @lm.setter
    def lm(self, lm: Any) -> None:
        self._lm = lm

    @renamed_arguments(skip_bad="skip_unreadable")
    def encode(self, images: Sequence[Any], *, skip_unreadable: bool = False) -> None:
        """Encode images together, in batches, so that later calls reuse their features.

        Without `cache` they are reused in this process only.
        """
        if sources := image_list(images, "images"):
            self._encoded(sources, skip_unreadable)

    def _encoded(self, images: Sequence[Any], skip_unreadable: bool) -> "EncodedImages":
        from ipo_dspy.clip.image_features import encode_images

        return encode_images(
            self.backbone, images, skip_unreadable=skip_unreadable, allow_url=self.allow_url, on_disk=self.cache
        )

    def probabilities(self, image_features: "Tensor", template: Template, classes: Sequence[str]) -> "Tensor":
        """Return the softmax over classes, whose texts are the classifier's: [N, D] normalized features to [N, C].

        It is CLIP's own softmax, without calibration. With `multi_label=True` it is the sigmoid of each class.
        """
        logits = self._logits(image_features, template, classes)
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def _logits(self, image_features: "Tensor", template: Template, classes: Sequence[str]) -> "Tensor":
        return class_logits(self.backbone, image_features, template, self.texts_of(classes))

    def _logits_of(self, images: Sequence[Any], skip_unreadable: bool) -> "tuple[NDArray[np.float64], EncodedImages]":
        """Return the logits of those images that can be read, [N, C], and the encoded images."""
        encoded = self._encoded(images, skip_unreadable)
        logits = self._logits(encoded.features, self.template, self.classes or ())
        return logits.double().cpu().numpy(), encoded

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return DSPy's state plus class names and the model's identity; never weights.

        The fingerprint is None if the model is not loaded, because saving does not need weights.
        """
        state = super().dump_state(json_mode=json_mode)
        spec = self._spec
        unloaded = {"model": spec.model, "pretrained": spec.pretrained or "", "fingerprint": None, "dtype": spec.dtype}
        identity = unloaded if self._backbone is None else {**self._backbone.identity, "model": spec.model}
        return {**state, STATE_KEY: {**state[STATE_KEY], **identity}}

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> Self:
        """Load template, class names, and `top_k` from a saved state; the model is not changed.

        Raises:
            ProgramFileError: the state belongs to another kind of program, or is malformed; the classifier is then not
                changed.
            ModelError: the program has several labels, and the model no sigmoid head.

        Warns:
            UserWarning: it was saved with another model; the message has both fingerprints, and class weights and
                calibration are dropped. If the model is not loaded yet, this happens when it is loaded.
        """
        saved = state.get(STATE_KEY)
        if isinstance(saved, dict) and saved.get("multi_label") is True:
            check_sigmoid_head(self._spec, self._backbone)
        super().load_state(state, allow_unsafe_lm_state=allow_unsafe_lm_state)
        if self._backbone is not None:
            self._warn_of_another_model(self._backbone)
        return self

    def _warn_of_another_model(self, backbone: "Backbone") -> None:
        """Warn once if the model is not the saved one, and drop a calibration, which was fitted to that.

        Without a fingerprint they cannot be compared.
        """
        saved, self._saved_under = self._saved_under or {}, None
        identity = backbone.identity
        if saved.get("fingerprint") not in (None, identity["fingerprint"]):
            dropped = "; the calibration was dropped, calibrate again" if self.is_calibrated else ""
            self._set_calibration(None, {})
            warnings.warn(
                f"saved under {saved.get('model')} (fingerprint {saved.get('fingerprint')}), loaded under "
                f"{canonical_model_name(identity['model'])} (fingerprint {identity['fingerprint']}); "
                f"predictions will differ, re-evaluate{dropped}",
                stacklevel=3,
            )


def saved_model(state: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the model that a state names, as arguments of a classifier.

    Raises:
        ProgramFileError: it names none.
    """
    saved = state.get(STATE_KEY)
    if not isinstance(saved, dict):
        raise ProgramFileError(
            f"{path!r} does not contain a saved ClipClassifier; pass a file written by ClipClassifier.save"
        )
    name = saved.get("model")
    if not isinstance(name, str):
        hint = Hint("pass one, e.g. {model}", model=DEFAULT_MODEL)
        raise ProgramFileError(f"{path!r} names no model", hint=hint)
    pretrained = None if has_own_weights(canonical_model_name(name)) else str(saved.get("pretrained") or "") or None
    return {"model": name, "pretrained": pretrained, "dtype": str(saved.get("dtype") or "float32")}
