"""The training images that a template gets wrong, for a proposer that is shown them."""

import functools
import itertools

import dspy

from ipo_dspy.clip.image_io import open_image
from ipo_dspy.clip.image_pixels import fit_for_lm
from ipo_dspy.lms.signatures import Mistake
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template, display_class_name

LONGEST_SIDE = 512
"""In pixels; a request has several of these images, so they are smaller than those that are described."""


class Mistakes:
    """Selects the images that a template gets most confidently wrong, at most one per class so that they differ.

    Args:
        images: the images.
        limit: maximum number of images; with 0 no template is scored.
        allow_url: fetch images given as http(s) URLs.
    """

    def __init__(self, images: TrainingImages, limit: int, *, allow_url: bool = False) -> None:
        self.images, self.limit = images, limit
        # The best template is often the same for many steps.
        self._scaled = functools.lru_cache(maxsize=2 * limit)(functools.partial(_scaled, images, allow_url))

    def of(self, scorer: ClipScorer, template: Template) -> tuple[Mistake, ...]:
        """Return the mistakes of a template by a scorer of the images, the most confident first, then in their order.

        Raises:
            ImageError: an image can no longer be read.
        """
        if not self.limit:
            return ()
        labels, predicted = self.images.labels, scorer.predict_with_probability(template)
        wrong = [i for i, (name, _) in enumerate(predicted) if name != labels[i]]
        # Rounded, so that the last bits, which depend on the machine, do not matter.
        ranked = sorted(wrong, key=lambda i: -round(predicted[i][1], 4))
        first_of_class: dict[str, int] = {}
        for i in ranked:
            first_of_class.setdefault(labels[i], i)
        return tuple(
            Mistake(
                image=self._scaled(i),
                label=display_class_name(labels[i]),
                predicted=display_class_name(predicted[i][0]),
                probability=predicted[i][1],
            )
            for i in itertools.islice(first_of_class.values(), self.limit)
        )


def _scaled(images: TrainingImages, allow_url: bool, index: int) -> dspy.Image:
    return dspy.Image(fit_for_lm(open_image(images.images[index], allow_url=allow_url), LONGEST_SIDE))
