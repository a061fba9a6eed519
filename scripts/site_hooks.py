"""Hooks of mkdocs.yml: links out of docs/ lead to the repository, and `llms.txt` lists the pages."""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
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
