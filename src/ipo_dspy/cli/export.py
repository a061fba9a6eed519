"""`ipo-dspy export`: a saved program as files that other programs read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from ipo_dspy.cli import options as opt
from ipo_dspy.cli import terminal
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import ProgramFileError
from ipo_dspy.export import FORMATS

FormatName = StrEnum("FormatName", {name.upper().replace("-", "_"): name for name in FORMATS})  # type: ignore[misc]
_HELP = "; ".join(f"{name}: {each.help}" for name, each in FORMATS.items())


def export(
    program: opt.Program,
    *,
    to: Annotated[FormatName, Option(help=f"Format. {_HELP}.")],
    out: Annotated[
        Path | None, Option(metavar="PATH", help="File or folder to write.", show_default="next to PROGRAM")
    ] = None,
    opset: Annotated[int | None, Option(help="ONNX opset version, with --to onnx.", show_default="18")] = None,
    clip: opt.SavedModel,
) -> None:
    """Export a saved program as weights, a model, templates, or a script."""
    from ipo_dspy.classifier import ClipClassifier

    with spinner("Loading the model ..."):
        classifier = ClipClassifier.from_file(program, **vars(clip))
        target = program.with_name(program.stem + FORMATS[to].ending) if out is None else out
        written = (target, *(target / name for name in FORMATS[to].files))
        if any(path.exists() and path.samefile(program) for path in written):
            raise ProgramFileError(
                "must not be the program itself", argument="out", value=str(target), hint="pass another path"
            )
        classifier.export(target, format=to, opset=opset)
    terminal.line(str(target))
