"""`ipo-dspy check`: test whether a saved program got worse, for jobs that run every night."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_kinds import OUTCOMES, described
from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import InputError
from ipo_dspy.template import DEFAULT_TEMPLATE, PLACEHOLDER

if TYPE_CHECKING:
    from ipo_dspy.analysis.program_check import CheckResult
    from ipo_dspy.classifier import ClipClassifier


def check(
    program: opt.Program,
    data: opt.Data,
    *,
    against: Annotated[
        str | None,
        Option(
            metavar="PROGRAM|TEMPLATE|FILE",
            help="Reference to compare with: a saved program, a template, or a file written by --save.",
            show_default=f"with --model, the program under its own model; else '{DEFAULT_TEMPLATE}'",
        ),
    ] = None,
    save: Annotated[
        Path | None, Option(metavar="FILE", help="Save the outcome of each image, for --against in a later check.")
    ] = None,
    alpha: Annotated[
        float, Option(min=0.0, max=1.0, help="Probability of a false alarm if the program did not get worse.")
    ] = 0.05,
    clip: opt.SavedModel,
    images: inputs.ImageOptions,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Test whether a saved program got worse on labeled images (the test part of split data).

    The test is one-sided, on accuracy: McNemar's exact test on images that both saw, Fisher's on others.

    Exit code 0 without evidence that it got worse, 1 with evidence, 2 if the check could not run.
    """
    from ipo_dspy.analysis.program_check import Outcomes
    from ipo_dspy.analysis.program_check import check as compare

    classifier = clip.load(program)
    classifier.check_single_label("check a program")
    own = replace(clip, model=None, pretrained=None)
    reference: ClipClassifier | Outcomes | str = DEFAULT_TEMPLATE
    if against is None and clip.model is not None:
        reference = own.load(program)
    elif against is not None and PLACEHOLDER in against:
        reference = against
    elif against is not None and described(against) == OUTCOMES:
        reference = Outcomes.load(against)
    elif against is not None:
        if not Path(against).exists():
            hint = "pass a saved program, a file that --save wrote, or a template"
            raise InputError("must be a file that exists", argument="against", value=against, hint=hint)
        reference = own.load(against)
    dataset = images.read_part(data, "test", "validation", "training")
    for role, side in (("program", classifier), ("reference", reference)):
        if not isinstance(side, str | Outcomes):
            remedy = "remove them, or correct their labels"
            dataset = inputs.check_known(dataset, side, data, remedy=remedy, role=role)
    with spinner(f"Checking on {pluralize(len(dataset), 'image')} ..."):
        result = compare(classifier, dataset, reference, alpha=alpha, skip_unreadable=skip_unreadable)
    if save is not None:
        result.program.save(save)
    if as_json:
        show.write_json({**result.plain(), "left_out": len(dataset) - len(result.program.images)})
    else:
        reference_file = "" if isinstance(reference, str) else str(program) if against is None else against
        _print(result, len(dataset), files=(str(program), reference_file))
        if save is not None:
            show.note(f"saved  {save}")
    if result.is_worse:
        raise Exit(1)


def _print(result: "CheckResult", images: int, *, files: tuple[str, str]) -> None:
    sides = zip(("program", "reference"), files, (result.program, result.reference), strict=True)
    lines = [
        (
            name,
            file,  # two programs may differ only in the words of their classes
            side.template,
            side.model,
            f"{side.score.accuracy:.2f}",
            f"{side.score.loss:.4f}",
            str(len(side.images)),
        )
        for name, file, side in sides
    ]
    show.rows("", ["", "file", "template", "model", "accuracy %>", "loss>", "images>"], lines)
    rows = [
        (
            "same images" if one.same_images else "other images",
            str(one.images),
            *("" if count is None else str(count) for count in (one.broken, one.fixed)),
            show.figure(one.gain, one.gain_error, 2),
            show.figure(one.loss, one.loss_error, 4),
            f"{one.p:.2g}",
            f"{result.alpha_each:.2g}",
        )
        for one in result.comparisons
    ]
    columns = ["program compared with reference", "images>", "broken>", "fixed>", "accuracy\nrises by>"]
    show.rows("", [*columns, "loss\nfalls by>", "p>", "alpha>"], rows)
    if left_out := images - len(result.program.images):
        terminal.line(f"{pluralize(left_out, 'image')} could not be read: left out")
    changes = ((result.relabeled, "with another label now"), (result.missing, "missing"))
    if changed := ", ".join(f"{count} {what}" for count, what in changes if count):
        terminal.line(f"images of the reference: {changed}")
    terminal.line("the program got worse" if result.is_worse else "no evidence that the program got worse")
