"""Run the search of `demo` and `optimize`: optimize, test, and save a report; return a summary."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.data import ImageDataset
from ipo_dspy.errors import DataError, JournalError, StoppedError
from ipo_dspy.run.events import Event
from ipo_dspy.run.ledger import Usage
from ipo_dspy.scoring.score import Score, harmonic_mean

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.optimizer.evaluation import EvaluationResult
    from ipo_dspy.optimizer.ipo import IPO
    from ipo_dspy.optimizer.search import SearchResult
    from ipo_dspy.run.recorder import EventRecorder
    from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run.

    Attributes:
        start, best: start and best template.
        scores: for each set of images, the score of the start and of the best template.
        images: number of scored images in each set.
        left_out: number of unreadable images.
        folder: folder of journal and program.
        report: path of the HTML report.
        trials, rejected: numbers of scored and of rejected templates.
        spent: usage of language models.
        status: `finished`, or the reason why the search stopped.
        fault: last error, if language models failed.
        was_finished: whether the run was already finished, so that nothing was searched.
    """

    start: str
    best: str
    scores: Mapping[str, tuple[Score, Score]]
    images: Mapping[str, int]
    left_out: int
    folder: str
    report: str
    trials: int
    rejected: int
    spent: Usage
    status: str
    fault: str | None
    was_finished: bool = False

    @property
    def harmonic(self) -> tuple[float, float] | None:
        """Harmonic mean of base and novel test accuracy, for start and best template."""
        if not {"test base", "test novel"} <= set(self.scores):
            return None
        base, novel = self.scores["test base"], self.scores["test novel"]
        return tuple(harmonic_mean(b.accuracy, n.accuracy) for b, n in zip(base, novel, strict=True))  # type: ignore[return-value]

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        scores = {name: {"start": asdict(s), "best": asdict(b)} for name, (s, b) in self.scores.items()}
        names = ("start", "best", "images", "left_out", "folder", "report", "trials", "rejected", "status")
        plain = {name: getattr(self, name) for name in names}
        spent = {
            "calls": self.spent.calls,
            "tokens": self.spent.tokens,
            "prompt_tokens": self.spent.prompt_tokens,
            "completion_tokens": self.spent.completion_tokens,
            "cost": None if self.spent.unpriced else self.spent.cost,
            "estimated": bool(self.spent.estimated),
            "seconds": round(self.spent.seconds, 3),
        }
        harmonic = None if self.harmonic is None else dict(zip(("start", "best"), self.harmonic, strict=True))
        return {**plain, **spent, "scores": scores, "harmonic_mean": harmonic}


def prepare(optimizer: "IPO", program: "ClipClassifier", datasets: Iterable[ImageDataset]) -> None:
    """Load the model and check that all images can be read; report all unreadable ones in one error."""
    from ipo_dspy.cli.progress import spinner
    from ipo_dspy.clip.image_features import check_images

    if optimizer.config.skip_unreadable or optimizer.config.backend is not None:
        return
    with spinner("Loading the model ..."):
        backbone = program.backbone
    images = [example.image for dataset in datasets for example in dataset]
    check_images(images, backbone=backbone, num_threads=optimizer.config.num_threads)


def run(
    optimizer: "IPO",
    program: "ClipClassifier",
    train: ImageDataset,
    *,
    validation: ImageDataset | None = None,
    tests: Mapping[str, ImageDataset],
    folder: Path,
    stop: Callable[[], bool],
) -> RunSummary:
    """Optimize, evaluate on test images, and save journal, program and report in a folder.

    Args:
        optimizer: optimizer with `folder` as its `log_dir`.
        program: program to optimize.
        train: images that guide the search.
        validation: images that select the final template, if given.
        tests: test images by part (`base`, `novel`, `all`); each part is classified among its own classes.
        folder: folder of the run.
        stop: called while test images are encoded; if true, testing is left to the next session.

    Raises:
        StoppedError: the run was stopped before the search began.
    """
    from ipo_dspy.report import write_report
    from ipo_dspy.run.journal import replay

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
        if validation is not None:
            scores["validation"] = (start.deciding, finalists[0].deciding)
            images["validation"] = setup["validation_images"]
        with contextlib.suppress(StoppedError):
            for part, dataset in tests.items():
                before, after = _test(best, dataset, part, start.trial.template, optimizer, recorder, stop)
                scores[set_name(part)], images[set_name(part)] = (before.score, after.score), len(after.predicted)

    optimizer.config = replace(optimizer.config, observers=(*optimizer.config.observers, listen))
    earlier_trials = sum(event["event"] == "trial" for event in replay(folder)) if journal_size(folder) else 0
    details = optimizer.compile_and_test(program, train, validation, test=test).detailed_results
    return RunSummary(
        start=str(details.baseline.template),
        best=str(details.best.template),
        scores=scores,
        images=images,
        left_out=len(skipped),
        folder=str(folder),
        report=str(write_report(folder)),
        trials=len(details.trials),
        rejected=sum(details.rejections.values()),
        spent=details.spent,
        status=details.status,
        fault=next((search.fault for search in details.searches if search.fault), None),
        was_finished=earlier_trials == len(details.trials) and details.status == "finished",
    )


def set_name(part: str) -> str:
    """Return the name of a set of test images.

    >>> set_name("novel"), set_name("all")
    ('test novel', 'test')
    """
    return "test" if part == "all" else f"test {part}"


def journal(folder: Path) -> Path:
    """Return the path of the journal in a folder."""
    from ipo_dspy.run.journal import FILE_NAME

    return folder / FILE_NAME


def journal_size(folder: Path) -> int:
    """Return the size of the journal in a folder in bytes; 0 if there is none."""
    return journal(folder).stat().st_size if journal(folder).exists() else 0


def is_nonempty(folder: Path) -> bool:
    """Return True if a folder has trials or paid responses."""
    from ipo_dspy.run.journal import replay
    from ipo_dspy.run.state import RunState

    try:
        return RunState(replay(folder)).has_progress
    except JournalError:
        return False


def next_free_folder(parent: str, name: str) -> Path:
    """Return `parent/name-1`, or the first free number."""
    number = 1
    while (Path(parent) / f"{name}-{number}").exists():
        number += 1
    return Path(parent) / f"{name}-{number}"


def _test(
    best: "ClipClassifier",
    dataset: ImageDataset,
    part: str,
    start: "Template",
    optimizer: "IPO",
    recorder: "EventRecorder",
    stop: Callable[[], bool],
) -> "tuple[EvaluationResult, EvaluationResult]":
    """Evaluate start and best template on test images and record both.

    Raises:
        StoppedError: the run was stopped; nothing was recorded.
    """
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
    evaluation_set = build_evaluation_set(
        program,
        images,
        recorder=recorder,
        stage="test images" if part == "all" else f"test images, {part}",
        skip_unreadable=optimizer.config.skip_unreadable,
        where=optimizer.config.backend,
        check=check,
    )
    before, after = evaluation_set.evaluate(start), evaluation_set.evaluate(program.template)
    record_comparison(recorder, before, after, evaluation_set.images, split="test", class_split=part)
    return before, after
