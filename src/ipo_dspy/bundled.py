"""Where the files that come with the package are: the bundled CLIP, which is called `demo`, and the pictures."""

from importlib import resources
from pathlib import Path

DEMO = "demo"
"""Name of the bundled CLIP, wherever a model may be named."""
_PLACE = "ipo_dspy/demo/assets/model"
"""How the path of its folder ends in every environment."""


def assets() -> Path:
    """The folder of the bundled files."""
    return Path(str(resources.files("ipo_dspy"))) / "demo" / "assets"


def model_path() -> Path:
    """The folder of the bundled CLIP, for whatever loads a folder; `ClipClassifier` takes ``model="demo"``."""
    return assets() / "model"


def named(model: str) -> str:
    """A model's name, which is `demo` also for the bundled folder, of this environment or of another.

    >>> named("local-dir:/another/venv/lib/python3.12/site-packages/ipo_dspy/demo/assets/model")
    'demo'
    """
    return DEMO if model.replace("\\", "/").endswith(_PLACE) else model


def located(model: str) -> str:
    """What open_clip loads for a name: for `demo` the bundled folder."""
    return f"local-dir:{model_path()}" if model == DEMO else model
