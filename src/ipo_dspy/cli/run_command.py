"""Run the search of `demo` and `optimize`: optimize, test, and save a report; return a summary."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy.cli.data_options import DataSets
from ipo_dspy.cli.final_test import FinalTest
from ipo_dspy.cli.progress import LiveProgress, spinner
from ipo_dspy.cli.run_summary import RunSummary
from ipo_dspy.errors import JournalError
from ipo_dspy.run.events import CommandEvent
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.objectives import ObjectiveText

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.optimizer.ipo import IPO


def plan(optimizer: "IPO", program: "ClipClassifier", sets: DataSets, folder: Path) -> dict[str, str]:
    """Return what a run would do, as texts by label; nothing is encoded, asked or written."""
    from ipo_dspy.classifier.labeled_predictor import STATE_KEY
    from ipo_dspy.optimizer.factories import lm_of

    config, model = optimizer.config, program.dump_state()[STATE_KEY]
    loaded = " ".join(filter(None, (model["model"], model["pretrained"])))
    scored_on = getattr(config.backend, "images", None) or pluralize(len(sets.train), "training image")
    decide = "training" if sets.validation is None else "validation"
    writer = getattr(lm_of(config.proposer), "model", "the built-in evolutionary search")
    rule = "plainest of those that cannot be told apart" if config.choose == "plainest" else "best one"
    floors = " with recall floors" if config.min_recall else ""
    proposed = config.num_steps * config.prompts_per_step
    steps = f"{pluralize(config.num_steps, 'step')}, about {pluralize(proposed, 'proposed template')}, from {writer}"
    selected = f"the leading templates are compared in pairs on the {decide} images, and the {rule} is selected"
    selects = config.searches_template or bool(config.initial_templates)
    words = "other texts for the classes are tried"
    words = f"then {words}" if selects else f"{words}; the template stays"
    test_images, resumed = sum(map(len, sets.tests.values())), "; resumes its run" if journal_size(folder) else ""
    found = {
        "data": str(sets),
        "model": ", ".join([loaded, *map(str, config.also)]),
        "search": steps if config.searches_template else "",
        "scored": f"by {ObjectiveText.of(config.goal.name).label}{floors} on {scored_on}",
        "selected": selected if selects else "",
        "words": words if config.searches_class_texts else "",
        "tested": f"start, best, and the prompts for ImageNet on {test_images} test images" if test_images else "",
        "written to": f"{folder} ({FILE_NAME}, {PROGRAM_FILE}, report.html){resumed}",
    }
    return {label: text for label, text in found.items() if text}


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
    optimizer: "IPO",
    program: "ClipClassifier",
    sets: DataSets,
    folder: Path,
    *,
    progress: LiveProgress,
    stop: Callable[[], bool],
    command: CommandEvent | None = None,
) -> RunSummary:
    """Optimize, evaluate on test images, and save journal, program and report in a folder.

    `progress` is one of the optimizer's observers. `stop` is called while test images are encoded; if true, testing is
    left to the next session. The journal keeps the `command`, for the commands that the report advises.

    Raises:
        StoppedError: the run was stopped before the search began.
    """
    from ipo_dspy.report import write_report

    earlier_trials = len(RunState(replay(folder)).search("self").history) if journal_size(folder) else 0
    test = FinalTest(sets, optimizer.config, stop, command)
    details = optimizer.compile_and_test(program, sets.train, sets.validation, test=test).detailed_results
    return RunSummary(
        details=details,
        final=test.result,
        left_out=progress.skipped,
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
