"""Parts of a page of the report as a reader sees them: texts, tables, warnings, addresses, and charts."""

import html
import re
from xml.etree import ElementTree


def text_of(page: str) -> str:
    """Return the text that a reader sees, roughly."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("</style>")[2])))


def scripts(page: str) -> list[str]:
    """The scripts of the page; an empty text for one in another form."""
    return re.findall(r"<script>(.*?)</script>|<script", page, flags=re.DOTALL)


def about(page: str) -> dict[str, str]:
    """The table below the heading."""
    table = page.partition('class="pairs about"')[2].partition("</table>")[0]
    rows = re.findall(r"<th[^>]*>(.*?)</th><td>(.*?)</td>", table)
    return {html.unescape(name): html.unescape(value) for name, value in rows}


def to_copy(page: str) -> list[str]:
    """The texts next to the Copy buttons."""
    found = re.findall(r"<pre><code>(.*?)</code></pre><button[^>]* hidden>Copy</button>", page, flags=re.DOTALL)
    return list(map(html.unescape, found))


def notes(page: str) -> list[str]:
    """The warnings below the result."""
    return re.findall(r'<p class="notice">(.*?)</p>', html.unescape(page))


def outside_addresses(page: str) -> list[str]:
    """Every address in the page that is not inside it."""
    found = re.findall(r"""(?:src|href|action|poster|data)\s*=\s*["']?([^"'>\s]+)|url\(\s*["']?([^"')]+)""", page)
    return [address for pair in found for address in pair if address and not address.startswith(("data:", "#"))]


def drawn_in(page: str) -> list[ElementTree.Element]:
    """The charts of a page."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


def dots(chart: ElementTree.Element) -> list[tuple[float, float]]:
    """Return the positions of the trials in the drawing."""
    path = next(part for part in chart.iter("path") if "var(--dot)" in part.get("style", ""))
    return [(float(x), float(y)) for x, y in re.findall(r"M ([\d.]+) ([\d.]+) L \1 \2 ", path.get("d", ""))]
