"""Texts of classes

Candidate texts for one class against cached features of 10,000 images in ten classes: only one column of the logits
changes, so a candidate is one product of N x D (`ipo_dspy.scoring.class_columns`). Next to it, the table of all
classes is scored again for each candidate (`tally_templates`). Features are random, which does not affect the time.
Rates are medians, in turn in one process; the rate of one core uses processor time, which varies less under load.

Then the words of the bundled tasks are searched with the recorded answers of a language model that saw nothing but the
requests (tests/conversations, `demo-vit`, 16 images per class, seeds 1 to 3, starting from the template that the
built-in search found in 40 steps). Test accuracy of the base classes in percent with the template alone, and with the
words; the gain in points with its paired standard error. The last columns count accepted changes, and those of
them that do harm on test images.
"""

import itertools
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from benchmarks.common import Size, interleaved, table
from ipo_dspy import demo
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.scoring.class_columns import tally_column
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.metrics import tally_templates

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.conversations import WORD_SEEDS, WORDS, Recorded, search_words

IMAGES, CLASSES, SCALE = 10_000, 10, 100.0
HARMS = ("changes", "lower test accuracy", "raise test loss")
"""Accepted changes, and those of them that do harm on test images, after the changes before them."""
WIDTHS = (128, 512)
"""Width of the features of the bundled `demo-vit`, and of ViT-B."""


def rate(width: int, size: Size, seed: int) -> tuple[str, ...]:
    """One line of the first table."""
    draw = torch.Generator().manual_seed(seed)
    count = 20_000 if size == "full" else 5_000
    rescored = 20
    images, texts, candidates = (
        F.normalize(torch.randn(k, width, generator=draw), dim=-1) for k in (IMAGES, CLASSES, count)
    )
    labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
    tables = texts.repeat(rescored, 1, 1)
    tables[:, 0] = candidates[:rescored]
    took = interleaved(
        {
            "column": lambda: tally_column(images, labels, texts, 0, candidates, logit_scale=SCALE),
            "table": lambda: tally_templates(images, labels, tables, logit_scale=SCALE),
        },
        repeats=5,
    )
    tally = tally_column(images, labels, texts, 0, candidates[:rescored], logit_scale=SCALE)
    whole = tally_templates(images, labels, tables, logit_scale=SCALE)
    apart = max(abs(tally.of(m).loss - one.loss) / IMAGES for m, one in enumerate(whole))
    others = sum(abs(tally.of(m).correct - one.correct) for m, one in enumerate(whole))
    began = time.process_time()
    tally_column(images, labels, texts, 0, candidates, logit_scale=SCALE)
    core = count / (time.process_time() - began)
    fast, slow = count / took["column"], rescored / took["table"]
    return (f"{width}", *(f"{a:,.0f}" for a in (fast, core, slow, fast / slow)), f"{apart:.0e}", f"{others}")


def run(size: Size, seed: int) -> None:
    """Print the tables."""
    print(f"{torch.get_num_threads()} threads.\n")
    rates = ("candidates a second", "by processor time", "all classes again", "times faster")
    table(("width", *rates, "loss differs by", "counts differ by"), (rate(width, size, seed) for width in WIDTHS))
    print()
    columns = ("task", "seed", "template alone", "with words", "gain", "error", "labels changed", "requests", *HARMS)
    table(columns, itertools.chain.from_iterable(map(words, demo.names())))


def words(name: str) -> Iterator[tuple[str, ...]]:
    """Yield a line for each seed of a task, and their mean."""
    rows, harms = [], []
    for seed in WORD_SEEDS:
        with Recorded(WORDS) as server:
            task, best = search_words(server, name, seed)
        if server.unseen:
            raise SystemExit(f"a request changed; python scripts/record_conversation.py {WORDS} --model NAME")
        tested = encode_examples(best, task.testset).scorer
        texts = {label: (label,) for label in task.classes}
        variants = [(best.template, tuple(texts.values()))]
        changes = best.detailed_results.searches[0].class_texts.changes
        for change in changes:
            texts[change.label] = change.after
            variants.append((best.template, tuple(texts.values())))
        compared = Comparison(tested.tally_variants(variants))  # type: ignore[attr-defined]
        gain, error, *_ = compared.difference(-1, 0)
        changed = {change.label for change in changes}
        steps = [compared.difference(k + 1, k) for k in range(len(changes))]
        harmful = [sum(step[0] < -1e-9 for step in steps), sum(step[2] < 0 for step in steps)]
        rows.append((*compared.accuracy[[0, -1]].tolist(), gain, error))
        harms.append([len(changes), *harmful])
        shown = (f"{value:.1f}" for value in rows[-1])
        yield (
            name,
            f"{seed}",
            *shown,
            ", ".join(sorted(changed)) or "none",
            f"{best.detailed_results.calls - 1}",
            *map(str, harms[-1]),
        )
    before, after, gain, error = (statistics.fmean(column) for column in zip(*rows, strict=True))
    error = math.sqrt(sum(row[3] ** 2 for row in rows)) / len(rows)
    yield (
        name,
        "mean",
        f"{before:.1f}",
        f"{after:.1f}",
        f"{gain:+.1f}",
        f"{error:.1f}",
        "",
        "",
        *(f"{sum(column)}" for column in zip(*harms, strict=True)),
    )
