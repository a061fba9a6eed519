"""Descriptions by a multimodal language model, one request an image, several at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError
from dspy.utils.usage_tracker import track_usage

from ipo_dspy.clip.images import open_image
from ipo_dspy.describers.base import Descriptions, without_class_name
from ipo_dspy.errors import ImageError, LanguageModelError
from ipo_dspy.lms.faults import brief
from ipo_dspy.lms.usage import total_tokens
from ipo_dspy.signatures import DescribeImage
from ipo_dspy.threads import in_threads

LONGEST_SIDE = 768
"""Pixels; larger images are scaled down before they are sent. Providers do the same and charge for more."""

PROBES = 3
"""With a wrong key every image would fail; so many are tried before the run is stopped."""

Answer = tuple[str, str | None]
"""A description, and what went wrong instead."""


class LMDescriber:
    """Asks a model that can see. Images go to that model and nowhere else.

    Args:
        lm: the model; `None` takes `dspy.settings.lm` when it is asked.
        num_threads: requests at a time; DSPy's setting by default.
        allow_url: fetch images given as http(s) URLs.
    """

    def __init__(
        self, lm: dspy.BaseLM | None = None, *, num_threads: int | None = None, allow_url: bool = False
    ) -> None:
        self.lm = lm
        self.num_threads = num_threads
        self.allow_url = allow_url
        self._predict = dspy.Predict(DescribeImage)

    def describe(self, images: Sequence[Any], class_names: Sequence[str]) -> Descriptions:
        """One description an image; class names that slipped in are replaced. Failures leave an empty text.

        Raises:
            LanguageModelError: the first images all failed, so the model is not reachable or cannot see.
        """
        lm = self.lm or dspy.settings.lm

        def one(pair: tuple[Any, str]) -> Answer:
            try:
                return self._ask(*pair), None
            except (LMError, AdapterParseError, ImageError, OSError) as error:
                return "", brief(error, lm)

        pairs = list(zip(images, class_names, strict=True))
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), trace=None), track_usage() as usage:
            answers = _until_one_answer(one, pairs[:PROBES])
            if answers and all(fault for _, fault in answers):
                raise LanguageModelError(
                    f"description_model gave no description of {len(answers)} images: {answers[0][1]}; "
                    "check its name, key and address, or write describer='clip', which needs none"
                )
            threads = self.num_threads or dspy.settings.num_threads
            answers += in_threads(one, pairs[len(answers) :], num_threads=threads)
        return Descriptions(
            texts=tuple(text for text, _ in answers),
            calls=len(images),
            tokens=total_tokens(usage),
            faults=tuple(fault for _, fault in answers if fault is not None),
        )

    def _ask(self, image: Any, class_name: str) -> str:
        picture = open_image(image, allow_url=self.allow_url)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        answer = self._predict(image=dspy.Image(picture))
        return without_class_name(str(answer.description or ""), class_name)


def _until_one_answer(one: Callable[[tuple[Any, str]], Answer], pairs: Sequence[tuple[Any, str]]) -> list[Answer]:
    """Answers one after the other, up to the first that is one."""
    answers: list[Answer] = []
    for pair in pairs:
        answers.append(one(pair))
        if answers[-1][1] is None:
            break
    return answers
