"""Compute the opening of the page, which names data, model and machine, and the commands that use the result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.clip.model_spec import names_alone
from ipo_dspy.report import summary
from ipo_dspy.report.command_lines import command_line
from ipo_dspy.run.state import RunState, SearchState

_ROLES = {"train": "Training images", "validation": "Validation images", "test": "Test images"}
_VERSIONS = ("torch", "ipo_dspy")


@dataclass(frozen=True, slots=True)
class Command:
    """A text to copy, and what it is for."""

    purpose: str
    text: str


def data_name(run: RunState) -> str:
    """Return the name of the data; empty in older journals."""
    names = (search.setup.get("data_name") for search in run.searches.values())
    return ", ".join(dict.fromkeys(filter(None, names)))


def facts(run: RunState, folder: Path) -> list[tuple[str, str]]:
    """Return what the page is about, as names and values; a value that an older journal lacks has no row."""
    rows = [("Data", data_name(run)), ("Run folder", printable(folder.absolute().name))]
    for search in run.searches.values():
        part = f" of {search.predictor}" if len(run.searches) > 1 else ""
        names = filter(None, names_alone(search.setup["model"]).values())
        rows.append((f"Model{part}", ", ".join(names)))
        rows += ((f"{_ROLES[split]}{part}", text) for split, text in _images(search))
    if run.started:
        versions = run.started["versions"]
        rows.append(("Machine", _machine(run.started.get("machine", {}))))
        rows.append(("Versions", ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions)))
    return [(name, value) for name, value in rows if value]


def _images(search: SearchState) -> Iterator[tuple[str, str]]:
    """Yield splits and their numbers of images, in all and per class; before a split is evaluated, without classes."""
    totals = {"train": search.setup["images"], "validation": search.setup["validation_images"]}
    for split in _ROLES:
        counts = summary.images_per_class(search, split)
        total = totals.get(split) or sum(counts)
        if sum(counts) == total > 0:  # a cluster may hold more training images than are evaluated here
            each = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
            yield split, f"{total:,} ({pluralize(len(counts), 'class')}, {each} each)"
        elif total:
            yield split, f"{total:,} ({pluralize(len(search.setup['classes']), 'class')})"


def _machine(machine: Mapping[str, Any]) -> str:
    if not machine:
        return ""
    threads = machine.get("threads")
    parts = (machine.get("processor"), threads and pluralize(threads, "thread"), machine.get("gpu") or "no GPU")
    return ", ".join(str(part) for part in parts if part)


def next_steps(run: RunState, search: SearchState, folder: Path, *, is_tested: bool) -> Sequence[Command]:
    """Return the selected template and the commands that use the saved program; empty until a template is selected.

    A program with several classifiers, or with one inside another module, is loaded into the reader's own object.
    """
    if search.selected is None:
        return ()
    template = Command("The template", search.selected["template"])
    path = saved_program(folder)
    if search.predictor != "self":
        text = f"import ipo_dspy\n\nipo_dspy.load_program(program, {path!r})"
        return template, Command("In Python, with your program", text)
    text = (
        "from ipo_dspy import ClipClassifier\n\n"
        f'classifier = ClipClassifier.from_file({path!r})\nprint(classifier(image="photo.jpg").label)'
    )
    steps = [template, Command("In Python", text)]
    steps.append(Command("On the command line", command_line(run, "classify", path, "photo.jpg")))
    if not is_tested:
        purpose = "Measure the accuracy on images not used in the search, in folders named after their classes"
        steps.append(Command(purpose, command_line(run, "evaluate", path, "test_images")))
    serve = Command("As an HTTP server", command_line(run, "serve", path))
    export = command_line(run, "export", path, replaced={"--to": "onnx"})
    return [*steps, serve, Command("For another runtime", export)]


def saved_program(folder: Path) -> str:
    """Return the path of the saved program of a run for commands, which `place_of_commands` is about."""
    return printable(_shown(folder / PROGRAM_FILE).as_posix())


def place_of_commands(folder: Path) -> str:
    """Return in which folder the paths of `next_steps` hold."""
    is_below = _shown(folder / PROGRAM_FILE) == folder / PROGRAM_FILE
    return "from which this page was written" if is_below else "that contains the folder of the run"


def _shown(path: Path) -> PurePath:
    """Return a path as it was given, or only its folder and name if it might show where a user's files are."""
    is_below = not path.is_absolute() and ".." not in path.parts and len(path.parts) > 1
    return path if is_below else PurePath(*path.absolute().parts[-2:])
