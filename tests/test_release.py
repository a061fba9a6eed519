"""A release states the same facts in all of its files, and the type of `IPO` reaches a client's mypy."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ipo_dspy
from ipo_dspy._internal.moved_modules import MOVED
from ipo_dspy._internal.renames import OLD_ARGUMENTS, OLD_BASELINE_SETTINGS, OLD_PROPOSER_SETTINGS, OLD_REQUEST_MODES
from ipo_dspy.cli import messages
from ipo_dspy.cli.doctor_environment import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {one.name: one for one in map(Requirement, PROJECT["dependencies"])}


def test_the_newest_release_of_the_changelog_is_the_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    released = [heading.split()[0] for heading in headings if heading != "Unreleased"]
    assert headings.count("Unreleased") <= 1
    assert released[0] == ipo_dspy.__version__
    assert released == sorted(released, key=Version, reverse=True)


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {ipo_dspy.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    "renamed",
    [MOVED, OLD_ARGUMENTS, OLD_PROPOSER_SETTINGS, OLD_REQUEST_MODES, OLD_BASELINE_SETTINGS, messages.RENAMED],
    ids=["modules", "arguments", "proposer settings", "request modes", "baseline settings", "options"],
)
def test_the_upgrade_page_has_every_renamed(renamed: Mapping[str, str]) -> None:
    """Each pair of an earlier and a current name is in one row of a table."""
    rows = [re.findall(r"[-\w.]*\w", row) for row in (ROOT / "docs" / "upgrading.md").read_text().splitlines()]
    assert [pair for pair in renamed.items() if not any(set(pair) <= set(words) for words in rows)] == []


def test_every_dependency_is_pinned() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]}
    assert declared - {"ipo-dspy"} <= pinned


@pytest.mark.parametrize("name", ["dspy", "dspy-ai"])
def test_dspy_is_pinned_below_its_next_minor(name: str) -> None:
    assert "3.4.1" in DEPENDENCIES[name].specifier
    assert "3.5.0" not in DEPENDENCIES[name].specifier


def test_every_version_of_python_that_is_named_is_tested() -> None:
    hosted = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"^ +python: (\[.+\])$", hosted, flags=re.MULTILINE)
    assert json.loads(matrix) == [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if ":: 3." in one]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / ".github" / "workflows" / "ci.yml"]
    named = re.findall(r"(?:`|\$ |run: )make ([a-z ]+)", "".join(page.read_text() for page in pages))
    assert {word for line in named for word in line.split()} - targets == set()


def test_doctor_names_every_extra_for_users() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"all", "test", "docs", "dev"}


def test_doctor_looks_for_a_package_of_each_extra() -> None:
    for extra, (distribution, _) in EXTRAS.items():
        names = {Requirement(one).name for one in PROJECT["optional-dependencies"][extra]}
        assert distribution in names


def test_type_checkers_see_every_public_name() -> None:
    """The package is marked as typed, and what is imported lazily is imported for type checking too."""
    package = ROOT / "src" / "ipo_dspy"
    typed = re.findall(
        r"^    from [\w.]+ import (\w+) as \1$", (package / "__init__.py").read_text(), flags=re.MULTILINE
    )
    assert (package / "py.typed").is_file()
    assert sorted(["__version__", *typed]) == sorted(ipo_dspy.__all__)


@pytest.mark.slow
def test_the_type_of_ipo_reaches_a_client(tmp_path: Path) -> None:
    """With settings of a client, who skips the large libraries behind it."""
    large = ("torch", "transformers", "dspy", "litellm", "open_clip", "PIL", "numpy", "pyarrow", "rich", "typer", "ray")
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = true\n" for name in large)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n{skipped}")
    (tmp_path / "client.py").write_text(
        "from ipo_dspy import IPO, ClipClassifier\nreveal_type(IPO(steps=2))\n"
        "reveal_type(IPO().compile(ClipClassifier(['cat', 'dog']), []))\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir=.cache", "client.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "py.typed" not in done.stdout
    assert 'Revealed type is "ipo_dspy.optimizer.ipo.IPO"' in done.stdout
    assert 'Revealed type is "ipo_dspy.classifier.program.ClipClassifier"' in done.stdout
