"""Lay out the state of a run as one HTML page with everything inline: no fonts, external URLs, or text as script.

The only script is the constant `copy.js`, for the Copy buttons. The page permits it by its hash, and no other.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ipo_dspy._internal.counts import shorten
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.clip.model_spec import names_alone
from ipo_dspy.report import about, advice, choice, pictures, summary
from ipo_dspy.report.journal_fields import pairs
from ipo_dspy.report.thumbnails import thumbnail
from ipo_dspy.run import choice_sentences
from ipo_dspy.run.events import MistakeEvent, PredictionChangedEvent
from ipo_dspy.run.state import RunState, SearchState
from ipo_dspy.scoring.objectives import ObjectiveText
from ipo_dspy.template import PLACEHOLDER

if TYPE_CHECKING:
    from ipo_dspy.report.inline_charts import Chart

SHOWN = {
    "BEST_SHOWN": 20,
    "DESCRIPTIONS_SHOWN": 10,
    "CLASSES_SHOWN": 40,
    "CONFUSIONS_SHOWN": 40,
    "CONFUSED_SHOWN": 10,
    "LABELS_SHOWN": 500,
}
"""Maximum lengths of the lists on a page."""
LINES_SHOWN = 4
"""Lines of an ensemble that are always visible; the rest can be expanded."""


def page(run: RunState, folder: Path) -> str:
    """Return the complete page; the same run (and the same images on disk) gives the same text.

    `folder` is the folder of the run, as the reader named it.
    """
    script = _data("copy.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            run=run,
            sections=[_section(i, run, search, folder) for i, search in enumerate(run.searches.values(), start=1)],
            data=about.data_name(run),
            about=about.facts(run, folder),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
        )
    )


@cache  # compiling the templates takes as long as filling them in
def environment() -> Environment:
    """Return the Jinja environment of all pages; everything is escaped."""
    jinja = Environment(loader=FunctionLoader(_data), autoescape=True, undefined=StrictUndefined)
    jinja.globals |= {"words": choice_sentences.words, "floors": choice_sentences.floors, "names_alone": names_alone}
    jinja.trim_blocks = jinja.lstrip_blocks = jinja.keep_trailing_newline = True
    jinja.filters |= {
        "percent": _number("{:.1f}\u00a0%"), "nats": _number("{:.3f}"), "count": _number("{:,.0f}", "not known"),
        "points": _points, "duration": _duration,
        "prompt": prompt, "moment": _format_timestamp, "clip": shorten, "short": _short, "pairs": pairs,
        "image_name": _image_name, "thumbnail": thumbnail,
        "breakable": _breakable
    }  # fmt: skip
    jinja.globals |= {**SHOWN, "style": Markup(_data("style.css"))}
    return jinja


def prompt(text: str) -> Markup:
    """Return a template as HTML code, one line each, with `<CLASS>` in bold; long ensembles are collapsed.

    >>> print(prompt("a <CLASS>."))
    <code class="prompt"><span>a <b>&lt;CLASS&gt;</b>.</span></code>
    """
    mark = Markup("<b>{}</b>").format(PLACEHOLDER)
    lines = [
        Markup("<span>{}</span>").format(mark.join(map(Markup.escape, shorten(line, 600).split(PLACEHOLDER))))
        for line in text.split("\n")
    ]
    block = Markup('<code class="prompt">{}</code>')
    shown, folded = (block.format(Markup().join(part)) for part in (lines[:LINES_SHOWN], lines[LINES_SHOWN:]))
    more = Markup("<details><summary>{} more lines</summary>{}</details>").format(len(lines) - LINES_SHOWN, folded)
    return shown + more if len(lines) > LINES_SHOWN else shown


def _section(number: int, run: RunState, search: SearchState, folder: Path) -> Mapping[str, Any]:
    """Return the values of the part of the page for one search."""
    rows, shown = summary.score_rows(search), summary.select_example_changes(search.changes)
    splits = {summary.split_label(change["split"], change["class_split"]) for change in shown}
    return {
        "number": number,
        "search": search,
        "rows": rows,
        "headline": summary.headline(rows),
        "choice": (chosen := choice.summarize(search)),
        "picture": _picture(search, chosen),
        "goal": ObjectiveText.of(search.objective),
        "measures": summary.measures(search),
        "confused": summary.confused(search),
        **_pictures(search),
        "warnings": choice.warnings(search),
        "place_of_commands": about.place_of_commands(folder),
        "advice": list(advice.improvements(run, search, folder)),
        "next_steps": list(about.next_steps(run, search, folder, is_tested=any(row.is_test for row in rows))),
        "unchosen": choice.unchosen(search),
        "curves": _curves(search),
        "classes": summary.class_table(search),
        "rejected": summary.rejected(search),
        "groups": summary.changed(shown),
        "split": splits.pop() if len(splits) == 1 else "",  # of all images that are shown
        "changes": len(shown),  # including those that were wrong both times
    }


def _pictures(search: SearchState) -> Mapping[str, Any]:
    """Return the confusion matrix, the map, and the worst images of the most informative split, as far as recorded."""
    found = summary.most_informative(search)
    if found is None:
        return {"matrix": None, "map": None, "mistakes": []}
    _, _, best = found
    matrix, drawn = best.get("matrix"), search.maps.get((best["split"], best["class_split"]))
    return {
        "matrix": pictures.draw_matrix(matrix) if matrix and matrix["classes"] else None,
        "matrix_classes": len(matrix["classes"]) if matrix else 0,
        "classes_evaluated": len(best["per_class"]),
        "map": pictures.draw_map(drawn) if drawn else None,
        "map_event": drawn,
        "mistakes": summary.mistakes(search, best),
    }


def _curves(search: SearchState) -> "list[Chart]":
    if not search.best:
        return []
    from ipo_dspy.report import inline_charts as charts  # loads matplotlib, which a page without trials does not need

    return [
        charts.draw(tuple(search.history), measure, better=search.better, best=search.best)
        for measure in charts.measures(ObjectiveText.of(search.objective))
    ]


def _picture(search: SearchState, chosen: choice.ChoiceSummary | None) -> Markup | None:
    if chosen is None or not chosen.candidates or search.start is None or search.selected is None:
        return None
    from ipo_dspy.report import inline_charts as charts

    return charts.draw_candidates(chosen.candidates, winner=search.selected["index"], expected=chosen.fields)


def _data(name: str) -> str:
    return resources.files("ipo_dspy.report").joinpath(name).read_text(encoding="utf-8")


def _number(form: str, unknown: str = "\u2013") -> Callable[[float | None], str]:
    """Return a filter that formats numbers."""
    return lambda value: unknown if value is None else form.format(value)


def _points(value: float | None) -> str:
    """Format a difference in points, with a typographic minus sign."""
    if value is None:
        return "\u2013"
    sign = "+" if value > 0.04999 else "\u2212" if value < -0.04999 else "\u00b1"
    return f"{sign}{abs(value):.1f}"


def _duration(seconds: float | None) -> str:
    """Format seconds in the largest two units.

    >>> _duration(3725.0)
    '1 h 2 min'
    """
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _format_timestamp(text: str) -> str:
    """Format an ISO 8601 time to the minute; return any other text as it is.

    >>> _format_timestamp("2026-03-01T09:30:12+00:00")
    '2026-03-01 09:30 UTC'
    """
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return shorten(text, 40)


def _image_name(change: PredictionChangedEvent | MistakeEvent) -> str:
    """Return class and file name of an image: every class may have a `1.jpg`."""
    file = _parts(change["source"])[-1:]
    return "/".join([change["label"], *file]) if file else ""


def _breakable(text: str) -> Markup:
    """Return a path as HTML that breaks after a slash rather than inside a name.

    >>> _breakable("cat/<1>.jpg")
    Markup('cat/<wbr>&lt;1&gt;.jpg')
    """
    return Markup("/<wbr>").join(text.split("/"))


def _short(source: str) -> str:
    """Return a file name with its folder, which is usually its class, or the name and row of a table.

    >>> _short("/photos/cat/1.jpg"), _short("/data/pets.parquet#3")
    ('cat/1.jpg', 'pets.parquet#3')
    """
    return "/".join(_parts(source)[-1 if ".parquet#" in source.lower() else -2 :])


def _parts(source: str) -> tuple[str, ...]:
    """Return the printable parts of a path of any operating system, without its root."""
    path = PurePath(source.replace("\\", "/"))
    return tuple(printable(part) for part in path.parts if part != path.anchor)
