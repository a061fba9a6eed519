"""What happens in a run, as typed plain values.

Each kind is a `TypedDict` with the key `event`. The journal writes them as JSON lines, observers are called with
them as they happen, the report and `ipo-dspy watch` read them back. A type checker knows the fields once the kind
is tested: `if event["event"] == "trial": event["accuracy"]`.

`Progress` and `Skipped` pass by and are not kept. Pictures, keys, headers and request settings of a language model
are in none of them; images are named by where they can be found again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NotRequired, Protocol, TypeAlias, TypedDict, Union, get_args, get_type_hints

from ipo_dspy._internal.json_input import has_type, type_in_words


class RunEvent(TypedDict):
    """A run began; `settings` holds names of models, never their keys or addresses."""

    event: Literal["run"]
    schema: int
    started: str
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]


class ResumeEvent(TypedDict):
    """A run was taken up again; how it had ended until then no longer counts. `changed` maps a setting to [was, is]."""

    event: Literal["resume"]
    started: str
    changed: dict[str, list[Any]]
    versions: dict[str, str]


class SearchEvent(TypedDict):
    """The search for one classifier's template began.

    `data` is a fingerprint of images, labels and classes, `validation_data` likewise of the validation images.
    """

    event: Literal["search"]
    predictor: str
    classes: list[str]
    model: dict[str, Any]
    images: int
    validation_images: int
    start: str
    data: NotRequired[str]
    validation_data: NotRequired[str | None]


class AnswerEvent(TypedDict):
    """A language model answered, and what that cost.

    `question` is the same in every attempt at the run, so an answer is never paid for twice. `calls` is 0 for an answer
    from DSPy's cache; `cost` is in USD, null where the price is unknown; `estimated` says of how many calls the tokens
    were counted here; `cut` tells of the token limit; `elapsed` are the seconds of the run so far, over all its
    sessions.
    """

    event: Literal["answer"]
    predictor: str
    question: str
    model: str
    texts: list[str]
    cut: bool
    fault: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    estimated: NotRequired[int]
    seconds: float
    elapsed: float


class DescriptionEvent(TypedDict):
    """How a training image looks."""

    event: Literal["description"]
    predictor: str
    source: str
    text: str


class TrialEvent(TypedDict):
    """A template was scored on all training images: accuracy in percent, loss in nats."""

    event: Literal["trial"]
    predictor: str
    index: int
    step: int
    template: str
    accuracy: float
    loss: float
    tokens: int
    key: str


class RejectionEvent(TypedDict):
    """A proposed text did not become a trial."""

    event: Literal["rejection"]
    predictor: str
    step: int
    text: str
    reason: str
    message: str


class FaultEvent(TypedDict):
    """Something went wrong and the run went on, or stopped after too many in a row."""

    event: Literal["fault"]
    predictor: str
    step: int
    message: str


class StepEvent(TypedDict):
    """A step is done: what was proposed and tried, and what its answers cost."""

    event: Literal["step"]
    predictor: str
    step: int
    proposed: int
    accepted: int
    calls: int
    tokens: int
    seconds: float
    elapsed: NotRequired[float]


class BudgetEvent(TypedDict):
    """A limit was reached, so nothing more is asked."""

    event: Literal["budget"]
    predictor: str
    limit: str
    allowed: float
    spent: float


class ScoreFields(TypedDict):
    """Accuracy in percent, loss in nats."""

    accuracy: float
    loss: float


class FinalistFields(TypedDict):
    """A template that was compared in the end; `validation` is null where training images decided."""

    index: int
    template: str
    train: ScoreFields
    validation: ScoreFields | None


class ChosenEvent(TypedDict):
    """The search ended and chose a template."""

    event: Literal["chosen"]
    predictor: str
    index: int
    template: str
    decided_by: str
    finalists: list[FinalistFields]


class EvaluationEvent(TypedDict):
    """How the start or the best template does on a set of images."""

    event: Literal["evaluation"]
    predictor: str
    split: str
    part: str
    role: str
    template: str
    accuracy: float
    loss: float
    images: int
    per_class: dict[str, list[int]]


class ChangedEvent(TypedDict):
    """An image that the best template gives another class than the start template."""

    event: Literal["changed"]
    predictor: str
    split: str
    part: str
    source: str
    label: str
    before: str
    after: str


class EndEvent(TypedDict):
    """A run is over; `status` is `finished`, or says what stopped it. Spending is that of all its sessions."""

    event: Literal["end"]
    status: str
    seconds: float
    calls: int
    tokens: int | None
    cost: NotRequired[float | None]


class Progress(TypedDict):
    """How far a stage is; not kept."""

    event: Literal["progress"]
    predictor: str
    stage: str
    done: int
    total: int


class Skipped(TypedDict):
    """An image that could not be read was left out; not kept."""

    event: Literal["skipped"]
    predictor: str
    stage: str
    message: str


Event: TypeAlias = Union[  # noqa: UP007  # get_args reads it
    RunEvent,
    ResumeEvent,
    SearchEvent,
    AnswerEvent,
    DescriptionEvent,
    TrialEvent,
    RejectionEvent,
    FaultEvent,
    StepEvent,
    BudgetEvent,
    ChosenEvent,
    EvaluationEvent,
    ChangedEvent,
    EndEvent,
    Progress,
    Skipped,
]

Observer: TypeAlias = Callable[[Event], None]
"""Called with every event of the journal once it is written, and with passing ones that are not."""


class Keeper(Protocol):
    """A destination of events: `journal.Journal` or `recorder.NoJournal`."""

    def append(self, *events: Event) -> None:
        """Keep events; they are safe when this returns."""


PASSING = frozenset({"progress", "skipped"})
"""Kinds that are told and not kept."""


def _kind(event: Any) -> str:
    (name,) = get_args(get_type_hints(event)["event"])
    return str(name)


_FORMS: Mapping[str, Mapping[str, Any]] = {_kind(event): get_type_hints(event) for event in get_args(Event)}
"""The type of each field of each kind."""

LARGEST = 1e15
"""No number of a run is larger; infinity and NaN are none."""

KEPT: Mapping[str, frozenset[str]] = {
    _kind(event): frozenset(event.__required_keys__ - {"event"})
    for event in get_args(Event)
    if _kind(event) not in PASSING
}
"""The fields that each kept kind must have; a journal may hold more of them, never fewer."""

OUTCOME = frozenset({"chosen", "evaluation", "changed", "end"})
"""Kinds that say how a run ended; a run that is taken up again writes them anew."""


def misfits(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields whose values have another type than their kind says, with that type in words.

    >>> list(misfits({"event": "end", "status": "finished", "seconds": "3", "calls": 0, "tokens": 0}))
    [('seconds', 'a finite number')]
    """
    for name, form in _FORMS[event["event"]].items():
        if name in event and not has_type(event[name], form, largest=LARGEST):
            yield name, type_in_words(form)
