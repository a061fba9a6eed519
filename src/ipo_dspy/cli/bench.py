"""`ipo-dspy bench`: the paper's experiment."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Exit, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import resume, signals, terminal
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.config import OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.bench.cells import Grid
    from ipo_dspy.bench.suites import Suite
    from ipo_dspy.bench.sweep import SweepResult
    from ipo_dspy.bench.tables import Table
    from ipo_dspy.distributed.ray_tasks import RayTasks


def bench(
    suite: Annotated[
        Literal["demo", "paper"], Option(help="demo: bundled tasks, bundled CLIP; paper: the eleven data sets.")
    ] = "demo",
    data: Annotated[Path | None, Option(help="Folder of the paper's data sets, for --suite paper.")] = None,
    methods: Annotated[
        str | None,
        Option(
            help="Comma-separated, e.g. clip,clip-ensemble,ipo.", show_default="all that can run with these options"
        ),
    ] = None,
    datasets: Annotated[str | None, Option(help="Comma-separated.", show_default="all of the suite")] = None,
    shots: Annotated[str, Option(help="Training images per class, comma-separated.")] = "1,16",
    seeds: Annotated[str, Option(help="Random seeds, comma-separated.")] = "1,2,3",
    ablate: Annotated[
        list[str] | None,
        Option(
            help="Vary one setting of IPO and print that table instead: descriptions, history, feedback, "
            "prompts-per-step, lm or vlm; may be repeated."
        ),
    ] = None,
    transfer: Annotated[
        str | None,
        Option(
            metavar="SOURCE",
            help="Learn on all classes of this data set and test on all classes of the others, or of --datasets, "
            "instead of base to novel.",
        ),
    ] = None,
    steps: Annotated[int, Option(min=0, help="Steps of IPO; other optimizers get the same evaluation budget.")] = 40,
    prompts_per_step: opt.PerStep = OptimizerConfig.prompts_per_step,
    history_size: opt.HistorySize = OptimizerConfig.history_size,
    max_described_images: opt.DescribedImages = OptimizerConfig.max_described_images,
    prompt_model: Annotated[
        list[str] | None,
        Option(
            help="LLM that proposes templates, a LiteLLM name; several with --ablate lm. By default, the built-in "
            "evolutionary search."
        ),
    ] = None,
    description_model: Annotated[
        list[str] | None,
        Option(help="Multimodal LLM that describes images; several with --ablate vlm. By default, CLIP does."),
    ] = None,
    prompt_model_kwargs: opt.PromptModelKwargs = None,
    description_model_kwargs: opt.DescriptionModelKwargs = None,
    request_mode: opt.Mode = "auto",
    method_arg: Annotated[
        list[str] | None,
        Option(
            metavar="METHOD[@DATASET].NAME=VALUE",
            help="Hyper-parameter, e.g. coop.epochs=5, coop.augment=true or coprompt@dtd.sentences=FILE.json; may be "
            "repeated.",
        ),
    ] = None,
    model: Annotated[str | None, Option(help="CLIP model to use instead of the suite's.")] = None,
    pretrained: Annotated[str | None, Option(help="open_clip tag or checkpoint path of --model.")] = None,
    device: opt.Device = "auto",
    ray: Annotated[
        str | None, Option(metavar="ADDRESS", help="Run the cells on a Ray cluster: auto, local or HOST:6379.")
    ] = None,
    ray_workers: opt.RayWorkers = None,
    cpus_per_worker: opt.RayCpus = None,
    gpus_per_worker: opt.RayGpus = None,
    out: Annotated[Path, Option(help="Output folder; an unfinished sweep in it is resumed.")] = Path("runs/bench"),
    output_format: Annotated[
        Literal["md", "latex", "csv"] | None,
        Option("--format", help="Format of the tables.", show_default="drawn on a terminal, md in a pipe"),
    ] = None,
    allow_config_changes: opt.AllowChanges = False,
    retry: Annotated[bool, Option("--retry-failed", help="Measure failed cells again.")] = False,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
) -> None:
    """Measure methods on data sets by the base-to-novel protocol and print the paper's table."""
    from ipo_dspy.bench.ablations import ablation, variant_names
    from ipo_dspy.bench.cells import Grid
    from ipo_dspy.bench.learning_curves import plot_curves
    from ipo_dspy.bench.markdown_page import Content, write_page
    from ipo_dspy.bench.runner import with_conditions
    from ipo_dspy.bench.settings import Settings
    from ipo_dspy.bench.shots_plot import write_shots
    from ipo_dspy.bench.suites import build_suite, chosen_transfer, select_datasets
    from ipo_dspy.bench.sweep import estimate
    from ipo_dspy.distributed.ray_tasks import RayTasks

    ray_arguments = opt.ray_arguments(ray, ray_workers, cpus_per_worker, gpus_per_worker)
    cluster = None if ray_arguments is None else RayTasks(**ray_arguments)
    models = {"lm": prompt_model or (), "vlm": description_model or ()}
    where = build_suite(suite, data)
    cell_settings = Settings(
        model=model or where.model,
        pretrained=pretrained if model else pretrained or where.pretrained,
        steps=steps,
        prompts_per_step=prompts_per_step,
        history_size=history_size,
        max_described_images=max_described_images,
        lm=_only(models["lm"], "--prompt-model", "lm", ablate),
        vlm=_only(models["vlm"], "--description-model", "vlm", ablate),
        lm_kwargs=opt.settings(prompt_model_kwargs, "--prompt-model-kwargs"),
        vlm_kwargs=opt.settings(description_model_kwargs, "--description-model-kwargs"),
        request_mode=request_mode,
        arguments=_arguments(method_arg),
    )
    asked = None if datasets is None else _split(datasets)
    if transfer is not None and ablate:
        raise InputError("--ablate varies only IPO from base to novel classes; use either --transfer or --ablate")
    source, targets = (None, ()) if transfer is None else chosen_transfer(transfer, asked, where)
    grid = Grid(
        suite=where.name,
        datasets=select_datasets(asked, where) if source is None else (source,),
        targets=targets,
        methods=_methods(methods, cell_settings.lm),
        shots=_numbers(shots, "--shots", 1),
        seeds=_numbers(seeds, "--seeds", 0),
        settings=cell_settings,
    )
    if methods is None and not dry_run and not ablate:
        where.check(grid.datasets)  # before a model is loaded, or fetched
        grid = replace(grid, methods=_able(grid, device))
    ablations = {name: ablation(name, grid, models) for name in ablate or ()}
    if ablations and methods is not None:
        raise InputError("--ablate varies only IPO; use either --methods or --ablate")
    if dry_run:
        show.estimate(estimate(tuple(ablations.values()) or (grid,), where), as_json=as_json)
        return
    on = "" if cluster is not None and device == "auto" else device
    grid = with_conditions(grid, where, on)
    ablations = {name: with_conditions(variants, where, on) for name, variants in ablations.items()}
    grids = tuple(ablations.values()) or (grid,)
    changes = {"allow_config_changes": allow_config_changes, "retry": retry}
    swept, code = _sweep(grids, where, out, cluster, device=device, **changes)
    if not ablations:
        for path in plot_curves(out, grid, where.titles):
            show.note(f"curves  {path}")
        if files := write_shots(out, grid, swept.rows, where):
            show.note(f"shots   {files[0]}, shots-*.svg, shots-*.png")
    tables = _tables(grid, ablations, where, swept)
    if swept.rows:
        rows, again = tuple(swept.rows.values()), resume.command(out)
        content = Content(tables, rows, swept.cells, where, again, variant_names(ablations))
        # The pages of different kinds of tables may share a folder.
        kind = f"-transfer-{transfer}" if transfer is not None else "-ablations" if ablations else ""
        show.note(f"page    {write_page(out / f'results{kind}.md', content)}")
    _show(tables, swept, output_format, out, as_json=as_json)
    if len(seeds_of := grids[0].seeds) == 1:
        show.note(
            f"one seed: a few points between methods may be chance; use --seeds {seeds_of[0]},{seeds_of[0] + 1},..."
        )
    if code:
        raise Exit(code)


def _sweep(
    grids: "Sequence[Grid]", suite: "Suite", out: Path, cluster: "RayTasks | None", **options: Any
) -> "tuple[SweepResult, int]":
    """Measure the cells and return the results and the exit code."""
    from ipo_dspy.bench.method_runners import StopSignal
    from ipo_dspy.bench.sweep import sweep
    from ipo_dspy.cli.sweep_progress import LiveSweep

    stopper, live = StopSignal(), LiveSweep(several=cluster is not None)
    message = "stopping after this step" if cluster is None else "stopping the running cells"
    with live, signals.handle_interrupt(stopper.stop, live.say, lambda: message) as request:
        swept = sweep(grids, suite, out, ray=cluster, audience=live, stopper=stopper, **options)
    return swept, request.exit_code if swept.stopped else int(bool(swept.failed))


def _tables(grid: "Grid", ablations: "dict[str, Grid]", suite: "Suite", swept: "SweepResult") -> "list[Table]":
    from ipo_dspy.bench.tables import ablation_table, paper_table, transfer_table

    if ablations:
        pairs = [(name, variants, shots) for name, variants in ablations.items() for shots in variants.shots]
        return [ablation_table(name, variants, swept.rows, suite, shots) for name, variants, shots in pairs]
    kind = transfer_table if grid.targets else paper_table
    return [kind(grid, swept.rows, suite, shots) for shots in grid.shots]


def _show(
    tables: "Sequence[Table]", swept: "SweepResult", output_format: str | None, out: Path, *, as_json: bool
) -> None:
    """Print tables or JSON to stdout; failed cells and how to resume to stderr."""
    from ipo_dspy.bench.result_rows import ROWS
    from ipo_dspy.bench.tables import cell_text, render

    if as_json:
        rows = [asdict(row) for row in swept.rows.values()]
        show.write_json({"cells": swept.cells, "stopped": swept.stopped, "rows": rows})
    elif output_format is None and terminal.Terminal().is_terminal:
        for table in tables:
            columns = [*table.columns[: table.texts], *(f"{name}>" for name in table.columns[table.texts :])]
            show.rows(table.title, columns, [[cell_text(value) for value in line] for line in table.lines])
    else:
        terminal.line(render(tables, output_format or "md"))
    for row in swept.failed:
        show.note(f"failed: {row.method}, {row.dataset}, {row.shots}-shot, seed {row.seed}: {row.error}")
    again = resume.command(out)
    if swept.failed:
        failed = pluralize(len(swept.failed), "cell")
        show.note(f"{failed} failed, see {out / ROWS}; retry with: {again} --retry-failed")
    if swept.stopped:
        show.note(f"stopped after {len(swept.rows)} of {pluralize(swept.cells, 'cell')}; resume with: {again}")


def _methods(text: str | None, lm: str | None) -> tuple[str, ...]:
    """Return the given methods in the order of the tables; by default all that can run."""
    from ipo_dspy.bench.registry import METHODS, find_kind

    if text is None:
        return tuple(name for name, kind in METHODS.items() if lm is not None or not kind.needs_lm)
    asked = [find_kind(name).name for name in _split(text)]
    return tuple(name for name in METHODS if name in asked)


def _able(grid: "Grid", device: str) -> tuple[str, ...]:
    """Return the methods that can run with the model, and print why the others cannot."""
    from ipo_dspy.bench.registry import unsupported_reasons
    from ipo_dspy.clip.bundled import resolve_model_name
    from ipo_dspy.clip.loading import load_backbone

    with spinner("Loading the model ..."):
        backbone = load_backbone(resolve_model_name(grid.settings.model), grid.settings.pretrained, device=device)
    reasons = unsupported_reasons(grid.methods, backbone)
    for reason in dict.fromkeys(reason for reason in reasons.values() if reason is not None):
        show.note(f"left out: {', '.join(name for name, why in reasons.items() if why == reason)}: {reason}")
    return tuple(name for name, reason in reasons.items() if reason is None)


def _only(names: Sequence[str], option: str, ablation: str, ablate: Sequence[str] | None) -> str | None:
    """Return the language model of all cells; None if several are compared."""
    if ablation in (ablate or ()):
        return None
    if len(names) > 1:
        raise InputError(f"{option} names {len(names)} models; pass one, or compare them: --ablate {ablation}")
    return names[0] if names else None


def _arguments(given: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    from ipo_dspy.bench.registry import with_sentences

    arguments: dict[str, dict[str, Any]] = {}
    for text in given or ():
        method, dot, rest = text.partition(".")
        if not dot:
            raise InputError(f"--method-arg {text!r} must name a method; for example --method-arg coop.epochs=5")
        arguments.setdefault(method, {}).update(opt.settings([rest], "--method-arg"))
    return with_sentences(arguments)


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in _split(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise InputError(
            f"{option} {text!r} must be a comma-separated list of integers >= {least}; for example {option} 1,2"
        )
    return tuple(dict.fromkeys(numbers))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
