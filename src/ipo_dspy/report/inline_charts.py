"""Draw accuracy and loss over the trials as inline SVG with matplotlib.

The output of matplotlib is adapted to the page. Placeholder colors become the page's CSS variables, so one drawing
works in light mode, in dark mode, and in print. Fonts are left to the page. Groups and ids are removed because nothing
refers to them and they would be duplicated in the next chart. Import this module only to draw: matplotlib takes half a
second to load.
"""

import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ipo_dspy.history import Trial
from ipo_dspy.run.events import CandidateFields, ChoiceFields
from ipo_dspy.scoring.calibration_error import ReliabilityBin
from ipo_dspy.scoring.objectives import ObjectiveText

WIDTH, HEIGHT = 440, 270
"""Size in CSS pixels; the page scales the drawing."""
MAX_STEPS = 10
"""Maximum number of intervals between labeled steps."""
_BOX = (0.105, 0.09, 0.875, 0.805)
"""Left, bottom, width, and height of the axes, as fractions of the drawing."""
_COLORS = {name: f"#fe{i:02x}dc" for i, name in enumerate(("accent", "card", "dot", "loss", "muted", "rule", "tint"))}
"""Placeholder color of each CSS variable."""
_LOOK: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "ipo_dspy", "font.size": 12, "axes.formatter.useoffset": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": _COLORS["rule"], "text.color": _COLORS["muted"],
    "xtick.color": _COLORS["muted"], "xtick.major.size": 0, "xtick.major.pad": 9,
    "ytick.color": _COLORS["muted"], "ytick.major.size": 0, "ytick.major.pad": 6
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity drawn over the trials, whether higher is better, and its smallest and largest possible value."""

    name: str
    unit: str
    higher_is_better: bool
    digits: int
    of: Callable[[Trial], float]
    bounds: tuple[float, float]

    def show(self, value: float) -> str:
        """Return the value with its unit, as in the tables."""
        return f"{value:.{self.digits}f}{self.unit}"


def measures(goal: ObjectiveText) -> list[Measure]:
    """Return the measures that are drawn: the objective, or the accuracy if it is the loss, and the loss."""
    loss = Measure("Loss", "", False, 3, lambda trial: trial.score.loss, (0.0, math.inf))
    if goal.label == "loss":
        return [Measure("Accuracy", "\u00a0%", True, 1, lambda trial: trial.score.accuracy, (0.0, 100.0)), loss]
    unit, digits = ("\u00a0%", 1) if goal.is_share else ("", 3)
    low, high = sorted(goal.sign * bound for bound in goal.bounds)
    return [
        Measure(goal.title, unit, goal.sign > 0, digits, lambda trial: goal.sign * trial.score.goal, (low, high)),
        loss,
    ]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the values for its caption."""

    name: str
    svg: Markup
    outside: int
    edge: str


def draw(trials: Sequence[Trial], measure: Measure, *, better: Sequence[Trial], best: Trial) -> Chart:
    """Draw a chart of at least one trial, in the order of proposal; a ring marks `best`.

    A line runs through `better`, the trials that rank before all earlier ones, which is more than their measure says.
    """
    values = np.array([measure.of(trial) for trial in trials])
    low, high = _limits(values, measure)
    with _axes(low, high) as (figure, axes):
        _curves(axes, trials, better, lambda trial: min(max(measure.of(trial), low), high))
        for size, color in ((15, "loss"), (11, "card"), (6, "accent")):  # a ring with a dot in it
            _dots(axes, best.index, np.clip(measure.of(best), low, high), size, color, zorder=4)
        _label(axes, trials)
        start, end = (measure.show(measure.of(trial)) for trial in (trials[0], best))
        summary = f"{measure.name} of {len(trials)} trials: {start} at the start, {end} for the best template"
        svg = _inline(figure, summary)
    edge = f"below {measure.show(low)}" if measure.higher_is_better else f"above {measure.show(high)}"
    return Chart(measure.name, svg, int(((values < low) | (values > high)).sum()), edge)


@contextlib.contextmanager
def _axes(low: float, high: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context():
        mpl.rcdefaults()  # the user's matplotlib settings do not apply to the report
        mpl.rcParams.update(_LOOK)
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), frameon=False)
        yield figure, figure.add_axes(_BOX, frameon=False, ylim=(low, high))


def draw_candidates(candidates: Sequence[CandidateFields], *, winner: int, expected: ChoiceFields) -> Markup:
    """Draw the accuracies of candidates, best first, with the standard errors of their differences to the first one.

    The tied ones are on shaded ground, a ring marks the winner, and the dashed line is the winner's expected accuracy.
    """
    x = np.arange(1, len(candidates) + 1)
    goal = ObjectiveText.of(expected.get("objective", "accuracy"))
    accuracy, error = (np.array([candidate[name] for candidate in candidates]) for name in ("accuracy", "error"))
    accuracy, line = goal.sign * accuracy, goal.sign * expected["expected"]
    smallest, largest = measures(goal)[goal.label == "loss"].bounds
    bottom, top = np.maximum(accuracy - error, smallest), np.minimum(accuracy + error, largest)
    low, high = min(float(bottom.min()), line), max(float(top.max()), line)
    pad = max(0.04 * (high - low), 0.5 if goal.is_share else 0.005)
    with _axes(low - pad, high + pad) as (figure, axes):
        for i, candidate in enumerate(candidates):
            if candidate["tied"]:
                axes.axvspan(x[i] - 0.5, x[i] + 0.5, color=_COLORS["tint"], linewidth=0, zorder=0.2)
            axes.plot((x[i], x[i]), (bottom[i], top[i]), color=_COLORS["dot"], linewidth=1.5)
            if candidate["index"] == winner:
                for size, color in ((15, "loss"), (11, "card")):
                    _dots(axes, x[i], accuracy[i], size, color, zorder=4)
        _dots(axes, x, accuracy, 6, "accent", zorder=4)
        axes.axhline(line, color=_COLORS["muted"], linewidth=1, dashes=(6, 4))
        axes.set_xlim(0.5, len(candidates) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        tied = sum(candidate["tied"] for candidate in candidates)
        return _inline(
            figure, f"{goal.title} of the {len(candidates)} best candidates with standard errors; {tied} are tied"
        )


def draw_reliability(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> Markup:
    """Draw the accuracy of each bin of images over its confidence; on the dashed diagonal both are equal."""
    with _axes(0, 100) as (figure, axes):
        axes.plot((0, 100), (0, 100), color=_COLORS["muted"], linewidth=1, dashes=(6, 4))
        for bins, color, size in ((before, "dot", 6), (after, "accent", 8)):
            x, y = (np.array([100 * getattr(each, name) for each in bins]) for name in ("confidence", "accuracy"))
            axes.plot(x, y, color=_COLORS[color], linewidth=1.5)
            _dots(axes, x, y, size, color, zorder=4)
        _shares(axes)
        return _inline(figure, "Accuracy by confidence in percent, before and after calibration")


def draw_coverage(curve: Sequence[tuple[float, float]], coverage: float) -> Markup:
    """Draw the accuracy of the most confident images over their share; the dashed line is at the share `coverage`."""
    x, y = np.array(curve).T
    with _axes(min(float(y.min()), 90.0) - 2, 101) as (figure, axes):
        axes.plot(x, y, color=_COLORS["accent"], linewidth=2)
        axes.axvline(coverage, color=_COLORS["muted"], linewidth=1, dashes=(6, 4))
        _shares(axes)
        return _inline(figure, "Accuracy of answered images by share answered, in percent")


def _shares(axes: Axes) -> None:
    """Label shares from 0 to 100 percent."""
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _limits(values: NDArray[np.float64], measure: Measure) -> tuple[float, float]:
    """Return axis limits that include the best trials; the worst few may be cut off so as not to flatten the rest."""
    sign = 1 if measure.higher_is_better else -1
    bad, usual, good = np.sort(sign * values)[[0, len(values) // 40, -1]]
    if good - bad > 1.6 * (good - usual):
        bad = min(usual, sign * values[0])
    low, high = sorted((float(sign * bad), float(sign * good)))
    pad = 0.06 * (high - low) if high - low > 1e-6 * max(abs(high), 1.0) else 0.05 * abs(high) or 0.5
    smallest, largest = measure.bounds
    return max(low - pad, smallest), max(min(high + pad, largest), low + pad / 2)


def _curves(axes: Axes, trials: Sequence[Trial], better: Sequence[Trial], of: Callable[[Trial], float]) -> None:
    """Draw all trials, the start line, and the best so far with a dot at each improvement."""
    (x, y), (steps, record) = (np.array([(trial.index, of(trial)) for trial in some]).T for some in (trials, better))
    size = 6 if len(x) <= 60 else 4.5 if len(x) <= 400 else 3.2 if len(x) <= 1500 else 2.4
    _dots(axes, x, y, size, "dot", alpha=0.8)
    axes.axhline(y[0], color=_COLORS["muted"], linewidth=1, dashes=(6, 4))
    axes.step([*steps, x[-1]], [*record, record[-1]], where="post", color=_COLORS["accent"], linewidth=2)
    _dots(axes, steps, record, 6, "accent", zorder=3)


def _dots(axes: Axes, x: ArrayLike, y: ArrayLike, size: float, color: str, **style: Any) -> None:
    """Draw dots as one path of zero-length lines with round caps, which takes a third of the bytes of markers."""
    points = np.repeat(np.column_stack((x, y)).astype(float), 2, axis=0)
    path = Path(points, np.tile([Path.MOVETO, Path.LINETO], len(points) // 2))
    path.should_simplify = False
    axes.add_patch(PathPatch(path, fill=False, edgecolor=_COLORS[color], linewidth=size, capstyle="round", **style))


def _label(axes: Axes, trials: Sequence[Trial]) -> None:
    """Label trials below the chart and, above it, the steps at round numbers that have enough space."""
    first, last = trials[0].index, max(trials[-1].index, trials[0].index + 1)
    axes.set_xlim(first - (last - first) / 60, last + (last - first) / 60)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    names = [("trial", 0, -18)]
    if steps := _step_positions(trials, gap=0.09 * (last - first)):
        top = axes.secondary_xaxis("top")
        top.set_frame_on(False)
        top.set_xticks(list(steps.values()), labels=list(map(str, steps)))
        for x in steps.values():
            axes.axvline(x, color=_COLORS["rule"], linewidth=1, dashes=(2, 3), zorder=0.5)
        names.append(("step", 1, 12))
    for name, y, rise in names:
        axes.annotate(name, (0, y), (-6, rise), xycoords="axes fraction", textcoords="offset points", ha="right")


def _step_positions(trials: Sequence[Trial], *, gap: float) -> dict[int, int]:
    """Return the first trial of every 1st, 2nd, 5th, 10th, ... step, whichever is the first to leave enough space.

    The first label may be missing, because step 0 has few trials; empty if two labels do not fit.
    """
    steps = np.maximum.accumulate([trial.step for trial in trials])
    for spacing in (digit * 10**power for power in range(9) for digit in (1, 2, 5)):
        labels = range(-(-int(steps[0]) // spacing) * spacing, int(steps[-1]) + 1, spacing)
        if len(labels) > MAX_STEPS + 1:
            continue
        found = {step: trials[i].index for step, i in zip(labels, np.searchsorted(steps, labels), strict=True)}
        for positions in (found, dict(list(found.items())[1:])):
            if len(positions) > 1 and np.diff(list(positions.values())).min() > gap:
                return positions
    return {}


def _inline(figure: Figure, label: str) -> Markup:
    """Return the figure as an inline SVG element."""
    for artist in figure.findobj():
        artist.set_clip_on(False)  # all values are inside the axes, and dots on the edge must not be cut
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = re.sub(r"</?g\b[^>]*>|font[^;]*; ", "", file.getvalue().partition("</defs>")[2])
    drawn = re.sub(r"(\.\d\d)\d+(?=[\s\")])", r"\1", drawn)  # coordinates to a hundredth of a pixel
    for name, placeholder in _COLORS.items():
        drawn = drawn.replace(placeholder, f"var(--{name})")
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return start + Markup(" ".join(drawn.split()))
