"""Print what a sweep over numbers of training images says about gains, and about which templates differ.

`ipo-dspy bench --shots 1,2,4,8,16 --methods clip,clip-best,linear-probe,ipo --out FOLDER`, then
`python scripts/gain_over_shots.py FOLDER`, print the table of docs/how-to/images.md. Gains are points of accuracy over
`a photo of a <CLASS>.`: the one that IPO expects, with its standard error, and those on test images. The last column is
the share of the compared templates that are possibly the most accurate one (95 %).
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from ipo_dspy.bench.result_rows import Row, read_rows
from ipo_dspy.run.journal import replay

COLUMNS = ("images per class", "in total", "expected gain", "base", "novel", "probe, base", "possibly best")


def measured(folder: Path) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Yield the number of shots and the values of the other columns for each search of a sweep."""
    rows = list(read_rows(folder).values())
    journals = {path.name[-8:]: path for path in (folder / "cells").iterdir()}

    def other(method: str, row: Row) -> Row:
        same = (one for one in rows if (one.method, one.dataset) == (method, row.dataset))
        return next(one for one in same if method == "clip" or (one.shots, one.seed) == (row.shots, row.seed))

    for row in (row for row in rows if row.method == "ipo"):
        (choice,) = (event["choice"] for event in replay(journals[row.key[:8]]) if event["event"] == "selected")
        start, probe = other("clip", row), other("linear-probe", row)
        gains = [(after or 0) - (before or 0) for after, before in ((row.base, start.base), (row.novel, start.novel))]
        gains.append((probe.base or 0) - (start.base or 0))
        share = 100 * choice["possibly_best"] / choice["compared"]
        yield row.shots, (choice["images"], choice["gain"], choice["gain_error"], *gains, share)


def main() -> None:
    """Print a line for each number of shots, means over data sets and seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the sweep")
    lines: dict[int, list[tuple[float, ...]]] = {}
    for shots, values in measured(parser.parse_args().folder):
        lines.setdefault(shots, []).append(values)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---:" * len(COLUMNS) + "|")
    for shots, searches in sorted(lines.items()):
        images, gain, error, *gains, share = (statistics.fmean(column) for column in zip(*searches, strict=True))
        cells = [f"{shots}", f"{images:.0f}", f"{gain:.1f} ± {error:.1f}", *(f"{one:.1f}" for one in gains)]
        print("| " + " | ".join([*cells, f"{share:.0f} %"]) + " |")


if __name__ == "__main__":
    main()
