"""Class weights as an .npz file that `numpy.load` reads without pickle: numbers and texts as arrays of their own."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.file_io import atomic_write

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


def write_npz(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write an array for each field; those that are no list of texts and no number are JSON.

    Raises:
        OSError: the file cannot be written.
    """
    import numpy as np

    arrays: dict[str, Any] = {"class_embeddings": weights.class_embeddings, "class_weights": weights.class_weights}
    for name, value in weights.plain().items():
        is_array = isinstance(value, bool | float) or name in ("labels", "template")
        arrays[name] = np.array(value if is_array else json.dumps(value))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    atomic_write(path, file.getvalue())
