"""A portable reference to the driver's model, with a fingerprint check on the worker."""

from dataclasses import dataclass
from pathlib import Path

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import BUNDLED, canonical_model_name, resolve_model_name
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.transformers_files import TRANSFORMERS
from ipo_dspy.clip.weights import LOCAL, Downloads, named_folder
from ipo_dspy.errors import ModelError


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that every node can load: arguments of `load_backbone`, with absolute paths, and its fingerprint."""

    model: str
    pretrained: str | None
    dtype: str
    fingerprint: str
    downloads: Downloads = "allowed"

    @classmethod
    def of(cls, backbone: Backbone) -> "ModelRef":
        """Refer to the driver's model."""
        pretrained = portable_model_name(backbone.pretrained) if backbone.pretrained else None
        dtype = backbone.identity["dtype"]
        return cls(portable_model_name(backbone.name), pretrained, dtype, backbone.fingerprint, backbone.downloads)

    def load(self, device: str = "auto") -> Backbone:
        """Load the model on this worker; raise `ModelError` if it is missing here, or its fingerprint differs."""
        name = resolve_model_name(self.model)
        backbone = load_backbone(name, self.pretrained, device=device, dtype=self.dtype, downloads=self.downloads)
        if backbone.fingerprint != self.fingerprint:
            raise ModelError(
                f"the model {self.model!r} has the fingerprint {backbone.fingerprint} here and {self.fingerprint} on "
                "the driver; put the same files on all nodes"
            )
        return backbone


def portable_model_name(name: str) -> str:
    """Return a model's name or file as a worker finds it: the bundled model by name, files by absolute path."""
    if canonical_model_name(name) in BUNDLED:
        return canonical_model_name(name)
    if (folder := named_folder(name)) is not None:
        return f"{name.partition(':')[0]}:{folder.absolute()}"
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_file() else name


def files_of(backbone: Backbone) -> list[str]:
    """Return the paths that a node must have to load the model."""
    names = [portable_model_name(name) for name in (backbone.name, backbone.pretrained) if name]
    names = [name.removeprefix(LOCAL).removeprefix(TRANSFORMERS) for name in names]
    return [name for name in names if Path(name).is_absolute()]
