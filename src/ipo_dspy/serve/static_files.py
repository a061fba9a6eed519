"""The files of the pages, and the headers that both servers send with them.

A page has no inline script or style and loads nothing from elsewhere, so its Content-Security-Policy permits neither:
text that ends up in it as markup could do nothing. Its scripts set text only through `textContent`.
"""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of each response."""
_SCRIPTS = {"page": ("page.js", "dom.js"), "run": ("run.js", "dom.js", "chart.js")}
_STYLE = {"style.css": ("report/style.css", "serve/pages.css")}
_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of a page."""

    content: bytes
    media_type: str


def static_files(page: Literal["page", "run"]) -> dict[str, StaticFile]:
    """Return the files of a page by their paths below its URL; `""` is the page itself.

    Args:
        page: `page`, on which one drops pictures, or `run`, the page of a run. The first reads `GET program`, which is
            `{"template": str, "classes": [str, ...], "model": str}`, and sends one file per request to
            `POST classify`, in the field `files`; an error is `{"error": str}`.

    >>> sorted(static_files("page"))
    ['', 'dom.js', 'page.js', 'style.css']
    """
    scripts = {name: (f"serve/{name}",) for name in _SCRIPTS[page]}
    sources = {"": (f"serve/{page}.html",), **scripts, **_STYLE}
    root = resources.files("ipo_dspy")
    return {path: _file(*(root.joinpath(name) for name in names)) for path, names in sources.items()}


def api_page() -> dict[str, StaticFile]:
    """Return the files of the page `docs`, on which Swagger UI shows `openapi.json`.

    FastAPI's own page loads Swagger UI from the network; this one has the copy in the package fastapi-offline.
    """
    own, swagger = resources.files("ipo_dspy.serve"), resources.files("fastapi_offline").joinpath("static")
    files = {name: _file(swagger.joinpath(name)) for name in ("swagger-ui.css", "swagger-ui-bundle.js")}
    return {"docs": _file(own.joinpath("api.html")), "api.js": _file(own.joinpath("api.js")), **files}


def _file(*sources: Traversable) -> StaticFile:
    media_type = _MEDIA_TYPES[sources[0].name.rpartition(".")[2]]
    return StaticFile(b"".join(source.read_bytes() for source in sources), f"{media_type}; charset=utf-8")
