"""Class weights as a model of FiftyOne's zoo: a folder with a manifest, the weights, and the code that loads them.

FiftyOne finds it by its manifest, in a folder of that name below `fiftyone.config.model_zoo_dir`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.clip.model_spec import name_alone
from ipo_dspy.export.npz import write_npz

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights

_WEIGHTS = "class_weights.npz"
FIFTYONE_FILES = (_WEIGHTS, "manifest.json", "__init__.py")
_CODE = '''"""Load the model; FiftyOne calls both functions."""

from ipo_dspy.integrations import fiftyone


def download_model(model_name, model_path):
    raise FileNotFoundError(f"{model_path} is missing; export the program again")


def load_model(model_name, model_path, **options):
    return fiftyone.load_model(model_path, **options)
'''


def write_fiftyone(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write a folder, whose name is that of the model.

    Raises:
        OSError: it cannot be written.
    """
    path.mkdir(exist_ok=True)
    name = path.resolve().name
    model = {
        "base_name": name,
        "base_filename": _WEIGHTS,
        "description": f"{name_alone(weights.model['model'])} with the template: {' | '.join(weights.template)}",
        "tags": ["classification", "logits", "embeddings", "torch", "clip", "zero-shot"],
        "requirements": {"packages": ["ipo_dspy"], "cpu": {"support": True}, "gpu": {"support": True}},
    }
    write_npz(weights, backbone, path / _WEIGHTS)
    atomic_write(path / "manifest.json", json.dumps({"name": name, "models": [model]}, indent=2).encode())
    atomic_write(path / "__init__.py", _CODE.encode())
