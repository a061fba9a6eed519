"""`Trial` and `History`: the scored templates of a search and their order.

The order is total and stated once, in `Trial.rank`: higher accuracy (or better by another objective), then lower loss
to four decimals, then fewer tokens, then earlier. The order of insertion never matters, so a resumed or parallel run
has the same result as an uninterrupted one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True)
class Trial:
    """One scored template.

    Attributes:
        template: the template as scored.
        score: on the training images.
        index: 0 for the start template, then counting up in the order of proposal.
        step: 0 for the initial templates, then the step that proposed it.
        tokens: length of its longest filled prompt under the model's tokenizer, end marks included.
        key: equal for templates with identical tokens.
        stage: `search`, or `refine` if it was made from the winner at the end; those are never shown to a proposer.
    """

    template: Template
    score: Score
    index: int
    step: int
    tokens: int
    key: str
    stage: str = "search"

    @property
    def rank(self) -> tuple[float, float, float, int, int]:
        """Sort key, best first: as `Score.rank`, then fewer tokens, earlier."""
        return (*self.score.rank, self.tokens, self.index)

    def __repr__(self) -> str:
        return f"Trial({self.index}, {str(self.template)!r}, {self.score})"


class History:
    """All trials of one search, by key, ranked by `Trial.rank`.

    >>> history = History()
    >>> for i, (text, acc) in enumerate([("a photo of a <CLASS>.", 50.0), ("a <CLASS>.", 75.0)]):
    ...     history.add(Trial(Template.parse(text), Score(acc, 1.0), index=i, step=0, tokens=5, key=text))
    >>> str(history.best.template)
    'a <CLASS>.'
    >>> [t.index for t in history.shown(1)]
    [0, 1]
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._by_key: dict[str, Trial] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Add a trial.

        Raises:
            InputError: a template with the same key was added before.
        """
        if trial.key in self._by_key:
            raise InputError(f"template {str(trial.template)!r} was tried before; ask `key in history` first")
        self._by_key[trial.key] = trial

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Trial]:
        """Trials in the order of proposal."""
        return iter(sorted(self._by_key.values(), key=lambda t: t.index))

    @property
    def best(self) -> Trial:
        """The trial that ranks first; raises `InputError` if there is none."""
        return min(self._trials(), key=lambda trial: trial.rank)

    @property
    def start(self) -> Trial:
        """The start template's trial, which every later one is compared with; raises `InputError` if there is none."""
        return min(self._trials(), key=lambda trial: trial.index)

    def _trials(self) -> Iterable[Trial]:
        if not self._by_key:
            raise InputError("history must hold a trial, got none; add one first: history.add(trial)")
        return self._by_key.values()

    def top(self, n: int) -> list[Trial]:
        """Return the `n` best trials, best first."""
        return sorted(self._by_key.values(), key=lambda t: t.rank)[:n]

    def shown(self, n: int) -> list[Trial]:
        """Return the trials for a proposer: the `n` best and always the start template, best last.

        The paper orders them so because the end of a prompt has the largest influence.
        """
        chosen = {trial.key: trial for trial in self.top(n)} if n else {}
        if self._by_key:
            chosen.setdefault(self.start.key, self.start)
        return sorted(chosen.values(), key=lambda t: t.rank, reverse=True)
