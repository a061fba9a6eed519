"""The driver's model on a worker: by which name it is found there, and that it is the very same one."""

from dataclasses import dataclass
from pathlib import Path

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import BUNDLED, located, named
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.weights import LOCAL, Downloads
from ipo_dspy.errors import ModelError


@dataclass(frozen=True, slots=True)
class Known:
    """A model that every node can load.

    Attributes:
        model, pretrained, dtype: for `load_backbone`; files are named from the root.
        fingerprint: what the model has to have.
        downloads: whether a worker may fetch it.
    """

    model: str
    pretrained: str | None
    dtype: str
    fingerprint: str
    downloads: Downloads = "allowed"

    @classmethod
    def of(cls, backbone: Backbone) -> "Known":
        """The driver's model."""
        pretrained = everywhere(backbone.pretrained) if backbone.pretrained else None
        identity = backbone.identity
        return cls(everywhere(backbone.name), pretrained, identity["dtype"], backbone.fingerprint, backbone.downloads)

    def load(self, device: str = "auto") -> Backbone:
        """The model on this worker.

        Raises:
            ModelError: it is not here, or another one is.
        """
        backbone = load_backbone(
            located(self.model), self.pretrained, device=device, dtype=self.dtype, downloads=self.downloads
        )
        if backbone.fingerprint != self.fingerprint:
            raise ModelError(
                f"the model {self.model!r} has the fingerprint {backbone.fingerprint}, and {self.fingerprint} where "
                "the run was started; put the same files on all nodes"
            )
        return backbone


def everywhere(name: str) -> str:
    """A model's name or file as a worker finds it: the bundled model by its own name, files from the root.

    >>> everywhere("hf-hub:ORG/NAME"), everywhere("local-dir:/models/clip")
    ('hf-hub:ORG/NAME', 'local-dir:/models/clip')
    """
    if named(name) in BUNDLED:
        return named(name)
    if name.startswith(LOCAL):
        return LOCAL + str(Path(name.removeprefix(LOCAL)).expanduser().absolute())
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_file() else name


def files_of(backbone: Backbone) -> list[str]:
    """What has to be on the nodes for the model to load there."""
    names = [everywhere(name) for name in (backbone.name, backbone.pretrained) if name]
    return [path for name in names if (path := name.removeprefix(LOCAL)) != name or Path(name).is_absolute()]
