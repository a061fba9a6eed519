"""What a proposer is shown and what it gives back."""

from dataclasses import dataclass
from typing import Protocol

from ipo_dspy.errors import IPOError
from ipo_dspy.history import Trial


class ProposalError(IPOError):
    """A proposer could not answer this time; the search records it and goes on.

    Attributes:
        calls, tokens: what it cost all the same.
    """

    def __init__(self, message: str, *, calls: int = 0, tokens: int = 0) -> None:
        super().__init__(message)
        self.calls, self.tokens = calls, tokens


@dataclass(frozen=True, slots=True)
class Ask:
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
    """

    step: int
    count: int
    shown: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    rejected: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    task: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Proposals:
    """Texts that may become templates, and what they cost."""

    texts: tuple[str, ...]
    calls: int = 0
    tokens: int = 0


class Proposer(Protocol):
    """Writes new templates in the light of the old ones."""

    def propose(self, ask: Ask) -> Proposals:
        """Untrusted texts; the search parses and checks them.

        Raises:
            ProposalError: nothing came back this time; asking again may help.
        """
