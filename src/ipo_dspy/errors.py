"""The error tree of ipo_dspy: every problem that a caller can fix, described in one sentence.

::

    IPOError
     +-- InputError (also a ValueError)   something that the caller passed
     |    +-- TemplateError               no <CLASS>, empty, too long, control characters, ...
     |    +-- DataError                   folders, tables, labels, classes
     |    |    +-- ImageError             one image that cannot be read
     |    +-- ModelError                  CLIP model names, tags, checkpoints, devices
     |    +-- LanguageModelError          LLM names and answers
     |    +-- ProgramFileError            a saved program that is truncated, foreign or unreadable
     +-- ProposalError                    a proposer that failed in this step
     +-- NoAnswerError                    a language model without a usable response
     +-- StoreError                       the cache of image features cannot be read or written
     |    +-- StoreFullError              the cache is full; it can still be read
     +-- JournalError                     a run folder that cannot be written or read
     |    +-- PathError (also an InputError)   a path without a run, or to which no report can be written
     +-- ClusterError                     a Ray cluster without free resources, or one that loses its workers
     +-- BudgetError                      a limit of the run leaves nothing for another request
          +-- StoppedError                the user stopped the run

Each message names the input and ends with a remedy. Arguments are structured, so that the command line can name its own
options instead; it prints only the message. Any exception outside this tree is a bug and keeps its traceback.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ipo_dspy._internal.untrusted import redact

RejectionReason = Literal[
    "empty", "no class placeholder", "control characters", "too many lines", "too long", "duplicate", "cut off"
]
"""Why a proposed text did not become a trial."""


class _Unset:
    """Marks a value that was not passed."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A named argument, with or without a value.

    >>> str(Argument("seed")), str(Argument("seed", 3)), str(Argument("seed", ...))
    ('seed', 'seed=3', 'seed=...')
    """

    name: str
    value: object = _Unset

    def __str__(self) -> str:
        if self.value is _Unset:
            return self.name
        return f"{self.name}={'...' if self.value is ... else repr(self.value)}"


@dataclass(frozen=True)
class LMCall:
    """A call of `dspy.LM`, as the value of an `Argument`."""

    model: str
    settings: tuple[Argument, ...]

    def __repr__(self) -> str:
        return f"dspy.LM({', '.join([repr(self.model), *map(str, self.settings)])}, engine='litellm')"


class Hint:
    """A remedy that names arguments.

    Args:
        text: a constant format string; its braces are replaced by the arguments. User text belongs in the values,
            which are not parsed.
        arguments: for `{}`.
        values: for `{name}`: values of the arguments of these names, or an `Argument` of another name.

    >>> print(Hint("pass either {steps} or {auto}", steps=3, auto="light"))
    pass either steps=3 or auto='light'
    >>> Hint("pass {seed}", seed=3).render(lambda argument: f"--{argument.name} {argument.value}")
    'pass --seed 3'
    """

    def __init__(self, text: str, *arguments: Argument, **values: object) -> None:
        self.text, self.arguments = text, arguments
        self.values = {name: v if isinstance(v, Argument) else Argument(name, v) for name, v in values.items()}

    def __str__(self) -> str:
        return self.render()

    def render(self, spell: Callable[[Argument], str] = str) -> str:
        """Return the text with each argument formatted by `spell`."""
        return self.text.format(*map(spell, self.arguments), **{n: spell(a) for n, a in self.values.items()})


class IPOError(Exception):
    """Root of the tree; ``except IPOError`` catches everything that a caller can fix.

    A message may quote external text, so the secrets of this process are redacted in all of them.

    Args:
        message: the problem; with an argument, the text after its name, e.g. `must be positive`.
        argument: the name of the argument that the message is about.
        value: the value that was passed, if the message should quote it.
        hint: the remedy, which ends the message.

    >>> print(InputError("must be positive", argument="lr", value=0, hint=Hint("for example {lr}", lr=0.1)))
    lr must be positive, got 0; for example lr=0.1
    """

    def __init__(
        self,
        message: str = "",
        *,
        argument: str | None = None,
        value: object = _Unset,
        hint: "str | Hint | None" = None,
    ) -> None:
        self.fact = message if value is _Unset else f"{message}, got {value!r}"
        self.argument, self.value, self.hint = argument, None if value is _Unset else value, hint
        super().__init__(self.render())

    def render(self, spell: Callable[[Argument], str] = str) -> str:
        """Return the whole message with each argument formatted by `spell`."""
        name = "" if self.argument is None else f"{spell(Argument(self.argument))} "
        remedy = self.hint.render(spell) if isinstance(self.hint, Hint) else self.hint
        before = "\n" if "\n" in self.fact else "; "
        return redact(f"{name}{self.fact}" + (f"{before}{remedy}" if remedy else ""), keep_words=True)


class InputError(IPOError, ValueError):
    """An input that cannot be used; the message names a valid one."""


class TemplateError(InputError):
    """A string that is not a usable prompt template.

    Attributes:
        reason: the short, stable name under which rejections are counted.
    """

    def __init__(self, message: str, *, reason: RejectionReason) -> None:
        super().__init__(message)
        self.reason: RejectionReason = reason


class DataError(InputError):
    """Images, labels or class names that do not form a data set."""


class ImageError(DataError):
    """One image that cannot be read; the message names it."""


class ModelError(InputError):
    """A CLIP model that cannot be found, loaded or placed on the device."""


class LanguageModelError(InputError):
    """A language model that LiteLLM does not know, that is missing, or that fails the connectivity check."""


class ProgramFileError(InputError):
    """A saved program that is truncated, of another kind, or unreadable."""


def missing_package(package: str, *, extra: str, purpose: str) -> InputError:
    """Return the error for an optional package that is not installed.

    >>> missing_package("Ray", extra="ray", purpose="to score on a cluster")
    InputError("Ray must be installed to score on a cluster; run pip install 'ipo_dspy[ray]'")
    """
    return InputError(f"{package} must be installed {purpose}; run pip install 'ipo_dspy[{extra}]'")


class ProposalError(IPOError):
    """A proposer failed in this step; the search records the error and continues.

    Attributes:
        fatal: True if a retry cannot help, as with an invalid key.
        answered: True if a response was billed but has no usable text, which ends the step.
    """

    def __init__(self, message: str, *, fatal: bool = False, answered: bool = False) -> None:
        super().__init__(message)
        self.fatal, self.answered = fatal, answered


class NoAnswerError(IPOError):
    """A language model that is reachable but repeatedly gave no usable response."""


class StoreError(IPOError):
    """The cache of image features on disk is corrupt, foreign, or cannot be read or written."""


class StoreFullError(StoreError):
    """The cache of image features is full; it can still be read."""


class JournalError(IPOError):
    """A run folder that cannot be written, belongs to another run, or has a corrupt journal."""


class PathError(JournalError, InputError):
    """A path that was passed and has no run or sweep, or to which a report or a plot cannot be written."""


class ClusterError(IPOError):
    """A Ray cluster without resources for the work, or that repeatedly lost its workers."""


class BudgetError(IPOError):
    """A limit of the run was reached, so a request was not sent. The search ends with its results so far.

    Attributes:
        limit: name of the limit, e.g. `max_tokens`.
        allowed, spent: amounts in the unit of the limit.
    """

    def __init__(self, limit: str, *, allowed: float, spent: float) -> None:
        unit = {"max_lm_calls": "LLM calls", "max_cost": "USD"}.get(limit, limit.removeprefix("max_"))
        fact = f"the limit of {allowed:g} {unit} is reached ({spent:g} spent)"
        super().__init__(fact, hint="raise it and run again to resume")
        self.limit, self.allowed, self.spent = limit, allowed, spent


class StoppedError(BudgetError):
    """The user stopped the run, so a request was not sent."""

    def __init__(self) -> None:
        IPOError.__init__(self, "stopped; run again to resume")
        self.limit, self.allowed, self.spent = "interrupted", 0.0, 0.0
