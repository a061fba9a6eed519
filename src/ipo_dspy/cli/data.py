"""`ipo-dspy data`: list the data sets of the paper's experiments, and check the files of one."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Typer

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.options import Command, Json

JSON_FIELDS = (
    "name", "title", "folder", "images", "lists", "classes", "template", "image_origin", "list_origin"
)  # fmt: skip
data = Typer(name="data", help="The data sets of the paper's experiments.", no_args_is_help=True)


@data.command("list", cls=Command)
def list_(as_json: Json = False) -> None:
    """List the data sets: folder, split file, number of classes."""
    from ipo_dspy.data import BENCHMARKS

    if as_json:
        show.write_json([{name: getattr(b, name) for name in JSON_FIELDS} for b in BENCHMARKS.values()])
        return
    columns = ["name", "title", "folder", "classes>", "split file, or class names"]
    rows = ((b.name, b.title, b.folder, f"{b.classes:,}", b.lists[0]) for b in BENCHMARKS.values())
    show.rows("data sets of the experiments", columns, rows)


@data.command(cls=Command)
def check(
    name: Annotated[str, Argument(help="Data set name; see data list.")],
    path: Annotated[Path, Argument(help="Folder of all data sets, or of this one.")],
    as_json: Json = False,
) -> None:
    """Check that a data set is complete, and print where to get missing files. Exit code 1 if any is missing."""
    from ipo_dspy.data import check_benchmark

    result = check_benchmark(name, path)
    if as_json:
        findings = [{"ok": found.ok, "what": found.what, "message": found.message} for found in result.findings]
        summary = {"name": result.benchmark.name, "folder": str(result.folder), "ok": result.ok}
        show.write_json({**summary, "findings": findings})
    else:
        terminal.line(f"{result.benchmark.title} in {result.folder}")
        for finding in result.findings:
            terminal.line(f"  {'ok' if finding.ok else '--'}  {finding.what}: {finding.message}")
        failed = sum(not finding.ok for finding in result.findings)
        terminal.line("complete" if result.ok else f"incomplete: {pluralize(failed, 'check')} failed")
    raise Exit(0 if result.ok else 1)
