"""Write the generated parts of the pages: the command line, events, messages of errors, and the gallery's tables.

`python scripts/reference_pages.py` replaces what stands between the marks of each page; text around them is kept.
`tests/test_reference_pages.py` fails if a page is not what this prints.
"""

import html
import inspect
import os
import re
import tempfile
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import typer.main

import ipo_dspy
from ipo_dspy import IPOError, demo, errors
from ipo_dspy.bench.tables import _published
from ipo_dspy.cli.app import app
from ipo_dspy.data import find_benchmark
from ipo_dspy.report.run_watcher import REASONS
from ipo_dspy.run import journal_schema
from ipo_dspy.run.events import TRANSIENT, Event
from ipo_dspy.run.journal import replay
from ipo_dspy.scoring.template_lists import PAPER
from ipo_dspy.template import DEFAULT_TEMPLATE

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARK = "<!-- {name}: written by scripts/reference_pages.py -->"
END = "<!-- end -->"


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*|\[\]])|(?<!\w)_", r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Return text as code in a cell of a table, where Markdown would show the backslash of an escaped bar.

    >>> code("auto|batch")
    '<code>auto&#124;batch</code>'
    """
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def commands() -> str:
    """Return all commands with their arguments and options."""
    group = typer.main.get_command(app)
    parts = []
    for name, command in _leaves(group.commands, ""):  # type: ignore[attr-defined]
        positional = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        parameters = inspect.signature(command.callback).parameters
        usage = " ".join([f"ipo-dspy {name}", "[OPTIONS]", *map(_positional, positional)])
        parts += [f"## {name}", plain(command.help), f"```console\n$ {usage}\n```"]
        if positional:
            rows = [(code(_positional(p)), plain(p.help or ""), _default(p)) for p in positional]
            parts.append(table(("argument", "meaning", "default"), rows))
        if options:
            rows = [
                (code(_option(p, parameters[p.name].annotation)), plain(p.help or ""), _default(p)) for p in options
            ]
            parts.append(table(("option", "meaning", "default"), rows))
    return "\n\n".join(parts)


def _leaves(found: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, command in found.items():
        if hasattr(command, "commands"):
            yield from _leaves(command.commands, f"{before}{name} ")
        else:
            yield before + name, command


def _positional(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Any, hint: Any) -> str:
    if parameter.is_flag:
        return ", ".join([*parameter.opts, *parameter.secondary_opts])
    kinds = _kinds(hint)
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    choices = [kind for kind in kinds if isinstance(kind, str)] + [
        str(member.value) for kind in enums for member in kind
    ]
    numbers = {int: "N", float: "NUMBER", Path: "PATH"}
    usual = next((numbers[kind] for kind in kinds if kind in numbers), "TEXT")
    return f"{', '.join(parameter.opts)} {parameter.metavar or '|'.join(choices) or usual}"


def _kinds(hint: Any) -> list[Any]:
    """Return the types and literals within a type."""
    return [kind for member in get_args(hint) for kind in _kinds(member)] or [hint]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return plain(parameter.show_default)
    value = parameter.default
    if value is None or value is False:
        return ""
    return "on" if value is True else code(str(getattr(value, "value", value)))


def events() -> str:
    """Return each event with its fields, then the objects within them."""
    kinds = get_args(Event)
    parts = []
    for kind in kinds:
        (name,) = get_args(get_type_hints(kind)["event"])
        parts += [f"## {name}", *(["Not recorded."] if name in TRANSIENT else []), *_typed_dict(kind)]
    parts += ["## Objects within events"]
    seen: list[Any] = []
    for kind in kinds:
        _collect(kind, seen)
    for form in sorted((form for form in seen if form not in kinds), key=lambda form: form.__name__):
        parts += [f"### {form.__name__}", *_typed_dict(form)]
    return "\n\n".join(parts)


def _collect(kind: Any, seen: list[Any]) -> None:
    for form in get_type_hints(kind).values():
        for inner in (form, *get_args(form), *(i for arg in get_args(form) for i in get_args(arg))):
            if is_typeddict(inner) and inner not in seen:
                seen.append(inner)
                _collect(inner, seen)


def _typed_dict(kind: Any) -> list[str]:
    hints = get_type_hints(kind)
    rows = [
        (code(name), _form(form), "" if name in kind.__required_keys__ else "may be absent")
        for name, form in hints.items()
        if name != "event"
    ]
    return [inspect.getdoc(kind) or "", table(("field", "value", ""), rows)]


def _form(form: Any) -> str:
    """Return a type as JSON knows it.

    >>> _form(dict[str, list[int]] | None)
    'object of lists of integers, or null'
    """
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Any: "value", type(None): "null"}
    origin, inner = get_origin(form), get_args(form)
    if form in names:
        return names[form]
    if origin is NotRequired:
        return _form(inner[0])
    if origin in (Union, types.UnionType):
        return ", or ".join(map(_form, inner))
    if origin is list:
        return f"list of {_plural(_form(inner[0]))}"
    if origin is dict:
        return "object" if inner[1] is Any else f"object of {_plural(_form(inner[1]))}"
    if origin is Literal:
        return ", ".join(code(str(value)) for value in inner)
    return f"[{form.__name__}](#{form.__name__.lower()})"


def _plural(phrase: str) -> str:
    first, *rest = phrase.split(" ", 1)
    return phrase if first.startswith("[") else " ".join([f"{first}s", *rest])


def statuses() -> str:
    """Return the final statuses of a run."""
    return table(("status", "meaning"), [(code(status), plain(text)) for status, text in REASONS.items()])


def old_names() -> str:
    """Return the names of schema 2."""
    kinds = journal_schema._KINDS
    rows = [(code(old), code(new), _renamed(old)) for old, new in kinds.items()]
    rows += [(code(kind), code(kind), _renamed(kind)) for kind in journal_schema._FIELDS if kind not in kinds]
    return table(("event in schema 2", "now", "fields"), rows)


def _renamed(kind: str) -> str:
    return ", ".join(f"{code(old)} is {code(new)}" for old, new in journal_schema._FIELDS.get(kind, {}).items())


def error_tree() -> str:
    """Return the tree of errors from the docstring of its module."""
    drawn = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\nEach message")[0]
    return f"```text\n{textwrap.dedent(drawn)}\n```"


EXAMPLES = (
    'Template.parse("a photo of a dog.")',
    'Template.parse("a photo of a {}.")',
    'ClipClassifier(["cat"])',
    'load_images("fotos")',
    'load_images("photos.zip")',
    'demo.load("pixel-animal")',
    'demo.load("pixel-animals").program(image="broken.png")',
    'demo.load("pixel-animals").program(image="http://example.com/cat.png")',
    "IPO(steps=-1)",
    'IPO(steps=8, auto="light")',
    'IPO(proposer="genetic")',
    'IPO(initial_templates="papers")',
    'IPO(min_recall={"cat": 95})',
    "IPO().check_models()",
    'ClipClassifier.from_file("runs/1/journal.jsonl")',
    'replay("runs/2")',
    'replay("runs/1")',
)
"""Calls that are refused, as Python expressions."""


def messages() -> str:
    """Return the messages of common mistakes: each is made, in an empty folder."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("photos.zip").write_bytes(b"PK")
            Path("broken.png").write_bytes(b"\x89PNG\r\n")
            Path("runs/1").mkdir(parents=True)
            Path("runs/1/journal.jsonl").write_text('{"event": "run_started"}\n')
            rows = [(code(call), *_refusal(call)) for call in EXAMPLES]
        finally:
            os.chdir(here)
    return table(("call", "error", "message"), rows).replace(str(Path(folder).resolve()), "/home/ana")


def _refusal(call: str) -> tuple[str, str]:
    try:
        eval(call, {name: getattr(ipo_dspy, name) for name in ipo_dspy.__all__} | {"demo": demo, "replay": replay})
    except IPOError as error:
        return code(type(error).__name__), plain(str(error))
    raise AssertionError(f"{call} is accepted")


def found_templates() -> str:
    """Return what was found for each bundled task, from the 16-shot rows of docs/results.md."""
    results = (DOCS / "results.md").read_text()
    scores = results.partition("**16-shot, base to novel**")[2].partition("**The templates**")[0]
    parts = []
    for task in demo.names():
        start = re.findall(rf"^\| {task} \| CLIP \| ([\d.]+) .*? \| ([\d.]+) ", scores, flags=re.MULTILINE)
        row = rf"^\| {task} \| (IPO|CLIP, best of the 80) \| 16 \| (\d) \| (`.*?`) \| ([\d.]+) \| ([\d.]+) \|$"
        found = re.findall(row, results, flags=re.MULTILINE)
        rows = [(code(DEFAULT_TEMPLATE), "start", *start[0])]
        for kind, seed, text, base, novel in found:
            if kind == "IPO" or seed == "1":
                rows.append((text, f"found, seed {seed}" if kind == "IPO" else "best of the 80", base, novel))
        rows.sort(key=lambda row: row[1].startswith("found"))
        parts += [f"### {task}", f"{demo.load(task).description.capitalize()}."]
        parts += [
            f"![Six pictures of {task}, with what CLIP took each for before and after](images/gallery-{task}.png)"
        ]
        parts += [table(("template", "", "base, %", "novel, %"), rows)]
    return "\n\n".join(parts)


def paper_prompts() -> str:
    """Return the prompts of the paper with its figures."""
    rows = []
    for name, figures in _published()["shots"]["1"].items():
        if name in PAPER:
            before, after = (" / ".join(f"{value:.1f}" for value in figures[method][:2]) for method in ("clip", "ipo"))
            rows.append(
                (find_benchmark(name).title, code(PAPER[name]), code(find_benchmark(name).template), before, after)
            )
    return table(("data set", "found", "hand-written", "CLIP, base / novel, %", "IPO, base / novel, %"), rows)


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "reference/cli.md": {"commands": commands},
    "reference/events.md": {"events": events},
    "reference/journal.md": {"statuses": statuses, "old names": old_names},
    "reference/errors.md": {"tree": error_tree, "messages": messages},
    "gallery.md": {"found templates": found_templates, "prompts of the paper": paper_prompts},
}


def rendered(page: str) -> str:
    """Return a page with its generated parts replaced."""
    text = (DOCS / page).read_text()
    for name, part in PARTS[page].items():
        before, mark, rest = text.partition(MARK.format(name=name))
        if not mark:
            raise SystemExit(f"{page} must have the line {MARK.format(name=name)}")
        text = f"{before}{mark}\n\n{part()}\n\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    for page in PARTS:
        (DOCS / page).write_text(rendered(page))
