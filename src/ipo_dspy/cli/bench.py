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
from ipo_dspy.cli.bench_options import CellOptions, SettingOptions
from ipo_dspy.cli.progress import spinner

if TYPE_CHECKING:
    from ipo_dspy.bench.cells import Grid
    from ipo_dspy.bench.suites import Suite
    from ipo_dspy.bench.sweep import SweepResult
    from ipo_dspy.bench.tables import Table
    from ipo_dspy.distributed.ray_tasks import RayTasks


def bench(
    *,
    suite: Annotated[
        Literal["demo", "paper"], Option(help="demo: bundled tasks, bundled CLIP; paper: the eleven data sets.")
    ] = "demo",
    data: Annotated[Path | None, Option(help="Folder of the paper's data sets, for --suite paper.")] = None,
    cells: CellOptions,
    common: SettingOptions,
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
        Option("--format", help="Format of the tables.", show_default="a table in a terminal, md in a pipe"),
    ] = None,
    allow_config_changes: opt.AllowChanges = False,
    retry: Annotated[bool, Option("--retry-failed", help="Measure failed cells again.")] = False,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
) -> None:
    """Measure methods on data sets by the base-to-novel protocol and print the paper's table."""
    from ipo_dspy.bench.runner import with_conditions
    from ipo_dspy.bench.suites import build_suite
    from ipo_dspy.bench.sweep import estimate
    from ipo_dspy.distributed.ray_tasks import RayTasks

    ray_arguments = opt.ray_arguments(ray, ray_workers, cpus_per_worker, gpus_per_worker)
    cluster = None if ray_arguments is None else RayTasks(**ray_arguments)
    where = build_suite(suite, data)
    grid = cells.grid(where, common.settings(where, cells.ablate))
    if cells.methods is None and not dry_run and not cells.ablate:
        where.check(grid.datasets)  # before a model is loaded, or fetched
        grid = replace(grid, methods=_able(grid, device))
    ablations = cells.ablations(grid, common.models)
    if dry_run:
        show.estimate(estimate(tuple(ablations.values()) or (grid,), where), as_json=as_json)
        return
    on = "" if cluster is not None and device == "auto" else device
    grid = with_conditions(grid, where, on)
    ablations = {name: with_conditions(variants, where, on) for name, variants in ablations.items()}
    changes = {"allow_config_changes": allow_config_changes, "retry": retry}
    grids = tuple(ablations.values()) or (grid,)
    swept, code = _sweep(grids, where, out, cluster, device=device, **changes)
    tables = _tables(grid, ablations, where, swept)
    _write_files(grid, ablations, where, swept, tables, out)
    _show(tables, swept, output_format, out, as_json=as_json)
    if len(grid.seeds) == 1:
        (seed,) = grid.seeds
        show.note(f"one seed: a few points between methods may be chance; use --seeds {seed},{seed + 1},...")
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
        swept = sweep(grids, suite, out, ray=cluster, observer=live, stopper=stopper, **options)
    return swept, request.exit_code if swept.stopped else int(bool(swept.failed))


def _tables(grid: "Grid", ablations: "dict[str, Grid]", suite: "Suite", swept: "SweepResult") -> "list[Table]":
    from ipo_dspy.bench.tables import ablation_table, paper_table, transfer_table

    if ablations:
        pairs = [(name, variants, shots) for name, variants in ablations.items() for shots in variants.shots]
        return [ablation_table(name, variants, swept.rows, suite, shots) for name, variants, shots in pairs]
    kind = transfer_table if grid.targets else paper_table
    return [kind(grid, swept.rows, suite, shots) for shots in grid.shots]


def _write_files(
    grid: "Grid", ablations: "dict[str, Grid]", suite: "Suite", swept: "SweepResult", tables: "list[Table]", out: Path
) -> None:
    """Write curves, plots over shots, and the page of a sweep."""
    from ipo_dspy.bench.ablations import variant_names
    from ipo_dspy.bench.learning_curves import plot_curves
    from ipo_dspy.bench.markdown_page import Content, write_page
    from ipo_dspy.bench.shots_plot import write_shots

    if not ablations:
        for path in plot_curves(out, grid, suite.titles):
            show.note(f"curves  {path}")
        if files := write_shots(out, grid, swept.rows, suite):
            show.note(f"shots   {files[0]}, shots-*.svg, shots-*.png")
    if swept.rows:
        rows, again = tuple(swept.rows.values()), resume.command(out)
        content = Content(tables, rows, swept.cells, suite, again, variant_names(ablations))
        # The pages of different kinds of tables may share a folder.
        kind = f"-transfer-{grid.datasets[0]}" if grid.targets else "-ablations" if ablations else ""
        show.note(f"page    {write_page(out / f'results{kind}.md', content)}")


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


def _able(grid: "Grid", device: str) -> tuple[str, ...]:
    """Return the methods that can run with the model, and print why the others cannot."""
    from ipo_dspy.bench.registry import unsupported_reasons
    from ipo_dspy.clip.bundled import resolve_model_name
    from ipo_dspy.clip.loading import load_backbone

    with spinner("Loading the model ..."):
        backbone = load_backbone(resolve_model_name(grid.settings.model), grid.settings.pretrained, device=device)
    reasons = unsupported_reasons(grid.methods, backbone)
    for reason in dict.fromkeys(reason for reason in reasons.values() if reason is not None):
        show.note(f"skipped: {', '.join(name for name, why in reasons.items() if why == reason)}: {reason}")
    return tuple(name for name, reason in reasons.items() if reason is None)
