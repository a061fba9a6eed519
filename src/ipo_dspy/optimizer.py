"""`IPO`: interpretable prompt optimization for CLIP as a DSPy optimizer; a thin shell over the search.

It finds the classifiers of a program, gathers what they are trained on, and searches a template for each.
The student is left as it is; a copy with better templates comes back.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.callback import BaseCallback

from ipo_dspy.choices import build_describer, build_proposer, check_describer, describer_kind, name_of
from ipo_dspy.errors import InputError
from ipo_dspy.journal import Journal, NoJournal
from ipo_dspy.results import DetailedResults, candidates, save_whole, total, with_templates
from ipo_dspy.search import Observer, Plan, Record, Search, SearchResult
from ipo_dspy.template import Template, spoken
from ipo_dspy.training import TrainingImages, find_classifiers, gather

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Describer, Descriptions
    from ipo_dspy.evaluation import Judged
    from ipo_dspy.proposers import Proposer

logger = logging.getLogger(__name__)

Budget = Literal["light", "medium", "heavy"]
BUDGETS: Mapping[str, int] = {"light": 20, "medium": 50, "heavy": 100}
"""Steps of each `auto` budget; the paper runs 100."""
DEFAULT_STEPS = 100
PROGRAM_FILE = "best.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One classifier with its encoded images, ready to be searched for."""

    classifier: "ClipClassifier"
    record: Record
    initial: tuple[Template, ...]
    train: "Judged"
    validation: "Judged | None"


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
        num_threads: for requests to language models and for reading images.
        seed: of every draw; the same seed gives the same trials.
        log_dir: keep a journal and the best program there.
        track_stats: attach `detailed_results` and `candidate_programs` to the returned program.
        observers: called with each event as it happens.
        callbacks: DSPy callbacks.
        label_field: field of the examples with the right class; a mapping where classifiers differ.
        max_descriptions: at most so many training images are described, evenly over the classes; of these, CLIP
            describes the images of a dozen classes.
        skip_bad: leave out images that cannot be read instead of stopping.
        task: one sentence for the proposer on what is classified; made from the class names by default.

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
        num_threads: int | None = None,
        seed: int = 0,
        log_dir: str | os.PathLike[str] | None = None,
        track_stats: bool = True,
        observers: Sequence[Observer] = (),
        callbacks: list[BaseCallback] | None = None,
        label_field: str | Mapping[str, str] = "label",
        max_descriptions: int = 64,
        skip_bad: bool = False,
        task: str | None = None,
    ) -> None:
        super().__init__()
        self.prompt_model, self.description_model = prompt_model, description_model
        self.proposer, self.describer = proposer, describer
        self.plan = Plan(
            steps=_steps(steps, auto),
            prompts_per_step=_whole("prompts_per_step", prompts_per_step, 1),
            history_size=_whole("history_size", history_size, 0),
            patience=None if patience is None else _whole("patience", patience, 1),
            seed=_whole("seed", seed, 0),
        )
        if isinstance(initial_templates, str):
            raise InputError(f"initial_templates is one string; write initial_templates=[{initial_templates!r}]")
        self.initial_templates = tuple(_template(t) for t in initial_templates)
        self.num_threads, self.log_dir, self.track_stats = num_threads, log_dir, track_stats
        self.observers, self.callbacks = tuple(observers), list(callbacks or [])
        self.label_field, self.skip_bad, self.task = label_field, skip_bad, task
        self.max_descriptions = _whole("max_descriptions", max_descriptions, 0)

    def compile(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        *,
        valset: Sequence[dspy.Example] | None = None,
    ) -> dspy.Module:
        """Search a better template for every `ClipClassifier` of the student.

        Args:
            student: a `ClipClassifier`, or a program that holds some; it is not changed.
            trainset: examples with an image and a label; candidates are scored on all of them.
            valset: if given, decides among the ten best trials and the start template.

        Returns:
            A copy of the student with the chosen templates: on the set that decides never worse than before.

        Raises:
            InputError: the student, examples, templates, images or models cannot be used; nothing was paid for by then.
            JournalError: `log_dir` cannot be written.
        """
        began = time.monotonic()
        trainset = list(trainset)
        valset = None if valset is None else list(valset)
        classifiers = find_classifiers(student)
        proposer = build_proposer(self.proposer, self.prompt_model)
        check_describer(self.describer, self.description_model)
        train = gather(student, classifiers, trainset, name="trainset", **self._gathering)
        validation = (
            gather(student, classifiers, valset, name="valset", **self._gathering) if valset is not None else {}
        )
        journal = NoJournal() if self.log_dir is None else Journal(self.log_dir)
        try:
            prepared = [
                self._prepare(classifier, train[name], validation.get(name), Record(name, journal, self._watchers))
                for name, classifier in classifiers.items()
            ]
            self._announce(journal)
            results = tuple(self._search(one, proposer) for one in prepared)
            details = total(results, time.monotonic() - began)
            best = self._build_program(student, results, details)
            self._finish(journal, best, details)
        finally:
            journal.close()
        return best

    @property
    def _watchers(self) -> tuple[Observer, ...]:
        return (self._log, *self.observers)

    @property
    def _gathering(self) -> dict[str, Any]:
        return {"label_field": self.label_field, "num_threads": self.num_threads, "skip_bad": self.skip_bad}

    def _prepare(
        self,
        classifier: "ClipClassifier",
        train: TrainingImages,
        validation: TrainingImages | None,
        record: Record,
    ) -> "Prepared":
        """Check the templates and encode the images: whatever can be refused is refused here, at no cost."""
        from ipo_dspy.clip.images import check_images

        record.tell("progress", stage="model", done=0, total=1)
        initial = [classifier.template, *self.initial_templates]
        _check_length(classifier, initial, train.classes)
        record.tell("progress", stage="model", done=1, total=1)
        if validation is not None and not self.skip_bad:
            check_images(validation.images, num_threads=self.num_threads)
        judged = self._judge(classifier, train, record, "training images")
        decider = None if validation is None else self._judge(classifier, validation, record, "validation images")
        return Prepared(classifier, record, tuple(initial), judged, decider)

    def _search(self, prepared: "Prepared", proposer: "Proposer") -> SearchResult:
        """The whole search for one classifier."""
        from ipo_dspy.evaluation import compare

        record, judged, decider = prepared.record, prepared.train, prepared.validation
        record(
            "search",
            classes=list(judged.images.classes),
            model=dict(prepared.classifier.backbone.identity),
            images=len(judged.images.labels),
            validation_images=0 if decider is None else len(decider.images.labels),
            start=str(prepared.initial[0]),
        )
        described = self._describe(prepared.classifier, judged.images, record)
        search = Search(
            judged.scorer,
            proposer,
            self.plan,
            record,
            descriptions=[text for text in described.texts if text],
            task=self.task or _task(judged.images.classes),
        )
        found = search.run(prepared.initial, validator=None if decider is None else decider.scorer)
        result = replace(found, calls=found.calls + described.calls, tokens=found.tokens + described.tokens)
        compare(record, result, judged, split="train")
        if decider is not None:
            compare(record, result, decider, split="validation")
        return result

    def _judge(self, classifier: "ClipClassifier", images: TrainingImages, record: Record, stage: str) -> "Judged":
        from ipo_dspy.evaluation import judge

        return judge(
            classifier,
            images,
            record=record,
            stage=stage,
            num_threads=self.num_threads,
            skip_bad=self.skip_bad,
        )

    def _describe(self, classifier: "ClipClassifier", train: TrainingImages, record: Record) -> "Descriptions":
        from ipo_dspy.describers import Descriptions

        describer = build_describer(self.describer, self.description_model, classifier, num_threads=self.num_threads)
        if describer is None or self.max_descriptions == 0:
            return Descriptions(())
        chosen = evenly_over_classes(train.labels, self.max_descriptions)
        record.tell("progress", stage="descriptions", done=0, total=len(chosen))
        described = describer.describe([train.images[i] for i in chosen], [train.labels[i] for i in chosen])
        for message in described.faults:
            record("fault", step=0, message=f"an image could not be described: {message}")
        for i, text in zip(chosen, described.texts, strict=True):
            if text:
                record("description", source=train.sources[i], text=text)
        record.tell("progress", stage="descriptions", done=len(chosen), total=len(chosen))
        return described

    def _build_program(
        self, student: dspy.Module, results: Sequence[SearchResult], details: DetailedResults
    ) -> dspy.Module:
        best = with_templates(student, {r.predictor: r.best.template for r in results})
        if self.track_stats:
            best.detailed_results = details
            best.candidate_programs = candidates(student, results)
        return best

    def _announce(self, journal: Journal | NoJournal) -> None:
        journal.append(
            "run",
            schema=1,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=self.plan.seed,
            settings=self._settings(),
            versions={name: version(name) for name in ("ipo_dspy", "dspy", "open_clip_torch", "torch")},
        )

    def _settings(self) -> dict[str, Any]:
        """What a reader of the journal may know: names of models, never their keys or addresses."""
        return {
            **{k: v for k, v in asdict(self.plan).items() if k != "seed"},
            "proposer": name_of(self.proposer or "lm"),
            "describer": name_of(describer_kind(self.describer, self.description_model)),
            "prompt_model": name_of(self.prompt_model or (None if self.proposer else dspy.settings.lm)),
            "description_model": name_of(self.description_model),
            "initial_templates": [str(t) for t in self.initial_templates],
            "max_descriptions": self.max_descriptions,
        }

    def _finish(self, journal: Journal | NoJournal, best: dspy.Module, details: DetailedResults) -> None:
        if self.log_dir is not None:
            save_whole(best, Path(self.log_dir) / PROGRAM_FILE)
        stopped = any(search.status == "faults" for search in details.searches)
        fields = {
            "status": "stopped" if stopped else "finished",
            "seconds": round(details.seconds, 3),
            "calls": details.calls,
            "tokens": details.tokens,
        }
        journal.append("end", **fields)
        for observer in self.observers:
            observer({"event": "end", **fields})

    def _log(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "fault":
            logger.warning("step %s of %s: %s", event["step"], event["predictor"], event["message"])
        elif event["event"] == "chosen":
            logger.info("%s: chose %r by %s images", event["predictor"], event["template"], event["decided_by"])
        else:
            logger.debug("%s", event)


def evenly_over_classes(labels: Sequence[str], limit: int) -> list[int]:
    """Indices of at most `limit` images: the first of every class, then the second, ... in order.

    >>> evenly_over_classes(["a", "a", "b", "a"], 3)
    [0, 1, 2]
    """
    seen: dict[str, int] = {}
    turn: list[tuple[int, int]] = []
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        turn.append((seen[label], index))
    return sorted(index for _, index in sorted(turn)[:limit])


def _check_length(classifier: "ClipClassifier", templates: Sequence[Template], classes: Sequence[str]) -> None:
    from ipo_dspy.clip.text import template_tokens

    for template in templates:
        template_tokens(classifier.backbone, template, classes)


def _task(classes: Sequence[str]) -> str:
    """One sentence from the class names, a dozen of them at most.

    >>> _task(["cat", "polar_bear"])
    'Tell apart images of 2 classes: cat, polar bear.'
    """
    shown = [spoken(classes[i * len(classes) // min(12, len(classes))]) for i in range(min(12, len(classes)))]
    more = ", ..." if len(classes) > len(shown) else ""
    return f"Tell apart images of {len(classes)} classes: {', '.join(shown)}{more}."


def _steps(steps: int | None, auto: str | None) -> int:
    if auto is None:
        return DEFAULT_STEPS if steps is None else _whole("steps", steps, 0)
    if steps is not None:
        raise InputError(f"steps={steps} and auto={auto!r} are two answers to one question; pass one of them")
    if auto not in BUDGETS:
        raise InputError(f"auto={auto!r} is unknown; write one of {', '.join(map(repr, BUDGETS))}")
    return BUDGETS[auto]


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"{name}={value!r} is not a whole number of at least {least}; write e.g. {name}={max(least, 8)}"
        )
    return value


def _template(template: str | Template) -> Template:
    return template if isinstance(template, Template) else Template.parse(template)
