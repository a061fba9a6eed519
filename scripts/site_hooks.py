"""Hooks of mkdocs.yml: links out of docs/ lead to the repository, and `llms.txt` lists the pages for language models.

Language models read the Markdown of a page rather than its HTML, so each page's Markdown is published next to it.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure import StructureItem
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Link, Navigation, Section
from mkdocs.structure.pages import Page

logger = logging.getLogger("mkdocs.hooks.site")
LINK = re.compile(r"(\]\()(\.\.?/[^)\s#]+)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with each relative link that leaves docs/ replaced by the file's address in the repository."""
    docs = Path(config.docs_dir)

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[2]))
        if path.startswith("docs/"):
            return link[0]
        if not (docs.parent / path).exists():
            logger.warning("%s links to %s, which does not exist", page.file.src_uri, link[2])
        return f"{link[1]}{config.extra['repository']}/blob/main/{path}"

    return LINK.sub(address, markdown)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    """Write the page's Markdown, and with the first page `llms.txt`."""
    site = Path(config.site_dir)
    if _is_text(page):
        markdown = site / page.file.src_uri
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(page.markdown or "", encoding="utf-8")
    if page.is_homepage:
        lines = "\n".join(_lines(nav.items))
        text = f"# {config.site_name}\n\n> {config.site_description}\n\n{lines}\n"
        (site / "llms.txt").write_text(text, encoding="utf-8")
    return context


def _is_text(page: Page) -> bool:
    """Return whether the page is written in Markdown: not a notebook, and not made of docstrings."""
    return page.file.src_uri.endswith(".md") and not re.search("^:::", page.markdown or "", flags=re.MULTILINE)


def _lines(items: list[StructureItem]) -> Iterator[str]:
    for item in items:
        if isinstance(item, Section):
            yield f"\n{'#' * (len(list(item.ancestors)) + 2)} {item.title}\n"
            yield from _lines(item.children)
        elif isinstance(item, Page):
            yield f"- [{item.title}]({item.file.src_uri if _is_text(item) else item.url})"
        elif isinstance(item, Link):
            yield f"- [{item.title}]({item.url})"
