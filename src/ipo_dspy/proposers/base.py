"""Proposer interface: the Protocol and its request and response types."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ipo_dspy.errors import BudgetError
from ipo_dspy.history import Trial
from ipo_dspy.lms.signatures import ClassMistakes, Mistake
from ipo_dspy.run.ledger import AskOnce

SHOWN_TO_POLISH = 20
"""Maximum number of tied templates that a `Polisher` is shown."""
REWORDINGS = 8
"""Maximum number of rewordings that it is asked for."""


@dataclass(frozen=True, slots=True)
class ProposalRequest:
    """A request for new templates.

    Attributes:
        step: counts from 1.
        count: number of templates to propose; fewer or more may be returned.
        shown: the best earlier trials and the start template, best last.
        trials: every trial so far, in order.
        rejected: the most recent rejected texts with the reason, newest last.
        descriptions: of the look of some training images.
        guessed: the descriptions are CLIP's guesses; see `describers.Descriptions`.
        task: one sentence on the classification task.
        steps: number of steps of the search; 0 if not known.
        images: number of images that templates are scored on; 0 if not known.
        error: standard error of the difference in accuracy between two of the best trials, in points.
        mistakes: training images that the best template gets wrong, if the proposer has a true attribute
            `shows_images` and the run has `images_in_request`.
        max_tokens: maximum length of a template, filled with a class name.
        objective: name of the objective, by which trials are ranked; see `scoring.objectives`.
        pending: templates that are being scored now.
        seed: of the search; random numbers must depend only on it and `step`.
        once: wraps each call that costs money or time: `ask.once(f"step {ask.step}/0", lambda: LMResponse(...))`.
            A resumed run then gets the recorded answer without a second call.
        log: logs a warning of one sentence to the journal.
    """

    step: int
    count: int
    shown: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    rejected: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    guessed: bool = False
    task: str = ""
    steps: int = 0
    images: int = 0
    error: float | None = None
    mistakes: tuple[Mistake, ...] = ()
    max_tokens: int | None = None
    objective: str = "accuracy"
    pending: tuple[str, ...] = ()
    seed: int = 0
    once: AskOnce = field(default=lambda question, ask: ask(), compare=False, repr=False)
    log: Callable[[str], None] = field(default=lambda message: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ClassTextRequest:
    """A request for texts for the classes with the highest loss; see `ProposalRequest` for the other attributes.

    Attributes:
        round: counts from 1.
        count: number of texts of each class to propose; fewer may be returned.
        template: the template that texts are filled into.
        classes: the classes with their current texts and what they are mistaken for, the worst first.
        rejected: rejected answers with the reason.
    """

    round: int
    count: int
    template: str
    classes: tuple[ClassMistakes, ...]
    rejected: tuple[str, ...] = ()
    task: str = ""
    mistakes: tuple[Mistake, ...] = ()
    seed: int = 0
    once: AskOnce = field(default=lambda question, ask: ask(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Proposed texts that may become templates.

    Attributes:
        texts: untrusted texts.
        ended: the limit that kept the proposer from sending more requests, if any; the search then ends.
    """

    texts: tuple[str, ...]
    ended: BudgetError | None = None


class Proposer(Protocol):
    """Proposes new templates from the scores of earlier ones."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Return untrusted texts; the search parses and checks them.

        Raises:
            ProposalError: the proposer failed this time; a retry may help.
            BudgetError: from `ask.once`.
        """


@runtime_checkable
class Polisher(Protocol):
    """A proposer that can also reword the templates of a search in plain words; not used with `IPO(polish=False)`."""

    def polish(self, ask: ProposalRequest) -> Proposals:
        """Return untrusted rewordings of the templates in `ask.shown`, about `ask.count`, the plainest first.

        A resumed run may show other templates, so the ID of the request must depend on them.

        Raises:
            ProposalError: the proposer failed; the search ends without rewordings.
            BudgetError: from `ask.once`; the same applies.
        """


@runtime_checkable
class ClassTextProposer(Protocol):
    """A proposer that can also find words for classes, for `IPO(optimize="class_texts")`."""

    def propose_class_texts(self, ask: ClassTextRequest) -> dict[str, list[str]]:
        """Return untrusted texts by label.

        A resumed run may ask about other classes, so the ID of the request must depend on template, classes and texts.

        Raises:
            ProposalError: the proposer failed; the words are not searched further.
            BudgetError: from `ask.once`; the same applies.
        """
