"""Advise what may improve a result, by what was measured, each with the command for it."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

from ipo_dspy.clip.model_spec import names_alone
from ipo_dspy.report import choice, summary
from ipo_dspy.report.about import Command, saved_program
from ipo_dspy.report.command_lines import GOAL, command_line, data_of
from ipo_dspy.run.state import RunState, SearchState
from ipo_dspy.scoring.calibration import CalibrationObjective

WEAK = 20.0
"""Percentage of the images of a class below which it counts as hardly recognized."""
NOT_FOR_WORDS = (*GOAL, "--steps", "--auto", "--also", "--across", "--description-model")
"""Options of a search for templates that a search for words refuses."""
OF_WORDS = ("--optimize", "--candidates", "--max-recall-drop")
"""Options of a search for words that a search for templates alone refuses or does not use."""
NAMED = 3
"""Maximum number of classes in a sentence, and in the file of words."""
OTHER_MODEL = {"--model": "ViT-L-14", "--pretrained": "datacomp_xl_s13b_b90k"}
"""A strong encoder of open_clip; docs/how-to/encoder.md has its figures."""


def improvements(run: RunState, search: SearchState, folder: Path) -> Sequence[Command]:
    """Return commands that may improve a result.

    Classes that are hardly recognized call for other words, and for class weights after a search for words; new words
    call for another template; few images call for those of the data that the run left out; a gain that may be none
    calls for other words and another encoder. Empty until a template is selected, and for what the command line cannot
    search: a part of a program, or by a metric in Python. With several labels an image only more images are called for:
    words, weights and that encoder are for one label.
    """
    chosen = choice.summarize(search)
    if chosen is None or search.predictor != "self" or "metric" in run.settings:
        return ()
    has_several_labels = any(
        "mean_average_precision" in each.get("measures", {}) for each in search.evaluations.values()
    )
    is_unclear = search.class_texts is None and not chosen.against_start.startswith("clearly")
    steps = [] if has_several_labels else _for_classes(run, search, folder, below=100.0 if is_unclear else WEAK)
    if search.class_texts is not None and search.class_texts["changes"]:
        purpose = "The template was found with the earlier words: search one for the new words"
        again = {"--class-texts": saved_program(folder)}
        of_words = OF_WORDS if run.settings.get("steps") else (*OF_WORDS, "--steps")  # 0 without a template search
        steps.append(Command(purpose, _optimize(run, search, again, (*of_words, "--template"))))
    if choice.few_images(search) and (run.command is None or run.command.get("has_spare_images", True)):
        purpose = "Few images decided: use all but the test images, and add some"
        steps.append(Command(purpose, _optimize(run, search, {"--shots": "all"})))
    model = str(search.setup["model"].get("model")).replace("/", "-")  # open_clip reads ViT-L/14 as ViT-L-14
    if is_unclear and not has_several_labels and model != OTHER_MODEL["--model"]:
        purpose = "The gain cannot be told apart from none: another encoder may bring more than another template"
        steps.append(Command(purpose, _optimize(run, search, OTHER_MODEL)))
    return steps


def _for_classes(run: RunState, search: SearchState, folder: Path, *, below: float) -> list[Command]:
    """Return what helps the classes of the search that are recognized least, if that is less than a percentage."""
    split, rows = summary.class_table(search) or ("", [])
    shares = sorted((row.best or 0.0, row.name) for row in rows if row.name in search.setup["classes"])
    weak = [(share, name) for share, name in shares if share < below]
    worst = weak[:NAMED]
    if not worst or search.selected is None:
        return []
    shown = ", ".join(f"{name} {share:.0f} %" for share, name in worst)
    if len(weak) > NAMED:
        shown += f", and {len(weak) - NAMED} more below {below:g} %: see Classes below"
    fact = f"{'Hardly' if worst[0][0] < WEAK else 'Least often'} recognized on {split} images: {shown}"
    if search.class_texts is not None:
        unknown = () if search.objective in get_args(CalibrationObjective) else ("--objective",)
        purpose = "Other words were searched already: fit class weights on images not used to choose template or words"
        command = command_line(run, "calibrate", saved_program(folder), "new_images", omitted=unknown)
        return [Command(f"{fact}. {purpose}, in folders named after their classes", command)]
    present = search.setup.get("class_texts", {})
    words = [
        f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(present.get(name, [name]), ensure_ascii=False)}"
        for _, name in worst
    ]
    purpose = "Write their current texts to words.json, and add other names and short descriptions to each"
    searched = {"--template": search.selected["template"], "--optimize": "class_texts", "--candidates": "words.json"}
    return [
        Command(f"{fact}. {purpose}", "{\n" + ",\n".join(words) + "\n}"),
        Command("Search among these words, by accuracy", _optimize(run, search, searched, NOT_FOR_WORDS)),
    ]


def _optimize(run: RunState, search: SearchState, replaced: Mapping[str, str], omitted: Collection[str] = ()) -> str:
    """Return the command that searches the same data, with the model of the run unless it is replaced."""
    model = {f"--{key}": name for key, name in names_alone(search.setup["model"]).items()}
    return command_line(run, "optimize", data_of(run), replaced={**model, **replaced}, omitted=omitted)
