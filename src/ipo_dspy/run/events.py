"""The events of a run, as typed plain values.

Each kind is a `TypedDict` with the key `event`. The journal writes them as JSON lines, observers are called with them
as they happen, and `state.RunState` folds them into the state of the run. A type checker infers the fields once the
kind is tested: `if event["event"] == "trial": event["accuracy"]`.

`ProgressEvent` and `ImageSkippedEvent` are transient: they are not recorded. No event holds pictures, keys, headers or
request settings of a language model; images are identified by their source.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, Union, get_args, get_type_hints

from ipo_dspy._internal.json_input import has_type, type_in_words
from ipo_dspy.scoring.score import ScoreFields as ScoreFields


class SearchFields(TypedDict):
    """Events of one search: `predictor` is the name of the classifier inside the program."""

    predictor: str


class ImageSetFields(SearchFields):
    """The images that an event of the outcome is about.

    `split` is `train`, `validation` or `test`, `class_split` is `all`, `base` or `novel`.
    """

    split: str
    class_split: str


class WorthFields(TypedDict):
    """Differences in accuracy and loss with their standard errors; see `scoring.part_worth.Worth`."""

    accuracy: float
    accuracy_error: float
    loss: float
    loss_error: float


class RunStartedEvent(TypedDict):
    """A run started; `settings` holds names of models, never their keys or addresses.

    `machine` is the kind of machine, as `clip.machine` returns it, never its name.
    """

    event: Literal["run_started"]
    schema: int
    started: str
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: NotRequired[dict[str, Any]]


class RunResumedEvent(TypedDict):
    """A run was resumed, which cancels its earlier outcome; `changed` maps a setting to [before, now]."""

    event: Literal["run_resumed"]
    started: str
    changed: dict[str, list[Any]]
    versions: dict[str, str]


class SearchStartedEvent(SearchFields):
    """The search for one classifier's template started.

    `data_name` is the name of the folder or table with the training images, empty if unknown. `data_fingerprint` is
    that of images, labels and classes, `validation_fingerprint` that of the validation images. `class_texts` are
    the texts of classes that do not use their name. `also` holds further models that templates are scored with,
    and `across` how their scores are combined. `objective` is the name of the objective, if it is not the accuracy;
    `objective_digest` identifies it with its costs, floors and the code of its metric.
    """

    event: Literal["search_started"]
    classes: list[str]
    class_texts: NotRequired[dict[str, list[str]]]
    model: dict[str, Any]
    images: int
    validation_images: int
    start: str
    data_name: NotRequired[str]
    data_fingerprint: NotRequired[str]
    validation_fingerprint: NotRequired[str | None]
    also: NotRequired[list[dict[str, Any]]]
    across: NotRequired[str]
    objective: NotRequired[str]
    objective_digest: NotRequired[str]


class LMRequestEvent(SearchFields):
    """A request to a language model is about to be sent; recorded before it is.

    `timeout` is the number of seconds after which it is abandoned, including its retries and the pauses between them,
    null if unknown. A response from DSPy's cache has such an event, too; one recorded by an earlier session has none.
    """

    event: Literal["lm_request"]
    request_id: str
    model: str
    started: str
    timeout: float | None
    run_seconds: float


class LMFailureEvent(SearchFields):
    """A request to a language model failed; an `ErrorEvent` has the reason, unless the request is repeated."""

    event: Literal["lm_failure"]
    request_id: str


class LMResponseEvent(SearchFields):
    """The response of a language model to a request, and its cost.

    `request_id` is the same in every session of the run, so no response is billed twice. `calls` is 0 for a
    response from DSPy's cache; `cost` is in USD, null if the price is unknown; `estimated` is the number of calls whose
    tokens were counted here; `truncated` is true if the token limit was reached; `error` is the reason why `texts` is
    empty; `run_seconds` is the time of the run so far, over all its sessions.
    """

    event: Literal["lm_response"]
    request_id: str
    model: str
    texts: list[str]
    truncated: bool
    error: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    estimated: NotRequired[int]
    seconds: float
    run_seconds: float


class DescriptionEvent(SearchFields):
    """A description of a training image; `guessed` if CLIP ranked phrases (`describers.Descriptions`)."""

    event: Literal["description"]
    source: str
    text: str
    guessed: NotRequired[bool]


class TrialEvent(SearchFields, ScoreFields):
    """A template was scored on all training images: accuracy in percent, loss in nats; the rest as in `Score`.

    `stage` is `refine` for a variant of the winner that was scored after the search; a resumed run scores it again.
    """

    event: Literal["trial"]
    index: int
    step: int
    template: str
    tokens: int
    key: str
    stage: NotRequired[str]


class RejectionEvent(SearchFields):
    """A proposed text did not become a trial; `stage` is as in `TrialEvent`."""

    event: Literal["rejection"]
    step: int
    text: str
    reason: str
    message: str
    stage: NotRequired[str]


class ErrorEvent(SearchFields):
    """An error that the run survived, or the last of too many in a row."""

    event: Literal["error"]
    step: int
    message: str


class StepEvent(SearchFields):
    """A finished step: what was proposed and accepted, and the cost of its responses.

    `repaired` is the number of proposed texts whose look-alike of `<CLASS>` was replaced.
    """

    event: Literal["step"]
    step: int
    proposed: int
    accepted: int
    calls: int
    tokens: int
    seconds: float
    run_seconds: NotRequired[float]
    repaired: NotRequired[int]


class LimitReachedEvent(SearchFields):
    """A limit was reached, so no more requests are sent."""

    event: Literal["limit_reached"]
    limit: str
    limit_value: float
    spent: float


class FinalistFields(TypedDict):
    """A template that was compared at the end; `validation` is null without validation images."""

    index: int
    template: str
    train: ScoreFields
    validation: ScoreFields | None


class ChoiceFields(TypedDict):
    """Expected accuracy of the selected template on new images; see `optimizer.template_choice.ChoiceReport`.

    With another `objective`, its values replace accuracies.
    """

    images: int
    accuracy: float
    optimism: float
    expected: float
    low: float
    high: float
    gain: float
    gain_error: float
    leader: NotRequired[float]
    compared: int
    tied: int
    possibly_best: int
    is_spread_known: bool
    objective: NotRequired[str]


class CandidateFields(TypedDict):
    """A template that was compared: `error` is the standard error of its difference in accuracy from the best one.

    With another objective, `accuracy` is its value.
    """

    index: int
    accuracy: float
    error: float
    tied: bool


class PhraseFields(WorthFields):
    """The worth of a phrase of the selected template: the decrease in accuracy and the increase in loss without it."""

    phrase: str


class EnsembleLineFields(WorthFields):
    """The gain of an additional ensemble line: the increase in accuracy, and the decrease in loss."""

    text: str


class EncoderFields(TypedDict):
    """The scores of the finalists under one of several models, on the images that decided, in the same order."""

    model: str
    scores: list[ScoreFields]


class SelectedEvent(SearchFields):
    """The search ended and selected a template, on `train` or `validation` images.

    `tied` holds the plainest templates that cannot be told apart from the best one, and `candidates` the most accurate
    ones of all that were compared. `ensemble` holds the lines that
    were, or would be, added to the selected template; they are part of `template` only if an ensemble was requested.
    """

    event: Literal["selected"]
    index: int
    template: str
    selected_on: str
    finalists: list[FinalistFields]
    choice: NotRequired[ChoiceFields]
    tied: NotRequired[list[FinalistFields]]
    candidates: NotRequired[list[CandidateFields]]
    phrases: NotRequired[list[PhraseFields]]
    ensemble: NotRequired[list[EnsembleLineFields]]
    encoders: NotRequired[list[EncoderFields]]


class ClassTextChangeFields(WorthFields):
    """Words of a class that were replaced, and the gain of the change on the images that decided.

    `recognized` is the number of its images that were recognized before and after, out of `images`; `lost` is
    the largest number of images that another class lost; `candidates` is the number of alternatives that were compared,
    each a text or the mean of several.
    """

    label: str
    before: list[str]
    after: list[str]
    round: int
    candidates: int
    images: int
    recognized: list[int]
    lost: int


class ClassTextsFields(TypedDict):
    """The outcome of the search for words of the classes: the changes in order, and all texts that are not the labels.

    `before` and `after` are scores of the selected template on the images that decided, `accuracy_error` the standard
    error of their difference. `rounds` counts passes over the labels, `compared` the alternatives to the words of a
    label, each a text or the mean of several, in all rounds.
    """

    template: str
    selected_on: str
    rounds: int
    compared: int
    before: ScoreFields
    after: ScoreFields
    accuracy_error: float
    class_texts: dict[str, list[str]]
    changes: list[ClassTextChangeFields]


class ClassTextsEvent(ClassTextsFields, SearchFields):
    """The search for words of the classes ended."""

    event: Literal["class_texts"]


class ConfusionFields(TypedDict):
    """The number of images of a class that were predicted as another."""

    label: str
    predicted: str
    images: int


class MatrixFields(TypedDict):
    """A confusion matrix as in `scoring.confusion`: one row per class, with a last column for all other classes."""

    classes: list[str]
    counts: list[list[int]]


class EvaluationEvent(ImageSetFields, ScoreFields):
    """The score of the start or the best template (`role`) on a set of images.

    `measures` are other measures by name, in percent except the loss, and `confusions` the most frequent errors.
    `matrix` is empty for images with several labels.
    """

    event: Literal["evaluation"]
    role: str
    template: str
    images: int
    per_class: dict[str, list[int]]
    measures: NotRequired[dict[str, float]]
    confusions: NotRequired[list[ConfusionFields]]
    matrix: NotRequired[MatrixFields]


class ImagenetPromptsEvent(ImageSetFields):
    """The scores of the prompts for ImageNet on a set of images: of the best one, and of the ensemble of all.

    `template` is the prompt that ranks first on the images that decide, `prompts` the number of prompts: 80, or those
    that fit the model. Kept when the run is resumed, for images with the same `fingerprint`.
    """

    event: Literal["imagenet_prompts"]
    fingerprint: str
    images: int
    prompts: int
    template: str
    best: ScoreFields
    ensemble: ScoreFields


class PredictionChangedEvent(ImageSetFields):
    """An image whose predicted class differs between the start and the best template."""

    event: Literal["prediction_changed"]
    source: str
    label: str
    before: str
    after: str


class MistakeEvent(ImageSetFields):
    """An image that the best template misclassifies, with the probability of the predicted class, from 0 to 1."""

    event: Literal["mistake"]
    source: str
    label: str
    predicted: str
    probability: float


class EmbeddingMapEvent(ImageSetFields):
    """Images and class texts of the best template as points in a plane; see `scoring.map_projection`.

    `words` has a point for each of the `classes`, `images` one for each of a sample of their images, and `labels` the
    indices of their classes; `correct` is true for images that are recognized. `shown` is the percentage of variance.
    """

    event: Literal["embedding_map"]
    classes: list[str]
    words: list[list[float]]
    images: list[list[float]]
    labels: list[int]
    correct: list[bool]
    shown: float


class CommandEvent(TypedDict):
    """The command line of a session: its data, and the options that were passed, with the values of each.

    A flag has no value. Folders of runs, clusters, and settings of language models are left out; credentials in
    addresses are masked. `has_spare_images` is true if `--shots all` would let more images decide.
    """

    event: Literal["command"]
    data: str
    options: dict[str, list[str]]
    has_spare_images: NotRequired[bool]


class RunFinishedEvent(TypedDict):
    """A session ended; `status` is `finished` or the reason. Costs are those of all sessions of the run."""

    event: Literal["run_finished"]
    status: str
    seconds: float
    calls: int
    tokens: int | None
    cost: NotRequired[float | None]


class ProgressEvent(SearchFields):
    """The progress of a stage; not recorded."""

    event: Literal["progress"]
    stage: str
    done: int
    total: int


class ImageSkippedEvent(SearchFields):
    """An image that could not be read and was left out; not recorded."""

    event: Literal["image_skipped"]
    stage: str
    message: str


Event: TypeAlias = Union[  # noqa: UP007  # get_args reads it
    RunStartedEvent,
    RunResumedEvent,
    SearchStartedEvent,
    LMRequestEvent,
    LMFailureEvent,
    LMResponseEvent,
    DescriptionEvent,
    TrialEvent,
    RejectionEvent,
    ErrorEvent,
    StepEvent,
    LimitReachedEvent,
    SelectedEvent,
    ClassTextsEvent,
    EvaluationEvent,
    ImagenetPromptsEvent,
    PredictionChangedEvent,
    MistakeEvent,
    EmbeddingMapEvent,
    CommandEvent,
    RunFinishedEvent,
    ProgressEvent,
    ImageSkippedEvent,
]

Observer: TypeAlias = Callable[[Event], None]
"""Called with every recorded event once it is written, and with transient ones.

An observer with a method `resume(past)` receives the events of earlier sessions first. Observers are called one at a
time, so a slow one delays the run, and an exception in one ends it.
"""


TRANSIENT = frozenset({"progress", "image_skipped"})
"""Kinds that are passed to observers and not recorded."""


_KINDS: Mapping[str, Any] = {get_args(get_type_hints(event)["event"])[0]: event for event in get_args(Event)}
"""The class of each kind."""
_FORMS: Mapping[str, Mapping[str, Any]] = {kind: get_type_hints(event) for kind, event in _KINDS.items()}
"""The type of each field of each kind."""

LARGEST = 1e15
"""Upper bound of all numbers in a run; excludes infinity and NaN."""

PERSISTED: Mapping[str, frozenset[str]] = {
    kind: event.__required_keys__ - {"event"} for kind, event in _KINDS.items() if kind not in TRANSIENT
}
"""Required fields of each recorded kind; a journal may have more fields, never fewer."""

OUTCOME_KINDS = frozenset(
    {
        "selected",
        "class_texts",
        "evaluation",
        "prediction_changed",
        "mistake",
        "embedding_map",
        "command",
        "run_finished",
    }
)
"""Kinds of the outcome; a resumed run records them again."""


def misfits(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields whose values have the wrong type, with the expected type as text.

    >>> list(misfits({"event": "run_finished", "status": "finished", "seconds": "3", "calls": 0, "tokens": 0}))
    [('seconds', 'a finite number')]
    """
    for name, form in _FORMS[event["event"]].items():
        if name in event and not has_type(event[name], form, largest=LARGEST):
            yield name, type_in_words(form)
