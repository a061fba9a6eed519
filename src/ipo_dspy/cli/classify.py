"""The command `classify`: images to labels, as a table, JSON or CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.cli import options as opt
from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.inference import find_images, readable
from ipo_dspy.cli.progress import spinner
from ipo_dspy.errors import DataError, Hint, ImageError, InputError

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier

NEXT_BEST = 3
"""Further classes in a line of the table, unless --top-k is given."""
MAX_COUNTED = 20
"""Labels in the summary."""
_FORMULA = ("=", "+", "-", "@")
"""Spreadsheets run a cell that begins so, also after white space."""


def classify(
    program: opt.Program,
    images: Annotated[list[str], Argument(help="Image files or folders (searched recursively).")],
    *,
    clip: opt.SavedModel,
    skip_unreadable: opt.SkipUnreadable = False,
    top_k: Annotated[
        int | None, Option(min=1, help="Number of classes with their probabilities.", show_default="the program's")
    ] = None,
    out: Annotated[
        Path | None, Option(metavar="FILE", help="Write the results to a .json or .csv file; print a summary only.")
    ] = None,
    as_json: opt.Json = False,
    as_csv: Annotated[bool, Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Classify images with a saved program."""
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other; pass one of them")
    if out is not None and out.suffix.lower() not in {".json", ".csv"}:
        raise InputError(f"--out must end in .json or .csv, got {str(out)!r}; for example --out labels.csv")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out must be in an existing folder, got {str(out)!r}; create {str(out.parent)!r}")
    files = [str(file) for path in images for file in find_images(path)]
    classifier = clip.load(program)
    if skip_unreadable:
        files = [files[i] for i in readable(files)]
    if not files:
        raise DataError("none of the images can be read; pass other images")
    with spinner(f"Classifying {pluralize(len(files), 'image')} ..."):
        results = _results(classifier, files, top_k or classifier.top_k)
    if out is not None:
        text = _as_csv(results) if out.suffix.lower() == ".csv" else json.dumps(results, indent=2) + "\n"
        try:
            atomic_write(out, text.encode())
        except OSError as error:
            raise InputError(f"--out {str(out)!r} cannot be written ({error.strerror}); use another path") from error
    if as_json:
        show.write_json(results)
    elif as_csv:
        terminal.line(_as_csv(results).removesuffix("\n"))
    else:
        if out is None:
            show.template(str(classifier.template))
            show.rows("", ["image", "label", "confidence>", "next best"], [_cells(each, top_k) for each in results])
        terminal.line(_summary(results))


def _results(classifier: "ClipClassifier", files: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """Return image, label or labels, confidence, and scores of each file."""
    try:
        weights, rows, compared = classifier.weights_and_probabilities(files)
    except ImageError as error:
        hint = error.hint and Hint("pass {skip_unreadable} to skip it", skip_unreadable=True)
        raise ImageError(error.fact, hint=hint) from error
    answers = weights.answers(rows, compared, top_k)
    return [{"image": file, **answer} for file, answer in zip(files, answers, strict=True)]


def _shown_labels(result: dict[str, Any]) -> list[str]:
    """Return the labels of a result for people."""
    from ipo_dspy.scoring.label_sets import NO_LABEL

    if "labels" in result:
        return result["labels"] or [NO_LABEL]
    return [result["label"] or "(unknown)"]


def _cells(result: dict[str, Any], top_k: int | None) -> tuple[str, str, str, str]:
    shown = _shown_labels(result)
    others = [f"{name} {share:.3f}" for name, share in result["scores"].items() if name not in shown]
    others = others[: NEXT_BEST if top_k is None else top_k]
    is_rejected = result["label"] not in result["scores"]  # the confidence is that of the best class
    return result["image"], ", ".join(shown), "" if is_rejected else f"{result['confidence']:.3f}", ", ".join(others)


def _summary(results: Sequence[dict[str, Any]]) -> str:
    """Return the number of images of each label, the most frequent first."""
    counts = Counter(label for result in results for label in _shown_labels(result)).most_common()
    parts = [f"{label} {count}" for label, count in counts[:MAX_COUNTED]]
    if len(counts) > MAX_COUNTED:
        parts.append(f"and {pluralize(len(counts) - MAX_COUNTED, 'other label')}")
    return f"{pluralize(len(results), 'image')}: {', '.join(parts)}"


def _as_csv(results: Sequence[dict[str, Any]]) -> str:
    """Return a table with the columns image, label, confidence, and class and probability of each rank.

    Several labels are separated by `|`; an unknown image without a label has an empty one. Hidden characters are shown
    as code points, and a quote before a text that a spreadsheet would take for a formula keeps it from being run.
    """
    ranks = range(1, 1 + max(len(result["scores"]) for result in results))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["image", "label", "confidence", *(f"{name}_{rank}" for rank in ranks for name in ("class", "probability"))]
    )
    for result in results:
        label = "|".join(result["labels"]) if "labels" in result else result["label"] or ""
        scores = [cell for name, share in result["scores"].items() for cell in (_text(name), f"{share:.6f}")]
        writer.writerow([_text(result["image"]), _text(label), f"{result['confidence']:.6f}", *scores])
    return file.getvalue()


def _text(value: str) -> str:
    shown = printable(value)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
