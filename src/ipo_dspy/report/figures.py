"""Write plots as SVG and PNG files with matplotlib: curves over steps, points with error bars, and bar charts.

Import this module only to draw: matplotlib takes half a second to load.
"""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from ipo_dspy._internal.counts import shorten
from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.errors import PathError

Formats: TypeAlias = tuple[str, ...]
FORMATS: Formats = ("svg", "png")
T = TypeVar("T")
MARKERS = "os^Dvp*hX<"
"""One for each color of the cycle, so that lines differ without color."""
LABEL_LENGTH = 40


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


@dataclass(frozen=True, slots=True)
class Bars:
    """The length of each bar, and its error; without errors, there are none."""

    values: Sequence[float]
    errors: Sequence[float] = ()


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], path: Path, *, title: str) -> tuple[Path, ...]:
    """Draw one panel per measure with one line per name; raw values are faint, smoothed values are strong.

    Lines differ by their markers, too.

    Returns:
        The written files: `path` with each of `FORMATS` as its suffix.

    Raises:
        PathError: the files cannot be written.
    """
    with open_figure(5 * len(panels), 3.4) as figure:
        for axes, (measure, curves) in _panels(figure, panels):
            for index, (name, curve) in enumerate(curves.items()):
                axes.plot(curve.steps, curve.raw, color=f"C{index % 10}", alpha=0.3, linewidth=1)
                style: Any = {
                    "color": f"C{index % 10}",
                    "marker": MARKERS[index % 10],
                    "markevery": 0.1,
                    "markersize": 4,
                }
                axes.plot(curve.steps, curve.smoothed, linewidth=1.8, label=name, **style)
            axes.set(xlabel="step", ylabel=measure)
            axes.legend(fontsize="small")
        set_title(figure, f"{title}\nfaint: mean of the templates of a step; strong: smoothed")
        return save_figure(figure, path)


def draw_bars(
    labels: Sequence[str], series: Mapping[str, Bars], path: Path, *, axis: str, title: str, formats: Formats = FORMATS
) -> tuple[Path, ...]:
    """Draw horizontal bars, one group per label, in order from the top; see `draw_curves` for the files.

    If there are several series, each has its own hatching, so that they differ without color.
    """
    with open_figure(8, 1.5 + (0.2 + 0.08 * len(series)) * max(len(labels), 3)) as figure:
        axes = figure.subplots()
        height = 0.8 / len(series)
        for index, (name, bars) in enumerate(series.items()):
            axes.barh(
                [row + index * height for row in range(len(labels))],
                bars.values,
                height=height,
                xerr=bars.errors or None,
                label=name,
                hatch=("", "///", "...")[index % 3],
                color=f"C{index}",
                edgecolor="white",
                error_kw={"capsize": 2, "linewidth": 1, "ecolor": "#444444"},
            )
        short = [shorten(label, LABEL_LENGTH) for label in labels]
        axes.set_yticks([row + (len(series) - 1) * height / 2 for row in range(len(labels))], labels=short)
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(axis)
        set_title(figure, title)
        if len(series) > 1:
            figure.legend(fontsize="small", loc="outside lower center", ncols=len(series))
        return save_figure(figure, path, formats)


def draw_points(
    panels: Mapping[str, Mapping[str, ErrorBarSeries]], path: Path, *, axis: str, title: str
) -> tuple[Path, ...]:
    """Draw one panel per measure with one line per name, with error bars at its points, all on the same scale.

    The horizontal axis is logarithmic (base 2), as suits 1, 2, 4, 8, and 16 shots. A name has the same color and marker
    in all panels, also if it is missing in some. See `draw_curves` for the files.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn: dict[str, ErrorbarContainer] = {}
    places = sorted({at for lines in panels.values() for points in lines.values() for at in points.at})
    with open_figure(4.2 * len(panels), 3.6) as figure:
        for axes, (measure, lines) in _panels(figure, panels, sharey=True):
            for name, points in lines.items():
                rounds, color = divmod(names.index(name), 10)  # the color cycle has ten colors
                drawn[name] = axes.errorbar(
                    points.at,
                    points.values,
                    points.errors if any(points.errors) else None,
                    color=f"C{color}",
                    marker=MARKERS[color],
                    linestyle=("-", "--", ":")[rounds % 3],
                    capsize=3,
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(places, labels=[str(at) for at in places])
            axes.set(xlabel=axis, ylabel=measure)
        handles = [drawn[name] for name in names]
        axes.legend(handles, names, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
        set_title(figure, title)
        return save_figure(figure, path)


@contextlib.contextmanager
def open_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches; the user's matplotlib settings do not apply."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # shown as boxes
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "ipo_dspy"
        mpl.rcParams["text.parse_math"] = False  # a template or a class may contain dollar signs
        yield Figure(figsize=(width, height), layout="constrained")


def _panels(figure: Figure, panels: Mapping[str, T], *, sharey: bool = False) -> Iterator[tuple[Axes, tuple[str, T]]]:
    return zip(figure.subplots(1, len(panels), squeeze=False, sharey=sharey)[0], panels.items(), strict=True)


def set_title(figure: Figure, title: str) -> None:
    """Set a title in lines that fit above the figure, at most six."""
    width = int(11 * figure.get_figwidth())
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, width) or [""]]
    figure.suptitle("\n".join(lines if len(lines) <= 6 else [*lines[:5], "\u2026"]), fontsize="medium")


def save_figure(figure: Figure, path: Path, formats: Formats = FORMATS) -> tuple[Path, ...]:
    """Write a figure as `path` with each format as its suffix, and return the files; raises PathError."""
    targets = tuple(path.with_name(f"{path.name}.{suffix}") for suffix in formats)
    for target in targets:
        file = io.BytesIO()
        metadata = {"Date": None} if target.suffix == ".svg" else None
        figure.savefig(file, format=target.suffix[1:], dpi=150, metadata=metadata)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, file.getvalue())
        except OSError as error:
            raise PathError(
                f"plot {str(target)!r} cannot be written ({error.strerror}); name another folder"
            ) from error
    return targets
