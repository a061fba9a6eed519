"""The report page: what a journal says, shown honestly and safely, from empty runs to long ones."""

import ast
import base64
import hashlib
import html
import io
import itertools
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from helpers.browser import browser, needs_browser
from ipo_dspy import IPO, demo
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.cli import main
from ipo_dspy.data import load_image_folder, load_webdataset
from ipo_dspy.errors import JournalError
from ipo_dspy.report import render_report, write_report, write_word_report
from ipo_dspy.report import thumbnails as pictures
from ipo_dspy.report.summary import changed
from ipo_dspy.run.events import PredictionChangedEvent
from ipo_dspy.run.journal import Journal
from ipo_dspy.scoring.score import harmonic_mean

CLASSES = (
    "apple", "bicycle", "cactus", "castle", "cloud", "crab", "crown", "dragon", "fish", "flower", "ghost", "heart",
    "house", "key", "lamp", "mushroom", "owl", "potion", "robot", "ship", "skull", "star", "sword", "tree", "wizard",
)  # fmt: skip
START = "a photo of a <CLASS>."
OPTIMIZE = "ipo-dspy optimize photos --model ViT-B-16-quickgelu --pretrained openai"
_FORMS = ("pixel art of", "an 8-bit picture of", "a low-resolution sprite of", "a blurry drawing of", "an icon of")
_ENDS = ("", ", front view", " on a plain background", ", game asset", " with hard edges", " in few colors")


# Journals to render


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


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_report(sample_run(tmp_path_factory.mktemp("sample"), trials=200))


# What it says


def test_opens_with_start_best_and_the_images_they_were_measured_on(sample: str) -> None:
    text = text_of(sample)
    hero = text[text.index("Start") : text.index("Trials")]
    for part in ("a photo of a <CLASS> .", "55.8 %", "pixel art of a <CLASS> .", "81.0 %", "+25.2", "500 test images"):
        assert part in hero


@pytest.mark.parametrize(
    "part",
    ["Start and best", "Best prompts 20 of 201", "Finalists", "on 200 validation images", "2026-03-01 09:30 UTC",
     "Fixed", "Broken",
     "image not available", "Image descriptions 10 of 25", "Rejections", "duplicate", "410,233", "801", "12 min 34 s",
     "prompt_model", "openai/gpt-4o-mini", "torch", "ViT-B-16-quickgelu", "The start template ranks"],
)  # fmt: skip
def test_shows(sample: str, part: str) -> None:
    assert part in text_of(sample)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run over the folder `photos`, without test images."""
    place = tmp_path_factory.mktemp("work")
    demo.export("pixel-animals", place / "photos")
    data = load_image_folder(place / "photos", shots=3).subset(["cat", "dog", "owl"])
    program = demo.load("pixel-animals", classes="all").program
    program.classes = data.classes
    IPO(proposer="evolution", steps=1, log_dir=place / "runs" / "photos-1").compile(program, data[:-1])
    return place


def test_names_data_model_images_machine_and_versions(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    page = render_report("runs/photos-1")
    assert "<title>Prompt search: photos · IPO report</title>" in page
    assert "<h1>Prompt search: photos</h1>" in page
    rows = about(page)
    assert re.fullmatch(r"\w+, \d+ threads?, (no GPU|.*\w.*)", rows.pop("Machine"))
    assert re.fullmatch(r"torch \S+, ipo_dspy \S+", rows.pop("Versions"))
    assert rows == {
        "Data": "photos",
        "Run folder": "photos-1",
        "Model": "demo",
        "Training images": "8 (3 classes, 2 to 3 each)",
    }


def test_the_commands_to_copy_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    template, python, *commands = to_copy(render_report("runs/photos-1"))[-6:]
    shutil.copy(next((photos / "photos" / "cat").iterdir()), "photo.jpg")
    for name in ("cat", "owl"):
        shutil.copytree(photos / "photos" / name, photos / "test_images" / name)
    exec(python, {})
    assert capsys.readouterr().out.strip() in {"cat", "dog", "owl"}
    assert [shlex.split(command)[:3] for command in commands] == [
        ["ipo-dspy", "classify", "runs/photos-1/best.json"],
        ["ipo-dspy", "evaluate", "runs/photos-1/best.json"],
        ["ipo-dspy", "serve", "runs/photos-1/best.json"],
        ["ipo-dspy", "export", "runs/photos-1/best.json"],
    ]
    with pytest.raises(SystemExit) as end:
        main(shlex.split(commands[-1])[1:])
    assert not end.value.code
    assert capsys.readouterr().out == "runs/photos-1/best.onnx\n"
    for command in commands[:2]:
        with pytest.raises(SystemExit) as end:
            main(shlex.split(command)[1:])
        assert not end.value.code
        assert template in capsys.readouterr().out


def test_the_advised_commands_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    shutil.copytree("runs/photos-1", "runs/photos-2")
    with Journal(Path("runs", "photos-2")) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, per_class={"cat": [0, 2], "owl": [2, 2]})
    words, *commands = to_copy(render_report("runs/photos-2"))[:-5]
    assert list(json.loads(words)) == ["cat"]
    Path("words.json").write_text(words)
    assert [command.split()[-2:] for command in commands[:2]] == [["--candidates", "words.json"], ["--shots", "all"]]
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main([*shlex.split(command)[1:], "--dry-run"])
        assert not end.value.code, command


@pytest.mark.parametrize(
    ("fields", "per_class", "advised"),
    [
        ({}, {"owl": [1, 5]}, []),
        ({"images": 25, "is_spread_known": False}, {}, [f"{OPTIMIZE} --shots all"]),
        ({"gain": 3.5}, {}, ["ipo-dspy optimize photos --model ViT-L-14 --pretrained datacomp_xl_s13b_b90k"]),
        (
            {},
            {"owl": [0, 6], "<i>it's": [0, 5], "ship": [1, 6], "key": [1, 5]},
            [
                '{\n "owl": ["another name", "a short description"],\n'
                ' "ship": ["another name", "a short description"]\n}',
                f"{OPTIMIZE} --template 'a grey <CLASS>.' --optimize class_texts --candidates words.json",
            ],
        ),
    ],
)
def test_advises_by_what_was_measured(
    fields: dict[str, Any], per_class: dict[str, list[int]], advised: list[str], tmp_path: Path
) -> None:
    chosen_run(tmp_path, **{"gain": 9.0, **fields})
    with Journal(tmp_path) as journal:
        for role in ("start", "best") if per_class else ():
            evaluation(journal, role, 50.0, split="validation", per_class=per_class)
    page = render_report(tmp_path)
    assert to_copy(page)[:-6] == advised
    assert ("the other options of this run" in page) == bool(advised)


def test_advises_class_weights_after_a_search_for_words(tmp_path: Path) -> None:
    chosen_run(tmp_path, gain=0.0)
    score = {"accuracy": 50.0, "loss": 1.0}
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, split="validation", per_class={"owl": [0, 6], "key": [3, 6]})
        found = {"template": START, "selected_on": "validation", "rounds": 1, "compared": 4, "accuracy_error": 0.0}
        changes: dict[str, Any] = {"before": score, "after": score, "class_texts": {}, "changes": []}
        journal.append({"event": "class_texts", "predictor": "self", **found, **changes})
    page = render_report(tmp_path)
    assert to_copy(page)[:-6] == [f"ipo-dspy calibrate {tmp_path.name}/best.json photos"]
    assert "Hardly recognized on validation images: owl 0 %. Other words were searched already" in page


def test_tested_templates_need_no_further_test(sample: str) -> None:
    template, _, *commands = to_copy(sample)
    assert template == "pixel art of a <CLASS>."
    assert [command.split()[1] for command in commands] == ["classify", "serve", "export"]
    assert about(sample)["Test images"] == "500 (25 classes, 20 each)"
    assert about(sample)["Validation images"] == "200 (25 classes)"  # not evaluated by class


def test_older_journals_name_what_they_have(sample: str) -> None:
    assert "<h1>Prompt search</h1>" in sample
    assert not {"Data", "Machine"} & set(about(sample))
    assert about(sample)["Model"] == "ViT-B-16-quickgelu, openai"
    assert about(sample)["Versions"] == "torch 2.8.0, ipo_dspy 0.1.0"


def test_a_path_to_copy_is_as_given_but_shows_no_folders_above_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "it's <i>1"
    chosen_run(folder)
    monkeypatch.chdir(tmp_path)
    for given, shown in ((Path("runs") / folder.name, "runs/it's <i>1/best.json"), (folder, "it's <i>1/best.json")):
        page = render_report(given)
        assert "<i>1" not in page
        _, _, python, *commands = to_copy(page)
        call = ast.parse(python).body[1]
        assert isinstance(call, ast.Assign)
        assert ast.literal_eval(cast(ast.Call, call.value).args[0]) == shown
        assert [shlex.split(command)[2] for command in commands] == [shown] * 4
        assert str(tmp_path) not in page
        place = "from which this page was written" if given != folder else "that contains the folder of the run"
        assert f"Run the commands in the folder {place}" in page
        assert about(page)["Run folder"] == folder.name


def test_classifiers_of_a_program_are_loaded_with_it(tmp_path: Path) -> None:
    chosen_run(tmp_path, predictor="animals")
    template, python = to_copy(render_report(tmp_path))
    assert template == "a grey <CLASS>."
    assert f"load_program(program, '{tmp_path.name}/best.json')" in python


def test_nothing_is_to_be_used_before_a_template_is_selected(tmp_path: Path) -> None:
    page = render_report(sample_run(tmp_path, trials=30, finished=False))
    assert "What to do next" not in page
    assert about(page)["Training images"] == "400 (25 classes)"


def test_lists_best_prompts_in_the_stated_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        for i, (name, accuracy, loss, tokens) in enumerate(
            [("e", 50, 1, 5), ("d", 60, 1, 9), ("b", 60, 0.5, 9), ("c", 60, 1, 8), ("a", 70, 2, 9)]
        ):
            trial(journal, i, f"{name} <CLASS>", accuracy, loss, tokens=tokens)
    table = text_of("</style>" + render_report(tmp_path).split('class="prompts"')[1].split("</table>")[0])
    assert re.findall(r"\b([a-e]) <CLASS>", table) == ["a", "b", "c", "d", "e"]


def test_adds_the_harmonic_mean_of_base_and_novel(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role, base, novel in (("start", 60.0, 30.0), ("best", 80.0, 40.0)):
            evaluation(journal, role, base, part="base", per_class={"apple": [3, 5]})
            evaluation(journal, role, novel, part="novel", per_class={"wizard": [1, 5]})
    text = text_of(render_report(tmp_path))
    assert "Test, harmonic mean (H) 40.0 % 53.3 % +13.3" in text
    assert "+13.3 points of harmonic mean" in text
    assert "apple" in text
    assert "wizard" in text


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


def test_prompts_for_imagenet_stand_between_start_and_best_on_the_same_images(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role, base, novel in (("start", 60.0, 30.0), ("best", 80.0, 40.0)):
            evaluation(journal, role, base, part="base")
            evaluation(journal, role, novel, part="novel")
        imagenet(journal, "base", 60.5, 70.0)
        imagenet(journal, "novel", 39.0, 35.0)
        imagenet(journal, "all", 1.5, 2.5)  # images that start and best were not evaluated on
    page = render_report(tmp_path)
    text = text_of(page)
    assert "Start Best of 80 Ensemble of 80 Best so far Points" in text
    assert "500 images 60.0 % loss 1.000 60.5 % loss 0.750 70.0 % loss 0.875 80.0 %" in text
    assert "Test, harmonic mean (H) 40.0 % 47.4 % 46.7 % 53.3 % +13.3" in text
    assert "published for ImageNet" in text
    assert "in a video &amp; game." in page
    assert not {"1.5 %", "2.5 %"} & set(re.findall(r"[\d.]+ %", text))


def test_prompts_for_imagenet_on_images_of_an_earlier_session_are_not_shown(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role in ("start", "best"):
            evaluation(journal, role, 60.0)
        imagenet(journal, "all", 61.5, 62.5, images=499)
    assert "500 images 60.0 % loss 1.000 \u2013 \u2013 60.0 %" in text_of(render_report(tmp_path))


def test_journals_without_prompts_for_imagenet_have_no_column_for_them(sample: str) -> None:
    assert "ImageNet" not in sample
    assert "Images Start Best Points" in text_of(sample)


@pytest.mark.parametrize(("base", "novel", "mean"), [(60.0, 30.0, 40.0), (0.0, 0.0, 0.0), (0.0, 50.0, 0.0)])
def test_harmonic_mean(base: float, novel: float, mean: float) -> None:
    assert harmonic_mean(base, novel) == mean


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
    """A page on a selection by five training images a class: three of four candidates are tied, without test images."""
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


def test_says_what_to_expect_and_sets_a_gain_on_images_that_chose_apart(tmp_path: Path) -> None:
    chosen_run(tmp_path)
    with Journal(tmp_path) as journal:
        for role, accuracy, right in (("start", 74.0, 1), ("best", 80.0, 4)):
            evaluation(journal, role, accuracy, split="train", per_class={"owl": [right, 5]}, images=400)
    page = render_report(tmp_path)
    text = text_of(page)
    assert "77.5 % on new images of these classes, 95 % interval 69.0 to 85.0" in text
    assert "cannot be told apart from the start template: +3.5 points, standard error 2.5" in text
    assert (
        "3 of 57 templates are as good within the tolerance; with 95 % confidence the most accurate one is among 11"
        in text
    )
    assert re.findall(r'class="big">(.*?)</p>', page) == ["77.5\u00a0%"]
    assert "77.5 % expected on new images, 95 % interval 69.0 to 85.0" in text
    grey = [text_of("</style>" + line) for line in re.findall(r'<p class="seen">.*?</p>', page, flags=re.DOTALL)]
    assert [line.strip() for line in grey] == [
        "74.0 % on the 400 images that chose the best",
        "80.0 %, +6.0 points, on the 400 images that chose it",
    ]
    assert "Accuracy on training images by class, start → best, on the 5 images that chose it" in text
    assert '<table class="classes seen">' in page
    assert 'class="gain"' not in page
    assert "track gain" not in page
    assert "known" not in text.partition("What to expect")[0]


def test_draws_the_candidates_with_error_bars_and_the_tied_ones_on_shaded_ground(tmp_path: Path) -> None:
    picture = drawn_in(chosen_run(tmp_path))[0]
    assert picture.get("aria-label") == "Accuracy of the 4 best candidates with standard errors; 3 are tied"
    styles = [part.get("style", "") for part in picture.iter("path")]
    assert sum("fill: var(--tint)" in style for style in styles) == 3
    assert sum("var(--dot)" in style for style in styles) == 4
    assert sum("var(--loss)" in style for style in styles) == 1


@pytest.mark.parametrize(("describer", "column"), [("clip", "CLIP's guess"), ("lm", "Described")])
def test_phrases_have_their_worth_and_how_often_they_are_described(tmp_path: Path, describer: str, column: str) -> None:
    page = chosen_run(tmp_path, describer=describer)
    assert ("CLIP's guesses from a list of phrases" in text_of(page)) == (describer == "clip")
    table = text_of("</style>" + page.split('class="phrases"')[1].split("</table>")[0])
    assert f"Loss rises by {column} grey +3.0 ± 1.8 +0.100 ± 0.020 2 of 3" in table
    assert "black and upside down +3.0 ± 1.8 +0.100 ± 0.020 0 of 3 upside 2 down 2" in table
    tied = text_of("</style>" + page.split('aria-label="Tied templates"')[1].split("</table>")[0])
    assert re.findall(r"trial (\d)(?: · chosen)? (\d+\.\d %)", tied) == [
        ("0", "80.0 %"),
        ("1", "78.0 %"),
        ("2", "76.0 %"),
    ]


def test_warns_of_few_images_and_of_classes_that_are_never_right(tmp_path: Path) -> None:
    assert "one a class" not in text_of(chosen_run(tmp_path / "many"))
    text = text_of(chosen_run(tmp_path / "few", images=25, is_spread_known=False))
    assert "Only 25 images decided, at most one a class" in text
    with Journal(tmp_path / "never") as journal:
        begin(journal)
        search(journal)
        for role, right in (("start", 4), ("best", 0)):
            evaluation(journal, role, 50.0, per_class={"owl": [right, 5], "<i>key": [right, 5], "ship": [1, 5]})
    page = render_report(tmp_path / "never")
    assert (
        "2 classes never predicted correctly on test images: &lt;i&gt;key, owl; pass other words for such a class"
        in page
    )


@pytest.mark.parametrize(("images", "few"), [(99, "as few as 3 of a class"), (100, None)])
def test_warns_of_fewer_than_four_images_a_class(tmp_path: Path, images: int, few: str | None) -> None:
    found = notes(chosen_run(tmp_path, images=images).replace("\n", " "))
    assert [note for note in found if "decided" in note] == (
        [f"Only 99 images decided, {few}; use more training images, or validation images (--val)."] if few else []
    )


def test_counts_the_images_of_the_smallest_class(tmp_path: Path) -> None:
    chosen_run(tmp_path)
    counts = {name: [1, 5] for name in CLASSES} | {"owl": [1, 2]}
    with Journal(tmp_path) as journal:
        evaluation(journal, "best", 50.0, split="train", per_class=counts, images=122)
    assert "as few as 2 of a class" in render_report(tmp_path)


@pytest.mark.parametrize(("optimism", "warned"), [(3.0, False), (3.1, True)])
def test_warns_of_optimism_without_test_images(tmp_path: Path, optimism: float, warned: bool) -> None:
    found = [note for note in notes(chosen_run(tmp_path, optimism=optimism)) if "Overfitting" in note]
    assert len(found) == warned
    assert all("by about 3.1 points" in note and note.endswith("(--val), or --tolerance 2.") for note in found)


@pytest.mark.parametrize(
    ("accuracy", "part", "warned"), [(60.0, "all", 1), (60.0, "base", 1), (60.0, "novel", 0), (75.0, "all", 0)]
)
def test_warns_of_training_accuracy_beyond_test_accuracy(
    tmp_path: Path, accuracy: float, part: str, warned: int
) -> None:
    """The intervals of 80 % on 400 training images and of 75 % on 500 test images overlap."""
    chosen_run(tmp_path)
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, accuracy, part=part)
    found = [note for note in notes(render_report(tmp_path)) if "Overfitting" in note]
    assert len(found) == warned
    assert all("80.0 % on training images and 60.0 % on test images differ beyond chance" in note for note in found)


@pytest.mark.parametrize(
    ("fields", "accuracy", "loss"),
    [
        ({}, None, None),
        ({"losses": (0.5, 0.6, 0.4, 0.3)}, None, "Trial 3, a photo of a <CLASS>. , has the lowest loss, with an "
         "accuracy of 74.0 % against 80.0 % of the chosen template, but was not chosen: accuracy comes first."),
        ({"losses": (0.5, 0.4, 0.6, 0.6)}, None, "Trial 1, a grey blocky sprite of a <CLASS>. , has the lowest loss, "
         "with an accuracy of 78.0 % against 80.0 % of the chosen template, but was not chosen: within the tolerance "
         "the plainest wins"),
        ({"winner": 2}, "Trial 0, a grey <CLASS>. , has the highest accuracy, 80.0 % against 76.0 % of the "
         "chosen template, but was not chosen: within the tolerance the plainest wins", None),
        ({"winner": 2, "tied_from": 1, "losses": (0.6, 0.5, 0.4, 0.5)}, "Trial 0, a grey <CLASS>. , has the highest "
         "accuracy, 80.0 % against 76.0 % of the chosen template, but was not chosen: it is not within the tolerance "
         "of the leading one", None),
        ({"listed": 2, "losses": (0.5, 0.5, 0.4, 0.5)}, None, "Trial 2, a <CLASS> as an icon. , has the lowest loss, "
         "with an accuracy of 76.0 % against 80.0 % of the chosen template, but was not chosen: within the tolerance "
         "the plainest wins"),
        ({"winner": 3, "selected_on": "validation"}, "Trial 0, a grey <CLASS>. , has the highest accuracy, 80.0 % "
         "against 74.0 % of the chosen template, but was not chosen: the validation images decide, on which "
         "it has 80.0 % against 74.0 %, and within the tolerance", None),
    ],
)  # fmt: skip
def test_says_why_a_template_that_is_better_by_one_measure_is_not_chosen(
    tmp_path: Path, fields: dict[str, Any], accuracy: str | None, loss: str | None
) -> None:
    drawn = chosen_run(tmp_path, **fields).partition("<h3>The search</h3>")[2].partition("<h3>")[0]
    for figure, expected in zip(
        re.findall(r"<figure>.*?</figure>", drawn, flags=re.DOTALL), (accuracy, loss), strict=True
    ):
        text = text_of("</style>" + figure.partition("</svg>")[2])
        assert text.strip().startswith(expected) if expected else not text.strip()


def test_test_accuracies_have_an_interval(sample: str) -> None:
    assert "500 test images (95 % interval of the best: 77.3 to 84.2)" in text_of(sample)


def test_one_image_draws_and_says_that_nothing_is_known(tmp_path: Path) -> None:
    text = text_of(chosen_run(tmp_path, images=1, gain_error=1e9))
    assert "one image gives no standard error" in text


def test_a_running_journal_gives_the_best_so_far(tmp_path: Path) -> None:
    text = text_of(render_report(sample_run(tmp_path, trials=30, finished=False)))
    assert "No end is recorded" in text
    assert "Best so far" in text
    assert "chosen" not in text
    assert "24 LLM tokens 12,300" in text


def test_a_running_journal_says_which_model_is_waited_for_since_when(tmp_path: Path) -> None:
    given = {
        "predictor": "self",
        "request_id": "step 1/0",
        "model": "openai/<toy>",
        "timeout": None,
        "run_seconds": 1.0,
    }
    with Journal(tmp_path) as journal:
        begin(journal)
        journal.append({"event": "lm_request", "started": "2026-03-01T09:30:12.345+00:00", **given})
        waiting = "the run had been waiting for openai/<toy> since 2026-03-01 09:30 UTC."
        assert waiting in text_of(render_report(tmp_path))
        response(journal, "step 1/0", calls=1, prompt_tokens=90, completion_tokens=10)
    assert "waiting" not in text_of(render_report(tmp_path))


def test_an_unfinished_run_counts_every_request(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        for question in ("greet prompt_model x", "describe 0", "describe 1", "step 1/0"):  # kept: in journals
            response(journal, question, calls=1, prompt_tokens=90, completion_tokens=10)
    assert "LLM calls 4 LLM tokens 400" in text_of(render_report(tmp_path))


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=30, finished=False)
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(whole[:-5])
    assert "No end is recorded" in render_report(run)


@pytest.mark.parametrize("with_search", [False, True])
def test_an_empty_journal_gives_a_page(tmp_path: Path, with_search: bool) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        if with_search:
            search(journal)
    text = text_of(render_report(tmp_path))
    assert ("nothing scored yet" if with_search else "No search is in the journal yet") in text


def test_a_journal_without_any_event_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"")
    assert "No search" in render_report(tmp_path)


def test_a_run_resumed_after_its_end_counts_as_running(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        journal.append({"event": "run_finished", "status": "interrupted", "seconds": 1.0, "calls": 1, "tokens": None})
    assert "interrupted" in text_of(render_report(tmp_path))
    add(tmp_path, "evaluation", predictor="self", split="test", class_split="all", role="start", template=START,
              accuracy=50.0, loss=1.0, images=3, per_class={})  # fmt: skip
    assert "interrupted" in text_of(render_report(tmp_path))
    add(tmp_path, "trial", predictor="self", index=1, step=1, template="a <CLASS>", accuracy=51.0, loss=1.0,
              tokens=4, key="1")  # fmt: skip
    assert "No end is recorded" in text_of(render_report(tmp_path))


def test_two_searches_get_a_section_each(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        for name, best in (("animals", "a furry <CLASS>"), ("tools", "a steel <CLASS>")):
            search(journal, name)
            trial(journal, 0, START, 50.0, 1.0, predictor=name)
            trial(journal, 1, best, 60.0, 0.9, predictor=name)
    page = render_report(tmp_path)
    first, second = page.split('id="search-2"')
    assert "a furry <b>" in first
    assert "a furry <b>" not in second
    assert "a steel <b>" in second
    assert 'href="#search-2"' in page


def test_ensembles_show_a_line_each_and_fold_when_long(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, "\n".join(f"form {i} of <CLASS>" for i in range(80)), 50.0, 1.0)
    page = render_report(tmp_path)
    assert page.count("<span>form 0 of <b>&lt;CLASS&gt;</b></span>") >= 1
    assert "76 more lines" in page


def test_many_classes_fold(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal, classes=names)
        evaluation(journal, "start", 50.0, per_class={name: [5, 10] for name in names})
        evaluation(journal, "best", 51.0, per_class={name: [i % 11, 10] for i, name in enumerate(names)})
    page = render_report(tmp_path)
    assert "All 1,000 classes" in page
    assert len(page) < 1_500_000


def test_changed_pictures_are_capped_and_counted() -> None:
    def row(source: int, before: str, after: str) -> PredictionChangedEvent:
        where: Any = {"predictor": "self", "split": "test", "class_split": "all", "source": str(source), "label": "owl"}
        return cast(PredictionChangedEvent, {"event": "prediction_changed", **where, "before": before, "after": after})

    fixed = [row(i, "fish", "owl") for i in range(100)]
    broken = [row(i, "owl", "fish") for i in range(5)]
    first, second = changed(fixed + broken)
    assert (len(first.shown), first.recorded, len(second.shown), second.recorded) == (19, 100, 5, 5)
    first, second = changed(fixed + broken * 20)
    assert (len(first.shown), len(second.shown)) == (12, 12)


def test_pictures_are_of_the_most_informative_split_and_the_others_are_counted(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for split, times in (("train", 5), ("test", 2)):
            for number in range(times):
                change(journal, f"{split}{number}.png", "owl", "fish", "owl", split=split)
        change(journal, "lost.png", "owl", "fish", "crab")
    page = render_report(tmp_path)
    text = text_of(page)
    assert "Fixed 2 recorded (test)" in text
    assert "owl/<wbr>test0.png" in page  # a file name alone says little: each class may have a 1.jpg
    assert "train0.png" not in text
    assert "1 more changed from one wrong class to another; 5 recorded on other images are not shown" in text


# Safety


HOSTILE = """</style></title><script>alert(1)</script><img src=x onerror=alert(1)>'"&{{ 7*7 }}{% raw %}"""


def test_every_text_of_the_journal_is_escaped(tmp_path: Path) -> None:
    name = "self" + HOSTILE
    with Journal(tmp_path) as journal:
        begin(journal, settings={HOSTILE: HOSTILE, "list": [HOSTILE, 1]})
        search(journal, name, [HOSTILE, "b"], start=HOSTILE)
        journal.append({"event": "description", "predictor": name, "source": HOSTILE, "text": HOSTILE})
        trial(journal, 0, HOSTILE + "<CLASS>", 50.0, 1.0, predictor=name)
        journal.append(
            {"event": "rejection", "predictor": name, "step": 1, "text": HOSTILE, "reason": HOSTILE, "message": HOSTILE}
        )
        journal.append({"event": "error", "predictor": name, "step": 1, "message": HOSTILE})
        change(journal, HOSTILE, HOSTILE, "b", HOSTILE, predictor=name)
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, predictor=name, per_class={HOSTILE: [1, 2]}, template=HOSTILE)
        journal.append({"event": "run_finished", "status": HOSTILE, "seconds": 1.0, "calls": 1, "tokens": 1})
    page = render_report(tmp_path)
    assert len(scripts(page)) == 1
    assert "<img" not in page
    assert page.count("</style>") == 1
    assert "{{ 7*7 }}" in page
    assert text_of(page).count("alert(1)") > 8


def test_phrases_of_a_template_are_shown_as_text(tmp_path: Path) -> None:
    page = chosen_run(tmp_path, phrase=HOSTILE)
    assert len(scripts(page)) == 1
    assert page.count("</style>") == 1
    assert "alert(1)" in text_of(page)


def test_described_images_are_named_with_their_folder(sample: str) -> None:
    assert f"{CLASSES[0]}/0001.png" in text_of(sample)
    assert "/photos/" not in sample


def test_the_placeholder_shows_as_text(sample: str) -> None:
    assert "<CLASS>" not in sample
    assert "&lt;CLASS&gt;" in sample


def test_names_nothing_outside_itself(sample: str) -> None:
    assert outside_addresses(sample) == []
    assert "default-src 'none'" in sample
    assert "@import" not in sample


def test_permits_one_constant_script_by_its_hash_and_hides_what_needs_it(sample: str, tmp_path: Path) -> None:
    (script,) = scripts(sample)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    assert f"""content="{policy}'sha256-{digest}'">""" in sample
    assert scripts(chosen_run(tmp_path)) == [script]
    buttons = re.findall(r"<button[^>]*>", sample)
    assert set(buttons) == {'<button type="button" class="copy" hidden>'}
    word = {"template": "a <CLASS>", "kind": "whole", "removed": "", "main": 50.0, "h": None, "scores": {}, "worth": {}}
    explanation = {"rows": [word | {"is_noise": False}], "confusions": [], "start": START, "finding": "None"}
    other = write_word_report(explanation, tmp_path / "words.html").read_text()
    assert scripts(other) == []
    assert "script-src" not in other


def test_selected_templates_are_copied_as_they_are(tmp_path: Path) -> None:
    """Long ensembles are folded elsewhere on the page, and long lines cut."""
    text = "\n".join(f"{HOSTILE}{'long ' * 200}{i} <CLASS>" for i in range(9))
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, text, 50.0, 1.0)
        journal.append(
            {"event": "selected", "predictor": "self", "index": 0, "template": text, "selected_on": "train",
             "finalists": []}
        )  # fmt: skip
    page = render_report(tmp_path)
    assert to_copy(page)[0] == text
    assert len(scripts(page)) == 1


def test_hidden_characters_are_shown_by_number() -> None:
    assert printable("a\u202eb\x00\ud800 c\u200dd\n") == "a[U+202E]b[U+0000][U+D800] c\u200dd\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", "high"),
        ("accuracy", 101.0),
        ("loss", None),
        ("index", 1.5),
        ("index", 10**400),
        ("loss", 10**400),
        ("template", ["a"]),
        ("template", "a photo of a dog."),
        ("accuracy", True),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: str, value: object) -> None:
    fields = {"index": 0, "template": START, "accuracy": 50.0, "loss": 1.0, field: value}
    with Journal(tmp_path) as journal:
        journal.append({"event": "trial", "predictor": "self", "step": 0, "tokens": 5, "key": "k", **fields})
    with pytest.raises(JournalError, match=f"trial.*{field}"):
        render_report(tmp_path)


@pytest.mark.parametrize("counts", [{"a": 3}, {"a": [3, 2]}, {"a": ["1", 2]}])
def test_per_class_counts_of_another_form_are_named(tmp_path: Path, counts: dict[str, Any]) -> None:
    with Journal(tmp_path) as journal:
        evaluation(journal, "best", 50.0, per_class=counts)
    with pytest.raises(JournalError, match="per_class"):
        render_report(tmp_path)


def test_no_journal_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        render_report(tmp_path)


# Pictures


def decoded(address: str | None) -> Image.Image:
    assert address is not None
    assert address.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_thumbnails_are_small_and_encoded_again(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    exif[0x010E] = "home address"
    Image.new("RGB", (1200, 600), "red").save(path, exif=exif, comment=b"secret")
    thumb = decoded(pictures.thumbnail(str(path)))
    assert thumb.size == (48, 96)
    assert not thumb.getexif()
    assert b"home address" not in base64.b64decode((pictures.thumbnail(str(path)) or "").partition(",")[2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_thumbnails_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.tiff"
    Image.new(mode, (300, 20)).save(path)
    assert max(decoded(pictures.thumbnail(str(path))).size) <= 96


def broken_sources(folder: Path) -> Iterator[str]:
    """Sources that give no picture."""
    (folder / "text.png").write_text("not a picture")
    draw_picture("owl", 0).save(folder / "ok.png")
    (folder / "cut.png").write_bytes((folder / "ok.png").read_bytes()[:100])
    (folder / "x.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"label": [1]}), folder / "nocolumn.parquet")
    names = ("none.png", "text.png", "cut.png", "x.eps", "bad.parquet#0", "nocolumn.parquet#0", "ok.parquet#x", "")
    yield from (str(folder / name) for name in names)
    draw_picture("owl", 0).save("here.png")
    yield "here.png"
    yield from ("//host/share/x.png", "\\\\host\\share\\x.png", "https://example.org/x.png", "a\0b", "\ud800")


def test_what_cannot_be_read_gives_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [pictures.thumbnail(source) for source in broken_sources(tmp_path)] == [None] * 14


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert pictures.thumbnail(str(tmp_path / "pipe.png")) is None


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_oversized_pictures_are_left_alone(tmp_path: Path, side: int) -> None:
    """Above the limit of Pillow's warning and of Pillow's error."""
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert pictures.thumbnail(str(tmp_path / "bomb.png")) is None


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    rows: list[dict[str, object]] = []
    for color in ("red", "lime", "blue"):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), color).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    rows.append({"bytes": None, "path": str(tmp_path / "white.png")})
    pq.write_table(pa.table({"image": rows, "label": list("abcd")}), path, row_group_size=2)
    seen = [decoded(pictures.thumbnail(f"{path}#{row}")).convert("RGB").getpixel((20, 20)) for row in range(4)]
    wanted = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for found, expected in zip(seen, wanted, strict=True):
        assert isinstance(found, tuple)
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 12
    assert pictures.thumbnail(f"{path}#4") is None
    assert pictures.thumbnail(f"{path}#-1") is None


def test_the_image_column_of_a_parquet_file_may_have_any_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")
    cell = {"bytes": buffer.getvalue(), "path": None}
    pq.write_table(pa.table({"label": ["a"], "photo": [cell]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"left": [cell], "right": [cell]}), tmp_path / "two.parquet")
    assert decoded(pictures.thumbnail(f"{tmp_path}/one.parquet#0")).size == (40, 40)
    assert pictures.thumbnail(f"{tmp_path}/two.parquet#0") is None


def test_members_of_tar_files(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.tar"
    write_shard(path, {f"pets/{name}": name for name in ("red", "blue")})
    sources = [example.source for example in load_webdataset(path)]
    assert sources == [f"{path}#pets/red.png", f"{path}#pets/blue.png"]
    red, blue = (decoded(pictures.thumbnail(source)).convert("RGB").getpixel((20, 20)) for source in sources)
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert (red[0] > 200, blue[0] > 200) == (True, False)
    assert pictures.thumbnail(f"{path}#pets/green.png") is None
    path.write_bytes(b"no tar")
    assert pictures.thumbnail(sources[0]) is None


def write_shard(path: Path, colors: Mapping[str, str]) -> None:
    with tarfile.open(path, "w") as file:
        for name, color in colors.items():
            buffer = io.BytesIO()
            Image.new("RGB", (40, 40), color).save(buffer, "PNG")
            for member, content in ((f"{name}.png", buffer.getvalue()), (f"{name}.cls", color.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


# Files, size, speed


def test_the_same_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=50)
    assert write_report(run, tmp_path / "a.html").read_bytes() == write_report(run, tmp_path / "b.html").read_bytes()


def test_writes_into_the_run_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=10)
    assert write_report(run) == run / "report.html"
    assert write_report(run / "journal.jsonl") == run / "report.html"
    assert sorted(path.name for path in run.iterdir()) == ["journal.jsonl", "report.html"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=10, finished=False)
    with pytest.raises(JournalError, match=r"cannot be written.*report\.html"):
        write_report(run, tmp_path / "no" / "such.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="cannot be written"):
        write_report(run, tmp_path / "folder")
    assert not list(tmp_path.glob(".*part"))


def test_thousands_of_trials_stay_small_and_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        run = sample_run(tmp_path, trials=6000)
    begun = time.process_time()
    size = len(render_report(run).encode())
    assert size < 3_000_000
    assert time.process_time() - begun < 5


def test_importing_and_writing_loads_nothing_heavy(tmp_path: Path) -> None:
    """No torch ever, matplotlib and PIL only to draw, pyarrow only where a picture is looked up in a table."""
    run = sample_run(tmp_path, trials=10, finished=False)
    code = (
        "import sys, ipo_dspy.report as r;"
        "heavy = {'torch', 'matplotlib', 'matplotlib.pyplot', 'PIL', 'pyarrow', 'open_clip', 'litellm'};"
        "print(heavy & set(sys.modules)); r.render_report(sys.argv[1]); print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "['PIL', 'matplotlib']"]


@pytest.mark.parametrize("accuracies", [[0.0], [100.0], [50.0, 50.0], [50.0, 50.0 + 1e-14], [0.0, 100.0]])
@pytest.mark.parametrize("loss", [0.0, 1e-12, 1e12])
def test_draws_whatever_was_measured(tmp_path: Path, accuracies: list[float], loss: float) -> None:
    with Journal(tmp_path) as journal:
        for index, accuracy in enumerate(accuracies):
            trial(journal, index, START, accuracy, loss)
    drawn = re.findall(r"<svg.*?</svg>", render_report(tmp_path), flags=re.DOTALL)
    assert len(drawn) == 2
    assert "nan" not in "".join(drawn)


def test_draws_every_trial_inside_the_frame_and_counts_what_lies_beyond(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for index in range(100):
            trial(journal, index, START, 1.0 if index == 50 else 60 + index / 10, 1.0 + index / 100)
    page = render_report(tmp_path)
    assert re.search(r"1 trial below 5\d\.\d %", text_of(page))
    points = [point for chart in drawn_in(page) for point in dots(chart)]
    assert len(points) == 200
    assert all(40 < x < 440 and 25 < y < 250 for x, y in points)


def test_drawings_are_xml_in_colors_of_the_page_and_refer_to_nothing(sample: str) -> None:
    first, second = drawn_in(sample)
    described = "Accuracy of 201 trials: 55.8\u00a0% at the start, 81.2\u00a0% for the best template"
    assert first.get("aria-label") == described
    for chart in (first, second):
        assert chart.get("role") == "img"
        assert chart.get("width") is None
        parts = list(chart.iter())
        assert {part.tag for part in parts} == {"svg", "path", "text"}
        assert not {"id", "href", "clip-path"} & {name for part in parts for name in part.attrib}
        styles = " ".join(part.get("style", "") for part in parts)
        assert "#" not in styles
        assert "font" not in styles
        style = (files("ipo_dspy.report") / "style.css").read_text()
        assert all(f"{name}:" in style for name in re.findall(r"var\((--\w+)\)", styles))


def test_axes_have_a_few_round_numbers(sample: str) -> None:
    for chart, numbers in zip(drawn_in(sample), ("50 60 70 80", "0.8 1.0 1.2 1.4 1.6 1.8"), strict=True):
        labels = [part.text for part in chart.iter("text")]
        for axis in ("step", "trial", "0 50 100 150 200", "0 5 10 15 20 25", numbers):
            assert set(axis.split()) <= set(labels)


def step_labels(chart: ElementTree.Element) -> dict[int, float]:
    """Numbers on the axis of the steps, which is the one above the trials, and their places in pixels."""
    texts = [part for part in chart.iter("text") if float(part.get("y", "")) < 20 and part.text != "step"]
    return {int(part.text or ""): float(part.get("x", "")) for part in texts}


def steps_run(folder: Path, sizes: Sequence[int]) -> ElementTree.Element:
    """The accuracy chart of a run with these numbers of trials in its steps."""
    index = 0
    with Journal(folder) as journal:
        for step, size in enumerate(sizes):
            for _ in range(size):
                trial(journal, index, f"{index} <CLASS>", 50.0, 1.0, step=step)
                index += 1
    return drawn_in(render_report(folder))[0]


@pytest.mark.parametrize(
    "sizes", [[1, *[8] * 10], [2, *[5] * 10], [4, *[3] * 40], [1, 30, 1, 1, 1, 30, 30], [1, *[8] * 3, 90], [3, 3]]
)
def test_labels_of_steps_are_regular(tmp_path: Path, sizes: Sequence[int]) -> None:
    labels = step_labels(steps_run(tmp_path, sizes))
    assert len(labels) >= 2
    assert len({second - first for first, second in itertools.pairwise(labels)}) == 1
    assert all(second - first > 30 for first, second in itertools.pairwise(labels.values()))


@pytest.mark.parametrize("sizes", [[5], [1, 1, 400]])
def test_steps_that_do_not_fit_have_no_axis(tmp_path: Path, sizes: Sequence[int]) -> None:
    assert "step" not in [part.text for part in steps_run(tmp_path, sizes).iter("text")]


def test_readers_settings_of_matplotlib_neither_show_nor_change(tmp_path: Path) -> None:
    import matplotlib as mpl

    run = sample_run(tmp_path, trials=20, finished=False)
    plain = render_report(run)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert render_report(run) == plain
        assert dict(mpl.rcParams) == before


# A real browser


def chromium() -> str | None:
    """A Chromium on PATH."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, profile: Path, *flags: str) -> str:
    """Open a page headless, without network, and return what the flags print."""
    browser = chromium()
    assert browser
    quiet = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
    )  # fmt: skip
    command = [browser, *quiet, *flags, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no chromium on PATH; on Debian: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_in_a_browser(tmp_path: Path, scheme: str) -> None:
    """The DOM is whole, and the screenshot has the scheme's ground and the accent color on it."""
    page = write_report(sample_run(tmp_path, trials=800))
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if scheme == "dark" else ()
    shot = tmp_path / "shot.png"
    dom = browse(page, tmp_path / "profile1", "--dump-dom")
    browse(page, tmp_path / "profile2", "--window-size=1200,2400", f"--screenshot={shot}", *dark)
    assert dom.count("<svg") == 2
    assert dom.count("<img") == 24 - dom.count("image not available")
    assert "</footer>" in dom
    assert dom.count('class="copy">Copy') == 3  # the script ran
    image = Image.open(shot).convert("RGB")
    ground = image.getpixel((3, 3))
    assert isinstance(ground, tuple)
    assert (sum(ground) > 600) == (scheme == "light")
    assert len(image.getcolors(1 << 22) or []) > 100


@pytest.mark.slow
@needs_browser
def test_the_scores_fit_a_phone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for split in ("test", "validation"):
            for role in ("start", "best"):
                evaluation(journal, role, 100.0, split=split)
        imagenet(journal, "all", 100.0, 100.0)
    page = write_report(tmp_path)
    with browser(tmp_path / "profile") as window:
        window.look(tmp_path / "phone.png", width=390, dark=False)
        window.open(page.resolve().as_uri())
        widths = (
            "const box = document.querySelector('.scores').parentElement; return [box.scrollWidth, box.clientWidth]"
        )
        content, box = window.run(widths)
    assert content == box < 390
