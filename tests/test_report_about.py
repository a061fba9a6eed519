"""The opening of the report, which names data and model, and the commands to copy."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import typer.main

from helpers.cli_calls import call
from helpers.report_journals import (
    HOSTILE,
    OPTIMIZE,
    START,
    add,
    begin,
    chosen_run,
    evaluation,
    sample_run,
    search,
    trial,
)
from helpers.report_pages import about, scripts, to_copy
from ipo_dspy import IPO, demo
from ipo_dspy.cli import main
from ipo_dspy.cli.app import app
from ipo_dspy.data import load_image_folder
from ipo_dspy.report import render_report
from ipo_dspy.report.command_lines import ACCEPTED
from ipo_dspy.run.journal import FILE_NAME, Journal, replay


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


@pytest.mark.end_to_end
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


def test_tested_templates_need_no_further_test(sample_page: str) -> None:
    template, _, *commands = to_copy(sample_page)
    assert template == "pixel art of a <CLASS>."
    assert [command.split()[1] for command in commands] == ["classify", "serve", "export"]
    assert about(sample_page)["Test images"] == "500 (25 classes, 20 each)"
    assert about(sample_page)["Validation images"] == "200 (25 classes)"  # not evaluated by class


def test_older_journals_name_what_they_have(sample_page: str) -> None:
    assert "<h1>Prompt search</h1>" in sample_page
    assert not {"Data", "Machine"} & set(about(sample_page))
    assert about(sample_page)["Model"] == "ViT-B-16-quickgelu, openai"
    assert about(sample_page)["Versions"] == "torch 2.8.0, ipo_dspy 0.1.0"


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


@pytest.mark.end_to_end
def test_the_advised_commands_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    shutil.copytree("runs/photos-1", "runs/photos-2")
    with Journal(Path("runs", "photos-2")) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, per_class={"cat": [0, 2], "owl": [2, 2]})
    words, *commands = to_copy(render_report("runs/photos-2"))[:-5]
    assert json.loads(words) == {"cat": ["cat"]}
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
                '{\n "owl": ["owl"],\n "ship": ["ship"]\n}',
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


def test_words_to_add_to_are_those_of_the_run_and_further_weak_classes_are_counted(tmp_path: Path) -> None:
    chosen_run(tmp_path, gain=9.0)
    file, texts = tmp_path / FILE_NAME, '"class_texts": {"owl": ["owl bird", "Äule"]}'
    file.write_text(file.read_text().replace('"images": 400', f'"images": 400, {texts}'))
    weak = {name: [0, 5] for name in ("owl", "key", "ship", "star", "tree")}
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, split="validation", per_class={**weak, "crab": [1, 5]})
    page = render_report(tmp_path)
    assert to_copy(page)[0] == '{\n "key": ["key"],\n "owl": ["owl bird", "Äule"],\n "ship": ["ship"]\n}'
    assert "key 0 %, owl 0 %, ship 0 %, and 2 more below 20 %: see Classes below. Write" in page
    assert page.index("see Classes below") < page.index("<h3>Classes ")


@pytest.mark.parametrize("has_spare", [True, False])
def test_all_images_are_advised_only_if_the_run_left_some_out(has_spare: bool, tmp_path: Path) -> None:
    chosen_run(tmp_path, images=25, is_spread_known=False)
    add(tmp_path, "command", data="photos", options={}, has_spare_images=has_spare)
    page = render_report(tmp_path)
    assert (f"{OPTIMIZE} --shots all" in to_copy(page)) == has_spare
    assert "use more training images, or validation images (--val)" in page


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L/14"])
def test_the_encoder_in_use_is_not_advised(name: str, tmp_path: Path) -> None:
    chosen_run(tmp_path, gain=0.0)
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text().replace("ViT-B-16-quickgelu", name))
    assert "another encoder" not in render_report(tmp_path)


@pytest.mark.end_to_end
def test_advised_commands_have_the_options_of_the_run_and_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    Path("my costs.json").write_text('{"cat": {"dog": 5}}')
    goal = ["--costs", "my costs.json", "--min-recall", "cat=0.2", "--min-recall", "dog=0.1"]
    rest = ["--seed", "3", "--no-polish", "--initial-template", "an owl's <CLASS>.", "--device", "cpu"]
    usual = [
        "--model",
        "demo",
        "--steps",
        "1",
        "--shots",
        "1",
        "--test",
        "0",
        "--val",
        "none",
        "--log-dir",
        "runs/goal",
    ]
    code, _, err = call(capsys, "optimize", "photos", *usual, *goal, *rest, "--max-recall-drop", "20")
    assert (code, err) == (0, "")
    _, words, shots, _, _, classify, evaluate, *_ = to_copy(render_report("runs/goal"))
    Path("words.json").write_text('{"cat": ["kitten"]}')
    for command, kept in (
        (words, rest),
        (shots, [*goal, *rest]),
        (classify, rest[-2:]),
        (evaluate, [*goal, *rest[-2:]]),
    ):
        parts = shlex.split(command)
        assert [option for option in kept if option not in parts] == []
        assert "--log-dir" not in parts
    assert not set(goal) & set(shlex.split(words))
    assert shlex.split(shots)[-2:] == ["--shots", "all"]
    (recorded,) = (event for event in replay(Path("runs", "goal")) if event["event"] == "command")
    assert recorded["has_spare_images"]
    for command in (words, shots):
        assert call(capsys, *shlex.split(command)[1:], "--dry-run")[0] == 0, command


@pytest.mark.parametrize("measures", [{}, {"mean_average_precision": 50.0}])
def test_a_run_in_python_is_advised_with_its_objective(measures: dict[str, float], tmp_path: Path) -> None:
    chosen_run(tmp_path, images=25, is_spread_known=False)
    settings = '"objective": "macro_f1", "costs": {"owl": {"key": 2.0}}, "min_recall": {"it\'s": 0.5}'
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text().replace('"settings": {', f'"settings": {{{settings}, '))
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, split="validation", per_class={"owl": [0, 6]}, measures=measures)
    several, goal = ["--multi-label"] * bool(measures), "--objective macro_f1 --costs costs.json --min-recall it's=0.5"
    *advised, _, _, _, evaluate, _, _ = [
        shlex.split(text) for text in to_copy(render_report(tmp_path)) if "{" not in text
    ]
    assert evaluate[3:] == ["test_images", *goal.split()]
    parts = ["ipo-dspy", "optimize", "photos", *several, *goal.split(), *OPTIMIZE.split()[3:], "--shots", "all"]
    assert parts in advised
    assert len(advised) == (1 if several else 3)


def test_advice_shows_no_folders_above_the_data_and_repeats_no_addresses(tmp_path: Path) -> None:
    chosen_run(tmp_path, images=25, is_spread_known=False)
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text().replace("ViT-B-16-quickgelu", "local-dir:/home/ann/our-clip"))
    options = {
        "--val": ["/home/ann/sets/val photos"],
        "--test-data": [r"C:\Users\ann\test"],
        "--base": ["file:///home/ann/img"],
        "--classes": ["../../ann/names.txt"],
        "--candidates": ["sets/words.json"],
        "--also": ["local-dir:/home/ann/my-clip", "ViT-B/16"],
        "--prompt-model": ["transformers//home/ann/models/phi"],
        "--description-model": ["openai/org/gpt-4o"],
        "--prompt-model-kwargs": ["api_base=http://evil"],
        "--ray": ["evil:6379"],
        "--evil": [],
    }
    add(tmp_path, "command", data="/home/ann/sets/photos", options=options)
    page = render_report(tmp_path)
    (command,) = [text for text in to_copy(page) if "--shots" in text]
    assert command == (
        "ipo-dspy optimize photos --val 'val photos' --test-data test --base img --classes names.txt "
        "--candidates sets/words.json --also my-clip --also ViT-B/16 --prompt-model transformers/phi "
        "--description-model openai/org/gpt-4o --model our-clip --pretrained openai --shots all"
    )
    assert not [word for word in ("home", "Users", "ann/", "evil") if word in page]
    assert "Settings of language models and clusters are not recorded" in page


def test_a_search_for_words_is_advised_without_a_description_model(tmp_path: Path) -> None:
    chosen_run(tmp_path, gain=0.0)
    models = {"--prompt-model": ["openai/a"], "--description-model": ["openai/b"]}
    add(tmp_path, "command", data="photos", options=models)
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, split="validation", per_class={"owl": [0, 6]})
    (command,) = [text for text in to_copy(render_report(tmp_path)) if "--optimize class_texts" in text]
    assert "--prompt-model openai/a" in command
    assert "--description-model" not in command


def test_advice_repeats_texts_with_slashes_as_they_are(tmp_path: Path) -> None:
    chosen_run(tmp_path, images=25, is_spread_known=False)
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text().replace("ViT-B-16-quickgelu", "ViT-B/32"))
    options = ["--template", "/ or a/../b <CLASS>.", "--task-description", "../x", "--min-recall", "a/../b=0.5"]
    passed = {option: [value] for option, value in zip(options[::2], options[1::2], strict=True)}
    add(tmp_path, "command", data="-photos", options=passed)
    page = render_report(tmp_path)
    (command,) = [text for text in to_copy(page) if "--shots" in text]
    model = ["--model", "ViT-B/32", "--pretrained", "openai"]
    assert shlex.split(command) == ["ipo-dspy", "optimize", "./-photos", *options, *model, "--shots", "all"]
    assert about(page)["Model"] == "ViT-B/32, openai"


@pytest.mark.parametrize(
    "settings",
    [
        '"objective": 5',
        '"objective": ["a"]',
        '"min_recall": [1]',
        '"min_recall": "x"',
        '"min_recall": {"owl": "x"}',
        '"min_recall": {"owl": 1e400}',
    ],
)
def test_advice_leaves_out_damaged_settings(settings: str, tmp_path: Path) -> None:
    chosen_run(tmp_path, images=25, is_spread_known=False)
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text().replace('"settings": {', f'"settings": {{{settings}, '))
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, split="validation", per_class={"owl": [0, 6]})
    assert f"{OPTIMIZE} --shots all" in to_copy(render_report(tmp_path))


def test_commands_accept_the_options_that_are_repeated() -> None:
    commands = getattr(typer.main.get_command(app), "commands", {})
    for name, options in {**ACCEPTED, **dict.fromkeys(("classify", "serve", "export"), ("--device",))}.items():
        known = {
            option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert set(options) <= known


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
    assert to_copy(page)[:-6] == [f"ipo-dspy calibrate {tmp_path.name}/best.json new_images"]
    assert "images not used to choose template or words, in folders named after their classes" in page
    options = {"--image-column": ["file name"], "--costs": ["costs.csv"], "--steps": ["9"]}
    add(tmp_path, "command", data="pets.csv", options=options)
    (command, *_) = to_copy(render_report(tmp_path))
    assert command == (f"ipo-dspy calibrate {tmp_path.name}/best.json new_images --costs costs.csv")
    assert "Hardly recognized on validation images: owl 0 %. Other words were searched already" in page
    assert "never predicted correctly on validation images: owl; add images of it" in page
