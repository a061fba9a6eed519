"""Results of a compilation: the optimized program, the candidate programs, and search statistics."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import dspy

from ipo_dspy.class_texts import Texts
from ipo_dspy.errors import JournalError
from ipo_dspy.history import Trial
from ipo_dspy.lms.redaction import without_lm_secrets
from ipo_dspy.optimizer.search import COMPLETE, SearchResult
from ipo_dspy.optimizer.trainset import find_classifiers
from ipo_dspy.program_files import write_state
from ipo_dspy.run.ledger import Usage
from ipo_dspy.template import Template

Program = TypeVar("Program", bound=dspy.Module)


@dataclass(frozen=True, slots=True)
class DetailedResults:
    """Statistics of a compilation: `detailed_results` of the returned program.

    `trials`, `best`, `baseline` and `rejections` belong to the first classifier; a program with several has
    one entry each in `searches`. `spent` is the usage of the language models.
    """

    searches: tuple[SearchResult, ...]
    spent: Usage

    @property
    def calls(self) -> int:
        """Number of requests with a response."""
        return self.spent.calls

    @property
    def tokens(self) -> int:
        """Number of prompt and completion tokens."""
        return self.spent.tokens

    @property
    def seconds(self) -> float:
        """Wall-clock time, over all sessions of the run."""
        return self.spent.seconds

    @property
    def status(self) -> str:
        """The reason for the end: `finished`, or the status of the first search that did not; see `SearchResult`."""
        statuses = [search.status for search in self.searches]
        ended = "exhausted" if "exhausted" in statuses else "finished"
        return next((status for status in statuses if status not in COMPLETE), ended)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every scored template of the first classifier, in order."""
        return self.searches[0].trials

    @property
    def best(self) -> Trial:
        """The selected trial of the first classifier."""
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

        The keys are `status`, `spent`, and `searches`, one per classifier, with its selected template under `best`.
        """
        searches = [{"best": str(search.best.template), **_plain(search)} for search in self.searches]
        return {"status": self.status, "spent": _plain(self.spent), "searches": searches}


def with_templates(
    student: Program, templates: Mapping[str, Template], texts: Mapping[str, Texts] = MappingProxyType({})
) -> Program:
    """Return a copy of a program with these templates and texts of classes, without the results of an earlier run."""
    bare = copy.copy(student)
    for attribute in ("detailed_results", "candidate_programs"):
        bare.__dict__.pop(attribute, None)
    program: Program = bare.deepcopy()
    for name, classifier in find_classifiers(program).items():
        if name in templates:
            classifier.template = templates[name]
        if name in texts:
            classifier.classes = texts[name]
    return program


def found_texts(results: Sequence[SearchResult]) -> dict[str, Texts]:
    """Return the texts of the classes of each classifier for which a search changed them."""
    return {r.predictor: r.class_texts.texts for r in results if r.class_texts is not None and r.class_texts.changes}


def candidate_programs(student: dspy.Module, results: Sequence[SearchResult]) -> list[dict[str, Any]]:
    """Return a program per finalist of each classifier, best first; other classifiers have their best template.

    All have the class texts that were found for the best template; scores do not include them.
    """
    best, texts = {r.predictor: r.best.template for r in results}, found_texts(results)
    rows = [(finalist, result.predictor) for result in results for finalist in result.finalists]
    rows.sort(key=lambda row: row[0].rank)
    return [
        {
            "score": finalist.deciding.goal,
            "loss": finalist.deciding.loss,
            "predictor": predictor,
            "template": str(finalist.trial.template),
            "program": with_templates(student, {**best, predictor: finalist.trial.template}, texts),
        }
        for finalist, predictor in rows
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Template):
        return str(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def save_atomically(program: dspy.Module, path: Path) -> None:
    """Write the program to a temporary file and move it to `path`, so that no reader sees a partial file."""
    # `program.save` leaves out keys of language models, but not headers that may contain them.
    try:
        write_state(without_lm_secrets(program.dump_state()), path)
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or use another folder"
        ) from error
