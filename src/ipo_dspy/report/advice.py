"""Advise what may improve a result, by what was measured, each with the command for it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from ipo_dspy.clip.model_spec import name_alone
from ipo_dspy.report import choice, summary
from ipo_dspy.report.about import Command, saved_program
from ipo_dspy.run.state import SearchState

WEAK = 20.0
"""Percentage of the images of a class below which it counts as hardly recognized."""
NAMED = 3
"""Maximum number of classes in a sentence, and in the file of words."""
OTHER_MODEL = ("ViT-L-14", "datacomp_xl_s13b_b90k")
"""A strong encoder of open_clip; docs/how-to/encoder.md has its figures."""


def improvements(search: SearchState, folder: Path) -> Sequence[Command]:
    """Return commands that may improve a result.

    Classes that are hardly recognized call for other words, and for class weights after a search for words; few images
    call for more; a gain that cannot be told apart from none calls for other words and another encoder. Empty until a
    template is selected, and for what the command line cannot search: a part of a program, or several labels an image.
    """
    chosen, evaluations = choice.summarize(search), search.evaluations.values()
    has_several_labels = any("mean_average_precision" in each.get("measures", {}) for each in evaluations)
    if chosen is None or search.predictor != "self" or has_several_labels:
        return ()
    is_unclear = search.class_texts is None and not chosen.against_start.startswith("clearly")
    steps = _for_classes(search, folder, below=100.0 if is_unclear else WEAK)
    if choice.few_images(search):
        purpose = "Few images decided: use all but the test images, and add some"
        steps.append(Command(purpose, _optimize(search, "--shots", "all")))
    if is_unclear and search.setup["model"].get("model") != OTHER_MODEL[0]:
        purpose = "The gain cannot be told apart from none: another encoder may bring more than another template"
        steps.append(Command(purpose, _optimize(search, model=OTHER_MODEL)))
    return steps


def _for_classes(search: SearchState, folder: Path, *, below: float) -> list[Command]:
    """Return what helps the classes of the search that are recognized least, if that is less than a percentage."""
    split, rows = summary.class_table(search) or ("", [])
    shares = sorted((row.best or 0.0, row.name) for row in rows if row.name in search.setup["classes"])
    worst = [(share, name) for share, name in shares if share < below][:NAMED]
    if not worst or search.selected is None:
        return []
    shown = ", ".join(f"{name} {share:.0f} %" for share, name in worst)
    fact = f"{'Hardly' if worst[0][0] < WEAK else 'Least often'} recognized on {split} images: {shown}"
    if search.class_texts is not None:
        command = shlex.join(["ipo-dspy", "calibrate", saved_program(folder), _data(search)])
        return [Command(f"{fact}. Other words were searched already: fit class weights", command)]
    words = [
        f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(['another name', 'a short description'])}"
        for _, name in worst
    ]
    searched = ("--template", search.selected["template"], "--optimize", "class_texts", "--candidates", "words.json")
    return [
        Command(f"{fact}. Write other words for them to words.json", "{\n" + ",\n".join(words) + "\n}"),
        Command("Search these words", _optimize(search, *searched)),
    ]


def _optimize(search: SearchState, *arguments: str, model: Sequence[str] = ()) -> str:
    """Return the command that searches the same data with the model of the run, or with another one."""
    name, weights = model or (name_alone(str(search.setup["model"].get(key) or "")) for key in ("model", "pretrained"))
    texts = "texts.json" if search.setup.get("class_texts") else ""
    options = {"--model": name, "--pretrained": weights, "--class-texts": texts}
    given = [part for option, value in options.items() if value for part in (option, value)]
    return shlex.join(["ipo-dspy", "optimize", _data(search), *given, *arguments])


def _data(search: SearchState) -> str:
    return search.setup.get("data_name") or "photos"
