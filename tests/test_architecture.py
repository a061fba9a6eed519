"""Who may import whom: docs/architecture.md and the imports of the package say the same."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ipo_dspy

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ipo_dspy"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILES = sorted(SOURCE.rglob("*.py"))


def unit(module: str) -> str:
    """The row that a module below `ipo_dspy` belongs to.

    >>> unit("data.folder"), unit("clip.text"), unit("__main__"), unit("")
    ('data', 'clip.text', 'cli', 'ipo_dspy')
    """
    parts = module.replace("__main__", "cli").split(".")
    return ".".join(parts[:2]) if parts[0] == "clip" else parts[0] or "ipo_dspy"


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(file: Path) -> frozenset[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    return frozenset(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write the import in full"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            known = {f"ipo_dspy.{module_of(other)}".rstrip(".") for other in FILES}
            yield from (name if name in known else str(node.module) for name in modules)


def inner_imports(file: Path) -> set[str]:
    """Rows that a file imports from, besides its own; version and name of the package are free to all."""
    names = {name.removeprefix("ipo_dspy").lstrip(".") for name in imports(file) if name.split(".")[0] == "ipo_dspy"}
    return {unit(name) for name in names if name} - {unit(module_of(file))}


def rows(columns: int) -> list[list[str]]:
    """Rows of the page's tables of that width, without heads."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == columns]
    return [row for row in cells if not set(row[0]) <= {"-"}][1:]


LAYERS = {row[1].strip("`"): int(row[0]) for row in rows(4)}
ALLOWED = {row[1].strip("`"): row[3] for row in rows(4)}
DOORS = {row[0].strip("`"): set(re.findall(r"`([\w.]+)`", row[1])) for row in rows(2)}


def allowed(row: str) -> set[str]:
    text = ALLOWED[row]
    return set(ALLOWED) if text == "any" else set(re.findall(r"`([\w.]+)`", text))


def test_the_page_was_read() -> None:
    assert len(ALLOWED) > 20
    assert (LAYERS["errors"], LAYERS["cli"], DOORS["open_clip"]) == (0, 7, {"clip.backbone"})
    assert all(text in {"nothing", "any"} or allowed(row) for row, text in ALLOWED.items())


def test_every_module_has_its_row_and_every_row_a_module() -> None:
    assert {unit(module_of(file)) for file in FILES} - {"ipo_dspy"} == set(ALLOWED)


@pytest.mark.parametrize("row", ALLOWED)
def test_rows_allow_nothing_above_their_layer(row: str) -> None:
    assert {other for other in allowed(row) if LAYERS[other] > LAYERS[row]} == set()


def test_rows_allow_no_circle() -> None:
    seen: set[str] = set()
    rest = {row: allowed(row) - {row} for row in ALLOWED}
    while free := {row for row, needs in rest.items() if needs <= seen}:
        seen |= free
        rest = {row: needs for row, needs in rest.items() if row not in free}
    assert rest == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: module_of(file) or "ipo_dspy")
def test_imports_what_its_row_allows(file: Path) -> None:
    row = unit(module_of(file))
    if row != "ipo_dspy":
        assert inner_imports(file) - allowed(row) == set()


@pytest.mark.parametrize("row", [row for row, text in ALLOWED.items() if text != "any"])
def test_rows_allow_only_what_is_used(row: str) -> None:
    used = {name for file in FILES if unit(module_of(file)) == row for name in inner_imports(file)}
    assert allowed(row) - used == set()


@pytest.mark.parametrize("library", DOORS)
def test_libraries_come_in_through_their_door(library: str) -> None:
    users = {module_of(file) for file in FILES if library in {name.split(".")[0] for name in imports(file)}}
    assert {user for user in users if unit(user) not in DOORS[library]} == set()


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "torchvision", "litellm", "transformers", "open_clip", "matplotlib", "datasets"}


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert loaded_by("import ipo_dspy") & (HEAVY | {"dspy", "numpy", "PIL", "pyarrow"}) == set()


def test_the_core_and_the_report_need_no_torch() -> None:
    core = "import ipo_dspy.report, ipo_dspy.history, ipo_dspy.run.journal, ipo_dspy.template, ipo_dspy.vocabulary"
    assert loaded_by(core) & (HEAVY | {"dspy"}) == set()


def test_the_loop_needs_no_torch_and_no_litellm() -> None:
    assert loaded_by("import ipo_dspy.optimizer.search, ipo_dspy.proposers, ipo_dspy.lms") & HEAVY == set()


@pytest.mark.parametrize("name", ipo_dspy.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(ipo_dspy, name) is not None
    assert name in dir(ipo_dspy)
    if name != "__version__":
        home = importlib.import_module(f"ipo_dspy.{ipo_dspy._HOME[name]}")
        assert getattr(home, name) is getattr(ipo_dspy, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ipo_dspy' has no attribute 'ipo'"):
        _ = ipo_dspy.ipo
