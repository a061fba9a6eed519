"""List the images whose label is suspicious under a program; the rule is in `scoring.confident_learning`.

A search only chooses words, so a program is not fitted to single labels as a trained
network is, and it can judge its own training images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.scoring.confident_learning import suspicious_labels

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.scoring.scorers import ClipScorer


@dataclass(frozen=True, slots=True)
class SuspiciousLabel:
    """An image whose label is suspicious.

    Attributes:
        index: index of the example.
        source: path of the image; empty if unknown.
        label: its label.
        probability: probability of the label under the program, 0 to 1.
        suggested: the class that it seems to show.
        suggested_probability: probability of that class.
    """

    index: int
    source: str
    label: str
    probability: float
    suggested: str
    suggested_probability: float


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """The suspicious labels among a number of images, the least likely label first."""

    template: str
    images: int
    suspicious: tuple[SuspiciousLabel, ...]

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return asdict(self)


def check_labels(program: "ClipClassifier", examples: "Sequence[dspy.Example]") -> LabelCheck:
    """Return the images whose label is suspicious under a program.

    If the program is calibrated, its temperature applies, but not its class weights, which were fitted to labels.

    All probabilities are held in memory, briefly twice: 4 GB for a million images and a thousand classes.

    Args:
        program: classifier whose classes include all labels.
        examples: images with labels.

    Raises:
        DataError: no examples, or labels outside the classes.
        ImageError: an image cannot be read.

    >>> from ipo_dspy import ClipClassifier, demo
    >>> task = demo.load("pixel-animals", shots=4)
    >>> program = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model="demo")
    >>> wrong = [example.copy(label="bat" if i == 12 else example.label) for i, example in enumerate(task.trainset)]
    >>> found = check_labels(program, wrong).suspicious[0]
    >>> found.index, found.label, found.suggested
    (12, 'bat', 'camel')
    """
    program.check_single_label("find suspicious labels")
    judged = encode_examples(program, examples)
    images, features = judged.images, cast("ClipScorer", judged.scorer).image_features
    temperature = program.scaling_of(program.template, images.classes).temperature
    plain = program.probabilities(features.float(), program.template, images.classes)  # [N, C]
    probabilities = plain.log_().div_(temperature).softmax(dim=1).numpy()
    position = {name: index for index, name in enumerate(images.classes)}
    labels = np.array([position[label] for label in images.labels])
    suspicious = tuple(
        SuspiciousLabel(
            index=i,
            source=images.sources[i],
            label=images.labels[i],
            probability=float(probabilities[i, labels[i]]),
            suggested=images.classes[k],
            suggested_probability=float(probabilities[i, k]),
        )
        for i, k in zip(*(values.tolist() for values in suspicious_labels(probabilities, labels)), strict=True)
    )
    return LabelCheck(str(program.template), len(images.labels), suspicious)
