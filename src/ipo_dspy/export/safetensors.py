"""Class weights as a safetensors file: two tensors, and everything else as JSON in its metadata."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.file_io import atomic_write

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


def write_safetensors(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write `class_embeddings` [C, D] and `class_weights` [C]; the metadata has each other field as JSON.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    tensors: dict[str, Any] = {"class_embeddings": weights.class_embeddings, "class_weights": weights.class_weights}
    atomic_write(path, save(tensors, {name: json.dumps(value) for name, value in weights.plain().items()}))
