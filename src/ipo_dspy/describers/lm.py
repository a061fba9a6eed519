"""Describe images with a multimodal language model, with one request per image and several concurrently."""

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
from ipo_dspy.argument_checks import flag, require_int
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.clip.image_pixels import fit_for_lm
from ipo_dspy.describers.base import Descriptions, first_sentences, without_class_name
from ipo_dspy.errors import BudgetError, Hint, ImageError, LanguageModelError, NoAnswerError, StoppedError
from ipo_dspy.lms import require_lm
from ipo_dspy.lms.adapters import PlainAdapter
from ipo_dspy.lms.error_messages import FATAL, one_line_error, suggest_fix
from ipo_dspy.lms.reasoning import is_refusal
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import DescribeImage
from ipo_dspy.run.ledger import AskOnce, LMResponse

LONGEST_SIDE = 768
"""In pixels; larger images are scaled down before they are sent.

Providers do the same, and charge for the larger image.
"""


class LMDescriber:
    """Describes images with a multimodal model; images are sent only to that model.

    Args:
        lm: the model; `None` uses `dspy.settings.lm` at the time of a request.
        num_threads: number of concurrent requests; DSPy's setting by default.
        allow_url: fetch images given as http(s) URLs.
        max_consecutive_errors: stop after this many consecutive images without an answer.
        longest_side: in pixels; larger images are scaled down before they are sent. Images whose shorter side is below
            224 pixels are enlarged, as far as this limit allows.
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
        self.lm = require_lm(lm)
        self.num_threads = None if num_threads is None else require_int("num_threads", num_threads, 1)
        self.allow_url = flag("allow_url", allow_url)
        self.max_consecutive_errors = require_int("max_consecutive_errors", max_consecutive_errors, 1)
        self.longest_side = require_int("longest_side", longest_side, 1)

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """Return one description per image, with class names replaced; the text of a failed image is empty.

        An exhausted limit of the run, or a stop, leaves the remaining images without a description.

        Raises:
            LanguageModelError: the key or the name is wrong.
            NoAnswerError: `max_consecutive_errors` consecutive images got no response: the model is unreachable
                or not multimodal.
        """
        job = _DescriptionJob(self, once or (lambda question, ask: ask()), images, class_names)
        threads = self.num_threads or dspy.settings.num_threads
        # Sequential until the first answer: with a wrong key every request would fail.
        tried = next((index + 1 for index in range(len(images)) if job.one(index)), len(images))
        in_threads(job.one, range(tried, len(images)), num_threads=threads)
        return Descriptions(tuple(job.texts), faults=tuple(job.faults))


class _DescriptionJob:
    """The images of one call of `describe` and their results."""

    def __init__(self, owner: LMDescriber, once: AskOnce, images: Sequence[Any], class_names: Sequence[str]) -> None:
        self.owner, self.once, self.images, self.class_names = owner, once, images, class_names
        self.lm = owner.lm or dspy.settings.lm
        self.texts = [""] * len(images)
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._spent = self._stopped = False

    def one(self, index: int) -> bool:
        """Describe one image; return True if there was an answer."""
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
        inputs = {"image": dspy.Image(fit_for_lm(picture, self.owner.longest_side))}
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
        """Record a message; raise if `error` is fatal or too many errors of the model occurred in a row."""
        with self._lock:
            self.faults.append(message)
            if error is None:
                return
            self._in_a_row += 1
            if isinstance(error, FATAL) or self._in_a_row >= min(self.owner.max_consecutive_errors, len(self.images)):
                model = str(getattr(self.lm, "model", type(self.lm).__name__))
                kind = LanguageModelError if isinstance(error, FATAL) else NoAnswerError
                raise kind(
                    f"{model!r} failed to describe images: {message}; {suggest_fix(error, model)}",
                    argument="description_model",
                    hint=Hint("or pass {describer}, which needs no language model", describer="clip"),
                ) from None  # a traceback would print what `one_line_error` removed


def _fault_of(texts: Sequence[str]) -> str | None:
    """Return the reason why an answer is not a description, or None."""
    if not texts:
        return "the answer is empty"
    return f"the model refuses: {one_line(texts[0], 200)!r}" if is_refusal(texts[0]) else None


def _request_id(picture: Image.Image) -> str:
    """Return an ID that depends only on the size and pixels of the image."""
    content = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
    return f"describe {content[:32]}"
