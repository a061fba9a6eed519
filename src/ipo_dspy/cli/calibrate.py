"""`ipo-dspy calibrate`: fit the probabilities of a saved program to labeled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from typer import Option

from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import objective_options as goals
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli.inference import find_images, readable
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.calibration import CalibrationObjective

if TYPE_CHECKING:
    from ipo_dspy.scoring.calibration import CalibrationReport

WEIGHTS_SHOWN = 5
"""Classes with the highest and with the lowest weights in the output; the JSON has all."""


def calibrate(
    program: opt.Program,
    data: opt.Data,
    *,
    unknown: Annotated[Path | None, Option(metavar="FOLDER", help="Images that belong to none of the classes.")] = None,
    out: Annotated[
        Path | None,
        Option(metavar="FILE", help="File for the calibrated program.", show_default="calibrated.json next to PROGRAM"),
    ] = None,
    report: Annotated[Path | None, Option(metavar="FILE", help="Save a report as an HTML file.")] = None,
    objective: Annotated[CalibrationObjective, Option(help="Objective that class weights must improve.")] = "accuracy",
    costs: goals.Costs = None,
    min_recall: goals.MinRecall = None,
    temperature: Annotated[bool, Option(help="Fit a temperature.")] = True,
    weights: Annotated[bool, Option(help="Fit class weights.")] = True,
    threshold: Annotated[
        float | None, Option(min=0.0, max=1.0, help="Confidence below which an image is unknown.")
    ] = None,
    coverage: Annotated[
        float | None,
        Option(min=0.0, max=1.0, help="Share of the images that must be answered, instead of --threshold."),
    ] = None,
    precision: Annotated[
        float | None,
        Option(min=0.0, max=1.0, help="Share of the answered images that must be right, instead of --threshold."),
    ] = None,
    unknown_label: Annotated[str | None, Option(help="Label of unknown images; none by default.")] = None,
    clip: opt.SavedModel,
    images: inputs.ImageOptions,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Fit temperature, class weights, and a threshold to labeled images (the validation part of split data)."""
    if unknown is not None and not unknown.exists():
        hint = "pass a folder of images that belong to none of the classes"
        raise InputError("must be an existing folder", argument="unknown", value=str(unknown), hint=hint)
    classifier = clip.load(program)
    classifier.check_single_label("calibrate")
    dataset = images.read_part(data, "validation", "training")
    others = None if unknown is None else [str(file) for file in find_images(str(unknown))]
    remedy = "move them to a separate folder and pass it as --unknown, or remove them"
    dataset = inputs.check_known(dataset, classifier, data, remedy=remedy)
    if skip_unreadable:
        dataset = dataset.pick(readable([example.image for example in dataset]))
        others = None if others is None else [others[i] for i in readable(others)]
    with spinner("Calibrating ..."):
        calibrated = classifier.calibrate(
            dataset,
            objective=objective,
            temperature=temperature,
            weights=weights,
            threshold=threshold,
            coverage=coverage,
            precision=precision,
            unknown=others,
            unknown_label=unknown_label,
            **goals.costs_and_floors(costs, min_recall),
        )
    found = cast("CalibrationReport", calibrated.calibration_report)
    target = program.with_name("calibrated.json") if out is None else out
    calibrated.save(target)
    page = None
    if report is not None:
        from ipo_dspy.report import write_calibration_report

        file = report if report.suffix == ".html" else report.with_name(f"{report.name}.html")
        page = write_calibration_report(found, str(calibrated.template), unknown_label, file)
    if found.poorly_separated:
        auroc, answered = cast("float", found.after.auroc), found.coverage
        fact = f"AUROC {auroc:.2f}, {answered:.0f} % of the labeled images are answered"
        show.note(f"the unknown images cannot be separated well ({fact}); pass --coverage")
    if as_json:
        show.write_json({"template": str(calibrated.template), "program": str(target), **found.plain()})
        return
    _print(found, unknown_label)
    if found.caution:
        show.note(found.caution)
    for name, path in (("program", target), ("report", page)):
        if path is not None:
            show.note(f"{name}  {path}")


def _print(found: "CalibrationReport", unknown_label: str | None) -> None:
    figures = {
        "accuracy %": (found.before.accuracy, found.after.accuracy),
        "loss": (found.before.loss, found.after.loss),
        "calibration error": (found.before.calibration_error, found.after.calibration_error),
        "calibration error by chance": (found.before.error_by_chance, found.after.error_by_chance),
    }
    if found.before.auroc is not None and found.after.auroc is not None:
        figures["AUROC of unknown"] = (found.before.auroc, found.after.auroc)
    if found.before.unknown_at_95 is not None and found.after.unknown_at_95 is not None:
        figures["unknown answered % if 95 % of the others are"] = (
            found.before.unknown_at_95,
            found.after.unknown_at_95,
        )
    if found.mean_cost is not None:
        figures["mean cost"] = found.mean_cost
    figures |= {f"recall of {name} %": recalls for name, recalls in found.recalls.items()}
    digits = {"loss": 4, "AUROC of unknown": 3, "mean cost": 4}
    lines = [(name, *(f"{value:.{digits.get(name, 2)}f}" for value in pair)) for name, pair in figures.items()]
    show.rows("before and after, on images that the fit did not see", ["", "before>", "after>"], lines)
    settings = [("temperature", f"{found.temperature:.4f}")]
    if found.chose_template:
        settings.append(("images used to choose the template", f"{found.chose_template:.0f} %"))
    if found.weights_rejected:
        settings.append(("class weights", "none; they were not clearly better"))
    if found.weights:
        ranked = sorted(found.weights.items(), key=lambda item: -item[1])
        shown = ranked if len(ranked) <= 2 * WEIGHTS_SHOWN else [*ranked[:WEIGHTS_SHOWN], *ranked[-WEIGHTS_SHOWN:]]
        settings += [(f"weight of {name}", f"{weight:.2f}") for name, weight in shown]
    if found.threshold:
        score = found.threshold_score.replace("in_distribution", "in-distribution score")
        answer = "gives no label" if unknown_label is None else f"answers {unknown_label!r}"
        settings.append((f"{answer} if the {score} is below", f"{found.threshold:.4f}"))
        settings.append(("answered", f"{found.coverage:.2f} %"))
        if found.answered_accuracy is not None:
            settings.append(("correct of the answered", f"{found.answered_accuracy:.2f} %"))
        if found.unknown_answered is not None:
            settings.append(("unknown images answered", f"{found.unknown_answered:.2f} %"))
    show.rows(f"fitted to {found.images} images", ["", "value>"], settings)
