"""The state of a run, folded from its events one by one.

The search, a resumed run, the report, `ipo-dspy watch`, the learning curves and MLflow all read this state, so an event
means the same to each of them. It depends neither on files nor on terminals.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from ipo_dspy._internal.json_input import has_type
from ipo_dspy.errors import InputError, JournalError
from ipo_dspy.history import History, Trial
from ipo_dspy.run.budget import LMResponse, Usage
from ipo_dspy.run.events import (
    LARGEST,
    TRANSIENT,
    ClassTextsEvent,
    CommandEvent,
    EmbeddingMapEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    ImagenetPromptsEvent,
    LMRequestEvent,
    LMResponseEvent,
    MistakeEvent,
    PredictionChangedEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SearchStartedEvent,
    SelectedEvent,
    TrialEvent,
)
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposed text that did not become a trial, and the reason; `stage` is as in `Trial`."""

    step: int
    text: str
    reason: str
    message: str
    stage: str = "search"


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request to a language model that has no response yet.

    Attributes:
        model: name of the model.
        started: when it was sent, as recorded.
        sent: the same in seconds since 1970.
        timeout: seconds after which it is given up, if known.
    """

    model: str
    started: str
    sent: float
    timeout: float | None

    @property
    def seconds(self) -> float:
        """Seconds since it was sent."""
        return max(0.0, time.time() - self.sent)

    def __str__(self) -> str:
        return f"waiting for {self.model} for {self.seconds:.0f} s"


class SearchState:
    """The search for one classifier's template so far.

    Attributes:
        predictor: name of the classifier inside the program.
        setup: data, model and start template of the search; empty until its first event.
        history: the trials; a trial that is recorded twice counts once.
        better: each trial that ranks before all earlier ones, including the first trial.
        steps: number of the last finished step.
        step_seconds: seconds that the finished steps took.
        rejections, errors: in order of recording.
        descriptions: pairs of an image's source and its description.
        guessed: the descriptions are CLIP's guesses.
        selected: the outcome, until the run is resumed.
        class_texts: the outcome of the search for words of the classes.
        evaluations: by split, class split and role.
        imagenet: scores of the prompts for ImageNet, by split and class split; kept when the run is resumed.
        changes: images whose predicted class changed.
        mistakes: images that the best template takes for another class.
        maps: images and class texts as points, by split and class split.
    """

    def __init__(self, predictor: str) -> None:
        self.predictor = predictor
        empty = {"classes": [], "model": {}, "images": 0, "validation_images": 0, "start": ""}
        self.setup = cast(SearchStartedEvent, {"event": "search_started", "predictor": predictor, **empty})
        self.history = History()
        self.better: list[Trial] = []
        self.steps, self.step_seconds = 0, 0.0
        self.rejections: list[Rejection] = []
        self.errors: list[ErrorEvent] = []
        self.descriptions: list[tuple[str, str]] = []
        self.guessed = False
        self.imagenet: dict[tuple[str, str], ImagenetPromptsEvent] = {}
        self.clear_outcome()

    def clear_outcome(self) -> None:
        """Clear the outcome of the search, with the trials and rejections that refined it."""
        self.history = History(trial for trial in self.history if trial.stage == "search")
        self.better = [trial for trial in self.better if trial.stage == "search"]
        self.rejections = [rejection for rejection in self.rejections if rejection.stage == "search"]
        self.selected: SelectedEvent | None = None
        self.class_texts: ClassTextsEvent | None = None
        self.evaluations: dict[tuple[str, str, str], EvaluationEvent] = {}
        self.changes: list[PredictionChangedEvent] = []
        self.mistakes: list[MistakeEvent] = []
        self.maps: dict[tuple[str, str], EmbeddingMapEvent] = {}

    @property
    def start(self) -> Trial | None:
        """The trial of the start template."""
        trials = list(self.history)
        return next((t for t in trials if str(t.template) == self.setup["start"]), trials[0] if trials else None)

    @property
    def best(self) -> Trial | None:
        """The selected trial, or the best so far."""
        index = None if self.selected is None else self.selected["index"]
        selected = next((trial for trial in self.history if trial.index == index), None)
        return selected or (self.better[-1] if self.better else None)

    @property
    def start_text(self) -> str:
        """The start template."""
        return str(self.start.template) if self.start else self.setup["start"]

    @property
    def best_text(self) -> str:
        """The selected template, or the best so far."""
        best = self.best
        return self.selected["template"] if self.selected else str(best.template) if best else self.start_text

    @property
    def objective(self) -> str:
        """The name of the objective."""
        return self.setup.get("objective", "accuracy")

    @property
    def curve(self) -> list[float]:
        """Accuracy, or value of another objective, of the best trial so far after each step, from step 0 on."""
        accuracies = {trial.step: trial.score.goal for trial in self.better}
        values: list[float] = []
        for step in range(self.steps + 1 if accuracies else 0):
            values.append(accuracies.get(step, values[-1] if values else 0.0))
        return values

    def fold(self, event: Event) -> None:
        """Apply an event of this search."""
        if event["event"] == "search_started":
            self.setup = event
        elif event["event"] == "trial":
            if event["key"] not in self.history:
                trial = _trial(event)
                self.history.add(trial)
                if not self.better or trial.rank < self.better[-1].rank:
                    self.better.append(trial)
        elif event["event"] == "step":
            if event["step"] > self.steps:
                self.step_seconds += event.get("seconds", 0.0)
            self.steps = max(self.steps, event["step"])
        elif event["event"] == "rejection":
            self.rejections.append(
                Rejection(event["step"], event["text"], event["reason"], event["message"], event.get("stage", "search"))
            )
        elif event["event"] == "error":
            self.errors.append(event)
        elif event["event"] == "description":
            self.descriptions.append((event["source"], event["text"]))
            self.guessed = event.get("guessed", False)
        elif event["event"] == "selected":
            self.selected = event
        elif event["event"] == "class_texts":
            self.class_texts = event
        elif event["event"] == "evaluation":
            _check_evaluation(event)
            self.evaluations[event["split"], event["class_split"], event["role"]] = event
        elif event["event"] == "imagenet_prompts":
            self.imagenet[event["split"], event["class_split"]] = event
        elif event["event"] == "prediction_changed":
            self.changes.append(event)
        elif event["event"] == "mistake":
            self.mistakes.append(event)
        elif event["event"] == "embedding_map":
            _check_map(event)
            self.maps[event["split"], event["class_split"]] = event


class RunState:
    """The state of a run after the events that were folded so far.

    Attributes:
        begun: True after the first event.
        started: the event that began the run.
        settings: settings of the last session, with the seed.
        searches: by the classifier's name.
        responses: responses of language models, by classifier and request.
        requests: requests that have neither a response nor an error yet, by classifier and request.
        usage: usage of all responses.
        run_seconds: seconds of the run at the last event that has them, over all its sessions.
        command: the command line of the last session; None for a run in Python.
        finished: the event that ended it, until the run is resumed.

    >>> state = RunState([{"event": "run_finished", "status": "patience", "seconds": 3.0, "calls": 0, "tokens": 0}])
    >>> state.status, state.seconds
    ('patience', 3.0)
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.begun = False
        self.started: RunStartedEvent | None = None
        self.settings: dict[str, Any] = {}
        self.searches: dict[str, SearchState] = {}
        self.responses: dict[tuple[str, str], LMResponse] = {}
        self.requests: dict[tuple[str, str], PendingRequest] = {}
        self.usage, self.run_seconds = Usage(), 0.0
        self.command: CommandEvent | None = None
        self.finished: RunFinishedEvent | None = None
        for event in events:
            self.fold(event)

    @property
    def status(self) -> str | None:
        """The reason for the end; None if the run has not ended."""
        return None if self.finished is None else self.finished["status"]

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run."""
        return self.run_seconds if self.finished is None else self.finished["seconds"]

    @property
    def pending(self) -> list[PendingRequest]:
        """The requests under way, the first one first; safe to read while another thread folds events.

        A request past its timeout is one of a session that was killed.
        """
        requests = list(self.requests.values())
        return [request for request in requests if request.timeout is None or request.seconds <= request.timeout]

    @property
    def has_progress(self) -> bool:
        """True if the run has a trial or a response beyond connectivity checks; until then settings may change."""
        tried = any(search.history for search in self.searches.values())
        return tried or any(not request.startswith("greet ") for _, request in self.responses)  # kept: in journals

    @property
    def min_recall(self) -> dict[str, float]:
        """Floors of recall by class; empty if there are none, or if the journal is damaged."""
        floors: Any = self.settings.get("min_recall")
        return floors if has_type(floors, dict[str, float], largest=LARGEST) else {}

    def search(self, predictor: str) -> SearchState:
        """Return the state of a classifier's search, which may not have begun."""
        return self.searches.setdefault(predictor, SearchState(predictor))

    def fold(self, event: Event) -> None:
        """Apply the next event.

        Raises:
            JournalError: a trial, a time or a count is invalid.
        """
        self.begun = True
        if event["event"] == "lm_response" or event["event"] == "lm_request" or event["event"] == "step":
            self.run_seconds = max(self.run_seconds, event.get("run_seconds", 0.0))
        if event["event"] in {"trial", "step", "selected"}:
            self.finished = None  # the run was continued
        if event["event"] in {"run_started", "run_resumed", "run_finished"}:
            self.requests.clear()
        if event["event"] == "run_started":
            self.started, self.settings = event, {**event["settings"], "seed": event["seed"]}
        elif event["event"] == "run_resumed":
            self.settings |= {name: values[-1] for name, values in event["changed"].items() if values}
            self.finished = self.command = None
            for search in self.searches.values():
                search.clear_outcome()
        elif event["event"] == "command":
            self.command = event
        elif event["event"] == "run_finished":
            self.finished = event
        elif event["event"] == "lm_request":
            self.requests[event["predictor"], event["request_id"]] = _pending(event)
        elif event["event"] == "lm_failure":
            self.requests.pop((event["predictor"], event["request_id"]), None)
        elif event["event"] == "lm_response":
            key = event["predictor"], event["request_id"]
            self.requests.pop(key, None)
            if key not in self.responses:
                self.responses[key] = _response(event)
                self.usage = self.usage.plus(self.responses[key])
        elif event["event"] not in TRANSIENT and "predictor" in event:
            self.search(event["predictor"]).fold(event)


def readable(text: str) -> str:
    r"""Return a text without lone surrogates, which a model can send but no request can contain.

    >>> readable("a \ud83d <CLASS>")
    'a ? <CLASS>'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _trial(event: TrialEvent) -> Trial:
    try:
        # `Template.parse` would reject templates that an earlier version accepted.
        template = Template(tuple(event["template"].split("\n")))
        score = Score(event["accuracy"], event["loss"], event.get("value"), event.get("missed", 0.0))
    except InputError as error:
        raise JournalError(
            f"trial {event['index']} of the journal cannot be used ({error}); restore the journal from a backup or "
            "start a run in another folder"
        ) from error
    return Trial(
        template,
        score,
        index=event["index"],
        step=event["step"],
        tokens=event["tokens"],
        key=event["key"],
        stage=event.get("stage", "search"),
    )


def _pending(event: LMRequestEvent) -> PendingRequest:
    try:
        sent = datetime.fromisoformat(event["started"]).timestamp()
    except (ValueError, OverflowError) as error:
        raise _damaged(event, f"started must be a time in ISO 8601, got {event['started'][:80]!r}") from error
    return PendingRequest(event["model"], event["started"], sent, event["timeout"])


def _response(event: LMResponseEvent) -> LMResponse:
    return LMResponse(
        texts=tuple(map(readable, event["texts"])),
        model=event["model"],
        calls=event["calls"],
        prompt_tokens=max(0, event["prompt_tokens"]),  # older versions recorded negative counts of a server
        completion_tokens=max(0, event["completion_tokens"]),
        cost=None if event["cost"] is None else max(0.0, event["cost"]),
        cut=event["truncated"],
        fault=event["error"],
        estimated=event.get("estimated", 0),
    )


def _damaged(event: Event, fact: str) -> JournalError:
    return JournalError(f"{fact} in an event {event['event']!r}; restore the journal from a backup")


def _check_evaluation(event: EvaluationEvent) -> None:
    for name, counts in event["per_class"].items():
        if len(counts) != 2 or not 0 <= counts[0] <= counts[1]:
            raise _damaged(event, f"per_class must map a class to [correct, total], got {counts!r} for {name[:80]!r}")
    if (matrix := event.get("matrix")) is not None:
        width, rows = len(matrix["classes"]) + 1, matrix["counts"]
        if len(rows) != width - 1 or any(len(row) != width or min(row) < 0 for row in rows):
            raise _damaged(event, "counts must have a row of numbers from 0 for each class, and a column more,")


def _check_map(drawn: EmbeddingMapEvent) -> None:
    names, images = len(drawn["classes"]), len(drawn["images"])
    sizes = (len(drawn["words"]), len(drawn["labels"]), len(drawn["correct"]))
    is_flat = all(len(point) == 2 for point in (*drawn["words"], *drawn["images"]))
    if sizes != (names, images, images) or not is_flat or not set(drawn["labels"]) <= set(range(names)):
        raise _damaged(drawn, "words and images must have a point [x, y] for each class and label")
