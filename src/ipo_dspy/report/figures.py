"""Plots as files, SVG and PNG, with matplotlib: curves over steps, points over numbers, and bars of words.

Import this module only to draw: matplotlib takes half a second to load.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.errors import JournalError

FORMATS = ("svg", "png")


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over steps.

    Attributes:
        steps: where they were taken.
        raw, smoothed: of equal length.
    """

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    smoothed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ErrorBarSeries:
    """Values at a few numbers.

    Attributes:
        at: where they were taken, rising.
        values, errors: of equal length; an error of 0 has no bar.
    """

    at: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> tuple[Path, ...]:
    """A panel for each measure with a line for each name: raw ones faint, smoothed ones strong.

    Returns:
        The files that were written: `path` with each of `FORMATS` as its suffix.

    Raises:
        JournalError: they cannot be written.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "ipo_dspy"
        figure = Figure(figsize=(5 * len(panels), 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (measure, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for index, (name, curve) in enumerate(curves.items()):
                axes.plot(curve.steps, curve.raw, color=f"C{index % 10}", alpha=0.3, linewidth=1)
                axes.plot(curve.steps, curve.smoothed, color=f"C{index % 10}", linewidth=1.8, label=name)
            axes.set_xlabel("step")
            axes.set_ylabel(measure)
            axes.legend(fontsize="small")
        return _save(figure, path)


def draw_bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], path: Path, *, axis: str
) -> tuple[Path, ...]:
    """Horizontal bars, a group for each label in the order given from the top; see `draw_curves` for the files."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "ipo_dspy"
        mpl.rcParams["text.parse_math"] = False  # a template may hold dollar signs
        figure = Figure(figsize=(8, 0.6 + 0.17 * (len(series) + 1) * len(labels)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        high = 0.8 / len(series)
        for index, (name, values) in enumerate(series.items()):
            axes.barh([row + index * high for row in range(len(labels))], values, height=high, label=name)
        axes.set_yticks([row + (len(series) - 1) * high / 2 for row in range(len(labels))], labels=list(labels))
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.legend(fontsize="small")
        return _save(figure, path)


def draw_points(panels: Mapping[str, Mapping[str, ErrorBarSeries]], path: Path, *, axis: str) -> tuple[Path, ...]:
    """A panel for each measure with a line for each name through its points, and bars as long as their errors.

    Equal steps on the axis are equal ratios, as between 1, 2, 4, 8 and 16. See `draw_curves` for the files.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "ipo_dspy"
        figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        places = sorted({at for lines in panels.values() for points in lines.values() for at in points.at})
        for axes, (measure, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for index, (name, points) in enumerate(lines.items()):
                marker = "os^D"[index // 10 % 4]  # there are ten colours
                axes.errorbar(points.at, points.values, points.errors, label=name, marker=marker, capsize=3)
            axes.set_xscale("log", base=2)
            axes.set_xticks(places, labels=[str(at) for at in places])
            axes.set_xlabel(axis)
            axes.set_ylabel(measure)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
        return _save(figure, path)


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
