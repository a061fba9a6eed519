"""`ipo-dspy explain`: the worth of each phrase of a template, or the labels that are suspicious under it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.inference import readable
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from ipo_dspy.analysis.word_ablation import Explanation
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.data import ImageDataset

CONFUSIONS = 12
"""Maximum number of confusions in the table; the JSON has all."""
LABELS_SHOWN = 20
"""Maximum number of suspicious labels in the table; the JSON and the report have all."""


def explain(
    sources: Annotated[
        list[str],
        Argument(
            metavar="[PROGRAM] DATA",
            help="A saved program (not with --template), and images as for optimize or the name of a bundled task.",
        ),
    ],
    *,
    template: Annotated[str | None, Option(help="Template to explain instead of the program's.")] = None,
    base_novel: Annotated[
        bool, Option("--base-novel", help="With --template: score the base and the novel half of the classes.")
    ] = False,
    labels: Annotated[
        bool,
        Option("--labels", help="List images with suspicious labels (in the training part of split data)."),
    ] = False,
    clip: opt.SavedModel,
    plot: Annotated[Path | None, Option(help="Save a plot as FILE.svg and FILE.png.", metavar="FILE")] = None,
    report: Annotated[Path | None, Option(help="Save a report as an HTML file.", metavar="FILE")] = None,
    images: inputs.ImageOptions,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Score a template without each of its phrases and words, and list the classes it confuses.

    For an ensemble, each line is left out instead. Standard errors are those of paired differences on these images.

    If the data has more classes than the program, those of the program are base and the others novel.
    """
    from ipo_dspy.analysis.word_ablation import explain as score
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.report import write_word_report
    from ipo_dspy.template import DEFAULT_TEMPLATE, Template

    if len(sources) != (1 if template is not None else 2):
        raise InputError(
            "explain takes a program and data, or --template TEXT and data; for example explain PROGRAM DATA"
        )
    for option, value in (("base_novel", base_novel), ("plot", plot)):
        if labels and value:
            hint = "pass one of the two"
            raise InputError("must be left out with --labels", argument=option, value=str(value), hint=hint)
    if template is None:
        program = clip.load(sources[0])
        several, known = program.multi_label, program.classes
        dataset = _read(sources[-1], images, training=labels, multi_label=several, known=known)
    else:
        dataset = _read(sources[-1], images, training=labels)
        model = clip.model or opt.DEFAULT_MODEL
        weights = clip.pretrained or (None if clip.model else opt.DEFAULT_PRETRAINED)
        program = ClipClassifier(
            dataset.classes, template=template, model=model, pretrained=weights, device=clip.device
        )
    if skip_unreadable:
        dataset = dataset.pick(readable([example.image for example in dataset]))
    if program.is_calibrated:
        ignored = "class weights and threshold" if labels else "temperature, class weights and threshold"
        show.note(f"the program is calibrated: its {ignored} are not applied here")
    dataset = dataset.spelled_as(program.classes or ())
    page = report if report is None or report.suffix == ".html" else report.with_name(f"{report.name}.html")
    if labels:
        _check_labels(program, dataset, page, data=Path(sources[-1]).name, as_json=as_json)
        return
    data, parts = Path(sources[-1]).name, _parts(program, dataset, halves=base_novel)
    with spinner("Scoring ..."):
        explanation = score(program, parts, Template.parse(DEFAULT_TEMPLATE), program.template)
    files = _draw(explanation, plot, data=data) if plot is not None else ()
    if page is not None:
        files += (write_word_report(explanation.plain(), page, data=data),)
    if as_json:
        show.write_json(explanation.plain())
    else:
        _print(explanation, files)


def _read(
    name: str,
    images: inputs.ImageOptions,
    *,
    training: bool,
    multi_label: bool = False,
    known: Sequence[str] | None = None,
) -> "ImageDataset":
    """Return the test or training images of a bundled task or of a path, read as `ImageOptions.read_part` does."""
    from ipo_dspy import demo

    if name in demo.names() and not Path(name).exists():
        task = demo.load(name, classes="all")
        return task.trainset if training else task.testset
    roles = ("training",) if training else ("test", "validation", "training")
    return images.read_part(Path(name), *roles, multi_label=multi_label, known=known)


def _parts(program: "ClipClassifier", dataset: "ImageDataset", *, halves: bool) -> "dict[str, ImageDataset]":
    from ipo_dspy.data import base_novel

    if halves:
        return dict(zip(("base", "novel"), base_novel(dataset), strict=True))
    known = [name for name in dataset.classes if name in (program.classes or dataset.classes)]
    others = [name for name in dataset.classes if name not in known]
    if not known or len(others) < 2:
        return {"all": dataset}
    return {"base": dataset.subset(known), "novel": dataset.subset(others)}


def _check_labels(
    program: "ClipClassifier", dataset: "ImageDataset", page: Path | None, *, data: str, as_json: bool
) -> None:
    """List the suspicious labels of the data, whose classes are added to those of the program."""
    from ipo_dspy.analysis.label_check import check_labels
    from ipo_dspy.report import write_label_report

    classes = tuple(dict.fromkeys((*(program.classes or ()), *dataset.classes)))
    if classes != program.classes:  # setting them drops a calibration
        program.classes = classes
    with spinner("Scoring ..."):
        found = check_labels(program, dataset)
    file = None if page is None else write_label_report(found.plain(), page, data=data)
    if as_json:
        show.write_json(found.plain())
        return
    lines = [
        (one.source, one.label, f"{one.probability:.3f}", one.suggested, f"{one.suggested_probability:.3f}")
        for one in found.suspicious[:LABELS_SHOWN]
    ]
    show.template(found.template)
    title = "suspicious labels, the least likely first"
    show.rows(title, ["image", "label", "probability\nof label>", "seems to be", "probability\nof that>"], lines)
    shown = f"; {LABELS_SHOWN} are shown" if len(found.suspicious) > LABELS_SHOWN else ""
    terminal.line(f"{len(found.suspicious)} of {pluralize(found.images, 'label')} suspicious{shown}")
    terminal.line("many are the program's own mistakes: look at an image before you correct its label")
    if file is not None:
        show.note(f"report  {file}")


def _print(found: "Explanation", files: Sequence[Path]) -> None:
    whole = found.rows[0]
    main, prefixes = ("accuracy>", [""]) if whole.h is None else ("H>", [f"{part} " for part in whole.scores])
    figures = [f"{prefix}{figure}>" for prefix in prefixes for figure in ("accuracy\nfalls by", "loss\nrises by")]
    lines = []
    for row in found.rows:
        left = "" if row.occlusion.kind == "line" else str(row.occlusion.template)
        worths = [
            cell
            for worth in row.worth.values()
            for cell in (
                show.figure(worth.accuracy, worth.accuracy_error, 2),
                show.figure(worth.loss, worth.loss_error, 4),
            )
        ]
        lines.append((row.occlusion.removed or "(nothing)", left, f"{row.main:.2f}", *worths))
    show.template(str(whole.occlusion.template))
    show.rows("left out", ["left out", "template", main, *figures], lines)
    terminal.line(found.finding)
    confusions = [(c.part, c.label, c.taken_for, str(c.before), str(c.after)) for c in found.confusions[:CONFUSIONS]]
    title = f"misclassified images (before: {found.start})"
    show.rows(title, ["part", "class", "predicted as", "before>", "after>"], confusions)
    for file in files:
        show.note(f"{'report' if file.suffix == '.html' else 'plot'}  {file}")


def _draw(found: "Explanation", path: Path, *, data: str) -> tuple[Path, ...]:
    """Draw by how much the accuracy falls without each part, the largest fall first."""
    from ipo_dspy.report.figures import Bars, draw_bars

    rows = sorted(found.rows[1:], key=lambda row: row.main)
    series = {
        f"{part} classes": Bars(
            [row.worth[part].accuracy for row in rows], [row.worth[part].accuracy_error for row in rows]
        )
        for part in found.rows[0].scores
    }
    whole = found.rows[0]
    bare = path.with_suffix("") if path.suffix in {".svg", ".png"} else path
    return draw_bars(
        [row.occlusion.removed for row in rows],
        series,
        bare,
        axis="points of accuracy lost without it (± standard error)",
        title=f"{data}: what each part is worth\n{whole.occlusion.template}: {whole.main:.1f} %",
    )
