"""Proposers of new templates, behind one Protocol.

`LMProposer` uses a language model; `EvolutionProposer` needs none. A proposer is a pure function of its request, so a
repeated or resumed run gets the same answers.
"""

from ipo_dspy._internal.renames import renamed_names
from ipo_dspy.errors import ProposalError
from ipo_dspy.proposers.base import (
    ClassTextProposer,
    ClassTextRequest,
    Polisher,
    ProposalRequest,
    Proposals,
    Proposer,
)
from ipo_dspy.proposers.evolution import EvolutionProposer
from ipo_dspy.proposers.feedback import Feedback
from ipo_dspy.proposers.lm import LMProposer
from ipo_dspy.run.ledger import AskOnce, LMResponse

__all__ = [
    "AskOnce",
    "ClassTextProposer",
    "ClassTextRequest",
    "EvolutionProposer",
    "Feedback",
    "LMProposer",
    "LMResponse",
    "Polisher",
    "ProposalError",
    "ProposalRequest",
    "Proposals",
    "Proposer",
]

__getattr__ = renamed_names(__name__, Ask="ProposalRequest", Answer="LMResponse", Once="AskOnce")
