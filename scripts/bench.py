"""`python scripts/bench.py [--size full] [SECTION ...]` prints docs/benchmarks.md, section by section.

A section is a module of `benchmarks` whose docstring is its text and whose `run(size, seed)` prints its tables.
Sections that measure other things than time are printed only if they are named.
"""

import argparse
import importlib
import inspect

from benchmarks.common import commit, machine

SECTIONS = ("text", "images", "store", "scoring", "gpu", "passes", "startup", "ray_scaling")
"""In the order of the page."""
ON_REQUEST = (
    "calibration",
    "choice",
    "choice_truth",
    "encoders",
    "request_tokens",
    "serving",
    "recorded",
    "class_texts",
    "suspicious_labels",
    "unknown_images",
)
KNOWN = (*SECTIONS, *ON_REQUEST)


def main() -> None:
    """Print the sections that were asked for, and where they were made."""
    parser = argparse.ArgumentParser(prog="python scripts/bench.py", description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(KNOWN)}; the page by default")
    parser.add_argument("--size", choices=("quick", "full"), default="quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(KNOWN):
        parser.error(f"unknown section {sorted(unknown)[0]!r}; pass one of {', '.join(KNOWN)}")
    stamp = f"commit {commit()}, seed {options.seed}, {machine()}"  # now: the tree may change during a long run
    for name in options.sections or SECTIONS:
        section = importlib.import_module(f"benchmarks.{name}")
        title, _, text = inspect.getdoc(section).partition("\n")  # type: ignore[union-attr]
        print(f"## {title}\n\n{text.strip()}\n", flush=True)
        section.run(options.size, options.seed)
        print(f"\n`python scripts/bench.py --size {options.size} {name}`: {stamp}\n", flush=True)


if __name__ == "__main__":
    main()
