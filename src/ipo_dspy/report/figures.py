"""Write plots as SVG and PNG files with matplotlib: curves over steps, points with error bars, and bar charts.

Import this module only to draw: matplotlib takes half a second to load.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.errors import JournalError

FORMATS = ("svg", "png")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over steps, one raw and one smoothed value per step."""

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    smoothed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ErrorBarSeries:
    """Values and errors, one per position on the axis, in ascending order; an error of 0 has no bar."""

    at: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> tuple[Path, ...]:
    """Draw one panel per measure with one line per name; raw values are faint, smoothed values are strong.

    Returns:
        The written files: `path` with each of `FORMATS` as its suffix.

    Raises:
        JournalError: the files cannot be written.
    """
    with _figure(5 * len(panels), 3.4) as figure:
        for axes, (measure, curves) in _panels(figure, panels):
            for index, (name, curve) in enumerate(curves.items()):
                axes.plot(curve.steps, curve.raw, color=f"C{index % 10}", alpha=0.3, linewidth=1)
                axes.plot(curve.steps, curve.smoothed, color=f"C{index % 10}", linewidth=1.8, label=name)
            axes.set(xlabel="step", ylabel=measure)
            axes.legend(fontsize="small")
        return _save(figure, path)


def draw_bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], path: Path, *, axis: str
) -> tuple[Path, ...]:
    """Draw horizontal bars, one group per label, in order from the top; see `draw_curves` for the files."""
    with _figure(8, 0.6 + 0.17 * (len(series) + 1) * len(labels)) as figure:
        mpl.rcParams["text.parse_math"] = False  # a template may contain dollar signs
        axes = figure.subplots()
        height = 0.8 / len(series)
        for index, (name, values) in enumerate(series.items()):
            axes.barh([row + index * height for row in range(len(labels))], values, height=height, label=name)
        axes.set_yticks([row + (len(series) - 1) * height / 2 for row in range(len(labels))], labels=list(labels))
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.legend(fontsize="small")
        return _save(figure, path)


def draw_points(panels: Mapping[str, Mapping[str, ErrorBarSeries]], path: Path, *, axis: str) -> tuple[Path, ...]:
    """Draw one panel per measure with one line per name, with error bars at its points.

    The horizontal axis is logarithmic (base 2), as suits 1, 2, 4, 8, and 16 shots. A name has the same color in all
    panels, also if it is missing in some. See `draw_curves` for the files.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn: dict[str, ErrorbarContainer] = {}
    places = sorted({at for lines in panels.values() for points in lines.values() for at in points.at})
    with _figure(4.2 * len(panels), 3.6) as figure:
        for axes, (measure, lines) in _panels(figure, panels):
            for name, points in lines.items():
                rounds, color = divmod(names.index(name), 10)  # the color cycle has ten colors
                marker = "os^D"[rounds % 4]
                drawn[name] = axes.errorbar(
                    points.at, points.values, points.errors, color=f"C{color}", marker=marker, capsize=3
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(places, labels=[str(at) for at in places])
            axes.set(xlabel=axis, ylabel=measure)
        handles = [drawn[name] for name in names]
        axes.legend(handles, names, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
        return _save(figure, path)


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches; the user's matplotlib settings do not apply."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "ipo_dspy"
        yield Figure(figsize=(width, height), layout="constrained")


def _panels(figure: Figure, panels: Mapping[str, T]) -> Iterator[tuple[Axes, tuple[str, T]]]:
    return zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)


def _save(figure: Figure, path: Path) -> tuple[Path, ...]:
    targets = tuple(path.with_name(f"{path.name}.{suffix}") for suffix in FORMATS)
    for target in targets:
        file = io.BytesIO()
        metadata = {"Date": None} if target.suffix == ".svg" else None
        figure.savefig(file, format=target.suffix[1:], dpi=150, metadata=metadata)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, file.getvalue())
        except OSError as error:
            raise JournalError(
                f"plot {str(target)!r} cannot be written ({error.strerror}); name another folder"
            ) from error
    return targets
