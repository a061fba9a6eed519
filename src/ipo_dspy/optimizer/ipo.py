"""`IPO`: interpretable prompt optimization for CLIP as a DSPy optimizer; a thin shell over the search.

It finds the classifiers of a program, gathers what they are trained on, and searches a template for each.
The student is left as it is; a copy with better templates comes back.
"""

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.callback import BaseCallback

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy.errors import InputError
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.preflight import check_prices, check_rates, distinct
from ipo_dspy.optimizer.factories import (
    asks_a_model,
    build_proposer,
    check_describer,
    describer_kind,
    describing_model,
    model_of,
    name_of,
)
from ipo_dspy.optimizer.pipeline import Task, Ways, run_tasks, sentence
from ipo_dspy.optimizer.results import DetailedResults, candidates, save_whole, with_templates
from ipo_dspy.optimizer.search import Plan, SearchResult
from ipo_dspy.optimizer.trainset import find_classifiers, gather
from ipo_dspy.run.events import Event, Observer
from ipo_dspy.run.ledger import Limits
from ipo_dspy.run.progress import ProgressDisplay, data_line, is_watched
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.session import open_session
from ipo_dspy.template import Template
from ipo_dspy.validation import Budget, callables, flag, having, steps_of, template_of, whole

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Describer
    from ipo_dspy.optimizer.cost_estimate import Estimate
    from ipo_dspy.proposers import Proposer
    from ipo_dspy.scoring.scorers import Place

logger = logging.getLogger(__name__)

TestFunction: TypeAlias = Callable[[EventRecorder, dspy.Module, Sequence[SearchResult]], None]
"""Evaluates a compiled program on test images; the search results tell the start template."""


class IPO(Teleprompter):
    """Finds the prompt template with which CLIP classifies best.

    Args:
        prompt_model: proposes templates: a LiteLLM name or a `dspy.LM`.
        description_model: describes training images: likewise, and it must see.
        proposer: `lm`, `evolution` (no language model) or a `Proposer`. By default `lm` if there is a model:
            `prompt_model` or `dspy.settings.lm`.
        describer: `lm`, `clip` (no language model), `None` for none, or a `Describer`. By default `lm` if
            `description_model` is given, else `clip`.
        steps: questions to the proposer, 100 by default.
        prompts_per_step: templates asked for in each.
        history_size: how many of the best trials the proposer is shown.
        initial_templates: scored before the search, besides the student's own template.
        auto: `light`, `medium` or `heavy` instead of `steps`.
        patience: stop after so many steps without a better trial.
        max_errors: stop after so many questions in a row that got no usable answer, each after the model's own
            retries.
        max_lm_calls, max_tokens, max_cost, max_seconds: what the run may spend on language models: requests, prompt
            and completion tokens, USD by LiteLLM's prices, wall-clock time. Exact to one request. The run then
            ends with the best that was found.
        num_threads: for requests to language models and for reading images.
        seed: of every draw; the same seed gives the same trials.
        overlap: ask the next question while the last answers are scored; the proposer then sees scores a step
            late. By default where a language model proposes.
        log_dir: keep a journal and the best program there. A folder that holds an unfinished run of the same
            settings goes on where that stopped, and asks no answered question again.
        allow_changes: go on also where settings have changed since.
        track_stats: attach `detailed_results` and `candidate_programs` to the returned program.
        progress: show bars and a line for each better template on stderr; by default where that is a terminal, or in
            a notebook. `True` writes lines to a log too, `False` nothing.
        observers: called with each event as it happens.
        callbacks: DSPy callbacks.
        label_field: field of the examples with the right class; a mapping where classifiers differ.
        max_descriptions: at most so many training images are described, evenly over the classes; of these, CLIP
            describes the images of a dozen classes.
        skip_bad: leave out images that cannot be read instead of stopping.
        task: one sentence for the proposer on what is classified; made from the class names by default.
        scorer: where images are encoded and candidates scored, e.g. `RayScorer("auto")`; this machine by default.

    Source: Du, Sun, Snoek, IPO: Interpretable Prompt Optimization for Vision-Language Models, NeurIPS 2024.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=2)
    >>> optimizer = IPO(proposer="evolution", steps=2)
    >>> best = optimizer.compile(task.program, task.trainset)
    >>> best.detailed_results.best.score.accuracy >= best.detailed_results.baseline.score.accuracy
    True
    """

    def __init__(
        self,
        *,
        prompt_model: str | dspy.BaseLM | None = None,
        description_model: str | dspy.BaseLM | None = None,
        proposer: "Literal['lm', 'evolution'] | Proposer | None" = None,
        describer: "Literal['auto', 'lm', 'clip'] | Describer | None" = "auto",
        steps: int | None = None,
        prompts_per_step: int = 8,
        history_size: int = 20,
        initial_templates: Sequence[str | Template] = (),
        auto: Budget | None = None,
        patience: int | None = None,
        max_errors: int = 3,
        max_lm_calls: int | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        max_seconds: float | None = None,
        overlap: bool | None = None,
        num_threads: int | None = None,
        seed: int = 0,
        log_dir: str | os.PathLike[str] | None = None,
        allow_changes: bool = False,
        track_stats: bool = True,
        progress: bool | None = None,
        observers: Sequence[Observer] = (),
        callbacks: list[BaseCallback] | None = None,
        label_field: str | Mapping[str, str] = "label",
        max_descriptions: int = 64,
        skip_bad: bool = False,
        task: str | None = None,
        scorer: "Place | None" = None,
    ) -> None:
        super().__init__()
        self.prompt_model, self.description_model = prompt_model, description_model
        self.proposer, self.describer = proposer, describer
        self.plan = Plan(
            steps=steps_of(steps, auto),
            prompts_per_step=whole("prompts_per_step", prompts_per_step, 1),
            history_size=whole("history_size", history_size, 0),
            patience=None if patience is None else whole("patience", patience, 1),
            seed=whole("seed", seed, 0),
            max_errors=whole("max_errors", max_errors, 1),
            overlap=asks_a_model(proposer) if overlap is None else flag("overlap", overlap),
        )
        self.limits = Limits(max_lm_calls, max_tokens, max_cost, max_seconds)
        self._stopping = False  # no lock is taken: a signal handler sets it
        if isinstance(initial_templates, str):
            raise InputError(f"initial_templates is one string; write initial_templates=[{initial_templates!r}]")
        self.initial_templates = tuple(template_of(t) for t in initial_templates)
        self.num_threads = None if num_threads is None else whole("num_threads", num_threads, 1)
        if log_dir is not None and not os.fspath(log_dir):
            raise InputError("log_dir is empty; name a folder, e.g. log_dir='runs/1', or leave it out")
        self.log_dir, self.track_stats = log_dir, flag("track_stats", track_stats)
        self.allow_changes = flag("allow_changes", allow_changes)
        self.progress = None if progress is None else flag("progress", progress)
        self.observers, self.callbacks = callables("observers", observers), list(callbacks or [])
        self.label_field, self.skip_bad, self.task = label_field, flag("skip_bad", skip_bad), task
        self.scorer = scorer
        if proposer is not None and not isinstance(proposer, str):
            having("proposer", proposer, "propose", "'evolution'")
        if describer is not None and not isinstance(describer, str):
            having("describer", describer, "describe", "'clip'")
        if scorer is not None:
            having("scorer", scorer, "check", "RayScorer('auto')")
        self.max_descriptions = whole("max_descriptions", max_descriptions, 0)

    def compile(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        *,
        teacher: None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> dspy.Module:
        """Search a better template for every `ClipClassifier` of the student.

        Args:
            student: a `ClipClassifier`, or a program that holds some; it is not changed.
            trainset: examples with an image and a label; candidates are scored on all of them.
            teacher: None, for callers that pass one to every optimizer.
            valset: if given, decides among the ten best trials and the start template.

        Returns:
            A copy of the student with the chosen templates: on the set that decides never worse than before.

        Raises:
            InputError: the student, examples, templates, images or models cannot be used; nothing was paid for by then.
            NoAnswerError: the model that describes gave no description `max_errors` times in a row.
            StoppedError: `stop` was called before the search had begun, in which case there is nothing to return.
            JournalError: `log_dir` cannot be written.
        """
        if teacher is not None:
            raise InputError(f"teacher must be None, got a {type(teacher).__name__}; IPO learns from labels alone")
        return self.compile_and_test(student, trainset, valset)

    def compile_and_test(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        *,
        test: TestFunction | None = None,
    ) -> dspy.Module:
        """Compile as `compile` does, and call `test` before the run is recorded as finished.

        Args:
            student: as in `compile`.
            trainset: likewise.
            valset: likewise.
            test: is given the run's recorder, the best program and the result of each search.
        """
        trainset, valset = list(trainset), None if valset is None else list(valset)
        try:
            if not (is_watched() if self.progress is None else self.progress):
                return self._search(student, trainset, valset, (), test)
            with ProgressDisplay(steps=self.plan.steps, lines=True) as display:
                classifiers = [(name, one.classes, one.model_name) for name, one in find_classifiers(student).items()]
                display.say(data_line(classifiers, len(trainset), None if valset is None else len(valset)))
                return self._search(student, trainset, valset, (display,), test)
        finally:
            self._stopping = False

    def _search(
        self,
        student: dspy.Module,
        trainset: list[dspy.Example],
        valset: list[dspy.Example] | None,
        displays: Sequence[Observer],
        test: TestFunction | None,
    ) -> dspy.Module:
        """Compile with these observers besides the user's own."""
        classifiers = find_classifiers(student)
        proposer = self._build_proposer()
        models = self._check_models(proposer)
        train = gather(student, classifiers, trainset, name="trainset", **self._gathering)
        validation = (
            gather(student, classifiers, valset, name="valset", **self._gathering) if valset is not None else {}
        )
        tasks = [
            Task(name, one, self._initial(one), train[name], validation.get(name)) for name, one in classifiers.items()
        ]
        with open_session(
            self.log_dir,
            limits=self.limits,
            observers=(self._log, *displays, *self.observers),
            stop=lambda: self._stopping,
        ) as session:
            results = run_tasks(
                session,
                tasks,
                proposer,
                self._ways,
                models=distinct(models),
                settings=self._settings(proposer, tasks),
                allow_changes=self.allow_changes,
            )
            details = DetailedResults(results, session.ledger.spent)
            best = self._build_program(student, results, details)
            if self.log_dir is not None:
                save_whole(best, Path(self.log_dir) / PROGRAM_FILE)
            if test is not None:
                test(session.recorder, best, results)
            session.finish(details.status)
        return best

    def estimate(self, student: dspy.Module, trainset: Sequence[dspy.Example]) -> "Estimate":
        """What `compile` would cost, without asking anything.

        Nothing is encoded either, but where a program has to be run to see what its classifiers are given.

        >>> from ipo_dspy import demo
        >>> task = demo.load("pixel-animals", shots=2)
        >>> optimizer = IPO(prompt_model=dspy.LM("openai/gpt-4o-mini", api_key="none", engine="litellm"), steps=10)
        >>> optimizer.estimate(task.program, task.trainset).total.calls
        11
        """
        from ipo_dspy.optimizer.cost_estimate import estimate

        classifiers = find_classifiers(student)
        proposer = self._build_proposer()
        train = gather(student, classifiers, list(trainset), name="trainset", **self._gathering)
        searches = [
            (self.task or sentence(images.classes), min(self.max_descriptions, len(images.labels)))
            for images in train.values()
        ]
        return estimate(self._models(proposer), proposer, self.plan, searches)

    def check_models(self) -> dict[str, dspy.BaseLM]:
        """See that the language models can be asked, as far as that shows without asking; `compile` begins with it.

        Returns:
            Those that a run will ask, by the argument that names them.

        Raises:
            LanguageModelError: a model is needed and none given, or it is unknown, or has no key.
            InputError: an unknown proposer or describer, or a limit on cost with a model whose price is unknown.
        """
        return self._check_models(self._build_proposer())

    def get_params(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, as a new mapping.

        It is new because MLflow's autologging writes the training images into what it is given.
        """
        values = {**vars(self), **asdict(self.plan), **asdict(self.limits)}
        return {name: values.get(name) for name in _PARAMETERS}

    def __repr__(self) -> str:
        """The arguments that differ from their defaults; models by name, so that no key is shown."""
        given = {
            name: value if isinstance(value, (int, float, str, tuple, dict, os.PathLike)) else name_of(value)
            for name, value in self.get_params().items()
            if value not in (_PARAMETERS[name].default, None, [], ())
        }
        return f"IPO({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def stop(self) -> None:
        """End the search after the step that is under way; `compile` returns the best so far.

        Before the search has begun, also before `compile` is called, `compile` raises `StoppedError` and asks nothing
        more. It may be called from any thread and from a signal handler; it holds until `compile` ends.
        """
        self._stopping = True

    @property
    def _gathering(self) -> dict[str, Any]:
        return {"label_field": self.label_field, "num_threads": self.num_threads, "skip_bad": self.skip_bad}

    def _build_proposer(self) -> "Proposer":
        return build_proposer(self.proposer, self.prompt_model, num_threads=self.num_threads)

    def _check_models(self, proposer: "Proposer") -> dict[str, dspy.BaseLM]:
        check_describer(self.describer, self.description_model)
        models = self._models(proposer)
        for role, lm in models.items():
            check_key(lm, role=role)
            check_rates(lm, role=role)
        check_prices(models, self.limits.max_cost)
        return models

    def _models(self, proposer: "Proposer") -> dict[str, dspy.BaseLM]:
        """The language models that the run will ask, by the argument that names them."""
        models = {"prompt_model": model_of(proposer)}
        if self.max_descriptions:
            models["description_model"] = describing_model(self.describer, self.description_model)
        return {role: lm for role, lm in models.items() if lm is not None}

    @property
    def _ways(self) -> Ways:
        return Ways(
            plan=self.plan,
            describer=self.describer,
            description_model=self.description_model,
            max_descriptions=self.max_descriptions,
            task=self.task,
            num_threads=self.num_threads,
            skip_bad=self.skip_bad,
            where=self.scorer,
        )

    def _initial(self, classifier: "ClipClassifier") -> tuple[Template, ...]:
        return (classifier.template, *self.initial_templates)

    def _build_program(
        self, student: dspy.Module, results: Sequence[SearchResult], details: DetailedResults
    ) -> dspy.Module:
        best = with_templates(student, {r.predictor: r.best.template for r in results})
        if self.track_stats:
            best.detailed_results = details
            best.candidate_programs = candidates(student, results)
        return best

    def _settings(self, proposer: "Proposer", tasks: Sequence[Task]) -> dict[str, Any]:
        """What a reader of the journal may know: names of models, never their keys or addresses."""
        return {
            **{k: v for k, v in asdict(self.plan).items() if k != "seed"},
            **asdict(self.limits),
            "proposer": name_of(proposer),
            "describer": name_of(describer_kind(self.describer, self.description_model)),
            "prompt_model": name_of(model_of(proposer)),
            "asking": getattr(proposer, "settings", None),
            "start": {task.name: str(task.initial[0]) for task in tasks},
            "description_model": name_of(self.description_model),
            "initial_templates": [str(t) for t in self.initial_templates],
            "max_descriptions": self.max_descriptions,
            "task": self.task,
            "num_threads": self.num_threads,
        }

    def _log(self, event: Event) -> None:
        if event["event"] == "fault":
            of = "" if event["predictor"] == "self" else f" of {event['predictor']}"
            logger.warning("step %s%s: %s", event["step"], of, event["message"])
        elif event["event"] == "budget":
            logger.warning("%s=%g is spent; the search ends here", event["limit"], event["allowed"])
        elif event["event"] == "chosen":
            logger.info("%s: chose %r by %s images", event["predictor"], event["template"], event["decided_by"])
        else:
            logger.debug("%s", event)


_PARAMETERS = {
    name: one for name, one in inspect.signature(IPO.__init__).parameters.items() if one.kind is one.KEYWORD_ONLY
}
"""The arguments of `IPO` by name."""
