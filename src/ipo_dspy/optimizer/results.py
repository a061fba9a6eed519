"""What a compilation gives back: the program with the found templates, and the story of how they were found."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import dspy

from ipo_dspy.errors import JournalError
from ipo_dspy.history import Trial
from ipo_dspy.lms.redaction import without_lm_secrets
from ipo_dspy.optimizer.search import COMPLETE, SearchResult
from ipo_dspy.optimizer.trainset import find_classifiers
from ipo_dspy.program_files import write_state
from ipo_dspy.run.ledger import Usage
from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True)
class DetailedResults:
    """What a compilation did, as `detailed_results` of the program that it returned.

    `trials`, `best`, `baseline` and `rejections` are those of the first classifier; a program with several has
    one entry each in `searches`. `spent` is what the language models cost.
    """

    searches: tuple[SearchResult, ...]
    spent: Usage

    @property
    def calls(self) -> int:
        """Requests to language models that were answered."""
        return self.spent.calls

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of them."""
        return self.spent.tokens

    @property
    def seconds(self) -> float:
        """Wall-clock time, over all sittings of the run."""
        return self.spent.seconds

    @property
    def status(self) -> str:
        """Why it ended: `finished`, or what stopped the first search that was stopped; see `SearchResult`."""
        ended = [search.status for search in self.searches]
        return next((status for status in ended if status not in COMPLETE), "finished")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every scored template of the first classifier, in order."""
        return self.searches[0].trials

    @property
    def best(self) -> Trial:
        """The chosen trial of the first classifier."""
        return self.searches[0].best

    @property
    def baseline(self) -> Trial:
        """The start template's trial of the first classifier."""
        return self.searches[0].baseline

    @property
    def rejections(self) -> Mapping[str, int]:
        """Rejected proposals of all classifiers by reason."""
        total: dict[str, int] = {}
        for search in self.searches:
            for reason, count in search.rejected.items():
                total[reason] = total.get(reason, 0) + count
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that `json.dumps` takes, as a new dict.

        The keys are `status`, `spent`, and `searches`, one for each classifier, with its chosen template under `best`.
        """
        searches = [{"best": str(search.best.template), **_plain(search)} for search in self.searches]
        return {"status": self.status, "spent": _plain(self.spent), "searches": searches}


def with_templates(student: dspy.Module, templates: Mapping[str, Template]) -> dspy.Module:
    """A copy of a program whose named classifiers have these templates, without the story of an earlier run."""
    bare = copy.copy(student)
    for told in ("detailed_results", "candidate_programs"):
        bare.__dict__.pop(told, None)
    program = bare.deepcopy()
    for name, classifier in find_classifiers(program).items():
        if name in templates:
            classifier.template = templates[name]
    return program


def candidate_programs(student: dspy.Module, results: Sequence[SearchResult]) -> list[dict[str, Any]]:
    """Programs with the finalists of each classifier in turn, best first, the other classifiers at their best."""
    best = {r.predictor: r.best.template for r in results}
    rows = [(finalist, result.predictor) for result in results for finalist in result.finalists]
    rows.sort(key=lambda row: row[0].rank)
    return [
        {
            "score": finalist.deciding.accuracy,
            "loss": finalist.deciding.loss,
            "predictor": predictor,
            "template": str(finalist.trial.template),
            "program": with_templates(student, {**best, predictor: finalist.trial.template}),
        }
        for finalist, predictor in rows
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Template):
        return str(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def save_atomically(program: dspy.Module, path: Path) -> None:
    """Write the program beside its place and move it there, so that a reader never sees half of it."""
    # As `program.save` does, which leaves out keys of language models, but not headers that may hold them.
    try:
        write_state(without_lm_secrets(program.dump_state()), path)
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
