"""`python scripts/run_tutorials.py [NOTEBOOK ...]` runs the tutorials again and stores their outputs.

Each runs in an empty folder. Only what readers see is kept, so that a change of the text is a small diff.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.tutorials import FOLDER, run


def main() -> None:
    """Run the named notebooks, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    for notebook in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["IPO_DSPY_CACHE"] = str(Path(folder, "cache"))
            nbformat.write(run(notebook, Path(folder)), notebook)
        print(notebook.name, flush=True)


if __name__ == "__main__":
    main()
