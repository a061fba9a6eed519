"""Commands for a saved program, images or a run: evaluate, describe, report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import objective_options as goals
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.progress import LiveProgress, spinner
from ipo_dspy.errors import DataError
from ipo_dspy.scoring.intervals import Interval, wilson_interval

if TYPE_CHECKING:
    from ipo_dspy.optimizer.evaluation import EvaluationResult

CONFUSIONS = 5
"""Number of pairs of a class and what it is taken for."""


def evaluate(
    program: opt.Program,
    data: opt.Data,
    *,
    clip: opt.SavedModel,
    data_classes: Annotated[
        bool,
        Option("--data-classes", help="Use the class names of the data, e.g. novel classes, instead of the program's."),
    ] = False,
    images: inputs.ImageOptions,
    class_texts: inputs.ClassTexts = None,
    skip_unreadable: opt.SkipUnreadable = False,
    goal: goals.Goal,
    as_json: opt.Json = False,
) -> None:
    """Evaluate a saved program on labeled images (the test part of split data)."""
    from ipo_dspy.optimizer.evaluation import evaluate as score
    from ipo_dspy.run.recorder import EventRecorder

    classifier = clip.load(program)
    several, known = classifier.multi_label, None if data_classes else classifier.classes
    dataset = images.read_part(data, "test", "validation", "training", multi_label=several, known=known)
    if data_classes:
        classifier.classes = dataset.classes
    if class_texts is not None:
        labels, saved = classifier.classes or dataset.classes, classifier.class_texts
        classifier.classes = inputs.with_texts(labels, class_texts, saved=saved)
    wanted = goal.arguments()
    with LiveProgress() as progress:
        recorder = EventRecorder(observers=[progress])
        (result,) = score(classifier, dataset, recorder=recorder, skip_unreadable=skip_unreadable, **wanted)
    if classifier.is_calibrated:
        show.note("the probabilities are calibrated; a threshold is not applied")
    left_out = len(dataset) - len(result.predicted)
    interval = wilson_interval(result.score.accuracy, len(result.predicted))
    if as_json:
        precision, confusions = result.average_precision, list(map(list, result.confusions))
        details = {"average_precision": precision} if several else {"confusions": confusions}
        counts = {"images": len(result.predicted), "left_out": left_out, "per_class": dict(result.per_class)}
        scores = {"objective": result.objective, **result.score.fields, **result.measures}
        scores["interval"] = asdict(interval)
        show.write_json({"template": str(result.template), **scores, **counts, **details})
    else:
        _show_evaluation(result, interval, left_out, wanted["min_recall"] or {})


def _show_evaluation(
    result: "EvaluationResult", interval: Interval, left_out: int, floors: Mapping[str, float]
) -> None:
    precision, recalls = result.average_precision, {name: c / total for name, (c, total) in result.per_class.items()}
    worst_first = sorted(recalls, key=lambda name: precision.get(name, recalls[name]))
    classes = [[name, *map(str, result.per_class[name])] for name in worst_first]
    columns = ["class", "correct>", "images>"]
    if precision:
        columns.append("average precision %>")
        classes = [[*cells, f"{precision[name]:.2f}"] for name, cells in zip(worst_first, classes, strict=True)]
    show.rows("per class, worst first", columns, classes)
    if result.confusions:
        errors = [(true, other, str(count)) for true, other, count in result.confusions[:CONFUSIONS]]
        show.rows("most confused", ["class", "predicted as", "images>"], errors)
    show.template(str(result.template))
    shares = (f"{result.score.accuracy:.2f}", show.interval(interval))
    total = (*shares, f"{result.score.loss:.4f}", str(len(result.predicted)), str(left_out))
    show.rows("all classes", ["accuracy %>", "95 %>", "loss>", "images>", "left out>"], [total])
    show.measures(result.measures, result.objective, result.score)
    reached = [
        (name, f"{100 * floor:g}", f"{100 * recalls[name]:.1f}", "met" if recalls[name] >= floor - 1e-8 else "missed")
        for name, floor in floors.items()
        if name in recalls
    ]
    if reached:
        show.rows("recall floors", ["class", "floor %>", "recall %>", ""], reached)


def describe(
    data: opt.Data,
    *,
    description_model: opt.DescriptionModel = None,
    description_model_kwargs: opt.DescriptionModelKwargs = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    pretrained: opt.Pretrained = opt.DEFAULT_PRETRAINED,
    device: opt.Device = "auto",
    count: Annotated[int, Option("--images", min=1, help="Number of images, spread evenly over the classes.")] = 16,
    num_threads: Annotated[int | None, Option(min=1, help="Number of parallel requests.")] = None,
    images: inputs.ImageOptions,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Print the image descriptions that the proposer would see (for the training part of split data)."""
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import ClipDescriber, Describer, LMDescriber
    from ipo_dspy.lms import build_lm
    from ipo_dspy.lms.api_keys import check_key
    from ipo_dspy.lms.endpoints import check_port_open
    from ipo_dspy.lms.retry_notices import log_retries
    from ipo_dspy.optimizer.pipeline import stratified_indices

    dataset = images.read_part(data, "training")
    if skip_unreadable:
        dataset = dataset.pick(readable([example.image for example in dataset]))
    chosen = [dataset[i] for i in stratified_indices(dataset.labels(), count)]
    lm_settings = opt.settings(description_model_kwargs, "--description-model-kwargs")
    lm = None
    describer: Describer
    if description_model:
        lm = build_lm(description_model, role="description_model", settings=lm_settings)
        check_key(lm, role="description_model")
        check_port_open(lm, role="description_model")
        describer = LMDescriber(lm, num_threads=num_threads)
    else:
        program = ClipClassifier(dataset.classes, model=model, pretrained=pretrained, device=device)
        describer = ClipDescriber(program.backbone, max_classes=count)
    with spinner(f"Describing {len(chosen)} of {len(dataset)} images ..."), log_retries([lm], show.note):
        described = describer.describe([e.image for e in chosen], [e.label for e in chosen])
    if described.faults and not any(described.texts):
        raise DataError(f"no image could be described: {described.faults[0]}; check --description-model and its key")
    rows = [(e.source, e.label, text) for e, text in zip(chosen, described.texts, strict=True)]
    if as_json:
        show.write_json([{"source": s, "label": label, "description": text} for s, label, text in rows])
    else:
        title = f"how the images look{', guessed by CLIP' if described.guessed else ''}"
        show.rows(title, ["image", "class", "description"], rows)


def report(
    run: Annotated[Path, Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path | None, Option(help="HTML file.", show_default="report.html in the folder of the run")] = None,
    png: Annotated[
        Path | None, Option(help="Also write figures for slides as PNG files to this folder.", metavar="FOLDER")
    ] = None,
) -> None:
    """Write the HTML report of a run."""
    from ipo_dspy.report import write_pictures, write_report

    terminal.line(str(write_report(run, out)))
    for file in () if png is None else write_pictures(run, png):
        terminal.line(str(file))


def find_images(name: str) -> list[Path]:
    """Return a file itself, or all images in a folder and its subfolders."""
    from ipo_dspy.clip.image_io import is_url
    from ipo_dspy.clip.transformers_files import is_folder
    from ipo_dspy.data.folder import image_files

    if is_url(name):
        raise DataError(f"image {name!r} is a URL, and URLs are not fetched; download it and pass the file")
    path = Path(name)
    if not is_folder(path):
        return [path]
    files = image_files(path)
    if not files:
        raise DataError(f"folder {str(path)!r} contains no images; pass image files, or a folder that contains some")
    return files


def readable(images: Sequence[Any]) -> list[int]:
    """Return the indices of readable images, and print the others to stderr."""
    from ipo_dspy.clip.image_features import open_image
    from ipo_dspy.errors import ImageError

    indices = []
    for i, image in enumerate(images):
        try:
            open_image(image)
        except ImageError as error:
            show.note(f"skipped: {error}")
        else:
            indices.append(i)
    return indices
