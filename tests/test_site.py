"""The site of `make docs`: links out of docs/, `llms.txt`, and pages in a browser without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.browser import Browser, browser, needs_browser

ROOT = Path(__file__).resolve().parent.parent
PHONE = 390
WIDE_TABLES = """
    const boxes = [...document.querySelectorAll(".md-typeset__scrollwrap")];
    return boxes.filter(box => box.scrollWidth > box.clientWidth).map(box => box.innerText)
"""
TOY = f"""
site_name: toy
site_description: Two pages
theme: {{ name: null, custom_dir: theme }}
hooks: [{ROOT / "scripts" / "site_hooks.py"}]
extra: {{ repository: https://example.org/toy }}
plugins: []
use_directory_urls: false
nav: [{{ Home: index.md }}, {{ More: [{{ Deep: deep/page.md }}, {{ Elsewhere: https://example.org }}] }}]
"""


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A site of two pages, with a file outside docs/ that one of them links to."""
    for name, text in {
        "mkdocs.yml": TOY,
        "theme/main.html": "{{ page.content }}",
        "docs/index.md": "# Home\n",
        "docs/deep/page.md": "# Deep\n\n[code](../../src/code.py#L3), [home](../index.md)\n",
        "src/code.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_links_out_of_the_docs_lead_to_the_repository(toy: Path) -> None:
    done = build(toy)
    assert done.returncode == 0, done.stderr
    page = (toy / "site" / "deep" / "page.html").read_text()
    assert re.findall('href="(.*?)"', page) == ["https://example.org/toy/blob/main/src/code.py#L3", "../index.html"]


def test_a_link_to_a_file_that_does_not_exist_fails(toy: Path) -> None:
    (toy / "src" / "code.py").unlink()
    done = build(toy)
    assert done.returncode == 1
    assert "deep/page.md links to ../../src/code.py, which does not exist" in done.stderr


def test_language_models_find_the_pages_as_markdown(toy: Path) -> None:
    (toy / "docs" / "index.md").write_text("# Home\n\n::: module\n")
    assert build(toy).returncode == 0
    listed = (toy / "site" / "llms.txt").read_text()
    assert listed == (
        "# toy\n\n> Two pages\n\n- [Home](index.html)\n\n"
        "## More\n\n- [Deep](deep/page.md)\n- [Elsewhere](https://example.org)\n"
    )
    assert "[home](../index.md)" in (toy / "site" / "deep" / "page.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, "--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_listed_for_language_models(site: Path) -> None:
    links = re.findall(r"\]\((?!https:)(.*?)\)", (site / "llms.txt").read_text())
    assert [link for link in links if not (site / link).is_file()] == []
    pages = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")} - {Path("404")}
    assert {Path(link).with_suffix("") for link in links} == pages


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    # Notebooks hold their plots as data.
    loaded = (
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?((?!data:)\w+:|//)"""
        r"""|<link[^>]*stylesheet[^>]*href=["']?(\w+:|//)"""
    )
    pages = {path.name: re.findall(loaded, path.read_text()) for path in site.rglob("*.html")}
    assert {name: found for name, found in pages.items() if found} == {}


@pytest.mark.slow
@needs_browser
def test_pages_fit_a_phone_and_search_works_from_files(site: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as window:
        window.look(tmp_path / "phone.png", width=PHONE, dark=False)
        for path in sorted(site.rglob("*.html")):
            if path.name != "404.html":  # has addresses of the site's root
                window.open(path.as_uri())
                assert window.run("return document.documentElement.scrollWidth") == PHONE, path
            if path.parent.name == "how-to":
                assert window.run(WIDE_TABLES) == [], path
        window.open((site / "index.html").as_uri())
        search(window, "opset")
        window.wait_for("One ONNX model", ".md-search-result")
        assert window.complaints == []


def search(window: Browser, text: str) -> None:
    window.click("[for=__search]")
    window.type(".md-search__input", text)
