"""`ipo-dspy data`: list the data sets of the paper's experiments, and check the files of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.options import Json

if TYPE_CHECKING:
    from ipo_dspy.data import Benchmark, BenchmarkCheck

data = typer.Typer(name="data", help="The data sets of the paper's experiments.", no_args_is_help=True)


@data.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets: folder, split file, number of classes."""
    from ipo_dspy.data import BENCHMARKS

    if as_json:
        show.write_json([_as_json(benchmark) for benchmark in BENCHMARKS.values()])
        return
    columns = ["name", "title", "folder", "classes>", "split file, or class names"]
    rows = ((b.name, b.title, b.folder, f"{b.classes:,}", b.lists[0]) for b in BENCHMARKS.values())
    show.rows("data sets of the experiments", columns, rows)


@data.command()
def check(
    name: Annotated[str, Argument(help="Data set name; see data list.")],
    path: Annotated[Path, Argument(help="Folder of all data sets, or of this one.")],
    as_json: Json = False,
) -> None:
    """Check that a data set is complete, and print where to get missing files. Exit code 1 if any is missing."""
    from ipo_dspy.data import check_benchmark

    result = check_benchmark(name, path)
    if as_json:
        findings = [{"ok": finding.ok, "what": finding.what, "message": finding.message} for finding in result.findings]
        show.write_json(
            {"name": result.benchmark.name, "folder": str(result.folder), "ok": result.ok, "findings": findings}
        )
    else:
        _print(result)
    raise typer.Exit(0 if result.ok else 1)


def _print(result: "BenchmarkCheck") -> None:
    terminal.line(f"{result.benchmark.title} in {result.folder}")
    for finding in result.findings:
        terminal.line(f"  {'ok' if finding.ok else '--'}  {finding.what}: {finding.message}")
    failed = sum(not finding.ok for finding in result.findings)
    terminal.line("complete" if result.ok else f"incomplete: {pluralize(failed, 'check')} failed")


def _as_json(benchmark: "Benchmark") -> dict[str, object]:
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "folder": benchmark.folder,
        "images": list(benchmark.images),
        "lists": list(benchmark.lists),
        "classes": benchmark.classes,
        "template": benchmark.template,
        "image_origin": benchmark.image_origin,
        "list_origin": benchmark.list_origin,
    }
