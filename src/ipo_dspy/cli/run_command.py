"""Run the search of `demo` and `optimize`: optimize, test, and save a report; return a summary."""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.cli.data_options import DataSets
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import DataError, JournalError, StoppedError, TemplateError
from ipo_dspy.run import choice_text
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.intervals import Interval, wilson_interval
from ipo_dspy.scoring.score import Score, harmonic_mean

if TYPE_CHECKING:
    from ipo_dspy.class_texts import Texts
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.data import ImageDataset
    from ipo_dspy.optimizer.evaluation import EvaluationResult, EvaluationSet
    from ipo_dspy.optimizer.imagenet_comparison import ImagenetComparison, ImagenetPrompts
    from ipo_dspy.optimizer.ipo import IPO
    from ipo_dspy.optimizer.pipeline import EncodedTask
    from ipo_dspy.optimizer.results import DetailedResults
    from ipo_dspy.optimizer.search import SearchResult
    from ipo_dspy.run.recorder import EventRecorder
    from ipo_dspy.template import Template

PLAINEST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run: the record of its search, and the scores of templates on each set of images."""

    details: "DetailedResults"
    scores: Mapping[str, Mapping[str, Score]]
    """Score on each set of images by role: `start`, `best`, and, unless the run was stopped, `imagenet_best` and
    `imagenet_ensemble`."""
    imagenet: "ImagenetComparison | None"
    """The best template compared with the prompts for ImageNet; None if the run was stopped, or if no prompt fits."""
    test_gains: Mapping[str, Mapping[str, tuple[float, float]]]
    """Points by which the best template is more accurate on each set of test images, with the standard error, than the
    template of a role: `start`, `imagenet_best`."""
    images: Mapping[str, int]
    """Number of scored images in each set."""
    left_out: int
    """Number of unreadable images."""
    folder: str
    report: str
    floors: str | None
    """Sentence on the classes with a floor of recall, if there are any."""
    was_finished: bool
    """True if nothing was searched because the run was already finished."""

    @property
    def harmonic(self) -> dict[str, float] | None:
        """Harmonic mean of base and novel test accuracy, by role."""
        if not {"test base", "test novel"} <= set(self.scores):
            return None
        base, novel = self.scores["test base"], self.scores["test novel"]
        return {role: harmonic_mean(base[role].accuracy, novel[role].accuracy) for role in base if role in novel}

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % interval of the best template's accuracy on each set of test images."""
        tests = (name for name in self.scores if name.startswith("test") and self.images[name])
        return {name: wilson_interval(self.scores[name]["best"].accuracy, self.images[name]) for name in tests}

    @property
    def findings(self) -> dict[str, str]:
        """Sentences about the best template on new images, by label."""
        search = self.details.searches[0]
        choice = search.choice.fields
        ties = choice_text.ties(choice)
        if choice["tied"] > 1:
            ties += (
                f"; the plainest: {choice_text.plainest([str(f.trial.template) for f in search.tied[:PLAINEST_SHOWN]])}"
            )
        combined = f"; combined over {len(search.encoders)} models" if search.encoders else ""
        has_new_words = search.class_texts is not None and search.class_texts.changes
        found = {
            "template alone" if has_new_words else "expected": choice_text.expectation(choice, search.decided_by)
            + combined,
            "against start": choice_text.against_start(choice, is_start=search.best == search.baseline),
            "tied": ties,
        }
        if self.floors is not None:
            found["floors"] = self.floors
        if self.imagenet is not None:
            found["against the 80"] = choice_text.against_imagenet(
                self.imagenet.gain,
                self.imagenet.gain_error,
                images=choice["images"],
                prompts=len(self.imagenet.ensemble.lines),
                is_best=self.imagenet.best == search.best.template,
                objective=search.choice.objective,
                template=str(self.imagenet.best),
            )
        if self.test_gains:
            count = 0 if self.imagenet is None else len(self.imagenet.ensemble.lines)
            found["on test images"] = choice_text.on_test(
                self.test_gains, prompts=count, objective=search.choice.objective
            )
        if search.ensemble is not None:
            lines = [line.fields for line in search.ensemble]
            found["ensemble"] = choice_text.added_lines(
                lines, is_ensemble=len(search.best.template.lines) > 1, objective=search.choice.objective
            )
        if search.class_texts is not None:
            found["words"] = choice_text.words(search.class_texts.fields)
            if "test novel" in self.scores:
                found["novel classes"] = choice_text.NOVEL_WORDS
        limits = choice_text.limits(choice)
        return found if limits is None else {**found, "few images": limits}

    @property
    def rejected(self) -> int:
        """Number of rejected templates."""
        return sum(self.details.rejections.values())

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        details, spent, search = self.details, self.details.spent, self.details.searches[0]
        return {
            "start": str(details.baseline.template),
            "best": str(details.best.template),
            "images": self.images,
            "left_out": self.left_out,
            "folder": self.folder,
            "report": self.report,
            "trials": len(details.trials),
            "rejected": self.rejected,
            "status": details.status,
            **{name: getattr(spent, name) for name in ("calls", "tokens", "prompt_tokens", "completion_tokens")},
            "cost": None if spent.unpriced else spent.cost,
            "estimated": bool(spent.estimated),
            "seconds": round(spent.seconds, 3),
            "scores": {name: {role: s.fields for role, s in scores.items()} for name, scores in self.scores.items()},
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "test_gains": {
                name: {role: {"gain": gain, "gain_error": error} for role, (gain, error) in gains.items()}
                for name, gains in self.test_gains.items()
            },
            "choice": {**search.choice.fields, "beats_start": search.choice.beats_start},
            "findings": self.findings,
            "tied": [finalist.fields for finalist in search.tied],
            "phrases": [worth.fields for worth in search.phrases],
            "encoders": [
                {"model": model, "template": str(f.trial.template), **score.fields}
                for model, scores in search.encoders.items()
                for f, score in zip(search.finalists, scores, strict=True)
            ],
            "ensemble": search.ensemble and [line.fields for line in search.ensemble],
            "class_texts": search.class_texts and search.class_texts.fields,
            "harmonic_mean": self.harmonic,
            "imagenet": self.imagenet
            and {
                "best": str(self.imagenet.best),
                "prompts": len(self.imagenet.ensemble.lines),
                **{name: getattr(self.imagenet, name) for name in ("gain", "gain_error", "beats_best")},
            },
        }


def prepare(optimizer: "IPO", program: "ClipClassifier", sets: DataSets) -> None:
    """Load the model and check that all images can be read; report all unreadable ones in one error."""
    from ipo_dspy.clip.image_features import check_images

    if optimizer.config.skip_unreadable or optimizer.config.backend is not None:
        return
    with spinner("Loading the model ..."):
        backbone = program.backbone
    datasets = (sets.train, sets.validation or (), *sets.tests.values())
    images = [example.image for dataset in datasets for example in dataset]
    check_images(images, backbone=backbone, num_threads=optimizer.config.num_threads)


def run(
    optimizer: "IPO", program: "ClipClassifier", sets: DataSets, folder: Path, *, stop: Callable[[], bool]
) -> RunSummary:
    """Optimize, evaluate on test images, and save journal, program and report in a folder.

    `stop` is called while test images are encoded; if true, testing is left to the next session.

    Raises:
        StoppedError: the run was stopped before the search began.
    """
    from ipo_dspy.optimizer.imagenet_comparison import ImagenetPrompts
    from ipo_dspy.report import write_report

    skipped: list[Event] = []
    scores: dict[str, dict[str, Score]] = {}
    images: dict[str, int] = {}
    compared: ImagenetComparison | None = None
    floors: str | None = None
    test_gains: dict[str, Mapping[str, tuple[float, float]]] = {}

    def listen(event: Event) -> None:
        if event["event"] == "image_skipped":
            skipped.append(event)

    def test(
        recorder: "EventRecorder", best: Any, results: "Sequence[SearchResult]", tasks: "Sequence[EncodedTask]"
    ) -> None:
        nonlocal compared, floors
        finalists, setup = results[0].finalists, recorder.state.search("self").setup
        start = next(f for f in finalists if f.trial == results[0].baseline)
        scores["train"], images["train"] = _roles(start.trial.score, finalists[0].trial.score), setup["images"]
        if sets.validation is not None:
            scores["validation"] = _roles(start.deciding, finalists[0].deciding)
            images["validation"] = setup["validation_images"]
        if results[0].class_texts is not None:  # the scores of the finalists are those of the first words
            evaluations = recorder.state.search("self").evaluations
            for split in scores:
                event = evaluations[split, "all", "best"]
                scores[split]["best"] = Score(event["accuracy"], event["loss"])
        floors = choice_text.floors(optimizer.config.min_recall or {}, recorder.state.search("self").evaluations)
        prompts: ImagenetPrompts | None = None
        if not stop():
            with contextlib.suppress(TemplateError):  # no prompt fits
                classes = {name for dataset in (sets.train, *sets.tests.values()) for name in dataset.classes}
                classifier = tasks[0].task.classifier
                prompts = ImagenetPrompts(recorder, classifier.backbone, classifier.texts_of(sorted(classes)))
                compared = _compare_with_imagenet(prompts, results[0], tasks[0], scores)
        with contextlib.suppress(StoppedError):
            for part, dataset in sets.tests.items():
                texts = tasks[0].task.classifier.class_texts
                tested = _test(best, dataset, part, start.trial.template, texts, optimizer, recorder, stop)
                name = "test" if part == "all" else f"test {part}"
                scores[name], images[name] = (
                    _roles(tested.before.score, tested.after.score),
                    len(tested.after.predicted),
                )
                others = {"start": start.trial.template} | ({"imagenet_best": compared.best} if compared else {})
                test_gains[name] = tested.gains(others)
                if prompts is not None:
                    fingerprint, given = tested.start.fingerprint, {"split": "test", "class_split": part}
                    scorer = tested.start.scorer
                    scores[name] |= prompts.score(scorer, **given, images=images[name], fingerprint=fingerprint)

    optimizer.config = replace(optimizer.config, observers=(*optimizer.config.observers, listen))
    earlier_trials = sum(event["event"] == "trial" for event in replay(folder)) if journal_size(folder) else 0
    details = optimizer.compile_and_test(program, sets.train, sets.validation, test=test).detailed_results
    return RunSummary(
        details=details,
        scores=scores,
        imagenet=compared,
        test_gains=test_gains,
        images=images,
        left_out=len(skipped),
        folder=str(folder),
        report=str(write_report(folder)),
        floors=floors,
        was_finished=earlier_trials == len(details.trials) and details.status == "finished",
    )


def journal_size(folder: Path) -> int:
    """Return the size of the journal in a folder in bytes; 0 if there is none."""
    file = folder / FILE_NAME
    return file.stat().st_size if file.exists() else 0


def is_nonempty(folder: Path) -> bool:
    """Return True if a folder has trials or paid responses."""
    try:
        return RunState(replay(folder)).has_progress
    except JournalError:
        return False


def next_free_folder(parent: str, name: str) -> Path:
    """Return `parent/name-1`, or the first free number."""
    folders = (Path(parent) / f"{name}-{number}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


@dataclass(frozen=True, slots=True)
class _Tested:
    """Test images with the texts of classes that the run started with, and with those that it found."""

    start: "EvaluationSet"
    found: "EvaluationSet"
    before: "EvaluationResult"
    after: "EvaluationResult"

    def gains(self, others: Mapping[str, "Template"]) -> Mapping[str, tuple[float, float]]:
        """Return by how many points the result is more accurate than templates, with the standard error, by role."""
        from ipo_dspy.scoring.comparison import Comparison
        from ipo_dspy.scoring.scorers import ClipScorer

        scorer, found = self.start.scorer, self.found.scorer
        if scorer is not found and isinstance(scorer, ClipScorer) and isinstance(found, ClipScorer):
            variants = [(other, scorer.texts) for other in others.values()]
            tally = found.tally_variants([(self.after.template, found.texts), *variants])
        else:
            tally = scorer.tally_pairs([self.after.template, *others.values()])
        compared = Comparison(tally)
        points, errors = compared.accuracy[0] - compared.accuracy, compared.accuracy_errors[0]
        return {role: (float(points[i]), float(errors[i])) for i, role in enumerate(others, start=1)}


def _test(
    best: "ClipClassifier",
    dataset: "ImageDataset",
    part: str,
    start: "Template",
    texts: "Texts",
    optimizer: "IPO",
    recorder: "EventRecorder",
    stop: Callable[[], bool],
) -> _Tested:
    """Evaluate the start template with its texts of classes, and the result, on test images, and record both."""
    from ipo_dspy.optimizer.evaluation import build_evaluation_set, record_comparison
    from ipo_dspy.optimizer.trainset import collect_training_images

    def check() -> None:
        if stop():
            raise StoppedError

    if not dataset:
        raise DataError(f"no test images for {part!r} classes; use a smaller --test")
    check()
    program = best.deepcopy()
    program.classes = dataset.classes
    images = collect_training_images(program, {"self": program}, dataset, name="test images")["self"]
    stage = "test images" if part == "all" else f"test images, {part}"
    skip, backend = optimizer.config.skip_unreadable, optimizer.config.backend
    found = build_evaluation_set(
        program,
        images,
        recorder=recorder,
        stage=stage,
        skip_unreadable=skip,
        where=backend,
        check=check,
        objective=optimizer.config.goal,
    )
    started = found if best.class_texts == texts else found.with_texts(texts)
    before, after = started.evaluate(start), found.evaluate(program.template)
    record_comparison(recorder, before, after, found, split="test", class_split=part)
    return _Tested(started, found, before, after)


def _compare_with_imagenet(
    prompts: "ImagenetPrompts", result: "SearchResult", task: "EncodedTask", scores: Mapping[str, dict[str, Score]]
) -> "ImagenetComparison":
    """Add the scores of the prompts for ImageNet on validation and training images, and compare the best template."""
    setup = prompts.recorder.state.search("self").setup
    if task.validator is not None:  # the images that decide come first
        scores["validation"] |= prompts.score(
            task.validator,
            split="validation",
            images=setup["validation_images"],
            fingerprint=setup.get("validation_fingerprint") or "",
        )
    scores["train"] |= prompts.score(
        task.scorer, split="train", images=setup["images"], fingerprint=setup.get("data_fingerprint", "")
    )
    decider = task.validator or task.scorer
    choice = result.choice
    return prompts.compare(decider, result.best.template, images=choice.images, optimism=choice.optimism)


def _roles(start: Score, best: Score) -> dict[str, Score]:
    return {"start": start, "best": best}
