"""Descriptions by a multimodal language model, one request an image, several at a time."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import dspy
from dspy.utils.exceptions import LMError
from PIL import Image

from ipo_dspy._internal.renames import renamed_arguments
from ipo_dspy._internal.threads import in_threads
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.describers.base import Descriptions, first_sentences, without_class_name
from ipo_dspy.errors import BudgetError, Hint, ImageError, LanguageModelError, NoAnswerError, StoppedError
from ipo_dspy.lms.error_messages import FATAL, one_line_error, suggest_fix
from ipo_dspy.lms.reasoning import is_refusal
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import DescribeImage, PlainAdapter
from ipo_dspy.run.ledger import AskOnce, LMResponse

LONGEST_SIDE = 768
"""Pixels; larger images are scaled down before they are sent. Providers do the same and charge for more."""


class LMDescriber:
    """Asks a model that can see. Images go to that model and nowhere else.

    Args:
        lm: the model; `None` takes `dspy.settings.lm` when it is asked.
        num_threads: requests at a time; DSPy's setting by default.
        allow_url: fetch images given as http(s) URLs.
        max_consecutive_errors: stop after so many images in a row that got no answer.
        longest_side: pixels; larger images are scaled down before they are sent.
    """

    @renamed_arguments(max_errors="max_consecutive_errors")
    def __init__(
        self,
        lm: dspy.BaseLM | None = None,
        *,
        num_threads: int | None = None,
        allow_url: bool = False,
        max_consecutive_errors: int = 3,
        longest_side: int = LONGEST_SIDE,
    ) -> None:
        self.lm = lm
        self.num_threads = num_threads
        self.allow_url = allow_url
        self.max_consecutive_errors = max_consecutive_errors
        self.longest_side = longest_side

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """One description an image; class names that slipped in are replaced. Failures leave an empty text.

        A limit of the run that leaves nothing, or a stop, ends it: the other images stay without a description.

        Raises:
            LanguageModelError: the key or the name is wrong.
            NoAnswerError: `max_consecutive_errors` images in a row got no answer: the model is not reachable or cannot
                see.
        """
        asking = _DescriptionJob(self, once or (lambda question, ask: ask()), images, class_names)
        threads = self.num_threads or dspy.settings.num_threads
        # One at a time until there is an answer: with a wrong key every request would fail.
        first = asking.until_one_answer()
        in_threads(asking.one, range(first, len(images)), num_threads=threads)
        return Descriptions(tuple(asking.texts), faults=tuple(asking.faults))


class _DescriptionJob:
    """The images of one call of `describe`, and what became of each."""

    def __init__(self, owner: LMDescriber, once: AskOnce, images: Sequence[Any], class_names: Sequence[str]) -> None:
        self.owner, self.once, self.images, self.class_names = owner, once, images, class_names
        self.lm = owner.lm or dspy.settings.lm
        self.texts = [""] * len(images)
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._spent = self._stopped = False

    def until_one_answer(self) -> int:
        """How many images were asked about, the last of which got an answer."""
        for index in range(len(self.images)):
            if self.one(index):
                return index + 1
        return len(self.images)

    def one(self, index: int) -> bool:
        """Ask about one image; whether there was an answer."""
        if self._stopped:
            return False
        try:
            picture = open_image(self.images[index], allow_url=self.owner.allow_url)
            picture.thumbnail((self.owner.longest_side, self.owner.longest_side))
            answer = self.once(_request_id(picture), lambda: self._request(picture))
        except ImageError as error:
            self._fault(str(error))
        except StoppedError:
            self._stopped = True
        except BudgetError as spent:
            if not self._spent:
                self._spent = True
                self._fault(str(spent))
        except (LMError, ImportError, OSError) as error:
            self._fault(one_line_error(error, self.lm), error)
        else:
            return self._answered(index, answer)
        return False

    def _request(self, picture: Image.Image) -> LMResponse:
        inputs = {"image": dspy.Image(picture)}
        return request(self.lm, PlainAdapter(), DescribeImage, inputs, field="description")

    def _answered(self, index: int, answer: LMResponse) -> bool:
        fault = answer.fault or _fault_of(answer.texts)
        if fault:
            self._fault(fault, ValueError(fault))
            return False
        with self._lock:
            self._in_a_row = 0
        self.texts[index] = without_class_name(first_sentences(answer.texts[0]), self.class_names[index])
        return True

    def _fault(self, message: str, error: Exception | None = None) -> None:
        """Note what went wrong; with an error, it was the model's fault, and too many in a row are one too many."""
        with self._lock:
            self.faults.append(message)
            if error is None:
                return
            self._in_a_row += 1
            if isinstance(error, FATAL) or self._in_a_row >= min(self.owner.max_consecutive_errors, len(self.images)):
                model = str(getattr(self.lm, "model", type(self.lm).__name__))
                kind = LanguageModelError if isinstance(error, FATAL) else NoAnswerError
                raise kind(
                    f"{model!r} gave no description: {message}; {suggest_fix(error, model)}",
                    argument="description_model",
                    hint=Hint("or pass {describer}, which needs none", describer="clip"),
                ) from None  # a traceback would print what `brief` took out


def _fault_of(texts: Sequence[str]) -> str | None:
    """Return why an answer is no description, if so."""
    if not texts:
        return "the answer is empty"
    return f"the model refuses: {one_line(texts[0], 200)!r}" if is_refusal(texts[0]) else None


def _request_id(picture: Image.Image) -> str:
    """A name that is the same for the same picture, wherever it lies and whatever else is asked."""
    content = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
    return f"describe {content[:32]}"
