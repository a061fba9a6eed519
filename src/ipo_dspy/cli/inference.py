"""Commands for a saved program, images or a run: evaluate, describe, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Option

from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import objective_options as goals
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.progress import LiveProgress, spinner
from ipo_dspy.errors import DataError

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier


CONFUSIONS = 5
"""Number of pairs of a class and what it is taken for."""


def evaluate(
    ctx: Context,
    program: opt.Program,
    data: opt.Data,
    model: opt.OtherModel = None,
    pretrained: opt.Pretrained = None,
    device: opt.Device = "auto",
    allow_download: opt.AllowDownload = False,
    data_classes: Annotated[
        bool,
        Option("--data-classes", help="Use the class names of the data, e.g. novel classes, instead of the program's."),
    ] = False,
    image: inputs.ImageColumn = None,
    label: inputs.LabelColumn = None,
    base: inputs.Base = None,
    classes: inputs.Classes = None,
    class_texts: inputs.ClassTexts = None,
    split: inputs.Split = None,
    skip_unreadable: opt.SkipUnreadable = False,
    objective: goals.Objective = goals.ObjectiveName.ACCURACY,
    costs: goals.Costs = None,
    min_recall: goals.MinRecall = None,
    as_json: opt.Json = False,
) -> None:
    """Evaluate a saved program on labeled images; of split data, on the test part."""
    from ipo_dspy.optimizer.evaluation import evaluate as score
    from ipo_dspy.run.recorder import EventRecorder

    classifier = load_classifier(program, model, pretrained, device, allow_download)
    options, several = inputs.data_options(image, label, base, classes, split), classifier.multi_label
    if several and classifier.classes is not None and not data_classes:
        options.setdefault("classes", classifier.classes)
    dataset = inputs.read_part(data, options, "test", "validation", "training", multi_label=several)
    if data_classes:
        classifier.classes = dataset.classes
    if class_texts is not None:
        labels, saved = classifier.classes or dataset.classes, classifier.class_texts
        classifier.classes = inputs.with_texts(labels, class_texts, saved=saved)
    goal = goals.objective_arguments(ctx)
    with LiveProgress() as progress:
        (result,) = score(
            classifier,
            dataset,
            recorder=EventRecorder(observers=[progress]),
            skip_unreadable=skip_unreadable,
            objective=objective.value,
            **goal,
        )
    if classifier.is_calibrated:
        show.note("the probabilities are calibrated; a threshold is not applied")
    images, left_out = len(result.predicted), len(dataset) - len(result.predicted)
    precision = result.average_precision
    if as_json:
        counts = {"images": images, "left_out": left_out, "per_class": dict(result.per_class)}
        scores = {"objective": result.objective, **result.score.fields, **result.measures}
        confusions = [list(pair) for pair in result.confusions]
        details = {"average_precision": result.average_precision} if several else {"confusions": confusions}
        show.write_json({"template": str(result.template), **scores, **counts, **details})
        return
    lines = sorted(result.per_class.items(), key=lambda item: precision.get(item[0], item[1][0] / item[1][1]))
    columns = ["class", "correct>", "images>", *(["average precision %>"] if several else [])]
    table = [(n, str(c), str(t), *([f"{precision[n]:.2f}"] if several else [])) for n, (c, t) in lines]
    show.rows("per class, worst first", columns, table)
    if result.confusions:
        errors = [(true, other, str(count)) for true, other, count in result.confusions[:CONFUSIONS]]
        show.rows("most confused", ["class", "taken for", "images>"], errors)
    show.template(str(result.template))
    total = (f"{result.score.accuracy:.2f}", f"{result.score.loss:.4f}", str(images), str(left_out))
    show.rows("all classes", ["accuracy %>", "loss>", "images>", "left out>"], [total])
    show.measures(result.measures, result.objective, result.score)
    recalls = {name: 100 * correct / total for name, (correct, total) in result.per_class.items()}
    if floors := {name: 100 * floor for name, floor in (goal["min_recall"] or {}).items() if name in recalls}:
        met = {name: "met" if recalls[name] >= floor - 1e-6 else "missed" for name, floor in floors.items()}
        reached = [(name, f"{floor:g}", f"{recalls[name]:.1f}", met[name]) for name, floor in floors.items()]
        show.rows("floors of recall", ["class", "floor %>", "recall %>", ""], reached)


def describe(
    data: opt.Data,
    description_model: opt.DescriptionModel = None,
    description_model_kwargs: opt.DescriptionModelKwargs = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    pretrained: opt.Pretrained = opt.DEFAULT_PRETRAINED,
    device: opt.Device = "auto",
    images: Annotated[int, Option(min=1, help="Number of images, spread evenly over the classes.")] = 16,
    num_threads: Annotated[int | None, Option(min=1, help="Number of parallel requests.")] = None,
    image: inputs.ImageColumn = None,
    label: inputs.LabelColumn = None,
    base: inputs.Base = None,
    classes: inputs.Classes = None,
    split: inputs.Split = None,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Print the image descriptions that the proposer would see; of split data, those of the training part."""
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import ClipDescriber, Describer, LMDescriber
    from ipo_dspy.lms import build_lm
    from ipo_dspy.lms.api_keys import check_key
    from ipo_dspy.lms.endpoints import check_port_open
    from ipo_dspy.lms.retry_notices import log_retries
    from ipo_dspy.optimizer.pipeline import stratified_indices

    dataset = inputs.read_part(data, inputs.data_options(image, label, base, classes, split), "training")
    if skip_unreadable:
        dataset = dataset.pick(readable([example.image for example in dataset]))
    chosen = [dataset[i] for i in stratified_indices(dataset.labels(), images)]
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
        describer = ClipDescriber(program.backbone, max_classes=images)
    with spinner(f"Describing {len(chosen)} of {len(dataset)} images ..."), log_retries([lm], show.note):
        described = describer.describe([e.image for e in chosen], [e.label for e in chosen])
    if described.faults and not any(described.texts):
        raise DataError(f"no image could be described: {described.faults[0]}; check --description-model and its key")
    rows = [(e.source, e.label, text) for e, text in zip(chosen, described.texts, strict=True)]
    if as_json:
        show.write_json([{"source": s, "label": label, "description": text} for s, label, text in rows])
    else:
        show.rows(
            f"how the images look{', guessed by CLIP' if described.guessed else ''}",
            ["image", "class", "description"],
            rows,
        )


def report(
    run: Annotated[Path, Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path | None, Option(help="HTML file.", show_default="report.html in the folder of the run")] = None,
    png: Annotated[
        Path | None, Option(help="Also write the pictures for slides as PNG files in this folder.", metavar="FOLDER")
    ] = None,
) -> None:
    """Write the HTML report of a run."""
    from ipo_dspy.report import write_pictures, write_report

    terminal.line(str(write_report(run, out)))
    for file in () if png is None else write_pictures(run, png):
        terminal.line(str(file))


def load_classifier(
    program: str | Path, model: str | None, pretrained: str | None, device: str, allow_download: bool
) -> "ClipClassifier":
    """Load a saved program and its CLIP model."""
    from ipo_dspy.classifier import ClipClassifier

    with spinner("Loading the model ..."):
        classifier = ClipClassifier.from_file(
            program, model=model, pretrained=pretrained, device=device, allow_download=allow_download
        )
        _ = classifier.backbone
    return classifier


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
