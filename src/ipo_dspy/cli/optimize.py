"""Commands that search for a template: demo and optimize."""

from collections.abc import Mapping
from enum import StrEnum
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
    Data,
    DescribedImages,
    DescriptionModel,
    DescriptionModelKwargs,
    Device,
    DryRun,
    HistorySize,
    Json,
    LogDir,
    MaxCalls,
    MaxCost,
    MaxErrors,
    MaxSeconds,
    MaxTokens,
    Mode,
    Model,
    PerStep,
    Pretrained,
    PromptModel,
    PromptModelKwargs,
    Ray,
    RayCpus,
    RayGpus,
    RayImages,
    RayStore,
    RayWorkers,
    RequestMode,
    Seed,
    SkipUnreadable,
    Steps,
    ipo_options,
    scorer,
    settings,
)
from ipo_dspy.errors import InputError, IPOError, StoppedError
from ipo_dspy.optimizer.config import OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli.run_command import RunSummary
    from ipo_dspy.data import ImageDataset


class Auto(StrEnum):
    """Presets of the number of steps."""

    LIGHT = "light"
    MEDIUM = "medium"
    HEAVY = "heavy"


def demo(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a bundled task, see --list.")] = "pixel-animals",
    list_tasks: Annotated[bool, typer.Option("--list", help="List the bundled tasks and exit.")] = False,
    prompt_model: PromptModel = None,
    description_model: DescriptionModel = None,
    prompt_model_kwargs: PromptModelKwargs = None,
    description_model_kwargs: DescriptionModelKwargs = None,
    request_mode: Mode = RequestMode.AUTO,
    steps: Annotated[int, typer.Option(min=0, help="Search steps; each asks the proposer once.")] = 40,
    shots: Annotated[int, typer.Option(min=1, help="Training images per class.")] = 16,
    seed: Seed = 0,
    max_lm_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_seconds: MaxSeconds = None,
    max_consecutive_errors: MaxErrors = OptimizerConfig.max_consecutive_errors,
    log_dir: LogDir = None,
    allow_config_changes: AllowChanges = False,
    export: Annotated[Path | None, typer.Option(help="Only export the images to this folder.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run IPO on bundled images with a bundled CLIP: no network, no key."""
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import output as show
    from ipo_dspy.cli import run_command as runs

    if list_tasks:
        _list_demo(as_json)
        return
    if export is not None:
        _export(name, export, as_json)
        return
    base = bundled.load(name, shots=shots, seed=seed)
    novel = bundled.load(name, shots=shots, seed=seed, classes="novel")
    if not as_json:
        show.note(f"{name}: {base.description.rstrip('.')}; classes such as {', '.join(base.classes[:6])}.")
    models = _models(prompt_model, prompt_model_kwargs, description_model, description_model_kwargs, request_mode)
    _run(
        base.program,
        base.trainset,
        base.valset,
        {"base": base.testset, "novel": novel.testset},
        folder=log_dir or runs.next_free_folder("runs", f"demo-{name}"),
        as_json=as_json,
        dry_run=dry_run,
        options=ipo_options(ctx) | models,
    )


def optimize(
    ctx: typer.Context,
    data: Data,
    prompt_model: PromptModel = None,
    description_model: DescriptionModel = None,
    prompt_model_kwargs: PromptModelKwargs = None,
    description_model_kwargs: DescriptionModelKwargs = None,
    request_mode: Mode = RequestMode.AUTO,
    task_description: Annotated[
        str | None,
        typer.Option(help="Description of the task in one sentence, for the proposer.", show_default="the class names"),
    ] = None,
    model: Model = DEFAULT_MODEL,
    pretrained: Pretrained = DEFAULT_PRETRAINED,
    device: Device = "auto",
    template: Annotated[str, typer.Option(help="Initial template.")] = "a photo of a <CLASS>.",
    initial_templates: Annotated[
        list[str] | None,
        typer.Option("--initial-template", help="Additional template to score before the search; may be repeated."),
    ] = None,
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
        bool, typer.Option("--base-novel", help="Search on one half of the classes, test on both halves.")
    ] = False,
    steps: Steps = None,
    auto: Annotated[Auto | None, typer.Option(help="Preset for --steps: 20, 50 or 100.")] = None,
    prompts_per_step: PerStep = OptimizerConfig.prompts_per_step,
    history_size: HistorySize = OptimizerConfig.history_size,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps without improvement.")] = None,
    seed: Seed = 0,
    max_described_images: DescribedImages = OptimizerConfig.max_described_images,
    max_lm_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_seconds: MaxSeconds = None,
    max_consecutive_errors: MaxErrors = OptimizerConfig.max_consecutive_errors,
    prefetch: Annotated[
        bool | None,
        typer.Option(
            help="Request the next templates while the previous ones are scored.", show_default="with --prompt-model"
        ),
    ] = None,
    num_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for LLM requests and for reading images.")
    ] = None,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    cpus_per_worker: RayCpus = None,
    gpus_per_worker: RayGpus = None,
    store: RayStore = None,
    ray_images: RayImages = None,
    log_dir: LogDir = None,
    allow_config_changes: AllowChanges = False,
    dry_run: DryRun = False,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
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
    if is_watched():  # like progress bars, not printed to logs
        show.note(sets.summary(data.name))
    program = ClipClassifier(sets.train.classes, template=template, model=model, pretrained=pretrained, device=device)
    models = _models(
        prompt_model, prompt_model_kwargs, description_model, description_model_kwargs, request_mode, num_threads
    )
    _run(
        program,
        sets.train,
        sets.validation,
        sets.tests,
        folder=log_dir or runs.next_free_folder("runs", data.stem or "run"),
        as_json=as_json,
        dry_run=dry_run,
        options={
            **ipo_options(ctx),
            **models,
            "initial_templates": tuple(initial_templates or ()),
            "backend": scorer(ray, ray_workers, cpus_per_worker, gpus_per_worker, store, ray_images),
        },
    )


def _run(
    program: "ClipClassifier",
    train: "ImageDataset",
    validation: "ImageDataset | None",
    tests: "Mapping[str, ImageDataset]",
    *,
    folder: Path,
    as_json: bool,
    dry_run: bool,
    options: Mapping[str, Any],
) -> None:
    from ipo_dspy.cli import output as show
    from ipo_dspy.cli import run_command as runs
    from ipo_dspy.cli import signals
    from ipo_dspy.cli.progress import LiveProgress
    from ipo_dspy.lms.endpoints import check_port_open
    from ipo_dspy.lms.retry_notices import log_retries
    from ipo_dspy.optimizer.ipo import IPO

    progress = LiveProgress()
    optimizer = IPO(log_dir=folder, observers=[progress], progress=False, **options)
    if dry_run:
        show.estimate(optimizer.estimate(program, train), as_json=as_json)
        return
    progress.steps = optimizer.config.num_steps
    before = runs.journal_size(folder)
    asked = optimizer.check_models()  # before CLIP is loaded, and maybe downloaded
    if not before:  # a resumed run may have all the responses it needs
        for role, lm in asked.items():
            check_port_open(lm, role=role)  # before the folder is created
    datasets = [dataset for dataset in (train, validation, *tests.values()) if dataset is not None]
    runs.prepare(optimizer, program, datasets)  # a signal ends the command at once: nothing to save yet
    retries = log_retries(list(asked.values()), progress.say)
    try:
        with progress, signals.handle_interrupt(optimizer.stop, progress.say) as request, retries:
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
        show.note(f"ipo-dspy: stopped before the search began; {_resume_hint(folder)}")
        raise typer.Exit(request.exit_code) from None
    except (IPOError, KeyboardInterrupt):
        if runs.journal_size(folder) > before and runs.is_nonempty(folder):
            show.note(f"responses and trials so far are in {runs.journal(folder)}; {_resume_hint(folder)}")
        raise
    if as_json:
        show.write_json(result.as_json())
    else:
        show.run_summary(result, optimizer.config.limits)
    if why := "stopped" if request.received else _stop_reason(result):
        show.note(f"ipo-dspy: {why}; {_resume_hint(folder)}")
    if code := request.exit_code if request.received else int(result.status == "errors"):
        raise typer.Exit(code)


def _resume_hint(folder: Path) -> str:
    from ipo_dspy.cli import resume

    return f"resume with: {resume.command(folder)}"


def _stop_reason(result: "RunSummary") -> str:
    """Return the reason why a run stopped early; empty if it did not."""
    reasons = {
        "finished": "",
        "errors": f"the language model failed ({result.fault}); the best template so far is in {result.folder}; "
        "try another model or --request-mode single (requires --allow-config-changes for this folder)",
    }
    return reasons.get(result.status, f"--{result.status.replace('_', '-')} reached; raise it")


def _models(
    prompt_model: str | None,
    prompt_model_kwargs: list[str] | None,
    description_model: str | None,
    description_model_kwargs: list[str] | None,
    request_mode: RequestMode,
    num_threads: int | None = None,
) -> dict[str, Any]:
    """Return the arguments of `IPO` for the proposer and the describer."""
    from ipo_dspy.lms import build_lm
    from ipo_dspy.proposers import LMProposer

    lms: dict[str, Any] = {}
    for role, name, kwargs in (
        ("prompt_model", prompt_model, prompt_model_kwargs),
        ("description_model", description_model, description_model_kwargs),
    ):
        option = f"--{role.replace('_', '-')}"
        lm_settings = settings(kwargs, f"{option}-kwargs")
        if lm_settings and not name:
            raise InputError(f"{option}-kwargs {next(iter(lm_settings))}=... needs a model; pass {option} NAME")
        lms[role] = build_lm(name, role=role, settings=lm_settings) if name else None
    proposer: Any = "evolution"
    if lms["prompt_model"] is not None:
        proposer = LMProposer(lms["prompt_model"], request_mode=request_mode.value, num_threads=num_threads)
    elif request_mode != RequestMode.AUTO:
        raise InputError(f"--request-mode {request_mode} needs a language model; pass --prompt-model NAME")
    return {"proposer": proposer, "description_model": lms["description_model"]}


def _list_demo(as_json: bool) -> None:
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import output as show

    tasks = [bundled.load(name, classes="all") for name in bundled.names()]
    if as_json:
        show.write_json([{"name": t.name, "description": t.description, "classes": list(t.classes)} for t in tasks])
    else:
        lines = [(t.name, str(len(t.classes)), t.description) for t in tasks]
        show.rows("bundled tasks", ["name", "classes>", "images"], lines)


def _export(name: str, folder: Path, as_json: bool) -> None:
    from ipo_dspy import demo as bundled
    from ipo_dspy.cli import output as show

    count = bundled.export(name, folder)
    if as_json:
        show.write_json({"images": count, "folder": str(folder)})
    else:
        show.note(f"{count} images in {folder}; use them with: ipo-dspy optimize {folder} --model demo")
