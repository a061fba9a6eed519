"""`IPO`: interpretable prompt optimization for CLIP as a DSPy optimizer; a thin shell over the search.

It finds the classifiers of a program, gathers what they are trained on, and searches a template for each.
The student is left as it is; a copy with better templates comes back.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.renames import OLD_ARGUMENTS, renamed_arguments
from ipo_dspy.errors import InputError
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.preflight import check_prices, check_rates, unique_models
from ipo_dspy.optimizer.config import OptimizerConfig, display_name
from ipo_dspy.optimizer.factories import (
    build_proposer,
    language_models,
    lm_of,
)
from ipo_dspy.optimizer.pipeline import SearchTask, describe_task, run_tasks
from ipo_dspy.optimizer.results import DetailedResults, candidate_programs, save_atomically, with_templates
from ipo_dspy.optimizer.search import SearchResult
from ipo_dspy.optimizer.trainset import collect_training_images, find_classifiers
from ipo_dspy.run.events import Event, Observer
from ipo_dspy.run.progress import ProgressDisplay, data_line, is_watched
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.session import open_session
from ipo_dspy.template import Template
from ipo_dspy.validation import takes_arguments_of

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.optimizer.cost_estimate import Estimate
    from ipo_dspy.proposers import Proposer

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
        max_consecutive_errors: stop after so many requests in a row without a usable answer, each after the model's
            own retries.
        max_lm_calls, max_tokens, max_cost, max_seconds: what the run may spend on language models: requests, prompt
            and completion tokens, USD by LiteLLM's prices, wall-clock time. Exact to one request. The run then
            ends with the best that was found.
        num_threads: for requests to language models and for reading images.
        seed: of every draw; the same seed gives the same trials.
        prefetch: request the next proposals while the last ones are scored; the proposer then sees scores one step
            late. The default where a language model proposes.
        log_dir: keep a journal and the best program there. A folder that holds an unfinished run of the same
            settings goes on where that stopped, and asks no answered question again.
        allow_config_changes: resume a run also where its settings have changed.
        track_stats: attach `detailed_results` and `candidate_programs` to the returned program.
        progress: show bars and a line for each better template on stderr; by default where that is a terminal, or in
            a notebook. `True` writes lines to a log too, `False` nothing.
        observers: called with each event as it happens.
        callbacks: DSPy callbacks.
        label_field: field of the examples with the right class; a mapping where classifiers differ.
        max_described_images: at most so many training images are described, evenly over the classes; of these, CLIP
            describes the images of a dozen classes.
        skip_unreadable: leave out images that cannot be read instead of stopping.
        task_description: one sentence for the proposer on what is classified; made from the class names by default.
        backend: where images are encoded and candidates scored, e.g. `RayScorer("auto")`; this machine by default.

    Source: Du, Sun, Snoek, IPO: Interpretable Prompt Optimization for Vision-Language Models, NeurIPS 2024.

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=2)
    >>> optimizer = IPO(proposer="evolution", steps=2)
    >>> best = optimizer.compile(task.program, task.trainset)
    >>> best.detailed_results.best.score.accuracy >= best.detailed_results.baseline.score.accuracy
    True
    """

    @renamed_arguments(**OLD_ARGUMENTS)
    @takes_arguments_of(OptimizerConfig)
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.config = OptimizerConfig(**arguments)
        self.callbacks = list(self.config.callbacks or ())  # DSPy looks for them here
        self._stopping = False  # no lock is taken: a signal handler sets it

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OptimizerConfig.__dataclass_fields__ and name != "callbacks":
            raise AttributeError(f"{name} is fixed when the optimizer is made; pass IPO({name}=...)")
        super().__setattr__(name, value)

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
            NoAnswerError: the model that describes gave no description `max_consecutive_errors` times in a row.
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
            if not (is_watched() if self.config.progress is None else self.config.progress):
                return self._search(student, trainset, valset, (), test)
            with ProgressDisplay(steps=self.config.num_steps, lines=True) as display:
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
        proposer = build_proposer(self.config)
        models = self._check_models(proposer)
        train = collect_training_images(student, classifiers, trainset, name="trainset", **self._gathering)
        validation = (
            collect_training_images(student, classifiers, valset, name="valset", **self._gathering)
            if valset is not None
            else {}
        )
        tasks = [
            SearchTask(name, one, self._initial(one), train[name], validation.get(name))
            for name, one in classifiers.items()
        ]
        with open_session(
            self.config.log_dir,
            limits=self.config.limits,
            observers=(self._log, *displays, *self.config.observers),
            stop=lambda: self._stopping,
        ) as session:
            results = run_tasks(
                session,
                tasks,
                proposer,
                self.config,
                models=unique_models(models),
                settings=self._settings(proposer, tasks),
                allow_config_changes=self.config.allow_config_changes,
            )
            details = DetailedResults(results, session.ledger.spent)
            best = self._build_program(student, results, details)
            if self.config.log_dir is not None:
                save_atomically(best, Path(self.config.log_dir) / PROGRAM_FILE)
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

        proposer = build_proposer(self.config)
        train = collect_training_images(
            student, find_classifiers(student), list(trainset), name="trainset", **self._gathering
        )
        searches = [
            (
                self.config.task_description or describe_task(images.classes),
                min(self.config.max_described_images, len(images.labels)),
            )
            for images in train.values()
        ]
        return estimate(language_models(self.config, proposer), proposer, self.config, searches)

    def check_models(self) -> dict[str, dspy.BaseLM]:
        """See that the language models can be asked, as far as that shows without asking; `compile` begins with it.

        Returns:
            Those that a run will ask, by the argument that names them.

        Raises:
            LanguageModelError: a model is needed and none given, or it is unknown, or has no key.
            InputError: a limit on cost with a model whose price is unknown.
        """
        return self._check_models(build_proposer(self.config))

    def get_params(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, as a new mapping.

        It is new because MLflow's autologging writes the training images into what it is given.
        """
        return self.config.as_dict()

    def __repr__(self) -> str:
        """The arguments that differ from their defaults; models by name, so that no key is shown."""
        return f"IPO({', '.join(self.config.changed())})"

    def stop(self) -> None:
        """End the search after the step that is under way; `compile` returns the best so far.

        Before the search has begun, also before `compile` is called, `compile` raises `StoppedError` and asks nothing
        more. It may be called from any thread and from a signal handler; it holds until `compile` ends.
        """
        self._stopping = True

    @property
    def _gathering(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in ("label_field", "num_threads", "skip_unreadable")}

    def _check_models(self, proposer: "Proposer") -> dict[str, dspy.BaseLM]:
        models = language_models(self.config, proposer)
        for role, lm in models.items():
            check_key(lm, role=role)
            check_rates(lm, role=role)
        check_prices(models, self.config.max_cost)
        return models

    def _initial(self, classifier: "ClipClassifier") -> tuple[Template, ...]:
        return (classifier.template, *self.config.templates)

    def _build_program(
        self, student: dspy.Module, results: Sequence[SearchResult], details: DetailedResults
    ) -> dspy.Module:
        best = with_templates(student, {r.predictor: r.best.template for r in results})
        if self.config.track_stats:
            best.detailed_results = details
            best.candidate_programs = candidate_programs(student, results)
        return best

    def _settings(self, proposer: "Proposer", tasks: Sequence[SearchTask]) -> dict[str, Any]:
        """Return what the journal records: names of models, never their keys or addresses."""
        return {
            **self.config.settings(),
            "proposer": display_name(proposer),
            "prompt_model": display_name(lm_of(proposer)),
            "proposer_settings": getattr(proposer, "settings", None),
            "start": {task.name: str(task.initial[0]) for task in tasks},
        }

    def _log(self, event: Event) -> None:
        if event["event"] == "error":
            of = "" if event["predictor"] == "self" else f" of {event['predictor']}"
            logger.warning("step %s%s: %s", event["step"], of, event["message"])
        elif event["event"] == "limit_reached":
            logger.warning("%s=%g is spent; the search ends here", event["limit"], event["limit_value"])
        elif event["event"] == "selected":
            logger.info("%s: chose %r by %s images", event["predictor"], event["template"], event["selected_on"])
        else:
            logger.debug("%s", event)
