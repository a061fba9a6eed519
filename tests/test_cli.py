"""The command line, run as a user does: real processes for exit codes, in-process calls for the rest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_calls import call
from helpers.cli_process import Processes
from ipo_dspy import ClipClassifier, __version__, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.data import load_images
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.run.journal import replay
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates
from ipo_dspy.scoring.intervals import wilson_interval
from ipo_dspy.template import Template


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six pictures of each of five classes."""
    folder = tmp_path_factory.mktemp("photos")
    task = demo.load("pixel-animals", shots=6)
    for name in task.classes[:5]:
        (folder / name).mkdir()
        for i, example in enumerate(e for e in task.trainset if e.label == name):
            open_image(example.image).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--model", "demo", "--steps", "2", "--log-dir", str(out), "--json", "--seed", "3"]
    with pytest.raises(SystemExit) as exit:
        main(["optimize", str(photos), *options])
    assert exit.value.code in (0, None)
    return out


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.mark.end_to_end
def test_demo_prints_the_table_and_writes_the_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text, _ = call(capsys, "demo", "pixel-animals", "--steps", "2", "--shots", "2", "--log-dir", str(out))
    assert code == 0
    for word in (
        "train",
        "validation",
        "test base",
        "test novel",
        "H is the harmonic mean of base and novel",
        "a photo of a <CLASS>.",
        "report.html",
        "on new images of these classes, 95 % interval ",
        "% on validation images, minus ",
        " the start template: ",
    ):
        assert word in text
    rows = {
        cells[0]: cells for line in text.splitlines() if len(cells := [c.strip() for c in line.split("│")[1:-1]]) > 1
    }
    sets = ("train", "validation", "test base", "test novel", "H")
    header = next(line for line in text.splitlines() if "test base" in line)
    assert tuple(cell.strip() for cell in header.split("┃")[2:-1]) == sets
    columns = {name: {label: cells[i] for label, cells in rows.items()} for i, name in enumerate(sets, start=1)}
    for name in ("train", "validation"):  # these chose it
        assert columns[name]["95 %"] == columns[name]["gain"] == ""
    base = columns["test base"]
    low, high = map(float, base["95 %"].split("\u2013"))
    assert low < float(base["best"]) < high
    assert float(base["gain"]) == pytest.approx(float(base["best"]) - float(base["start"]), abs=0.011)
    templates = ("start", "best of 80", "ensemble of 80", "best")
    assert [label for label in rows if label in templates] == list(templates)
    for name in sets:
        assert all(0 < float(columns[name][label]) <= 100 for label in templates)
        assert all(bool(columns[name][f"loss, {label}"]) == (name != "H") for label in templates)
    assert float(columns["validation"]["best of 80"]) >= float(columns["validation"]["start"])  # which is one of them
    labels = [line[:16].strip() for line in text.splitlines() if not line.startswith(("│", "┃"))]
    for label in (
        "start template",
        "best of 80",
        "best template",
        "expected",
        "against start",
        "tied",
        "against the 80",
        "on test images",
        "ensemble",
    ):
        assert labels.count(label) == 1
    assert (out / "report.html").read_text().lower().startswith("<!doctype html>")
    assert (out / "best.json").is_file()


@pytest.mark.end_to_end
def test_a_result_is_compared_with_the_prompts_for_imagenet_on_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run = ["demo", "pixel-animals", "--shots", "4", "--log-dir", str(out), "--json", "--steps"]
    code, text, _ = call(capsys, *run, "0")
    assert code == 0
    first = json.loads(text)
    prompt = first["imagenet"]["best"]
    assert (first["best"], first["imagenet"]["prompts"]) == ("a photo of a <CLASS>.", 80)
    assert not first["imagenet"]["beats_best"]
    assert "clearly worse than the best of the 80 ImageNet prompts: -" in first["findings"]["against the 80"]
    assert first["test_gains"]["test base"]["start"]["gain"] == 0
    assert "clearly worse than the best of the 80" in first["findings"]["on test images"]
    roles = {"start", "best", "imagenet_best", "imagenet_ensemble"}
    assert {frozenset(scores) for scores in (*first["scores"].values(), first["harmonic_mean"])} == {frozenset(roles)}
    trials = [event for event in replay(out) if event["event"] == "trial"]
    assert prompt not in {trial["template"] for trial in trials}

    task = demo.load("pixel-animals", shots=4)
    novel = demo.load("pixel-animals", shots=4, classes="novel")
    images = {"train": task.trainset, "validation": task.valset, "test base": task.testset, "test novel": novel.testset}
    lines = imagenet_templates()
    for name, examples in images.items():
        program = novel.program if name == "test novel" else task.program
        scored = evaluate(program, examples, templates=[Template.parse(prompt), lines])
        assert [one.score.accuracy for one in scored] == [
            first["scores"][name][role]["accuracy"] for role in ("imagenet_best", "imagenet_ensemble")
        ]

    before = [event for event in replay(out) if event["event"] == "imagenet_prompts"]
    assert len(before) == len(images)
    code, text, _ = call(capsys, *run, "3")
    again = json.loads(text)
    assert [event for event in replay(out) if event["event"] == "imagenet_prompts"] == before
    for name in images:
        assert again["scores"][name]["imagenet_ensemble"] == first["scores"][name]["imagenet_ensemble"]
    choice = again["choice"]
    uncorrected = choice["expected"] - again["scores"]["validation"]["imagenet_best"]["accuracy"]
    assert uncorrected <= again["imagenet"]["gain"] < uncorrected + 10  # the best of 80 was chosen on these images, too
    assert again["imagenet"]["gain"] > first["imagenet"]["gain"]
    page = (out / "report.html").read_text()
    assert "Ensemble of 80" in page


@pytest.mark.end_to_end
@pytest.mark.parametrize(("words", "count"), [(26, 16), (28, 0)])
def test_prompts_for_imagenet_that_do_not_fit_all_classes_are_left_out(
    words: int, count: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / " ".join(["cat"] * words))  # one of the novel classes
    run = ["optimize", str(tmp_path / "photos"), "--model", "demo", "--base-novel", "--steps", "0"]
    code, text, _ = call(capsys, *run, "--template", "<CLASS>", "--log-dir", str(tmp_path / "run"))
    assert code == 0
    assert "│ start " in text
    assert ("ImageNet" in text) == bool(count)
    assert (f"│ best of {count} " in text) == (f"│ ensemble of {count} " in text) == bool(count)
    assert [e["prompts"] for e in replay(tmp_path / "run") if e["event"] == "imagenet_prompts"] == [count] * 3 * bool(
        count
    )


def test_demo_lists_its_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "demo", "--list", "--json")
    assert code == 0
    assert tuple(row["name"] for row in json.loads(text)) == demo.names()
    code, _, err = call(capsys, "demo", "pixel-animal")
    assert code == 2
    assert "pixel-animals" in err


def test_optimize_finds_a_template_and_tests_it(run_folder: Path) -> None:
    assert {path.name for path in run_folder.iterdir()} >= {"best.json", "journal.jsonl", "report.html"}
    assert "test" in (run_folder / "journal.jsonl").read_text()


def test_optimize_on_one_half_of_the_classes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "demo", "--steps", "1", "--log-dir", str(tmp_path / "r"), "--json", "--base-novel"]
    code, text, _ = call(capsys, "optimize", str(photos), *options)
    assert code == 0
    result = json.loads(text)
    assert set(result["scores"]) == {"train", "test base", "test novel"}
    assert result["harmonic_mean"]["best"] > 0
    assert result["images"]["test base"] == 3 * 3
    assert set(result["intervals"]) == {"test base", "test novel"}


@pytest.mark.end_to_end
def test_the_choice_is_printed_as_plain_values(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["optimize", str(photos), "--model", "demo", "--steps", "1", "--json", "--test", "0", "--shots"]
    choices = {}
    for name, options in (("plainest", ["6", "--tolerance", "3"]), ("best", ["6"]), ("few", ["1", "--ensemble", "2"])):
        rule = [] if name == "few" else ["--choose", name]
        code, text, _ = call(capsys, *run, *options, *rule, "--log-dir", str(tmp_path / name))
        assert code == 0
        result = choices[name] = json.loads(text)
        (selected,) = [event for event in replay(tmp_path / name) if event["event"] == "selected"]
        assert {**result["choice"], "beats_start": 0} == {**selected["choice"], "beats_start": 0}
        assert [result[key] for key in ("tied", "phrases", "ensemble")] == [
            selected[key] for key in ("tied", "phrases", "ensemble")
        ]
        settings = next(event["settings"] for event in replay(tmp_path / name) if event["event"] == "run_started")
        wanted = {"plainest": ("plainest", 3.0, 1), "best": ("best", 1.0, 1), "few": ("plainest", 1.0, 2)}[name]
        assert (settings["choose"], settings["tolerance"], settings["ensemble"]) == wanted
    assert choices["plainest"]["choice"]["tied"] > choices["best"]["choice"]["tied"]
    assert "only 30 images decided: the accuracy" in choices["plainest"]["findings"]["few images"]
    assert "only 5 images decided, at most one per class" in choices["few"]["findings"]["few images"]


@pytest.mark.parametrize(("option", "value"), [("--tolerance", "-1"), ("--ensemble", "0"), ("--choose", "longest")])
def test_an_impossible_choice_is_refused(
    option: str, value: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "optimize", str(photos), "--model", "demo", option, value)
    assert code == 2
    assert option in err


def test_evaluate_prints_figures(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "evaluate", str(run_folder / "best.json"), str(photos), "--json")
    assert code == 0
    found = json.loads(text)
    assert found["images"] == 30
    assert sum(correct for correct, _ in found["per_class"].values()) == round(found["accuracy"] * 30 / 100)
    code, text, _ = call(capsys, "evaluate", str(run_folder / "best.json"), str(photos))
    interval = wilson_interval(found["accuracy"], 30)
    assert found["interval"] == {"low": interval.low, "high": interval.high}
    row = next(line.split("\u2502") for line in text.splitlines() if f"{found['accuracy']:.2f}" in line)
    assert row[2].strip() == f"{interval.low:.1f}\u2013{interval.high:.1f}".replace("100.0", "100")


def test_classify_names_each_image(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(path) for path in sorted(photos.rglob("*.png"))[:3]]
    code, text, _ = call(capsys, "classify", str(run_folder / "best.json"), *images, "--json")
    assert code == 0
    assert [row["image"] for row in json.loads(text)] == images
    code, text, _ = call(capsys, "classify", str(run_folder / "best.json"), *images)
    assert "confidence" in text


def test_classify_takes_folders_and_leaves_out_what_cannot_be_read(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, copy = str(run_folder / "best.json"), tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = copy / "broken.png"
    broken.write_text("no picture at all")
    first, *_ = files = sorted(copy.rglob("*/*.png"))
    code, text, err = call(capsys, "classify", program, str(copy), str(first), "--skip-unreadable", "--json")
    assert code == 0
    assert [row["image"] for row in json.loads(text)] == [*map(str, files), str(first)]
    assert "skipped: " in err
    assert "broken.png" in err
    (tmp_path / "empty").mkdir()
    code, _, err = call(capsys, "classify", program, str(tmp_path / "empty"))
    assert code == 2
    assert err.endswith("contains no images; pass image files, or a folder that contains some\n")
    code, _, err = call(capsys, "classify", program, str(broken), "--skip-unreadable")
    assert code == 2
    assert err.splitlines()[-1] == "ipo-dspy: none of the images can be read; pass other images"


def test_the_template_stands_on_a_line_of_its_own(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = json.loads((run_folder / "best.json").read_text())["signature"]["instructions"]
    for command in ("classify", "evaluate"):
        _, text, _ = call(capsys, command, str(run_folder / "best.json"), str(photos))
        assert f"template  {template}" in text.splitlines()


def test_describe_says_how_images_look(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "describe", str(photos), "--model", "demo", "--images", "5", "--json")
    assert code == 0
    rows = json.loads(text)
    assert len(rows) == 5
    assert len({row["label"] for row in rows}) == 5


def test_report_is_written_where_asked(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "report", str(run_folder), "--out", str(tmp_path / "page.html"))
    assert code == 0
    assert text.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 2000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["optimize", "nowhere"], 2, "nowhere"),
        (["optimize", "{photos}/bat"], 2, "sub-folder"),
        (["optimize", "{photos}", "--model", "ViT-B-61"], 2, "ViT-B-16"),
        (["optimize", "{photos}", "--template", "a photo"], 2, "has no <CLASS>"),
        (
            ["optimize", "{photos}", "--initial-template", "papers"],
            2,
            "--initial-template must be templates with <CLASS>, 'paper' or 'imagenet-80', got 'papers'",
        ),
        (["optimize", "{photos}", "--template", "very " * 40 + "<CLASS>"], 2, "shorten"),
        (["optimize", "{photos}", "--prompt-model", "nonsense"], 2, "LiteLLM"),
        (["optimize", "{photos}", "--auto", "huge"], 2, "'light'"),
        (["optimize", "{photos}", "--log-dir", "/dev/null/run"], 1, "cannot be written"),
        (["evaluate", "nowhere.json", "{photos}"], 2, "cannot be read"),
        (["classify", "{run}/best.json", "nowhere.png"], 2, "nowhere.png"),
        (
            ["classify", "{run}/best.json", "https://example.com/cat.jpg"],
            2,
            "'https://example.com/cat.jpg' is a URL",
        ),
        (["classify", "{run}/best.json", "s3://photos/cat.jpg"], 2, "'s3://photos/cat.jpg' is a URL"),
        (["report", "{photos}"], 2, "no journal"),
        (["report", "{run}/best.json"], 2, "best.json' is a saved program, not a run; pass the run's folder: '{run}'"),
        (["report", "{run}/report.html"], 2, "is an HTML page, not a run; pass the run's folder: '{run}'"),
        (["classify", "{run}/journal.jsonl", "{photos}"], 2, "is the journal of a run, not a saved program"),
        (["evaluate", "{run}/report.html", "{photos}"], 2, "is an HTML page, not a saved program"),
        (["evaluate", "{photos}", "{run}/best.json"], 2, "is a folder, not a saved program"),
        (["explain", "{run}/journal.jsonl", "{photos}"], 2, "is the journal of a run, not a saved program"),
        (["optimize", "{photos}", "--model", "demoo"], 2, "--model demo"),
        (
            ["optimize", "{photos}", "--model", "demo", "--pretrained", "laion2b"],
            2,
            "--pretrained must be None for 'demo', which has its own weights, got 'laion2b'",
        ),
        (["demo", "pixel-animal"], 2, "'pixel-animals'"),
    ],
)
def test_user_errors_are_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    photos: Path,
    run_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [a.format(photos=next(photos.iterdir()).parent, run=run_folder) if "{" in a else a for a in arguments]
    if filled[0] == "optimize" and "--model" not in filled:
        filled += ["--model", "demo"]
    found, out, err = call(capsys, *filled)
    assert found == code
    assert message.replace("{run}", str(run_folder)) in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.end_to_end
def test_debug_shows_the_traceback_and_progress_is_silent_in_a_pipe(processes: Processes) -> None:
    done = processes.run("optimize", "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in processes.run("--debug", "optimize", "nowhere").err
    assert processes.run("optimize").code == 2


@pytest.mark.end_to_end
def test_nothing_moves_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "demo", "--steps", "1", "--shots", "1", "--log-dir", tmp_path / "run")
    assert (code, len(err.splitlines())) == (0, 1)  # what the task is
    assert "\u2501" not in err


def test_skip_bad_leaves_out_and_counts(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = next(iter(copy.iterdir())) / "broken.png"
    broken.write_text("no picture at all")
    code, _, err = call(capsys, "evaluate", str(run_folder / "best.json"), str(copy))
    assert code == 2
    assert "broken.png" in err
    code, text, _ = call(capsys, "evaluate", str(run_folder / "best.json"), str(copy), "--skip-unreadable", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(text)
    assert (found["images"], found["left_out"]) == (30, 1)


ASCII = """
import sys
from ipo_dspy.cli import main

sys.stdout.reconfigure(encoding="ascii")  # as Python opens it in such a terminal
main(sys.argv[1:])
"""


@pytest.mark.end_to_end
def test_a_terminal_without_utf8_gets_escapes_instead_of_a_traceback(
    run_folder: Path, photos: Path, tmp_path: Path, processes: Processes
) -> None:
    picture = tmp_path / ("long " * 30) / "caf\u00e9.png"
    picture.parent.mkdir()
    picture.write_bytes(next(photos.rglob("*.png")).read_bytes())
    arguments = ("classify", str(run_folder / "best.json"), str(picture))
    plain = processes.python(ASCII, *arguments)
    assert plain.code == 0, plain.err
    assert "caf\\xe9.png" in plain.out
    machine = processes.python(ASCII, *arguments, "--json")
    assert json.loads(machine.out)[0]["image"] == str(picture)


def test_bad_images_of_all_parts_are_reported_at_once_before_the_search(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    train, held_out = load_images(copy).split(test=0.5, shots=16, seed=0)  # as the command splits
    both = [Path(part[0].image) for part in (train, held_out)]
    for bad in both:
        bad.write_bytes(bad.read_bytes()[:200])
    out = tmp_path / "run"
    code, _, err = call(capsys, "optimize", str(copy), "--model", "demo", "--steps", "1", "--log-dir", str(out))
    assert code == 2
    assert all(str(bad) in err for bad in both)
    assert "2 of " in err
    assert not out.exists()


@pytest.fixture(scope="module")
def split_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos as a folder of parts: four training images and two test images of each class."""
    folder = tmp_path_factory.mktemp("split")
    for file in photos.rglob("*.png"):
        part = folder / ("test" if file.stem in "01" else "train") / file.parent.name
        part.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, part / file.name)
    return folder


def test_evaluate_and_explain_take_the_test_part(
    run_folder: Path, split_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, data = str(run_folder / "best.json"), str(split_photos)
    code, text, err = call(capsys, "evaluate", program, data, "--json")
    assert (code, json.loads(text)["images"]) == (0, 10)
    assert "is already split; its test part is used, 'test' (--split takes another)" in err
    code, text, err = call(capsys, "evaluate", program, data, "--json", "--split", "train")
    assert (code, json.loads(text)["images"], err) == (0, 20, "")
    code, _, err = call(capsys, "evaluate", program, data, "--split", "val")
    assert (code, err) == (2, f"ipo-dspy: {data} has no part 'val'; choose one of 'train', 'test'\n")
    code, _, err = call(capsys, "explain", program, data)
    assert code == 0
    assert "its test part is used" in err


def test_class_names_may_be_written_with_spaces_or_underscores(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, data = tmp_path / "program.json", tmp_path / "data"
    for folder, name in zip(sorted(photos.iterdir()), ("beer_mug", "tea cup", "cat"), strict=False):
        shutil.copytree(folder, data / name)
    ClipClassifier(["beer mug", "tea_cup", "cat", "dog"], model="demo").save(program)
    code, text, _ = call(capsys, "evaluate", str(program), str(data), "--json")
    assert (code, set(json.loads(text)["per_class"])) == (0, {"beer mug", "tea_cup", "cat"})
    code, text, _ = call(capsys, "explain", str(program), str(data), "--json")
    assert (code, set(json.loads(text)["rows"][0]["scores"])) == (0, {"all"})


def test_describe_takes_the_training_part(split_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, err = call(capsys, "describe", str(split_photos), "--model", "demo", "--images", "31", "--json")
    assert (code, len(json.loads(text))) == (0, 20)
    assert "is already split; its training part is used, 'train'" in err


def test_optimize_counts_the_images_that_it_left_out(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    (next(iter(copy.iterdir())) / "broken.png").write_text("no picture at all")
    options = [
        "--model",
        "demo",
        "--steps",
        "0",
        "--test",
        "0",
        "--skip-unreadable",
        "--json",
        "--log-dir",
        str(tmp_path / "r"),
    ]
    code, text, _ = call(capsys, "optimize", str(copy), *options)
    assert code == 0
    found = json.loads(text)
    assert (found["images"]["train"], found["left_out"]) == (30, 1)
    code, text, _ = call(
        capsys, "describe", str(copy), "--model", "demo", "--skip-unreadable", "--images", "31", "--json"
    )
    assert code == 0
    assert len(json.loads(text)) == 30


def test_a_model_that_only_a_file_names_is_not_fetched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "stranger.json"
    ClipClassifier(["cat", "dog"], model="hf-hub:stranger/clip").save(program)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    picture = next(photos.rglob("*.png"))
    for command in (["classify", str(program), str(picture)], ["evaluate", str(program), str(photos)]):
        code, out, err = call(capsys, *command)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "'hf-hub:stranger/clip' is named by a file and not on this machine" in err
        assert "pass --allow-download to fetch it without your hub token" in err


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ipo_dspy", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{__version__}\n"


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str, word: int) -> str:
        line = {"_IPO_DSPY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(word)}
        script = "import sys; sys.argv[0] = 'ipo-dspy'; from ipo_dspy.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **line}, check=False
        )
        return done.stdout

    assert completed("ipo-dspy opt", 1).split() == ["optimize"]
    assert "--max-cost" in completed("ipo-dspy optimize --max", 2).split()


@pytest.mark.end_to_end
def test_a_finished_folder_given_again_says_that_nothing_was_searched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["optimize", str(photos), "--model", "demo", "--steps", "1", "--log-dir", str(tmp_path / "run")]
    said = "this run was already finished, so nothing was searched"
    assert said not in call(capsys, *command)[1]
    again = call(capsys, *command)[1]
    assert said in again
    assert "test all" not in again
    command[command.index("--steps") + 1] = "2"
    assert said not in call(capsys, *command)[1]
