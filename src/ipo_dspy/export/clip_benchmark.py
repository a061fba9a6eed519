"""The two files with which CLIP_benchmark classifies under a program's prompts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.template import PLACEHOLDER, display_class_name

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights

ANY_DATASET = "imagenet1k"
"""The key whose templates CLIP_benchmark uses for data sets without their own templates."""

CLIP_BENCHMARK_FILES = ("templates.json", "classnames.json")


def write_clip_benchmark(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write `templates.json`, for any data set, and `classnames.json`, for one with the name of the folder.

    Classes are in the order of the labels. If each has one text, that is its name, and the templates fit other classes
    as well. Otherwise its name is the label, and the templates are the prompts of each class.

    Raises:
        OSError: the files cannot be written.
    """
    templates: Any
    if all(len(texts) == 1 for texts in weights.class_texts):
        names = [display_class_name(text) for (text,) in weights.class_texts]
        escaped = [line.replace("{", "{{").replace("}", "}}") for line in weights.template]
        templates = [line.replace(PLACEHOLDER, "{c}") for line in escaped]
    else:
        names = list(weights.labels)
        templates = dict(zip(weights.labels, weights.prompts, strict=True))
    path.mkdir(exist_ok=True)
    for name, content in (("templates", {ANY_DATASET: templates}), ("classnames", {path.resolve().name: names})):
        atomic_write(path / f"{name}.json", f"{json.dumps(content, indent=2)}\n".encode())
