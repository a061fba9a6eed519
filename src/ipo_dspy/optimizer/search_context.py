"""The context that the searches of one classifier share: for its template, and for the words of its classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ipo_dspy.errors import IPOError, TemplateError
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.proposers.base import Proposer
from ipo_dspy.run.events import ErrorEvent, RejectionEvent
from ipo_dspy.run.ledger import AskOnce, Ledger
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import SearchState


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The surroundings of the searches of one classifier.

    Attributes:
        proposer: proposes templates; asked for texts of classes if it is a `ClassTextProposer`.
        config: configuration of the run.
        ledger: sends the proposer's requests. What its recorder has of earlier sessions is not repeated.
        predictor: name of the classifier inside the program.
        task: task description for the proposer, one sentence.
        stop: called before each step; True ends the search.
    """

    proposer: Proposer
    config: OptimizerConfig
    ledger: Ledger
    predictor: str = "self"
    task: str = ""
    stop: Callable[[], bool] = lambda: False

    @property
    def recorder(self) -> EventRecorder:
        """The recorder of the run."""
        return self.ledger.recorder

    @property
    def state(self) -> SearchState:
        """The state of the search for a template."""
        return self.recorder.state.search(self.predictor)

    @property
    def once(self) -> AskOnce:
        """The function that sends a request unless its response was recorded."""
        return partial(self.ledger.once, self.predictor)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage."""
        self.recorder.progress(self.predictor, stage, done, total)

    def error(self, step: int, message: str) -> None:
        """Record an error that the run survives."""
        self.recorder.record(ErrorEvent(event="error", predictor=self.predictor, step=step, message=message))

    def reject(self, step: int, text: str, error: IPOError, *, stage: str) -> str:
        """Record that a proposed text was rejected, and return the reason."""
        reason = error.reason if isinstance(error, TemplateError) else "not usable"
        self.recorder.record(
            RejectionEvent(
                event="rejection",
                predictor=self.predictor,
                step=step,
                text=text,
                reason=reason,
                message=str(error),
                stage=stage,
            )
        )
        return reason
