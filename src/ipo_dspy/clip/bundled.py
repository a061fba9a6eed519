"""Locations of the bundled files: the CLIP with either image tower, and the images."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

DEMO, DEMO_VIT = "demo", "demo-vit"
"""Names of the bundled CLIP, wherever a model may be named: with a ResNet, and with a vision transformer."""
BUNDLED: Mapping[str, str] = MappingProxyType({DEMO: "model", DEMO_VIT: "model-vit"})
"""Folder of each among the bundled files."""
_PLACE = "ipo_dspy/demo/assets/"
"""End of their paths in every environment."""


def assets() -> Path:
    """The folder of the bundled files."""
    return Path(str(resources.files("ipo_dspy"))) / "demo" / "assets"


def model_path(name: str = DEMO) -> Path:
    """The folder of a bundled CLIP, for whatever loads a folder; `ClipClassifier` takes ``model="demo"``."""
    return assets() / BUNDLED[name]


def canonical_model_name(model: str) -> str:
    """A model's name, which is `demo` also for the bundled folder, of this environment or of another.

    >>> canonical_model_name("local-dir:/another/venv/lib/python3.12/site-packages/ipo_dspy/demo/assets/model")
    'demo'
    """
    path = model.replace("\\", "/")
    return next((name for name, folder in BUNDLED.items() if path.endswith(_PLACE + folder)), model)


def resolve_model_name(model: str) -> str:
    """Return the name that open_clip loads: for a bundled model, its folder."""
    return f"local-dir:{model_path(model)}" if model in BUNDLED else model
