"""The error tree of ipo_dspy: every mistake a caller can mend, told in one sentence.

::

    IPOError
     +-- InputError (also a ValueError)   something that the caller passed
     |    +-- TemplateError               no <CLASS>, empty, too long, control characters, ...
     |    +-- DataError                   folders, tables, labels, classes
     |    |    +-- ImageError             one image that cannot be read
     |    +-- ModelError                  CLIP model names, tags, checkpoints, devices
     |    +-- LanguageModelError          LLM names and answers
     |    +-- ProgramFileError            a saved program that is cut, foreign or unreadable
     +-- ProposalError                    a proposer that could not answer this time
     +-- NoAnswerError                    a language model that was asked and gives nothing usable
     +-- StoreError                       the cache of image features cannot be read or written
     |    +-- StoreFullError              there is no room; what it holds can be read
     +-- JournalError                     a run folder that cannot be written or read
     +-- ClusterError                     a Ray cluster without room, or one that loses its workers
     +-- BudgetError                      a limit of the run leaves nothing for another request
          +-- StoppedError                the user has ended the run

Each message names the input and ends with the line to write instead. The command line prints the
message alone; anything outside this tree is a bug and keeps its traceback.
"""

from typing import Literal

from ipo_dspy._internal.untrusted import redact

RejectionReason = Literal[
    "empty",
    "no class placeholder",
    "control characters",
    "too many lines",
    "too long",
    "duplicate",
    "cut off",
]
"""Why a proposed text did not become a trial."""


class IPOError(Exception):
    """Root of the tree; ``except IPOError`` catches whatever a caller can mend.

    A message may quote what came from outside, so the secrets of this process are redacted in all of them.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(one, keep_words=True) if isinstance(one, str) else one for one in args))


class InputError(IPOError, ValueError):
    """Something that was passed in cannot be used; the message says what to pass instead."""


class TemplateError(InputError):
    """A text that is not a usable prompt template.

    Attributes:
        reason: the short, stable name under which rejections are counted.
    """

    def __init__(self, message: str, *, reason: RejectionReason) -> None:
        super().__init__(message)
        self.reason: RejectionReason = reason


class DataError(InputError):
    """Images, labels or class names that do not make a data set."""


class ImageError(DataError):
    """One image that cannot be read; the message names it."""


class ModelError(InputError):
    """A CLIP model that cannot be found, loaded or placed on the device."""


class LanguageModelError(InputError):
    """A language model that LiteLLM does not know, that is not given at all, or that does not answer a greeting."""


class ProgramFileError(InputError):
    """A saved program that is cut in the middle, of another kind, or unreadable."""


def missing_package(package: str, *, extra: str, purpose: str) -> InputError:
    """Return the error for an optional package that is not installed.

    >>> missing_package("Ray", extra="ray", purpose="to score on a cluster")
    InputError("Ray must be installed to score on a cluster; run pip install 'ipo_dspy[ray]'")
    """
    return InputError(f"{package} must be installed {purpose}; run pip install 'ipo_dspy[{extra}]'")


class ProposalError(IPOError):
    """A proposer could not answer this time; the search records it and goes on.

    Attributes:
        fatal: asking again cannot help, as with a wrong key.
        answered: an answer came and was paid for, with nothing in it that can be used; the step is over.
    """

    def __init__(self, message: str, *, fatal: bool = False, answered: bool = False) -> None:
        super().__init__(message)
        self.fatal, self.answered = fatal, answered


class NoAnswerError(IPOError):
    """A language model that was reached, and again and again gave no usable answer."""


class StoreError(IPOError):
    """The cache of image features on disk is damaged, foreign, or not to be read or written."""


class StoreFullError(StoreError):
    """Nothing more can be written to the cache of image features; what it holds can be read."""


class JournalError(IPOError):
    """A run folder that cannot be written, that belongs to another run, or a journal whose middle is damaged."""


class ClusterError(IPOError):
    """A Ray cluster that has no room for the work, or that lost its workers again and again."""


class BudgetError(IPOError):
    """A limit of the run was reached, so a request was not sent. The search ends there with what it has found.

    Attributes:
        limit: its name, e.g. `max_tokens`.
        allowed, spent: in its unit.
    """

    def __init__(self, limit: str, *, allowed: float, spent: float) -> None:
        super().__init__(f"{limit}={allowed:g} is spent ({spent:g}); raise it and run again to go on")
        self.limit, self.allowed, self.spent = limit, allowed, spent


class StoppedError(BudgetError):
    """The user has ended the run, so a request was not sent."""

    def __init__(self) -> None:
        IPOError.__init__(self, "stopped; run again to go on")
        self.limit, self.allowed, self.spent = "interrupted", 0.0, 0.0
