"""The commands that use a program or data: evaluate, classify, describe, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ipo_dspy.cli.options import (
    Data,
    Device,
    Json,
    Model,
    OtherModel,
    Pretrained,
    Program,
    SkipBad,
    Vlm,
    VlmArg,
    settings,
)
from ipo_dspy.errors import DataError

if TYPE_CHECKING:
    from ipo_dspy.data import ImageDataset


def evaluate(
    program: Program,
    data: Data,
    model: OtherModel = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    data_classes: Annotated[
        bool, typer.Option("--data-classes", help="Use the data's class names, e.g. novel ones.")
    ] = False,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Accuracy and loss of a saved program on labelled images."""
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import LiveProgress, working
    from ipo_dspy.data import load_images
    from ipo_dspy.evaluation import evaluate as score
    from ipo_dspy.journal import NoJournal
    from ipo_dspy.search import Record

    with working("Loading the model ..."):
        classifier = ClipClassifier.from_file(program, model=model, pretrained=pretrained, device=device)
    dataset = load_images(data)
    if data_classes:
        classifier.classes = dataset.classes
    with LiveProgress() as progress:
        (result,) = score(classifier, dataset, record=Record("self", NoJournal(), [progress]), skip_bad=skip_bad)
    left_out = len(dataset) - len(result.predicted)
    if json:
        show.as_json(
            {
                "template": str(result.template),
                "accuracy": result.score.accuracy,
                "loss": result.score.loss,
                "images": len(result.predicted),
                "left_out": left_out,
                "per_class": {name: list(counts) for name, counts in result.per_class.items()},
            }
        )
        return
    lines = sorted(result.per_class.items(), key=lambda item: item[1][0] / item[1][1])
    show.rows("per class, worst first", ["class", "correct>", "images>"], [(n, str(c), str(t)) for n, (c, t) in lines])
    show.rows(
        f"template: {result.template}",
        ["accuracy %>", "loss>", "images>", "left out>"],
        [(f"{result.score.accuracy:.2f}", f"{result.score.loss:.4f}", str(len(result.predicted)), str(left_out))],
    )


def classify(
    program: Program,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: OtherModel = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Classify images with a saved program."""
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import working

    with working("Loading the model ..."):
        classifier = ClipClassifier.from_file(program, model=model, pretrained=pretrained, device=device)
    examples = [dspy.Example(image=str(path)).with_inputs("image") for path in images]
    with working(f"Classifying {len(examples)} image(s) ..."):
        classifier.encode([example.image for example in examples])
        answers = [classifier(**example.inputs()) for example in examples]
    if json:
        show.as_json(
            [
                {"image": str(p), "label": a.label, "confidence": a.confidence, "scores": a.scores}
                for p, a in zip(images, answers, strict=True)
            ]
        )
        return
    show.rows(
        f"template: {classifier.template}",
        ["image", "label", "confidence>", "next best"],
        [
            (str(path), answer.label, f"{answer.confidence:.3f}", _runners_up(answer.scores))
            for path, answer in zip(images, answers, strict=True)
        ],
    )


def describe(
    data: Data,
    vlm: Vlm = None,
    vlm_arg: VlmArg = None,
    model: Model = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    device: Device = "auto",
    images: Annotated[int, typer.Option(min=1, help="How many images, evenly over the classes.")] = 16,
    num_threads: Annotated[int | None, typer.Option(min=1, help="Requests at a time.")] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Say how images look, as a proposer would be told."""
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import working
    from ipo_dspy.data import load_images
    from ipo_dspy.describers import ClipDescriber, LMDescriber
    from ipo_dspy.lms import build_lm
    from ipo_dspy.stages import evenly_over_classes

    dataset = load_images(data)
    if skip_bad:
        dataset = _readable(dataset)
    chosen = [dataset[i] for i in evenly_over_classes(dataset.labels(), images)]
    describer = (
        LMDescriber(build_lm(vlm, role="--vlm", settings=settings(vlm_arg, "--vlm-arg")), num_threads=num_threads)
        if vlm
        else ClipDescriber(
            ClipClassifier(dataset.classes, model=model, pretrained=pretrained, device=device).backbone,
            max_classes=images,
        )
    )
    with working(f"Describing {len(chosen)} of {len(dataset)} images ..."):
        described = describer.describe([e.image for e in chosen], [e.label for e in chosen])
    if described.faults and not any(described.texts):
        raise DataError(f"no image could be described: {described.faults[0]}; check --vlm and its key")
    found = [(e.source, e.label, text) for e, text in zip(chosen, described.texts, strict=True)]
    if json:
        show.as_json([{"source": s, "label": label, "description": text} for s, label, text in found])
    else:
        show.rows("how the images look", ["image", "class", "description"], found)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the run's folder if not given.")] = None,
) -> None:
    """Write the HTML report of a run."""
    from ipo_dspy.report import write_report

    typer.echo(str(write_report(run, out)))


def _readable(dataset: "ImageDataset") -> "ImageDataset":
    """Without the images that cannot be read, each of which is named on stderr."""
    from ipo_dspy.cli import show
    from ipo_dspy.clip.images import open_image
    from ipo_dspy.errors import ImageError

    kept = []
    for i, example in enumerate(dataset):
        try:
            open_image(example.image)
        except ImageError as error:
            show.note(f"skipped: {error}")
        else:
            kept.append(i)
    return dataset.pick(kept)


def _runners_up(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {p:.3f}" for name, p in list(scores.items())[1:4])
