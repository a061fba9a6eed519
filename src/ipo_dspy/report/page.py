"""Lays the state of a run out as one HTML page with everything inline: no script, no font, no address outside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ipo_dspy._internal.untrusted import printable
from ipo_dspy.report import summary
from ipo_dspy.report.journal_fields import pairs
from ipo_dspy.report.thumbnails import thumbnail
from ipo_dspy.run.events import PredictionChangedEvent
from ipo_dspy.run.state import RunState, SearchState
from ipo_dspy.template import PLACEHOLDER

if TYPE_CHECKING:
    from ipo_dspy.report.inline_charts import Chart

BEST_SHOWN = 20
DESCRIPTIONS_SHOWN = 10
CLASSES_SHOWN = 40
LINES_SHOWN = 4
"""Lines of an ensemble in the open; the rest folds away."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A changed image with its thumbnail, where that could be made."""

    change: PredictionChangedEvent
    name: str
    data: str | None


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """The mended or the broken pictures."""

    title: str
    pictures: tuple[Picture, ...]
    recorded: int


@dataclass(frozen=True, slots=True)
class SearchSection:
    """What the page shows of one search."""

    number: int
    search: SearchState
    rows: Sequence[summary.ScoreRow]
    headline: summary.ScoreRow | None
    curves: "Sequence[Chart]"
    classes: summary.ClassTable | None
    rejected: Sequence[summary.Rejected]
    groups: Sequence[PictureGroup]
    one_place: str
    """Where all pictures are from, or nothing where they are from several parts."""
    changes: int
    """Changed images on that split, wrong both times included."""


def page(run: RunState) -> str:
    """The whole page; the same run (and the same pictures on disk) gives the same text."""
    sections = [_section(i, search) for i, search in enumerate(run.searches.values(), start=1)]
    return environment().get_template("template.html.j2").render(run=run, sections=sections)


def environment() -> Environment:
    """What the pages of this package are laid out with; everything is escaped."""
    found = Environment(
        loader=FunctionLoader(_data),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "percent": _percent, "points": _points, "nats": _nats, "duration": _duration, "count": _count,
        "prompt": prompt, "moment": _format_timestamp, "clip": _clip, "short": _short, "pairs": pairs,
    }  # fmt: skip
    found.globals |= {**_limits(), "style": Markup(_data("style.css"))}
    return found


def prompt(text: str) -> Markup:
    """A template as code, its lines apart and `<CLASS>` set off; long ensembles fold.

    >>> print(prompt("a <CLASS>."))
    <code class="prompt"><span>a <b>&lt;CLASS&gt;</b>.</span></code>
    """
    mark = Markup("<b>{}</b>").format(PLACEHOLDER)
    lines = [
        Markup("<span>{}</span>").format(mark.join(map(Markup.escape, _clip(line, 600).split(PLACEHOLDER))))
        for line in text.split("\n")
    ]
    shown, folded = lines[:LINES_SHOWN], lines[LINES_SHOWN:]
    html = Markup('<code class="prompt">{}</code>').format(Markup().join(shown))
    if not folded:
        return html
    more = Markup('<code class="prompt">{}</code>').format(Markup().join(folded))
    return html + Markup("<details><summary>{} more lines</summary>{}</details>").format(len(folded), more)


def _section(number: int, search: SearchState) -> SearchSection:
    rows = summary.score_rows(search)
    shown = summary.select_example_changes(search.changes)
    return SearchSection(
        number,
        search,
        rows,
        summary.headline(rows),
        _curves(search),
        summary.class_table(search),
        summary.rejected(search),
        [_group(group) for group in summary.changed(shown)],
        _one_place(shown),
        len(shown),
    )


def _curves(search: SearchState) -> "list[Chart]":
    if not search.best:
        return []
    from ipo_dspy.report import inline_charts as charts  # loads matplotlib, which a page without trials does not need

    return [charts.draw(tuple(search.history), measure, best=search.best) for measure in charts.MEASURES.values()]


def _group(group: summary.ChangedPredictions) -> PictureGroup:
    pictures = (Picture(change, _named(change), thumbnail(change["source"])) for change in group.shown)
    return PictureGroup(group.title, tuple(pictures), group.recorded)


def _one_place(changes: Sequence[PredictionChangedEvent]) -> str:
    """Where all the changed images are from, or nothing where they are from several parts."""
    places = {summary.split_label(change["split"], change["class_split"]) for change in changes}
    return places.pop() if len(places) == 1 else ""


def _limits() -> Mapping[str, int]:
    return {
        "BEST_SHOWN": BEST_SHOWN,
        "DESCRIPTIONS_SHOWN": DESCRIPTIONS_SHOWN,
        "CLASSES_SHOWN": CLASSES_SHOWN,
    }


def _data(name: str) -> str:
    return resources.files("ipo_dspy.report").joinpath(name).read_text(encoding="utf-8")


def _percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.1f}\u00a0%"


def _points(value: float | None) -> str:
    """A difference in points, with a true minus sign."""
    if value is None:
        return "\u2013"
    sign = "+" if value > 0.04999 else "\u2212" if value < -0.04999 else "\u00b1"
    return f"{sign}{abs(value):.1f}"


def _nats(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"


def _count(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    """Seconds in the largest two units.

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
    """An ISO 8601 time to the minute, or the text itself where it is none.

    >>> _format_timestamp("2026-03-01T09:30:12+00:00")
    '2026-03-01 09:30 UTC'
    """
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return _clip(text, 40)


def _clip(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "\u2026"


def _named(change: PredictionChangedEvent) -> str:
    """A picture by its class and file: every class may have a `1.jpg`."""
    file = _parts(change["source"])[-1:]
    return "/".join([change["label"], *file]) if file else ""


def _short(source: str) -> str:
    """A file with its folder, which is mostly its class; a row of a table by the table alone.

    >>> _short("/photos/cat/1.jpg"), _short("/data/pets.parquet#3")
    ('cat/1.jpg', 'pets.parquet#3')
    """
    return "/".join(_parts(source)[-1 if ".parquet#" in source.lower() else -2 :])


def _parts(source: str) -> tuple[str, ...]:
    """The parts of a path on any system, without its root, as they may be shown."""
    path = PurePath(source.replace("\\", "/"))
    return tuple(printable(part) for part in path.parts if part != path.anchor)
