"""Register all commands; each one defers its heavy imports until it is called."""

from typing import Annotated

import typer
from typer import Option

from ipo_dspy.cli.bench import bench
from ipo_dspy.cli.cache import cache
from ipo_dspy.cli.calibrate import calibrate
from ipo_dspy.cli.check import check
from ipo_dspy.cli.classify import classify
from ipo_dspy.cli.data import data
from ipo_dspy.cli.doctor import doctor
from ipo_dspy.cli.explain import explain
from ipo_dspy.cli.export import export
from ipo_dspy.cli.inference import describe, evaluate, report
from ipo_dspy.cli.optimize import demo, optimize
from ipo_dspy.cli.option_groups import flatten
from ipo_dspy.cli.options import Command
from ipo_dspy.cli.serve import serve
from ipo_dspy.cli.watch import watch

app = typer.Typer(
    name="ipo-dspy",
    help="Find the words that make CLIP classify best: interpretable prompt optimization (IPO) on DSPy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    optimize,
    evaluate,
    classify,
    describe,
    explain,
    check,
    calibrate,
    export,
    report,
    serve,
    doctor,
    watch,
    bench,
):
    app.command(cls=Command)(flatten(command))
app.add_typer(cache)
app.add_typer(data)


def _print_version(value: bool) -> None:
    if value:
        from ipo_dspy import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, Option("--debug", help="Show tracebacks (accepted anywhere on the command line).")] = False,
    version: Annotated[
        bool, Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of all commands."""
