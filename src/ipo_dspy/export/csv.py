"""The prompts of each label as a CSV file, for people and for programs that encode text on their own."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ipo_dspy._internal.file_io import atomic_write

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


def write_csv(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write the columns `label` and `prompt` in UTF-8, one prompt per row; cells are written as they are.

    Raises:
        OSError: the file cannot be written.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["label", "prompt"])
    for label, prompts in zip(weights.labels, weights.prompts, strict=True):
        rows.writerows([label, prompt] for prompt in prompts)
    atomic_write(path, table.getvalue().encode())
