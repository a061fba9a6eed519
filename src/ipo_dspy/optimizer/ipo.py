"""`IPO`: interpretable prompt optimization for CLIP as a DSPy optimizer.

It finds the classifiers of a program, collects their training images, and searches for a template for each. The student
is not changed; `compile` returns a copy with better templates.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.renames import OLD_ARGUMENTS, renamed_arguments
from ipo_dspy.argument_checks import check_class_names, takes_arguments_of
from ipo_dspy.classifier.image_lists import example_list
from ipo_dspy.errors import InputError
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.preflight import check_prices, check_rates, unique_models
from ipo_dspy.optimizer.config import OptimizerConfig, display_name
from ipo_dspy.optimizer.factories import build_proposer, language_models, lm_of
from ipo_dspy.optimizer.pipeline import Pipeline
from ipo_dspy.optimizer.results import (
    DetailedResults,
    Program,
    candidate_programs,
    found_texts,
    save_atomically,
    with_templates,
)
from ipo_dspy.optimizer.search import SearchResult
from ipo_dspy.optimizer.search_task import EncodedTask, SearchTask
from ipo_dspy.optimizer.trainset import collect_training_images, find_classifiers
from ipo_dspy.optimizer.user_metric import check_objective
from ipo_dspy.run import choice_sentences
from ipo_dspy.run.events import Event, Observer
from ipo_dspy.run.progress import ProgressDisplay, data_line, is_watched
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.session import open_session

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.optimizer.cost_estimate import Estimate
    from ipo_dspy.proposers import Proposer

logger = logging.getLogger(__name__)

TestFunction: TypeAlias = Callable[[EventRecorder, dspy.Module, Sequence[SearchResult], Sequence[EncodedTask]], None]
"""Evaluates a compiled program on test images; the search results hold the start template, the tasks the scorers."""


class IPO(Teleprompter):
    """Optimizes the prompt template of a CLIP classifier.

    Args:
        prompt_model: model that proposes templates: a LiteLLM name or a `dspy.LM`.
        description_model: multimodal model that describes training images: a LiteLLM name or a `dspy.LM`.
        proposer: `lm`, `evolution` (no language model) or a `Proposer`. By default `lm` if there is a model:
            `prompt_model` or `dspy.settings.lm`.
        describer: `lm`, `clip` (no language model), `None` for none, or a `Describer`. By default `lm` if
            `description_model` is given, else `clip`.
        steps: optimization steps (proposer calls), 100 by default.
        prompts_per_step: templates requested per step.
        history_size: number of the best trials shown to the proposer; a language model sees 40 % of this number
            as a diverse selection of the best templates, and 15 % as the worst.
        initial_templates: scored before the search, besides the student's own template: a list of templates, or
            `paper` (the prompts that the paper found) or `imagenet-80` (OpenAI's prompts for ImageNet), which may also
            be entries of the list. Published prompts that are too long for the model are skipped.
        auto: `light`, `medium` or `heavy` instead of `steps`.
        choose: `plainest` selects the template with the fewest words among those that cannot be told apart from the one
            with the lowest loss, and removes phrases that contribute nothing; `best` selects the most accurate one, as
            the paper does.
        objective: what is optimized: `accuracy`, `balanced_accuracy`, `macro_f1`, `loss` or `top5`.
        costs: optimize the mean cost of errors instead: a mapping from (true class, predicted class) to a cost of at
            least 0; errors that are not listed cost 1.
        min_recall: minimum recall of some classes, 0 to 1. Templates that miss such a floor rank below all that meet
            it, ordered by the size of the miss.
        metric: optimize your own function instead, higher is better: `metric(labels, probabilities)` of all images,
            recognized by these parameter names, with class indices [N] and probabilities [N, C]; or a DSPy metric
            `metric(example, prediction, trace=None)`, which is averaged over the images.
        tolerance: with `plainest`, standard errors by which accuracy and loss may be worse than those of the template
            with the lowest loss; with another objective than accuracy, than those of the best one. For the loss, 3 %
            each if that is more, unless the loss is the objective.
        polish: with `plainest`, rephrase the tied templates in fewer words after the search: with one request to a
            language model for at most eight rewordings, or with synonyms in the built-in search. They are scored and
            selected like all others.
        images_in_request: maximum number of training images in each request for templates: the most confident mistakes
            of the best template so far, at most one per class and 512 pixels wide or high. They are sent to the prompt
            model, which must be multimodal.
        ensemble: maximum number of lines of the result. With more than one, templates of the search are added to the
            selected one as long as each lowers the loss by more than the tolerance; the result is an ordinary template
            with several lines.
        optimize: `template`, `class_texts`, or both: then the words for the classes are searched after the
            template, label by label. Texts come from `candidates` and from the language model that proposes, in at most
            five requests. Words are changed only if a paired test shows that they are better on images not used
            to choose them.
        candidates: texts to try for labels, e.g. `{"crane": ["crane bird", "wading bird"]}`.
        max_recall_drop: points by which the search for words may lower the recall of any class below its start.
        patience: stop after this many steps without a better trial.
        max_consecutive_errors: stop after this many consecutive requests without a usable template, each after the
            model's own retries: the request failed, or everything was rejected.
        max_lm_calls: maximum number of requests to language models. At this and the other limits, which hold to
            within one request, the run ends with the best template so far.
        max_tokens: maximum number of prompt and completion tokens.
        max_cost: maximum cost in USD, at LiteLLM's prices.
        max_seconds: maximum wall-clock time, over all sessions of the run.
        num_threads: threads for requests to language models and for reading images.
        seed: seed of all random draws; the same seed gives the same trials.
        prefetch: request the next proposals while the last ones are scored; the proposer then sees scores that are
            one step old. The default if a language model proposes.
        log_dir: folder for a journal and the best program. If it holds an unfinished run with the same settings, the
            run is resumed, and no answered request is sent again.
        allow_config_changes: resume a run even if its settings have changed.
        track_stats: attach `detailed_results` and `candidate_programs` to the returned program.
        progress: show bars and a line for each better template on stderr; by default, if stderr is a terminal,
            and in a notebook. `True` also writes lines to a log, `False` disables all output.
        observers: called with each event as it happens.
        callbacks: DSPy callbacks.
        label_field: field of the examples with the correct class; a mapping if classifiers differ.
        max_described_images: maximum number of training images to describe, balanced over the classes; the
            CLIP describer describes only the images of a dozen of these classes.
        skip_unreadable: skip images that cannot be read instead of raising.
        task_description: one sentence for the proposer on what is classified; made from the class names by default.
        also: further CLIP models that templates are scored with, as `ClipClassifier(model=...)` takes them; a template
            must fit all of them. The returned program keeps its own model.
        across: with `also`, score a template by its `mean` over the models, or by its `worst` one.
        backend: backend that encodes images and scores candidates, e.g. `RayScorer("auto")`; this machine by default.

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
        self.callbacks = list(self.config.callbacks or ())  # the attribute that DSPy reads
        self._stopping = False  # no lock, because a signal handler sets it

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OptimizerConfig.__dataclass_fields__ and name != "callbacks":
            raise AttributeError(f"{name} is fixed when the optimizer is created; pass IPO({name}=...)")
        super().__setattr__(name, value)

    def compile(
        self,
        student: Program,
        trainset: Sequence[dspy.Example],
        *,
        teacher: None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> Program:
        """Search for a better template for every `ClipClassifier` of the student.

        Args:
            student: a `ClipClassifier`, or a program that contains some, or a predictor with `Choice` outputs that a
                `ClipDecider` answers; it is not changed.
            trainset: examples with an image and a label; candidates are scored on all of them.
            teacher: None, for callers that pass one to every optimizer.
            valset: if given, decides which of the best trials is returned.

        Returns:
            A copy of the student with the selected templates, which are never worse than its own on the images that
            decide. Templates are compared without calibration and class weights, and a new template drops
            those of the student, so a calibrated student may be better than the copy until the copy is calibrated; a
            warning names such classifiers. If the student's template is selected, its calibration stays.

        Raises:
            InputError: the student, examples, templates, images or models cannot be used; raised before anything is
                billed.
            NoAnswerError: the description model gave no description `max_consecutive_errors` times in a row.
            StoppedError: `stop` was called before the search began, so no result exists.
            JournalError: `log_dir` cannot be written.
        """
        if teacher is not None:
            raise InputError(f"teacher must be None, got a {type(teacher).__name__}; IPO learns from labels alone")
        return self.compile_and_test(student, trainset, valset)

    def compile_and_test(
        self,
        student: Program,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        *,
        test: TestFunction | None = None,
    ) -> Program:
        """Compile as `compile` does, and call `test` before the run is recorded as finished.

        Args:
            student: as in `compile`.
            trainset: as in `compile`.
            valset: as in `compile`.
            test: called with the run's recorder, the best program, and the result and the images of each search.
        """
        trainset = example_list(trainset, "trainset")
        valset = None if valset is None else example_list(valset, "valset")
        try:
            if not (is_watched() if self.config.progress is None else self.config.progress):
                return self._search(student, trainset, valset, (), test)
            with ProgressDisplay(steps=self.config.num_steps, lines=True) as display:
                summary = [(name, c.classes, c.model_name) for name, c in find_classifiers(student).items()]
                display.say(data_line(summary, len(trainset), None if valset is None else len(valset)))
                return self._search(student, trainset, valset, (display,), test)
        finally:
            self._stopping = False

    def _search(
        self,
        student: Program,
        trainset: list[dspy.Example],
        valset: list[dspy.Example] | None,
        displays: Sequence[Observer],
        test: TestFunction | None,
    ) -> Program:
        classifiers = find_classifiers(student)
        proposer = build_proposer(self.config)
        models = self._check_models(proposer)
        tasks = self._collect_tasks(student, classifiers, trainset, valset)
        with open_session(
            self.config.log_dir,
            limits=self.config.limits,
            observers=(self._log, *displays, *self.config.observers),
            stop=lambda: self._stopping,
        ) as session:
            encoded, results = Pipeline(session, proposer, self.config).run(
                tasks, models=unique_models(models), settings=self._settings(proposer, tasks)
            )
            details = DetailedResults(results, session.ledger.spent)
            best = self._build_program(student, results, details)
            for name, classifier in find_classifiers(best).items():
                sets = [part for task in encoded if task.task.name == name for part in (task.train, task.validation)]
                classifier.note_choice(key for part in sets if part is not None for key in part.keys)
            if self.config.log_dir is not None:
                save_atomically(best, Path(self.config.log_dir) / PROGRAM_FILE)
            if test is not None:
                test(session.recorder, best, results, encoded)
            session.finish(details.status)
        return best

    def estimate(
        self, student: dspy.Module, trainset: Sequence[dspy.Example], *, valset: Sequence[dspy.Example] | None = None
    ) -> "Estimate":
        """Estimate the cost of `compile` without sending any request.

        Arguments are checked as by `compile`, as far as that needs no CLIP model and no image. Images are not encoded,
        but a composite program may be run on a few examples to trace its classifiers.

        >>> from ipo_dspy import demo
        >>> task = demo.load("pixel-animals", shots=2)
        >>> optimizer = IPO(prompt_model=dspy.LM("openai/gpt-4o-mini", api_key="none", engine="litellm"), steps=10)
        >>> optimizer.estimate(task.program, task.trainset).total.calls
        12
        """
        from ipo_dspy.optimizer.cost_estimate import estimate

        proposer = build_proposer(self.config)
        examples = None if valset is None else example_list(valset, "valset")
        tasks = self._collect_tasks(student, find_classifiers(student), example_list(trainset, "trainset"), examples)
        about, limit = self.config.task_description, self.config.max_described_images
        searches = [(task.sentence(about), min(limit, len(task.train.labels))) for task in tasks]
        return estimate(language_models(self.config, proposer), proposer, self.config, searches)

    def check_models(self) -> dict[str, dspy.BaseLM]:
        """Validate the language models without sending a request; `compile` does so first.

        Returns:
            The language models that a run will call, by argument.

        Raises:
            LanguageModelError: a model is needed but none is given, or it is unknown, or has no key.
            InputError: a limit on cost with a model whose price is unknown.
        """
        return self._check_models(build_proposer(self.config))

    def get_params(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, as a new mapping.

        It is new because MLflow's autologging writes the training images into this mapping.
        """
        return self.config.as_dict()

    def __repr__(self) -> str:
        """Return the arguments that differ from their defaults, with models by name so that no key is shown."""
        return f"IPO({', '.join(self.config.changed())})"

    def stop(self) -> None:
        """End the search after the current step; `compile` returns the best program so far.

        If called before the search has begun, or before `compile`, `compile` raises `StoppedError` and sends no more
        requests. May be called from any thread and from a signal handler. It stays in effect until `compile` ends.
        """
        self._stopping = True

    def _collect_tasks(
        self,
        student: dspy.Module,
        classifiers: "Mapping[str, ClipClassifier]",
        trainset: list[dspy.Example],
        valset: list[dspy.Example] | None,
    ) -> list[SearchTask]:
        """Return the tasks, after all checks that need neither models nor images."""
        if any(classifier.multi_label for classifier in classifiers.values()):
            self.config.check_several_labels()
        given = {name: getattr(self.config, name) for name in ("label_field", "num_threads", "skip_unreadable")}
        train, validation = (
            {} if examples is None else collect_training_images(student, classifiers, examples, name=name, **given)
            for name, examples in (("trainset", trainset), ("valset", valset))
        )
        tasks = [
            SearchTask(
                name,
                classifier,
                (classifier.template, *self.config.templates),
                train[name],
                validation.get(name),
                tuple(classifier.with_model(model) for model in self.config.also),
            )
            for name, classifier in classifiers.items()
        ]
        self._check_tasks(tasks)
        return tasks

    def _check_tasks(self, tasks: Sequence[SearchTask]) -> None:
        """Check that the objective can be measured, and that candidates can stand for classes."""
        goal, classes = self.config.goal, list(dict.fromkeys(name for task in tasks for name in task.train.classes))
        has_other_images = getattr(self.config.backend, "images", None) is not None  # whose labels only workers read
        check_class_names("candidates", self.config.candidates or (), classes)
        for task in tasks:
            if self.config.searches_class_texts:
                task.check_candidates(self.config.candidates or {})
            if has_other_images:
                goal.check(classes, None, "trainset", options=task.train.options)
            else:
                check_objective(goal, task.train, task.classifier, "trainset", classes)
            if task.validation is not None:
                check_objective(goal, task.validation, task.classifier, "valset", classes)

    def _check_models(self, proposer: "Proposer") -> dict[str, dspy.BaseLM]:
        models = language_models(self.config, proposer)
        for role, lm in models.items():
            check_key(lm, role=role)
            check_rates(lm, role=role)
        check_prices(models, self.config.max_cost)
        return models

    def _build_program(self, student: Program, results: Sequence[SearchResult], details: DetailedResults) -> Program:
        best = with_templates(student, {r.predictor: r.best.template for r in results}, found_texts(results))
        before, after = find_classifiers(student), find_classifiers(best)
        if dropped := [name for name in before if before[name].is_calibrated and not after[name].is_calibrated]:
            fact = (
                "the calibration of %s was dropped, because its template or texts have changed; templates were "
                "compared without calibration, so calibrate again before you compare the result with the student"
            )
            logger.warning(fact, ", ".join(map(repr, dropped)))
        if self.config.track_stats:
            best.detailed_results = details
            best.candidate_programs = candidate_programs(student, results)
        return best

    def _settings(self, proposer: "Proposer", tasks: Sequence[SearchTask]) -> dict[str, Any]:
        """Return the settings for the journal, with names of models but without keys or addresses."""
        return {
            **self.config.settings(),
            "proposer": display_name(proposer),
            "prompt_model": display_name(lm_of(proposer)),
            "proposer_settings": getattr(proposer, "settings", None),
            "start": {task.name: str(task.initial[0]) for task in tasks},
        }

    def _log(self, event: Event) -> None:
        if event["event"] == "error":
            suffix = "" if event["predictor"] == "self" else f" of {event['predictor']}"
            logger.warning("step %s%s: %s", event["step"], suffix, event["message"])
        elif event["event"] == "limit_reached":
            logger.warning("%s=%g is reached; the search ends here", event["limit"], event["limit_value"])
        elif event["event"] == "selected":
            logger.info("%s: selected %r on %s images", event["predictor"], event["template"], event["selected_on"])
            if "choice" in event and choice_sentences.floors_cost(event["choice"]):
                logger.warning(
                    "the selected template is %s", choice_sentences.against_start(event["choice"], is_start=False)
                )
        else:
            logger.debug("%s", event)
