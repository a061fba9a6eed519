"""The commands that search: demo and optimize."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipo_dspy.cli.data_options import (
    Base,
    Classes,
    ImageColumn,
    LabelColumn,
    MinImages,
    Shots,
    Split,
    Test,
    TestData,
    Val,
    data_options,
    read_sets,
    shots_of,
)
from ipo_dspy.cli.options import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    AllowChanges,
    Asking,
    Data,
    Descriptions,
    Device,
    DryRun,
    Json,
    Lm,
    LmArg,
    MaxCalls,
    MaxCost,
    MaxErrors,
    MaxSeconds,
    MaxTokens,
    Model,
    Out,
    PerStep,
    Pretrained,
    Ray,
    RayCpus,
    RayGpus,
    RayImages,
    RayStore,
    RayWorkers,
    Seed,
    SkipBad,
    Steps,
    Vlm,
    VlmArg,
    scorer,
    settings,
)
from ipo_dspy.errors import InputError, IPOError, StoppedError
from ipo_dspy.optimizer.config import OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli.run_command import Outcome
    from ipo_dspy.data import ImageDataset


def demo(
    name: Annotated[str, typer.Argument(help="A bundled task; 'list' names them.")] = "pixel-animals",
    lm: Lm = None,
    vlm: Vlm = None,
    lm_arg: LmArg = None,
    vlm_arg: VlmArg = None,
    asking: Asking = "auto",
    steps: Annotated[int, typer.Option(min=0, help="Questions to the proposer.")] = 40,
    shots: Annotated[int, typer.Option(min=1, help="Training images per class.")] = 16,
    seed: Seed = 0,
    max_lm_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_seconds: MaxSeconds = None,
    max_errors: MaxErrors = OptimizerConfig.max_consecutive_errors,
    out: Out = None,
    allow_changes: AllowChanges = False,
    export: Annotated[
        Path | None, typer.Option(help="Run nothing; write the pictures to this folder, to try other commands on.")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run IPO on bundled images with a bundled CLIP: no network, no key."""
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import run_command as runs

    if name == "list":
        _list_demo(json)
        return
    if export is not None:
        _export(name, export, json)
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
        dry_run=dry_run,
        options=dict(
            _models(lm, lm_arg, vlm, vlm_arg, asking),
            steps=steps,
            seed=seed,
            max_lm_calls=max_lm_calls,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_seconds=max_seconds,
            max_consecutive_errors=max_errors,
            allow_config_changes=allow_changes,
        ),
    )


def optimize(
    data: Data,
    lm: Lm = None,
    vlm: Vlm = None,
    lm_arg: LmArg = None,
    vlm_arg: VlmArg = None,
    asking: Asking = "auto",
    model: Model = DEFAULT_MODEL,
    pretrained: Pretrained = DEFAULT_PRETRAINED,
    device: Device = "auto",
    template: Annotated[str, typer.Option(help="Start template.")] = "a photo of a <CLASS>.",
    initial: Annotated[list[str] | None, typer.Option(help="Another template to score first; may be repeated.")] = None,
    shots: Shots = "16",
    test: Test = None,
    val: Val = None,
    test_data: TestData = None,
    min_images: MinImages = 1,
    image: ImageColumn = None,
    label: LabelColumn = None,
    base: Base = None,
    classes: Classes = None,
    split: Split = None,
    base_novel: Annotated[
        bool, typer.Option("--base-novel", help="Search on half of the classes, test on both halves.")
    ] = False,
    steps: Steps = None,
    auto: Annotated[str | None, typer.Option(help="light, medium or heavy: 20, 50 or 100 steps.")] = None,
    prompts_per_step: PerStep = OptimizerConfig.prompts_per_step,
    history_size: Annotated[
        int, typer.Option(min=0, help="Best earlier templates that the proposer is shown.")
    ] = OptimizerConfig.history_size,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps without a better one.")] = None,
    seed: Seed = 0,
    max_descriptions: Descriptions = OptimizerConfig.max_described_images,
    max_lm_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_seconds: MaxSeconds = None,
    max_errors: MaxErrors = OptimizerConfig.max_consecutive_errors,
    num_threads: Annotated[int | None, typer.Option(min=1, help="For LLM requests and reading images.")] = None,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    ray_cpus: RayCpus = None,
    ray_gpus: RayGpus = None,
    ray_store: RayStore = None,
    ray_images: RayImages = None,
    out: Out = None,
    allow_changes: AllowChanges = False,
    dry_run: DryRun = False,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Find the best prompt template for your images."""
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli import output as show
    from ipo_dspy.cli import run_command as runs
    from ipo_dspy.run.progress import is_watched

    sets = read_sets(
        data,
        data_options(image, label, base, classes, split),
        shots=shots_of(shots),
        test=test,
        val=val,
        test_data=test_data,
        min_images=min_images,
        seed=seed,
        halves=base_novel,
    )
    if is_watched():  # like all progress, silent in logs
        show.note(sets.told(data.name))
    program = ClipClassifier(sets.train.classes, template=template, model=model, pretrained=pretrained, device=device)
    options = dict(
        _models(lm, lm_arg, vlm, vlm_arg, asking, num_threads),
        steps=steps,
        auto=auto,
        prompts_per_step=prompts_per_step,
        history_size=history_size,
        patience=patience,
        seed=seed,
        max_described_images=max_descriptions,
        max_lm_calls=max_lm_calls,
        max_tokens=max_tokens,
        max_cost=max_cost,
        max_seconds=max_seconds,
        max_consecutive_errors=max_errors,
        allow_config_changes=allow_changes,
        num_threads=num_threads,
        skip_unreadable=skip_bad,
        initial_templates=tuple(initial or ()),
        backend=scorer(ray, ray_workers, ray_cpus, ray_gpus, ray_store, ray_images),
    )
    folder = out or runs.free_folder("runs", data.stem or "run")
    tests = dict(sets.tests)
    _run(program, sets.train, sets.validation, tests, folder=folder, json=json, dry_run=dry_run, options=options)


def _run(
    program: "ClipClassifier",
    train: "ImageDataset",
    validation: "ImageDataset | None",
    tests: "dict[str, ImageDataset]",
    *,
    folder: Path,
    json: bool,
    dry_run: bool,
    options: dict[str, Any],
) -> None:
    from ipo_dspy.cli import output as show
    from ipo_dspy.cli import run_command as runs
    from ipo_dspy.cli import signals
    from ipo_dspy.cli.progress import LiveProgress
    from ipo_dspy.lms.endpoints import check_listening
    from ipo_dspy.lms.retry_notices import telling_of_retries
    from ipo_dspy.optimizer.ipo import IPO

    progress = LiveProgress()
    optimizer = IPO(log_dir=folder, observers=[progress], progress=False, **options)
    if dry_run:
        show.estimate(optimizer.estimate(program, train), machine=json)
        return
    progress.steps = optimizer.config.num_steps
    before = runs.journal_size(folder)
    asked = optimizer.check_models()  # before the CLIP is loaded, and perhaps fetched
    if not before:  # a run that goes on may have all the answers it needs
        for role, lm in asked.items():
            check_listening(lm, role=role)  # before there is a folder
    datasets = [one for one in (train, validation, *tests.values()) if one is not None]
    runs.prepare(optimizer, program, datasets)  # here a signal ends at once: there is nothing to keep yet
    retries = telling_of_retries(list(asked.values()), progress.say)
    try:
        with progress, signals.stopping(optimizer.stop, progress.say) as request, retries:
            result = runs.run(
                optimizer,
                program,
                train,
                validation=validation,
                tests=tests,
                folder=folder,
                stop=lambda: request.received,
            )
    except StoppedError:
        show.note(f"ipo-dspy: stopped before the search began; {_go_on(folder)}")
        raise typer.Exit(request.exit_code) from None
    except (IPOError, KeyboardInterrupt):
        if runs.journal_size(folder) > before and runs.holds_something(folder):
            show.note(f"what was answered and found so far is in {runs.journal(folder)}; {_go_on(folder)}")
        raise
    if json:
        show.as_json(result.as_json())
    else:
        show.outcome(result, optimizer.config.limits)
    if why := "stopped" if request.received else _why(result):
        show.note(f"ipo-dspy: {why}; {_go_on(folder)}")
    if code := request.exit_code if request.received else int(result.status == "errors"):
        raise typer.Exit(code)


def _go_on(folder: Path) -> str:
    from ipo_dspy.cli import resume

    return f"go on with: {resume.command(folder)}"


def _why(result: "Outcome") -> str:
    """What kept a run from its end, if something did."""
    told = {
        "finished": "",
        "errors": f"the language model failed ({result.fault}); the best template so far is in {result.folder}; "
        "another model, or --asking single, may do better and needs --allow-changes here",
    }
    return told.get(result.status, f"--{result.status.replace('_', '-')} is spent; raise it")


def _models(
    lm: str | None,
    lm_arg: list[str] | None,
    vlm: str | None,
    vlm_arg: list[str] | None,
    asking: str,
    num_threads: int | None = None,
) -> dict[str, Any]:
    """Constructor arguments of IPO that say who proposes and who describes."""
    from ipo_dspy.lms import build_lm
    from ipo_dspy.proposers import LMProposer

    of_lm, of_vlm = settings(lm_arg, "--lm-arg"), settings(vlm_arg, "--vlm-arg")
    for name, model, given in (("--lm", lm, of_lm), ("--vlm", vlm, of_vlm)):
        if given and not model:
            raise InputError(f"{name}-arg {next(iter(given))}=... is for a model; name one: {name} NAME")
    if lm is None and asking != "auto":
        raise InputError(f"--asking {asking} says how a language model is asked; name one: --lm NAME")
    chosen: dict[str, Any] = {"proposer": "evolution", "description_model": None}
    if lm is not None:
        writer = build_lm(lm, role="prompt_model", settings=of_lm)
        way: Any = asking  # any text; the proposer knows which
        chosen["proposer"] = LMProposer(writer, request_mode=way, num_threads=num_threads)
    if vlm is not None:
        chosen["description_model"] = build_lm(vlm, role="description_model", settings=of_vlm)
    return chosen


def _list_demo(json: bool) -> None:
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import output as show

    tasks = [bundled.load(name, classes="all") for name in bundled.names()]
    if json:
        show.as_json([{"name": t.name, "description": t.description, "classes": list(t.classes)} for t in tasks])
    else:
        show.rows(
            "bundled tasks",
            ["name", "classes>", "pictures"],
            [(t.name, str(len(t.classes)), t.description) for t in tasks],
        )


def _export(name: str, folder: Path, json: bool) -> None:
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import output as show

    count = bundled.export(name, folder)
    if json:
        show.as_json({"images": count, "folder": str(folder)})
    else:
        show.note(f"{count} pictures in {folder}; go on with: ipo-dspy optimize {folder} --model demo")


def _announce(json: bool, text: str) -> None:
    if not json:
        from ipo_dspy.cli import output as show

        show.note(text)
