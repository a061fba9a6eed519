"""Outcomes of a program on single images, which a file keeps for a later check.

Images are recognized by their content and label, so that files may be renamed or moved between two checks.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ipo_dspy._internal.file_io import atomic_write, read_json
from ipo_dspy._internal.json_input import has_type
from ipo_dspy.argument_checks import invalid
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.scoring.comparison import Floats
from ipo_dspy.scoring.score import Score

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.scoring.scorers import ClipScorer

LARGEST_LOSS = 1e3
"""In nats; a class weight of zero makes the loss infinite."""
LIMIT = 2**28
"""Maximum size of a file of outcomes in bytes, which is enough for two million images."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of a program on N images.

    Attributes:
        template: template of the program.
        model: name and fingerprint of its CLIP model.
        images: content hash and label of each image.
        correct: [N] bool, True if the predicted class is the label.
        loss: [N] cross-entropy in nats.
    """

    template: str
    model: str
    images: tuple[tuple[str, str], ...]
    correct: Floats
    loss: Floats

    @property
    def score(self) -> Score:
        """Accuracy and mean loss."""
        return Score(100.0 * float(self.correct.mean()), float(self.loss.mean()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, which names no file and holds no image.

        Raises:
            InputError: it cannot be written.
        """
        rows = [[*image, int(c), n] for image, c, n in zip(self.images, self.correct, self.loss.tolist(), strict=True)]
        try:
            atomic_write(
                Path(path), json.dumps({"outcomes": rows, "template": self.template, "model": self.model}).encode()
            )
        except OSError as error:
            raise invalid("save", "a file that can be written", os.fspath(path), f"{error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Outcomes":
        """Read a file that `save` wrote.

        Raises:
            InputError: it is missing, or of another kind.
        """
        remedy = "pass a file that check saved"
        try:
            value = read_json(path, limit=LIMIT)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{os.fspath(path)!r} cannot be read ({reason}); {remedy}") from error
        if not has_type(value, dict[str, Any]) or not _are_outcomes(value.get("outcomes")):
            raise InputError(f"{os.fspath(path)!r} contains no outcomes of images; {remedy}")
        keys, labels, correct, loss = zip(*value["outcomes"], strict=True)
        images = tuple(zip(keys, labels, strict=True))
        return cls(
            str(value.get("template")), str(value.get("model")), images, np.array(correct, float), np.array(loss)
        )


def outcomes_of(
    program: "ClipClassifier", examples: "Sequence[dspy.Example]", *, skip_unreadable: bool = False
) -> Outcomes:
    """Return the outcomes of a program on labeled images; raises as `program_check.check` does."""
    program.check_single_label("check a program")
    judged = encode_examples(program, examples, skip_unreadable=skip_unreadable).calibrated(program)
    correct, loss = cast("ClipScorer", judged.scorer).outcomes([program.template]).T
    loss = np.minimum(loss, LARGEST_LOSS)
    model = f"{canonical_model_name(program.backbone.name)} {program.backbone.fingerprint}"
    images = tuple(zip(judged.keys, judged.images.labels, strict=True))
    return Outcomes(str(program.template), model, images, correct, loss)


def _are_outcomes(rows: Any) -> bool:
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(
            isinstance(row, list)
            and len(row) == 4
            and has_type(row[:2], list[str])
            and row[2] in (0, 1)
            and has_type(row[3], float, largest=1e9)
            for row in rows
        )
    )
