"""Run the search of `demo` and `optimize`: optimize, test, and save a report; return a summary."""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.cli.data_options import DataSets
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import DataError, JournalError, StoppedError
from ipo_dspy.run import choice_text
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.intervals import Interval, wilson_interval
from ipo_dspy.scoring.score import Score, harmonic_mean

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.data import ImageDataset
    from ipo_dspy.optimizer.evaluation import EvaluationResult
    from ipo_dspy.optimizer.ipo import IPO
    from ipo_dspy.optimizer.results import DetailedResults
    from ipo_dspy.optimizer.search import SearchResult
    from ipo_dspy.run.recorder import EventRecorder
    from ipo_dspy.template import Template

PLAINEST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run: the record of its search, and for each set of images the scores of start and best template."""

    details: "DetailedResults"
    scores: Mapping[str, tuple[Score, Score]]
    images: Mapping[str, int]
    """Number of scored images in each set."""
    left_out: int
    """Number of unreadable images."""
    folder: str
    report: str
    was_finished: bool
    """True if nothing was searched because the run was already finished."""

    @property
    def harmonic(self) -> tuple[float, float] | None:
        """Harmonic mean of base and novel test accuracy, for start and best template."""
        if not {"test base", "test novel"} <= set(self.scores):
            return None
        base, novel = self.scores["test base"], self.scores["test novel"]
        return tuple(harmonic_mean(b.accuracy, n.accuracy) for b, n in zip(base, novel, strict=True))  # type: ignore[return-value]

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % interval of the best template's accuracy on each set of test images."""
        tests = (name for name in self.scores if name.startswith("test") and self.images[name])
        return {name: wilson_interval(self.scores[name][1].accuracy, self.images[name]) for name in tests}

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
        found = {
            "expected": choice_text.expectation(choice, search.decided_by),
            "against start": choice_text.against_start(choice, is_start=search.best == search.baseline),
            "tied": ties,
        }
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
            "scores": {name: {"start": asdict(s), "best": asdict(b)} for name, (s, b) in self.scores.items()},
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "choice": {**search.choice.fields, "beats_start": search.choice.beats_start},
            "findings": self.findings,
            "tied": [finalist.fields for finalist in search.tied],
            "phrases": [worth.fields for worth in search.phrases],
            "ensemble": [line.fields for line in search.ensemble],
            "harmonic_mean": self.harmonic and dict(zip(("start", "best"), self.harmonic, strict=True)),
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
    from ipo_dspy.report import write_report

    skipped: list[Event] = []
    scores: dict[str, tuple[Score, Score]] = {}
    images: dict[str, int] = {}

    def listen(event: Event) -> None:
        if event["event"] == "image_skipped":
            skipped.append(event)

    def test(recorder: "EventRecorder", best: Any, results: "Sequence[SearchResult]") -> None:
        finalists, setup = results[0].finalists, recorder.state.search("self").setup
        start = next(f for f in finalists if f.trial == results[0].baseline)
        scores["train"], images["train"] = (start.trial.score, finalists[0].trial.score), setup["images"]
        if sets.validation is not None:
            scores["validation"] = (start.deciding, finalists[0].deciding)
            images["validation"] = setup["validation_images"]
        with contextlib.suppress(StoppedError):
            for part, dataset in sets.tests.items():
                before, after = _test(best, dataset, part, start.trial.template, optimizer, recorder, stop)
                name = "test" if part == "all" else f"test {part}"
                scores[name], images[name] = (before.score, after.score), len(after.predicted)

    optimizer.config = replace(optimizer.config, observers=(*optimizer.config.observers, listen))
    earlier_trials = sum(event["event"] == "trial" for event in replay(folder)) if journal_size(folder) else 0
    details = optimizer.compile_and_test(program, sets.train, sets.validation, test=test).detailed_results
    return RunSummary(
        details=details,
        scores=scores,
        images=images,
        left_out=len(skipped),
        folder=str(folder),
        report=str(write_report(folder)),
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


def _test(
    best: "ClipClassifier",
    dataset: "ImageDataset",
    part: str,
    start: "Template",
    optimizer: "IPO",
    recorder: "EventRecorder",
    stop: Callable[[], bool],
) -> "tuple[EvaluationResult, EvaluationResult]":
    """Evaluate start and best template on test images and record both, unless the run is stopped."""
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
    evaluation_set = build_evaluation_set(
        program, images, recorder=recorder, stage=stage, skip_unreadable=skip, where=backend, check=check
    )
    before, after = evaluation_set.evaluate(start), evaluation_set.evaluate(program.template)
    record_comparison(recorder, before, after, evaluation_set.images, split="test", class_split=part)
    return before, after
