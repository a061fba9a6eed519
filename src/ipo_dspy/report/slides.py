"""Draw the pictures of a run for slides, as PNG files with fixed names: titles and axes say what they show.

Import this module only to draw: matplotlib takes half a second to load.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ipo_dspy.report import about, choice, pictures, summary
from ipo_dspy.report.figures import Bars, draw_bars, open_figure, save_figure, set_title
from ipo_dspy.run.events import EvaluationEvent
from ipo_dspy.run.state import RunState, SearchState
from ipo_dspy.scoring.intervals import wilson_interval
from ipo_dspy.scoring.objectives import ObjectiveText

PNG = ("png",)
CLASSES_DRAWN = 10
"""Classes with the largest gains, and with the largest losses or smallest gains, of more than twice as many."""
Files: TypeAlias = tuple[Path, ...]


def draw_slides(run: RunState, run_name: str, folder: Path) -> Files:
    """Draw each picture that the run has the data for, and return the files.

    They are `search.png`, `candidates.png`, `confusion.png`, `classes.png`, and `embedding.png`; with several
    classifiers each has the number of the classifier before its name.

    Raises:
        PathError: a file cannot be written.
    """
    files: list[Path] = []
    for number, search in enumerate(run.searches.values(), start=1):
        several = len(run.searches) > 1
        origin = " · ".join(
            filter(None, (about.data_name(run), f"run {run_name}", f"classifier {search.predictor}" if several else ""))
        )
        for name, draw in _DRAWN.items():
            path = folder / (f"{number}-{name}" if several else name)
            files += draw(search, origin, path)
    return tuple(files)


def _search(search: SearchState, origin: str, path: Path) -> Files:
    if search.start is None or search.best is None:
        return ()
    goal, trials, images = ObjectiveText.of(search.objective), list(search.history), search.setup["images"]
    x, y = np.array([(trial.index, goal.sign * trial.score.goal) for trial in trials]).T
    better = [*search.better, search.better[-1]]
    steps, record = [*(trial.index for trial in search.better), x[-1]], [goal.sign * one.score.goal for one in better]
    with open_figure(8, 4.5) as figure:
        axes = figure.subplots()
        axes.plot(x, y, "x", color="0.55", markersize=4, label="a template")
        axes.step(steps, record, where="post", color="C0", linewidth=2, label="best so far")
        if goal.label == "accuracy" and images:
            bands = [wilson_interval(value, images) for value in record]
            lows, highs = [band.low for band in bands], [band.high for band in bands]
            axes.fill_between(
                steps,
                lows,
                highs,
                step="post",
                color="C0",
                alpha=0.2,
                label="its 95 % interval, ignoring that it was selected",
            )
        axes.axhline(goal.sign * search.start.score.goal, color="0.3", linestyle="--", label="start template")
        at = (search.best.index, goal.sign * search.best.score.goal)
        label = "chosen template" if search.selected else "best template so far"
        axes.plot(*at, "o", color="C1", markersize=11, fillstyle="none", markeredgewidth=2, label=label)
        axes.set(xlabel="templates tried", ylabel=_axis(goal, f"{images:,} training"))
        axes.grid(axis="y", alpha=0.3)
        figure.legend(fontsize="small", loc="outside lower center", ncols=5)
        set_title(figure, f"Search: {search.best_text}\n{origin}")
        return save_figure(figure, path, PNG)


def _candidates(search: SearchState, origin: str, path: Path) -> Files:
    chosen = choice.summarize(search)
    if chosen is None or search.selected is None or not chosen.candidates:
        return ()
    goal = ObjectiveText.of(search.objective)
    split = "training" if search.selected["selected_on"] == "train" else search.selected["selected_on"]
    with open_figure(8, 4.5) as figure:
        axes = figure.subplots()
        for tied, marker, color in ((True, "o", "C0"), (False, "s", "0.55")):
            rows = [(i, one) for i, one in enumerate(chosen.candidates, start=1) if one["tied"] == tied]
            axes.errorbar(
                [i for i, _ in rows],
                [goal.sign * one["accuracy"] for _, one in rows],
                [one["error"] for _, one in rows],
                fmt=marker,
                color=color,
                capsize=3,
                label="tied" if tied else "not tied",
            )
        for i, one in enumerate(chosen.candidates, start=1):
            if one["index"] == search.selected["index"]:
                at = (i, goal.sign * one["accuracy"])
                label = "chosen template"
                axes.plot(*at, "o", color="C1", markersize=13, fillstyle="none", markeredgewidth=2, label=label)
        expected = goal.sign * chosen.fields["expected"]
        axes.axhline(expected, color="0.3", linestyle="--", label="expected on new images")
        images = chosen.fields["images"]
        axes.set(xlabel="candidates, the best one first", ylabel=_axis(goal, f"{images:,} {split}"))
        axes.grid(axis="y", alpha=0.3)
        figure.legend(fontsize="small", loc="outside lower center", ncols=5)
        note = (
            "bars: standard error of the difference from the best one; tied: cannot be told apart from the leading one"
        )
        set_title(figure, f"Candidates: {search.best_text}\n{origin} · {note}")
        return save_figure(figure, path, PNG)


def _confusion(search: SearchState, origin: str, path: Path) -> Files:
    found = summary.most_informative(search)
    matrix = found[2].get("matrix") if found else None
    if found is None or matrix is None or not matrix["classes"]:
        return ()
    split, _, best = found
    names, (heads, counts) = matrix["classes"], pictures.columns(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 0.36 if len(heads) > 8 else 0.6
    with open_figure(2.6 + side * len(heads), 2.2 + side * len(names)) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.6, aspect="equal")  # light enough for black text
        for i, j in np.argwhere(counts):
            weight = "bold" if i == j else "normal"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize="small", fontweight=weight)
        axes.set_xticks(range(len(heads)), labels=[*map(pictures.clipped, heads)], rotation=60, ha="right")
        axes.set_yticks(range(len(names)), labels=[*map(pictures.clipped, names)])
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(-0.5, len(heads)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(names)), minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        axes.set(xlabel="predicted class", ylabel="true class")
        total = len(best["per_class"])
        part = f", the {len(names)} of {total} classes with the most errors" if len(names) < total else ""
        set_title(figure, f"Confusion matrix: {search.best_text}\n{origin} · images: {split}{part}")
        return save_figure(figure, path, PNG)


def _classes(search: SearchState, origin: str, path: Path) -> Files:
    table = summary.class_table(search)
    if table is None:
        return ()
    split, rows = table
    is_cut = len(rows) > 2 * CLASSES_DRAWN
    shown = [*rows[:CLASSES_DRAWN], *rows[-CLASSES_DRAWN:]] if is_cut else rows
    part = (
        f", {CLASSES_DRAWN} largest gains, {CLASSES_DRAWN} largest losses or smallest gains, {len(rows)} classes"
        if is_cut
        else ""
    )
    return draw_bars(
        [f"{pictures.clipped(row.name)} ({row.images})" for row in shown],
        {"start": Bars([row.start or 0.0 for row in shown]), "best": Bars([row.best or 0.0 for row in shown])},
        path,
        axis=f"{split} images recognized, %",
        title=f"Classes (images): {search.start_text} \u2192 {search.best_text}\n{origin} · images: {split}{part}",
        formats=PNG,
    )


def _embedding(search: SearchState, origin: str, path: Path) -> Files:
    found = summary.most_informative(search)
    drawn = search.maps.get(_part(found[2])) if found else None
    if found is None or drawn is None:
        return ()
    laid, correct = pictures.lay_out_map(drawn), np.array(drawn["correct"], dtype=bool)
    with open_figure(10, 7.2) as figure:
        axes = figure.subplots()
        x, y = laid.images.T
        axes.scatter(x[correct], y[correct], s=10, color="0.6", label="image, recognized")
        axes.scatter(x[~correct], y[~correct], s=18, color="C1", marker="x", linewidths=1, label="image, mistaken")
        for word, mean in zip(laid.words, laid.means, strict=True):
            axes.plot(*np.stack([word, mean]).T, color="C0", alpha=0.5, linewidth=1)
        x, y = laid.means.T
        axes.scatter(x, y, s=40, facecolor="white", edgecolor="C0", label="mean of the images of a class", zorder=3)
        x, y = laid.words.T
        axes.scatter(x, y, s=45, color="C0", marker="D", label="class in the template", zorder=3)
        for name, (left, base) in zip(drawn["classes"], laid.names, strict=True):
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
            axes.text(left, base, pictures.clipped(name), fontsize=9, fontweight="bold", bbox=box, zorder=4)
        axes.set(xlim=(0, pictures.WIDTH), ylim=(pictures.HEIGHT, 0), aspect="equal", xticks=(), yticks=())
        axes.set(xlabel="first principal component", ylabel="second principal component")
        figure.legend(fontsize="small", loc="outside lower center", ncols=4)
        note = f"{drawn['shown']:.0f} % of the variance; images and words each centered and scaled"
        set_title(figure, f"Images and words: {search.best_text}\n{origin} · images: {found[0]} · {note}")
        return save_figure(figure, path, PNG)


def _part(evaluation: EvaluationEvent) -> tuple[str, str]:
    return evaluation["split"], evaluation["class_split"]


def _axis(goal: ObjectiveText, images: str) -> str:
    return f"{goal.label} on {images} images{', %' if goal.is_share else ''}"


_DRAWN: dict[str, Callable[[SearchState, str, Path], Files]] = {
    "search": _search,
    "candidates": _candidates,
    "confusion": _confusion,
    "classes": _classes,
    "embedding": _embedding,
}
"""The function that draws each file, empty if its data is missing."""
