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


def component(module: str) -> str:
    """Return the row of a module below `ipo_dspy`.

    >>> component("data.folder"), component("template"), component("__main__"), component("")
    ('data', 'template', 'cli', 'ipo_dspy')
    """
    return module.replace("__main__", "cli").split(".")[0] or "ipo_dspy"


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = frozenset(f"ipo_dspy.{module_of(file)}".rstrip(".") for file in FILES)


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
            yield from (name if name in MODULES else str(node.module) for name in modules)


def inner_imports(file: Path) -> set[str]:
    """Modules of this package that a file imports; the package itself (version and name) is free to all."""
    names = {name.removeprefix("ipo_dspy").lstrip(".") for name in imports(file) if name.split(".")[0] == "ipo_dspy"}
    return names - {"", module_of(file)}


def imported_components(name: str) -> set[str]:
    """Components that the files of one component import, besides itself."""
    files = [file for file in FILES if component(module_of(file)) == name]
    return {component(module) for file in files for module in inner_imports(file)} - {name}


def rows(columns: int) -> list[list[str]]:
    """Rows of the page's tables of that width, without heads."""
    lines = [line.removeprefix("|").removesuffix("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == columns]
    return [row for row in cells if not set(row[0]) <= {"-"}][1:]


COMPONENTS = [row[0].strip("`") for row in rows(3)]
LISTED = {row[0].strip("`"): row[2] for row in rows(3)}
LIBRARIES = {row[0].strip("`"): set(re.findall(r"`([\w.]+)`", row[1])) for row in rows(2)}
FOUNDATIONS = COMPONENTS[:4]


def listed(name: str) -> set[str]:
    """Components that a row names."""
    return set(re.findall(r"`([\w.]+)`", LISTED[name]))


def allowed(name: str) -> set[str]:
    """Components that a component may import."""
    above = set(COMPONENTS[: COMPONENTS.index(name)])
    return above if LISTED[name] == "any" else listed(name) | (above & set(FOUNDATIONS))


def test_the_page_was_read() -> None:
    assert len(COMPONENTS) > 20
    assert FOUNDATIONS == ["_internal", "errors", "template", "argument_checks"]
    assert (COMPONENTS[-1], LIBRARIES["open_clip"]) == ("cli", {"clip"})
    assert all(text in {"", "any"} or listed(name) for name, text in LISTED.items())


def test_every_component_has_its_row_and_every_row_a_component() -> None:
    assert {component(module_of(file)) for file in FILES} - {"ipo_dspy"} == set(COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_rows_name_only_components_above_them(name: str) -> None:
    assert listed(name) - set(COMPONENTS[4 : COMPONENTS.index(name)]) == set()


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_import_what_their_row_allows(name: str) -> None:
    assert imported_components(name) - allowed(name) == set()


@pytest.mark.parametrize("name", COMPONENTS)
def test_rows_name_only_what_is_imported(name: str) -> None:
    assert listed(name) - imported_components(name) == set()


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name != "cli"])
def test_modules_of_a_component_import_one_another_without_a_circle(name: str) -> None:
    inner = {
        module_of(file): {module for module in inner_imports(file) if component(module) == name}
        for file in FILES
        if component(module_of(file)) == name
    }
    while free := {module for module, needs in inner.items() if not needs & inner.keys()}:
        inner = {module: needs for module, needs in inner.items() if module not in free}
    assert inner == {}


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_are_imported_in_their_component_only(library: str) -> None:
    users = {module_of(file) for file in FILES if library in {name.split(".")[0] for name in imports(file)}}
    assert {user for user in users if component(user) not in LIBRARIES[library]} == set()


def test_decisions_of_dspy_come_in_through_one_door() -> None:
    doors = ("dspy.experimental", "dspy.adapters.decision", "dspy.adapters.types.decision", "dspy.teleprompt.reanchor")
    users = {module_of(file) for file in FILES if any(name.startswith(doors) for name in imports(file))}
    secrets = {module_of(file) for file in FILES if "_decision_evidence" in file.read_text()}
    assert users == secrets == {"decision_types"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "torchvision", "litellm", "transformers", "open_clip", "matplotlib", "datasets"}


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert loaded_by("import ipo_dspy") & (HEAVY | {"dspy", "numpy", "PIL", "pyarrow"}) == set()


def test_the_core_and_the_report_need_no_torch() -> None:
    core = "import ipo_dspy.report, ipo_dspy.history, ipo_dspy.run.journal, ipo_dspy.template, ipo_dspy.phrase_bank"
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
