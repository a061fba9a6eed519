"""`ipo-dspy data`: list the data sets of the paper's experiments, and check the files of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import terminal
from ipo_dspy.cli.options import Json

if TYPE_CHECKING:
    from ipo_dspy.data import Benchmark, BenchmarkCheck

data = typer.Typer(name="data", help="The data sets of the paper's experiments.", no_args_is_help=True)


@data.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets: folder, split file, number of classes."""
    from ipo_dspy.cli import output as show
    from ipo_dspy.data import BENCHMARKS

    if as_json:
        show.write_json([_as_json(benchmark) for benchmark in BENCHMARKS.values()])
        return
    columns = ["name", "title", "folder", "classes>", "split file, or class names"]
    rows = ((one.name, one.title, one.folder, f"{one.classes:,}", one.lists[0]) for one in BENCHMARKS.values())
    show.rows("data sets of the experiments", columns, rows)


@data.command()
def check(
    name: Annotated[str, typer.Argument(help="Data set name; see data list.")],
    path: Annotated[Path, typer.Argument(help="Folder that holds the data sets, or the data set's own.")],
    as_json: Json = False,
) -> None:
    """Check which files of a data set are present, and say where to get the others. Exit code 1 if any is missing."""
    from ipo_dspy.cli import output as show
    from ipo_dspy.data import check_benchmark

    found = check_benchmark(name, path)
    if as_json:
        findings = [{"ok": one.ok, "what": one.what, "told": one.told} for one in found.findings]
        show.write_json(
            {"name": found.benchmark.name, "folder": str(found.folder), "ok": found.ok, "findings": findings}
        )
    else:
        _print(found)
    raise typer.Exit(0 if found.ok else 1)


def _print(found: "BenchmarkCheck") -> None:
    terminal.line(f"{found.benchmark.title} in {found.folder}")
    for one in found.findings:
        terminal.line(f"  {'ok' if one.ok else '--'}  {one.what}: {one.told}")
    failed = sum(not one.ok for one in found.findings)
    terminal.line("complete" if found.ok else f"incomplete: {pluralize(failed, 'check')} failed")


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
