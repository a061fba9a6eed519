"""The commands. Each parses its arguments, calls one function and prints; heavy imports wait until then."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipo_dspy.errors import DataError, InputError

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.data import ImageDataset
    from ipo_dspy.optimizer import IPO
    from ipo_dspy.search import Observer

app = typer.Typer(
    name="ipo-dspy",
    help="Find the words that make CLIP classify best: interpretable prompt optimization (IPO) on DSPy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[Path, typer.Argument(help="A folder with a sub-folder of images per class, or a .csv/.parquet table.")]
Program = Annotated[Path, typer.Argument(help="A program saved by optimize or ClipClassifier.save.")]
Lm = Annotated[str | None, typer.Option("--lm", help="LLM that proposes templates, a LiteLLM name; none: evolution.")]
Vlm = Annotated[str | None, typer.Option("--vlm", help="Multimodal LLM that describes images; none: CLIP does.")]
Model = Annotated[str, typer.Option(help="open_clip name, local-dir:PATH, hf-hub:NAME, or demo.")]
OtherModel = Annotated[str | None, typer.Option("--model", help="Another model than the program was saved under.")]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag or checkpoint path.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Steps = Annotated[int | None, typer.Option(min=0, help="Questions to the proposer, 100 if not given.")]
PerStep = Annotated[int, typer.Option(min=1, help="Templates asked for in each.")]
Shots = Annotated[int | None, typer.Option(min=1, help="Training images per class; all without it.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every draw.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for journal, program and report; a new one in runs/ if not given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and count them.")]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options of all commands."""
    if version:
        from ipo_dspy import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    name: Annotated[str, typer.Argument(help="A bundled task; 'list' names them.")] = "pixel-animals",
    lm: Lm = None,
    vlm: Vlm = None,
    steps: Annotated[int, typer.Option(min=0, help="Questions to the proposer.")] = 40,
    shots: Annotated[int, typer.Option(min=1, help="Training images per class.")] = 16,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run IPO on bundled images with a bundled CLIP: no network, no key."""
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import runs

    if name == "list":
        _list_demo(json)
        return
    base = bundled.load(name, shots=shots, seed=seed)
    novel = bundled.load(name, shots=shots, seed=seed, classes="novel")
    folder = out or runs.free_folder("runs", f"demo-{name}")
    _announce(json, f"{name}: {base.description.rstrip('.')}; classes such as {', '.join(base.classes[:6])}.")
    _run(
        base.program,
        base.trainset,
        base.valset,
        {"base": base.testset, "novel": novel.testset},
        folder=folder,
        json=json,
        options=_options(lm, vlm, steps=steps, seed=seed),
    )


@app.command()
def optimize(
    data: Data,
    lm: Lm = None,
    vlm: Vlm = None,
    model: Model = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    device: Device = "auto",
    template: Annotated[str, typer.Option(help="Start template.")] = "a photo of a <CLASS>.",
    initial: Annotated[list[str] | None, typer.Option(help="Another template to score first; may be repeated.")] = None,
    shots: Shots = 16,
    test: Annotated[float, typer.Option(help="Share of the images held out for the final test; 0 for none.")] = 0.5,
    base_novel: Annotated[
        bool, typer.Option("--base-novel", help="Search on half of the classes, test on both halves.")
    ] = False,
    steps: Steps = None,
    auto: Annotated[str | None, typer.Option(help="light, medium or heavy: 20, 50 or 100 steps.")] = None,
    prompts_per_step: PerStep = 8,
    history_size: Annotated[int, typer.Option(min=0, help="Best earlier templates that the proposer is shown.")] = 20,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps without a better one.")] = None,
    seed: Seed = 0,
    num_threads: Annotated[int | None, typer.Option(min=1, help="For LLM requests and reading images.")] = None,
    out: Out = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Find the best prompt template for your images."""
    from ipo_dspy.cli import runs

    train, tests = _split(data, shots=shots, test=test, seed=seed, halves=base_novel)
    program = _classifier(train.classes, template, model, pretrained, device)
    options = _options(
        lm,
        vlm,
        steps=steps,
        auto=auto,
        prompts_per_step=prompts_per_step,
        history_size=history_size,
        patience=patience,
        seed=seed,
        num_threads=num_threads,
        skip_bad=skip_bad,
        initial_templates=tuple(initial or ()),
    )
    folder = out or runs.free_folder("runs", data.stem or "run")
    _run(program, train, None, tests, folder=folder, json=json, options=options)


@app.command()
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
    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import LiveProgress, working
    from ipo_dspy.data import load_images
    from ipo_dspy.evaluation import evaluate as score
    from ipo_dspy.journal import NoJournal
    from ipo_dspy.search import Record

    with working("Loading the model ..."):
        classifier = _saved(program, model, pretrained, device)
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


@app.command()
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

    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import working

    with working("Loading the model ..."):
        classifier = _saved(program, model, pretrained, device)
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


@app.command()
def describe(
    data: Data,
    vlm: Vlm = None,
    model: Model = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    device: Device = "auto",
    images: Annotated[int, typer.Option(min=1, help="How many images, evenly over the classes.")] = 16,
    num_threads: Annotated[int | None, typer.Option(min=1, help="Requests at a time.")] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Say how images look, as a proposer would be told."""
    from ipo_dspy.cli import show
    from ipo_dspy.cli.progress import working
    from ipo_dspy.data import load_images
    from ipo_dspy.describers import ClipDescriber, LMDescriber
    from ipo_dspy.lms import build_lm
    from ipo_dspy.optimizer import evenly_over_classes

    dataset = load_images(data)
    if skip_bad:
        dataset = _readable(dataset)
    chosen = [dataset[i] for i in evenly_over_classes(dataset.labels(), images)]
    describer = (
        LMDescriber(build_lm(vlm, role="--vlm"), num_threads=num_threads)
        if vlm
        else ClipDescriber(
            _classifier(dataset.classes, "a <CLASS>.", model, pretrained, device).backbone, max_classes=images
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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the run's folder if not given.")] = None,
) -> None:
    """Write the HTML report of a run."""
    from ipo_dspy.report import write_report

    typer.echo(str(write_report(run, out)))


def _run(
    program: "ClipClassifier",
    train: "ImageDataset",
    validation: "ImageDataset | None",
    tests: "dict[str, ImageDataset]",
    *,
    folder: Path,
    json: bool,
    options: dict[str, Any],
) -> None:
    from ipo_dspy.cli import runs, show
    from ipo_dspy.cli.progress import LiveProgress

    with LiveProgress() as progress:
        optimizer = _optimizer(folder, progress, options)
        progress.steps = optimizer.plan.steps
        result = runs.run(optimizer, program, train, validation=validation, tests=tests, folder=folder)
    if json:
        show.as_json(result.as_json())
    else:
        show.outcome(result)


def _optimizer(folder: Path, observer: "Observer", options: dict[str, Any]) -> "IPO":
    from ipo_dspy.optimizer import IPO

    return IPO(log_dir=folder, observers=[observer], **options)


def _options(lm: str | None, vlm: str | None, **others: Any) -> dict[str, Any]:
    """Constructor arguments of IPO; without a language model the embedded proposer searches."""
    chosen = {"prompt_model": lm} if lm else {"proposer": "evolution"}
    return {**chosen, "description_model": vlm, **others}


def _split(
    data: Path, *, shots: int | None, test: float, seed: int, halves: bool
) -> "tuple[ImageDataset, dict[str, ImageDataset]]":
    """Training images and, unless `test` is 0, test images by part."""
    from ipo_dspy.data import base_novel, load_images

    if test == 0:
        if halves:
            raise InputError("--base-novel needs test images; give --test a share, e.g. --test 0.5")
        return load_images(data, shots=shots, seed=seed), {}
    train, held_out = load_images(data, shots=shots, test=test, seed=seed)
    if not halves:
        return train, {"all": held_out}
    base, novel = base_novel(train)
    return base, {"base": held_out.subset(base.classes), "novel": held_out.subset(novel.classes)}


def _classifier(
    classes: "tuple[str, ...]", template: str, model: str, pretrained: str | None, device: str
) -> "ClipClassifier":
    from ipo_dspy.classifier import ClipClassifier

    name, tag = _model(model, pretrained)
    return ClipClassifier(classes, template=template, model=name, pretrained=tag, device=device)


def _model(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """`demo` is the bundled model; `local-dir:` and `hf-hub:` bring their own weights."""
    if model == "demo":
        from ipo_dspy.demo import model_path

        return f"local-dir:{model_path()}", None
    return model, None if model.startswith(("local-dir:", "hf-hub:")) else pretrained


def _saved(program: Path, model: str | None, pretrained: str | None, device: str) -> "ClipClassifier":
    from ipo_dspy.classifier import ClipClassifier, read_program
    from ipo_dspy.demo import model_path

    if model is not None:
        name, tag = _model(model, pretrained)
        return ClipClassifier.from_file(program, model=name, pretrained=tag, device=device)
    saved = str(read_program(program)["clip"].get("model"))
    # The bundled model lies elsewhere in every environment; its folder's end tells it.
    bundled = saved.replace("\\", "/").endswith("ipo_dspy/demo/assets/model")
    place = f"local-dir:{model_path()}" if bundled else None
    return ClipClassifier.from_file(program, model=place, device=device)


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


def _list_demo(json: bool) -> None:
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import show

    tasks = [bundled.load(name, classes="all") for name in bundled.names()]
    if json:
        show.as_json([{"name": t.name, "description": t.description, "classes": list(t.classes)} for t in tasks])
    else:
        show.rows(
            "bundled tasks",
            ["name", "classes>", "pictures"],
            [(t.name, str(len(t.classes)), t.description) for t in tasks],
        )


def _announce(json: bool, text: str) -> None:
    if not json:
        from ipo_dspy.cli import show

        show.note(text)


def _runners_up(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {p:.3f}" for name, p in list(scores.items())[1:4])
