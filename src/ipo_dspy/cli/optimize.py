"""Commands that search for a template: demo and optimize."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option

from ipo_dspy.cli import data_options as inputs
from ipo_dspy.cli import objective_options as goals
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import resume, signals
from ipo_dspy.cli import run_command as runs
from ipo_dspy.cli.progress import LiveProgress
from ipo_dspy.errors import InputError, IPOError, StoppedError
from ipo_dspy.optimizer.config import Across, OptimizerConfig, SearchPreset
from ipo_dspy.run import choice_sentences
from ipo_dspy.template import DEFAULT_TEMPLATE

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.cli.run_summary import RunSummary
    from ipo_dspy.run.events import CommandEvent

Part = StrEnum("Part", ["TEMPLATE", "CLASS_TEXTS"])
"""The parts of a classifier that are searched; an enumeration, because Typer takes no list of literals."""


def demo(
    ctx: Context,
    name: Annotated[str, Argument(help="Name of a bundled task, see --list.")] = "pixel-animals",
    *,
    list_tasks: Annotated[bool, Option("--list", help="List the bundled tasks and exit.")] = False,
    lms: opt.LanguageModels,
    request_mode: opt.Mode = "auto",
    steps: Annotated[int, Option(min=0, help="Search steps; each asks the proposer once.")] = 40,
    shots: Annotated[int, Option(min=1, help="Training images per class.")] = 16,
    search: opt.SearchOptions,
    export: Annotated[Path | None, Option(help="Only export the images to this folder.")] = None,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
) -> None:
    """Run IPO on bundled images with a bundled CLIP: no network, no key."""
    from ipo_dspy import demo as bundled

    if list_tasks:
        tasks = [bundled.load(task, classes="all") for task in bundled.names()]
        if as_json:
            show.write_json([{"name": t.name, "description": t.description, "classes": list(t.classes)} for t in tasks])
        else:
            lines = [(t.name, str(len(t.classes)), t.description) for t in tasks]
            show.rows("bundled tasks", ["name", "classes>", "images"], lines)
        return
    if export is not None:
        count = bundled.export(name, export)
        if as_json:
            show.write_json({"images": count, "folder": str(export)})
        else:
            use = shlex.join(["ipo-dspy", "optimize", str(export), "--model", "demo"])
            show.note(f"{count} images in {export}; use them with: {use}")
        return
    base = bundled.load(name, shots=shots, seed=search.seed)
    novel = bundled.load(name, shots=shots, seed=search.seed, classes="novel")
    if not as_json:
        show.note(f"{name}: {base.description.rstrip('.')}; classes such as {', '.join(base.classes[:6])}.")
    sets = inputs.DataSets(base.trainset, base.valset, {"base": base.testset, "novel": novel.testset})
    folder = search.log_dir or runs.next_free_folder("runs", f"demo-{name}")
    options = opt.ipo_options(ctx) | _models(lms, request_mode) | search.arguments()
    _run(base.program, sets, folder, options, as_json=as_json, dry_run=dry_run)


def optimize(
    ctx: Context,
    data: opt.Data,
    *,
    lms: opt.LanguageModels,
    request_mode: opt.Mode = "auto",
    task_description: Annotated[
        str | None,
        Option(help="Description of the task in one sentence, for the proposer.", show_default="the class names"),
    ] = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    pretrained: opt.Pretrained = opt.DEFAULT_PRETRAINED,
    device: opt.Device = "auto",
    also: Annotated[
        list[str] | None,
        Option("--also", metavar="MODEL", help="Further CLIP model that templates are scored with; may be repeated."),
    ] = None,
    across: Annotated[
        Across,
        Option("--across", help="With --also: score a template by its mean over the models, or by its worst one."),
    ] = "mean",
    template: Annotated[str, Option(help="Initial template.")] = DEFAULT_TEMPLATE,
    initial_templates: Annotated[
        list[str] | None,
        Option(
            "--initial-template",
            help="Additional template to score before the search, or 'paper' or 'imagenet-80' for published prompts; "
            "may be repeated.",
        ),
    ] = None,
    parts: inputs.SplitOptions,
    images: inputs.ImageOptions,
    class_texts: inputs.ClassTexts = None,
    base_novel: Annotated[
        bool, Option("--base-novel", help="Search on one half of the classes, test on both halves.")
    ] = False,
    steps: Annotated[
        int | None, Option(min=0, help="Search steps; each asks the proposer once.", show_default="100")
    ] = None,
    auto: Annotated[SearchPreset | None, Option(help="Preset for --steps: 20, 50 or 100.")] = None,
    prompts_per_step: opt.PerStep = OptimizerConfig.prompts_per_step,
    history_size: opt.HistorySize = OptimizerConfig.history_size,
    search: opt.SearchOptions,
    optimize: Annotated[
        list[Part] | None,
        Option(
            help="What to optimize: the template, or class_texts, the words for the classes; may be repeated.",
            show_default="template",
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Texts to try for labels with --optimize class_texts: JSON with a list of texts for each label, or "
            "CSV with the columns label and text.",
        ),
    ] = None,
    max_recall_drop: Annotated[
        float,
        Option(min=0, help="Points by which new words may lower the recall of any class."),
    ] = OptimizerConfig.max_recall_drop,
    patience: Annotated[int | None, Option(min=1, help="Stop after this many steps without improvement.")] = None,
    max_described_images: opt.DescribedImages = OptimizerConfig.max_described_images,
    prefetch: Annotated[
        bool | None,
        Option(
            help="Request the next templates while the previous ones are scored.", show_default="with --prompt-model"
        ),
    ] = None,
    num_threads: Annotated[int | None, Option(min=1, help="Threads for LLM requests and for reading images.")] = None,
    ray: opt.Ray = None,
    ray_workers: opt.RayWorkers = None,
    cpus_per_worker: opt.RayCpus = None,
    gpus_per_worker: opt.RayGpus = None,
    store: Annotated[
        Path | None, Option("--ray-store", help="Folder on all nodes that keeps image features between runs.")
    ] = None,
    ray_images: Annotated[
        str | None,
        Option(
            help="Score candidates on these images instead of DATA: a folder, a table, or webdataset or parquet "
            "shards, e.g. 'shards/*.tar', which only the workers read.",
        ),
    ] = None,
    dry_run: opt.DryRun = False,
    skip_unreadable: opt.SkipUnreadable = False,
    as_json: opt.Json = False,
) -> None:
    """Find the best prompt template for your images."""
    from ipo_dspy.class_texts import load_class_texts
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.clip.loading import check_weights
    from ipo_dspy.clip.model_spec import check_sigmoid_head, resolve_model, weights_of
    from ipo_dspy.distributed import RayScorer
    from ipo_dspy.run.progress import is_watched

    if several := parts.multi_label:
        check_sigmoid_head(*resolve_model(model, pretrained, device, "float32"))  # before images are read
    sets = parts.read(data, images, seed=search.seed, halves=base_novel)
    if is_watched():  # like progress bars, not printed to logs
        show.note(f"{data.name}: {sets}")
    tested = [name for dataset in sets.tests.values() for name in dataset.classes]
    tried = None if candidates is None else load_class_texts(candidates)
    named = inputs.with_texts(sets.train.classes, class_texts, tested, candidates=tried or ())
    program = ClipClassifier(
        named, template=template, model=model, pretrained=pretrained, device=device, multi_label=several
    )
    if dry_run and (weights := weights_of(model, pretrained)) is not None:
        check_weights(model, weights)  # a run loads them
    options = opt.ipo_options(ctx) | _models(lms, request_mode, num_threads) | search.arguments()
    options |= {"initial_templates": tuple(initial_templates or ()), "also": also or ()}
    options["optimize"] = tuple(map(str, optimize or (Part.TEMPLATE,)))
    options["candidates"] = tried
    cluster = opt.ray_arguments(ray, ray_workers, cpus_per_worker, gpus_per_worker, store=store, images=ray_images)
    options["backend"] = None if cluster is None else RayScorer(**cluster)
    folder = search.log_dir or runs.next_free_folder("runs", data.stem or "run")
    command = resume.command_event(ctx, data, has_spare_images=sets.has_spare)
    _run(program, sets, folder, options, as_json=as_json, dry_run=dry_run, command=command)


def _run(
    program: "ClipClassifier",
    sets: inputs.DataSets,
    folder: Path,
    options: Mapping[str, Any],
    *,
    as_json: bool,
    dry_run: bool,
    command: "CommandEvent | None" = None,
) -> None:
    from ipo_dspy.lms.endpoints import check_port_open
    from ipo_dspy.lms.retry_notices import log_retries
    from ipo_dspy.optimizer.ipo import IPO
    from ipo_dspy.run.journal import FILE_NAME

    note = choice_sentences.imbalance([*filter(None, sets.train.counts().values())], options["objective"])
    if note and not (as_json or program.multi_label):
        show.note(note)
    tested = [name for images in sets.tests.values() for name in images.classes]
    options = goals.of_searched(options, sets.train.classes, tested)
    progress = LiveProgress()
    optimizer = IPO(log_dir=folder, observers=[progress], progress=False, **options)
    if dry_run:
        plan = runs.plan(optimizer, program, sets, folder)
        show.estimate(optimizer.estimate(program, sets.train, valset=sets.validation), plan, as_json=as_json)
        return
    progress.steps = optimizer.config.num_steps
    before, again = runs.journal_size(folder), f"resume with: {resume.command(folder)}"
    asked = optimizer.check_models()  # before CLIP is loaded, and maybe downloaded
    if not before:  # a resumed run may have all the responses it needs
        for role, lm in asked.items():
            check_port_open(lm, role=role)  # before the folder is created
    runs.prepare(optimizer, program, sets)  # a signal ends the command at once: nothing to save yet
    retries = log_retries(list(asked.values()), progress.say)
    try:
        with progress, signals.handle_interrupt(optimizer.stop, progress.say, progress.stopping) as request, retries:
            result = runs.run(
                optimizer, program, sets, folder, progress=progress, stop=lambda: request.received, command=command
            )
    except StoppedError:
        show.note(f"ipo-dspy: stopped before the search began; {again}")
        raise Exit(request.exit_code) from None
    except (IPOError, KeyboardInterrupt):
        if runs.journal_size(folder) > before and runs.is_nonempty(folder):
            show.note(f"responses and trials so far are in {folder / FILE_NAME}; {again}")
        raise
    if as_json:
        show.write_json(result.as_json())
    else:
        show.run_summary(result, optimizer.config.limits)
    if why := "stopped" if request.received else _stop_reason(result):
        show.note(f"ipo-dspy: {why}; {again}")
    if code := request.exit_code if request.received else int(result.details.status == "errors"):
        raise Exit(code)


def _stop_reason(result: "RunSummary") -> str:
    """Return the reason why a run stopped early; empty if it did not."""
    status = result.details.status
    if status == "errors":
        fault = next(search.fault for search in result.details.searches if search.fault)
        return (
            f"the language model failed ({fault}); the best template so far is in {result.folder}; "
            "try another model or --request-mode single (requires --allow-config-changes for this folder)"
        )
    return "" if status in ("finished", "exhausted") else f"--{status.replace('_', '-')} reached; raise it"


def _models(lms: opt.LanguageModels, request_mode: opt.Mode, num_threads: int | None = None) -> dict[str, Any]:
    """Return the arguments of `IPO` for the proposer and the describer."""
    from ipo_dspy.lms import build_lm
    from ipo_dspy.proposers import LMProposer

    built: list[dspy.BaseLM | None] = []
    for option, name, lm_settings in lms:
        if lm_settings and not name:
            raise InputError(f"{option}-kwargs {next(iter(lm_settings))}=... needs a model; pass {option} NAME")
        role = option.lstrip("-").replace("-", "_")
        built.append(build_lm(name, role=role, settings=lm_settings) if name else None)
    prompt_model, description_model = built
    if prompt_model is not None:
        proposer = LMProposer(prompt_model, request_mode=request_mode, num_threads=num_threads)
        return {"proposer": proposer, "description_model": description_model}
    if request_mode != "auto":
        raise InputError(f"--request-mode {request_mode} needs a language model; pass --prompt-model NAME")
    return {"proposer": "evolution", "description_model": description_model}
