"""What a proposer is shown and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ipo_dspy.errors import BudgetError
from ipo_dspy.history import Trial
from ipo_dspy.run.ledger import AskOnce


@dataclass(frozen=True, slots=True)
class ProposalRequest:
    """One question to a proposer.

    Attributes:
        step: counts from 1.
        count: how many templates are wanted; fewer or more may come.
        shown: the best earlier trials and the start template, best last.
        trials: every trial so far, in order.
        rejected: latest unusable answers with the reason, newest last.
        descriptions: how some training images look.
        task: one sentence on what is being classified.
        seed: of the whole search; draws must derive from it and `step` alone.
        once: whatever costs money or time goes through it: `ask.once(f"step {ask.step}/0", lambda: Answer(...))`.
            A run that is killed and taken up again then gets the same answer without asking again.
        tell: takes one sentence on something that went other than asked, for the journal.
    """

    step: int
    count: int
    shown: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    rejected: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    task: str = ""
    seed: int = 0
    once: AskOnce = field(default=lambda question, ask: ask(), compare=False, repr=False)
    tell: Callable[[str], None] = field(default=lambda message: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Texts that may become templates.

    Attributes:
        texts: untrusted.
        ended: the limit that kept the proposer from asking for more; the search ends with what it has.
    """

    texts: tuple[str, ...]
    ended: BudgetError | None = None


class Proposer(Protocol):
    """Writes new templates in the light of the old ones."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Untrusted texts; the search parses and checks them.

        Raises:
            ProposalError: nothing came back this time; asking again may help.
            BudgetError: from `ask.once`.
        """
