"""The CLIP model that a program names, before anything is loaded; needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from ipo_dspy.clip.bundled import BUNDLED, canonical_model_name, resolve_model_name
from ipo_dspy.clip.transformers_files import TRANSFORMERS
from ipo_dspy.clip.weights import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    HUB,
    LOCAL,
    Downloads,
    check_name,
    check_pretrained,
    is_tag,
    lacks_sigmoid_head,
    named_folder,
)
from ipo_dspy.errors import Hint, ModelError

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model by name, with its weights, device, and number format; `demo` is the bundled model, wherever it lies."""

    model: str
    pretrained: str | None
    device: str = "auto"
    dtype: str = "float32"
    downloads: Downloads = "allowed"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for `clip.loading.load_backbone`."""
        return {**asdict(self), "model": resolve_model_name(self.model)}


def has_own_weights(name: str) -> bool:
    """Return whether the name of a model says which weights it has.

    >>> has_own_weights("hf-hub:org/name"), has_own_weights("ViT-B-32")
    (True, False)
    """
    return name in BUNDLED or name.startswith((LOCAL, HUB, TRANSFORMERS))


def weights_of(name: str, pretrained: str | None) -> str | None:
    """Return the weights to load for a model; None for one that has its own.

    Raises:
        ModelError: weights other than the default are named for a model that has its own.
    """
    if not has_own_weights(canonical_model_name(name)):
        return pretrained
    if pretrained not in (None, DEFAULT_PRETRAINED):
        condition = f"must be None for {canonical_model_name(name)!r}, which has its own weights"
        raise ModelError(condition, argument="pretrained", value=pretrained, hint="omit it")
    return None


def local_files(spec: ModelSpec) -> str | None:
    """Return the file or folder that a model is loaded from, on any machine; None for a bundled or published one.

    >>> local_files(ModelSpec("local-dir:/models/clip", None)), local_files(ModelSpec("ViT-B-32", "openai"))
    ('local-dir:/models/clip', None)
    """
    if has_own_weights(spec.model):
        return None if named_folder(spec.model) is None else spec.model
    return None if spec.pretrained is None or is_tag(spec.model, spec.pretrained) else spec.pretrained


def name_alone(name: str) -> str:
    r"""Return the name of a model, or of its folder without the folders above it.

    >>> name_alone("local-dir:/home/ann/my-clip"), name_alone("transformers:../my-clip"), name_alone(r"C:\ann\my-clip")
    ('my-clip', 'my-clip', 'my-clip')
    >>> name_alone("hf-hub:org/clip"), name_alone("transformers:org/clip"), name_alone("ViT-B/32")
    ('hf-hub:org/clip', 'transformers:org/clip', 'ViT-B/32')
    """
    place = name.removeprefix(LOCAL).removeprefix(TRANSFORMERS)
    path = PureWindowsPath(place)  # reads the slashes of all systems
    is_path = name.startswith(LOCAL) or path.anchor or place.startswith((".", "~")) or "\\" in place
    return path.name if is_path else name


def names_alone(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a recorded model and of its weights without folders; empty if there are none.

    >>> names_alone({"model": "ViT-B/32", "pretrained": "weights/clip.pt", "dtype": "float32"})
    {'model': 'ViT-B/32', 'pretrained': 'clip.pt'}
    """
    weights = PureWindowsPath(str(model.get("pretrained") or "")).name
    return {"model": name_alone(str(model.get("model") or "")), "pretrained": weights}


def resolve_model(
    model: "str | Backbone | ModelSpec", pretrained: str | None, device: str, dtype: str
) -> "tuple[ModelSpec, Backbone | None]":
    """Return the specification of a model that a caller passed by name, as such, or loaded; and the loaded one.

    Raises:
        ModelError: an unknown name or tag of weights, an unsupported family of models, or weights that do not belong to
            the model.
    """
    if isinstance(model, ModelSpec):
        return model, None
    if isinstance(model, str):
        name = canonical_model_name(model)
        check_name(name)
        if (weights := weights_of(name, pretrained)) is not None:
            check_pretrained(name, weights)
        return ModelSpec(name, weights, device, dtype), None
    if not hasattr(model, "identity"):
        hint = Hint("for example {model}", model=DEFAULT_MODEL)
        raise ModelError("must be a name or a loaded Backbone", argument="model", value=model, hint=hint)
    weights_of(model.name, pretrained)
    name = canonical_model_name(model.name)
    return ModelSpec(name, model.pretrained, str(model.device), model.identity["dtype"]), model


def check_sigmoid_head(spec: ModelSpec, backbone: "Backbone | None") -> None:
    """Check that a model gives independent probabilities; before it is loaded, as far as that is known.

    Raises:
        ModelError: it was trained with a softmax over classes, so the sigmoids of its logits mean nothing.
    """
    if lacks_sigmoid_head(resolve_model_name(spec.model)) if backbone is None else not backbone.has_sigmoid_head:
        condition = "a model with a sigmoid head (a logit bias) for several labels, such as a SigLIP"
        hint = Hint("pass {model} and {pretrained}", model="ViT-B-16-SigLIP", pretrained="webli")
        raise ModelError(f"must be {condition}", argument="model", value=spec.model, hint=hint)
