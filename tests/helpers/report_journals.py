"""Journals for the tests of the report: events with defaults, and a life-like run."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ipo_dspy.report import render_report
from ipo_dspy.run.journal import Journal

CLASSES = (
    "apple", "bicycle", "cactus", "castle", "cloud", "crab", "crown", "dragon", "fish", "flower", "ghost", "heart",
    "house", "key", "lamp", "mushroom", "owl", "potion", "robot", "ship", "skull", "star", "sword", "tree", "wizard",
)  # fmt: skip

START = "a photo of a <CLASS>."

OPTIMIZE = "ipo-dspy optimize photos --model ViT-B-16-quickgelu --pretrained openai"

_FORMS = ("pixel art of", "an 8-bit picture of", "a low-resolution sprite of", "a blurry drawing of", "an icon of")

HOSTILE = """</style></title><script>alert(1)</script><img src=x onerror=alert(1)>'"&{{ 7*7 }}{% raw %}"""

_ENDS = ("", ", front view", " on a plain background", ", game asset", " with hard edges", " in few colors")


def begin(journal: Journal, *, settings: dict[str, Any] | None = None) -> None:
    """The run event."""
    given = settings or {"steps": 100, "prompts_per_step": 8, "prompt_model": "openai/gpt-4o-mini", "shown": 20}
    versions = {"ipo_dspy": "0.1.0", "python": "3.11.7", "torch": "2.8.0"}
    head = {"event": "run_started", "schema": 1, "started": "2026-03-01T09:30:00+00:00", "seed": 0}
    journal.append({**head, "settings": given, "versions": versions})


def search(journal: Journal, predictor: str = "self", classes: Sequence[str] = CLASSES, start: str = START) -> None:
    """The search event."""
    model = {"model": "ViT-B-16-quickgelu", "pretrained": "openai", "fingerprint": "9f2c01ab", "dtype": "float32"}
    counts = {"images": 400, "validation_images": 200}
    given = {"predictor": predictor, "classes": list(classes), "model": model, "start": start}
    journal.append({"event": "search_started", **given, **counts})


def trial(journal: Journal, index: int, template: str, accuracy: float, loss: float, **fields: Any) -> None:
    """One trial; `step`, `tokens`, `key` and `predictor` have defaults."""
    given = {"predictor": "self", "step": 0, "tokens": 9, "key": str(index)} | fields
    journal.append(
        {"event": "trial", "index": index, "template": template, "accuracy": accuracy, "loss": loss, **given}
    )


def response(journal: Journal, question: str, **fields: Any) -> None:
    """A response of a language model; `calls` and the counts of tokens have to be given."""
    given = {"model": "openai/gpt-4o-mini", "texts": [], "truncated": False, "error": None, "cost": None}
    times = {"seconds": 1.0, "run_seconds": 1.0}
    journal.append({"event": "lm_response", "predictor": "self", "request_id": question, **given, **times, **fields})


def evaluation(
    journal: Journal, role: str, accuracy: float, *, split: str = "test", part: str = "all", **fields: Any
) -> None:
    """An evaluation; the per-class counts are made up to suit."""
    given = {"predictor": "self", "template": START, "loss": 1.0, "images": 500, "per_class": {}} | fields
    journal.append(
        {"event": "evaluation", "split": split, "class_split": part, "role": role, "accuracy": accuracy, **given}
    )


def change(journal: Journal, source: str, label: str, before: str, after: str, **fields: Any) -> None:
    """A changed prediction."""
    given = {"predictor": "self", "split": "test", "class_split": "all"} | fields
    journal.append(
        {"event": "prediction_changed", "source": source, "label": label, "before": before, "after": after, **given}
    )


def draw_picture(name: str, seed: int, side: int = 64) -> Image.Image:
    """A small picture with a shape and a color of its own for each class."""
    rng = random.Random(f"{name}{seed}")
    own = random.Random(name)
    image = Image.new("RGB", (side, side), tuple(rng.randrange(170, 256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    color = tuple(own.randrange(20, 200) for _ in range(3))
    cx, cy, r = (rng.randrange(22, side - 22) for _ in range(3))
    corners = own.randrange(3, 9)
    pen.regular_polygon((cx, cy, min(r, 26)), corners, rotation=rng.randrange(360), fill=color, outline="black")
    pen.ellipse((cx - 6, cy - 6, cx + 6, cy + 6), fill=tuple(255 - c for c in color))
    return image


def sample_run(folder: Path, *, trials: int = 800, seed: int = 0, finished: bool = True) -> Path:
    """A life-like journal: a search that climbs from 55.8 to 81.0 percent, with pictures on disk."""
    rng = random.Random(seed)
    with Journal(folder / "run") as journal:
        begin(journal)
        search(journal)
        _describe(journal)
        best = _climb(journal, rng, trials)
        if finished:
            _finish(journal, rng, folder, *best)
    return folder / "run"


def _describe(journal: Journal) -> None:
    for name in CLASSES:
        text = f"A small {name} drawn with square pixels in few colors, seen from the front on an empty ground."
        journal.append(
            {"event": "description", "predictor": "self", "source": f"/photos/{name}/0001.png", "text": text}
        )


def _climb(journal: Journal, rng: random.Random, trials: int) -> tuple[int, str]:
    best = (55.8, 0, START)
    trial(journal, 0, START, 55.8, 1.412)
    for index in range(1, trials):
        step = (index + 7) // 8
        mean = 52 + 24 * (1 - 2.718 ** (-3 * index / trials))
        accuracy = round(min(max(rng.gauss(mean, 5), 1.0), 81.0) * 4) / 4 if rng.random() > 0.02 else rng.uniform(4, 20)
        text = f"{rng.choice(_FORMS)} a <CLASS>{rng.choice(_ENDS)}, variant {index}."
        if index % 40 == 7:
            text = "\n".join(f"{form} a <CLASS>{rng.choice(_ENDS)}." for form in (*_FORMS, "a <CLASS>"))
        loss = round(2.9 - accuracy / 40 + rng.gauss(0, 0.08), 4)
        trial(journal, index, text, accuracy, loss, step=step, tokens=rng.randrange(7, 24))
        best = max(best, (accuracy, index, text), key=lambda b: (b[0], -b[1]))
        if index % 8 == 0:
            response(journal, f"step {step}/0", calls=8, prompt_tokens=4000, completion_tokens=100)
            counts = {"proposed": 9, "accepted": 8, "calls": 8, "tokens": 4100, "seconds": 6.5}
            journal.append({"event": "step", "predictor": "self", "step": step, **counts})
        if index % 9 == 0:
            _reject(journal, rng, step)
    trial(journal, trials, "pixel art of a <CLASS>.", 81.25, 0.7, step=trials // 8, tokens=8)
    return trials, "pixel art of a <CLASS>."


def _reject(journal: Journal, rng: random.Random, step: int) -> None:
    reason, text = rng.choice(
        [
            ("duplicate", "pixel art of a <CLASS>."),
            ("no class placeholder", f"A sharp picture number {rng.randrange(99)} of the object."),
            ("too long", "a very detailed and careful picture of a <CLASS> " * 12),
            ("cut off", "an old game sprite showing a <CLASS> that"),
        ]
    )
    journal.append(
        {
            "event": "rejection",
            "predictor": "self",
            "step": step,
            "text": text,
            "reason": reason,
            "message": f"template {text[:40]!r} {reason}",
        }
    )


def _finish(journal: Journal, rng: random.Random, folder: Path, index: int, template: str) -> None:
    rows = (
        (index, template, 81.25, 0.7, 80.5),
        (0, START, 55.8, 1.412, 55.0),
        (7, "an icon of a <CLASS>.\na <CLASS>.", 79.0, 0.81, 78.5),
    )
    finalists = [
        {
            "index": i,
            "template": text,
            "train": {"accuracy": accuracy, "loss": loss},
            "validation": {"accuracy": held_out, "loss": loss + 0.04},
        }
        for i, text, accuracy, loss, held_out in rows
    ]
    journal.append(
        {
            "event": "selected",
            "predictor": "self",
            "index": index,
            "template": template,
            "selected_on": "validation",
            "finalists": finalists,
        }
    )
    before = {name: [rng.randrange(4, 20), 20] for name in CLASSES}
    after = {name: [min(20, max(0, right + rng.randrange(-4, 12))), 20] for name, (right, _) in before.items()}
    evaluation(journal, "start", 55.8, per_class=before, loss=1.391)
    evaluation(journal, "best", 81.0, per_class=after, loss=0.688, template=template)
    change(journal, "gone.png", "owl", "fish", "owl")
    for i in range(40):
        label, other = rng.sample(CLASSES, 2)
        path = folder / f"{label}_{i:04}.png"
        draw_picture(label, i).save(path)
        change(journal, str(path), label, *((label, other) if i % 4 == 3 else (other, label)))
    journal.append({"event": "run_finished", "status": "finished", "seconds": 754.2, "calls": 801, "tokens": 410233})


def add(folder: Path, kind: str, **fields: Any) -> None:
    """One more event in the journal of a run that had ended."""
    with Journal(folder) as journal:
        journal.append({"event": kind, **fields})


def chosen_run(
    folder: Path,
    *,
    describer: str = "clip",
    phrase: str = "grey",
    predictor: str = "self",
    losses: Sequence[float] = (0.5, 0.5, 0.5, 0.5),
    winner: int = 0,
    selected_on: str = "train",
    tied_from: int = 0,
    listed: int = 4,
    **fields: Any,
) -> str:
    """A page on a choice by five training images per class: three of four candidates are tied, without test images."""
    templates = ("a grey <CLASS>.", "a grey blocky sprite of a <CLASS>.", "a <CLASS> as an icon.", START)
    scores = [{"accuracy": 80.0 - 2 * i, "loss": loss} for i, loss in enumerate(losses)]
    finalists = [
        {"index": i, "template": text, "train": score, "validation": None}
        for i, (text, score) in enumerate(zip(templates, scores, strict=True))
    ]
    known = {
        "images": 125, "accuracy": 80.0, "optimism": 2.5, "expected": 77.5, "low": 69.0, "high": 85.0, "gain": 3.5,
        "gain_error": 2.5, "compared": 57, "tied": 3, "possibly_best": 11, "is_spread_known": True,
    } | fields  # fmt: skip
    worth = {"accuracy": 3.0, "accuracy_error": 1.75, "loss": 0.1, "loss_error": 0.02}
    outcome: dict[str, Any] = {
        "choice": known,
        "tied": finalists[:3],
        "candidates": [
            {"index": i, "accuracy": score["accuracy"], "error": 1.5 * (i > 0), "tied": tied_from <= i < 3}
            for i, score in enumerate(scores[:listed])
        ],
        "phrases": [{"phrase": phrase, **worth}, {"phrase": "black and upside down", **worth}],
    }
    with Journal(folder) as journal:
        begin(journal, settings={"describer": describer})
        search(journal, predictor, start=START)
        for i in (3, 0, 1, 2):
            trial(journal, i, templates[i], predictor=predictor, **scores[i])
        for text in ("Grey, blocky", "grey: upside-down", "greyish, upside  down"):
            described = {"source": "x.png", "text": text, "guessed": describer == "clip"}
            journal.append({"event": "description", "predictor": predictor, **described})
        outcome |= {"index": winner, "template": templates[winner], "selected_on": selected_on, "finalists": finalists}
        journal.append({"event": "selected", "predictor": predictor, **outcome})
    return render_report(folder)


def imagenet(journal: Journal, part: str, best: float, ensemble: float, **fields: Any) -> None:
    """The scores of the prompts for ImageNet."""
    scores = {"best": {"accuracy": best, "loss": 0.75}, "ensemble": {"accuracy": ensemble, "loss": 0.875}}
    given = {
        "predictor": "self",
        "split": "test",
        "class_split": part,
        "fingerprint": "f",
        "images": 500,
        "prompts": 80,
    }
    journal.append(
        {"event": "imagenet_prompts", "template": "a <CLASS> in a video & game.", **given, **scores, **fields}
    )
