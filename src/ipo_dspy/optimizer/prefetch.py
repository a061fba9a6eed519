"""Request the next proposals while the last ones are scored."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from ipo_dspy._internal.threads import start
from ipo_dspy.proposers.base import ProposalRequest, Proposals


class Prefetcher:
    """Calls the proposer, with `prefetch` the next step ahead in a background thread."""

    def __init__(self, propose: Callable[[ProposalRequest], Proposals], *, prefetch: bool | None) -> None:
        self._propose, self._prefetch = propose, prefetch
        self._begun: tuple[int, Future[Proposals]] | None = None

    def begin(self, ask: ProposalRequest) -> None:
        """Start the request of a step in the background, with `prefetch`."""
        if self._prefetch:
            self._begun = ask.step, start(partial(self._propose, ask))

    def has_begun(self, step: int) -> bool:
        """Return True if the request of a step is in flight; its response will be billed."""
        return self._begun is not None and self._begun[0] == step

    def take(self, ask: ProposalRequest) -> Proposals:
        """Return the prefetched response of a step, or else send its request now."""
        begun, self._begun = self._begun, None
        return begun[1].result() if begun is not None and begun[0] == ask.step else self._propose(ask)

    def close(self, *, wait: bool) -> None:
        """Release the thread; with `wait`, after the response of the request in flight, which is billed anyway."""
        if self._begun is not None and wait:
            self._begun[1].exception()
