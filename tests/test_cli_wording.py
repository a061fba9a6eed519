"""Error messages on the command line name its own options, and leave the text of users as it is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.main import get_command

from helpers.openai_server import KEY, OpenAIServer
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.cli.app import app
from ipo_dspy.cli.messages import RENAMED, modernize, render
from ipo_dspy.cli.options import Command
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.errors import Argument, Hint, InputError, LMCall
from ipo_dspy.run.journal import Journal


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures of each of three classes."""
    folder = tmp_path_factory.mktemp("photos")
    task = demo.load("pixel-animals", shots=2)
    for name in task.classes[:3]:
        (folder / name).mkdir()
        for i, example in enumerate(e for e in task.trainset if e.label == name):
            open_image(example.image).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    assert exit.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


TOY = ["--prompt-model", "openai/toy", "--prompt-model-kwargs", "api_base={server}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "ViT-B-61"], "; for example --model ViT-B-16"),
        (
            ["--model", "some/folder"],
            "or --model hf-hub:some/folder or --model transformers:some/folder if it is on the Hugging Face Hub",
        ),
        (["--model", "local-dir:/nowhere"], "no folder '/nowhere'; pass --model local-dir:PATH with the folder"),
        (["--model", "{photos}"], "is a folder; pass --model local-dir:{photos}"),
        (["--pretrained", "opeani"], "'ViT-B-16-quickgelu' has no weights 'opeani'"),
        (["--pretrained", "opeani"], "; for example --pretrained openai"),
        (
            ["--pretrained", "{photos}"],
            "--pretrained must be a file, not a folder, got '{photos}'; pass --model local-dir:",
        ),
        (["--model", "ViT-B-16"], "unlike 'ViT-B-16'; pass --model ViT-B-16-quickgelu, --pretrained openai"),
        (["--model", "ViT-B-16", "--dry-run"], "unlike 'ViT-B-16'; pass --model ViT-B-16-quickgelu, --pretrained"),
        (["--pretrained", "/no/such.pt", "--dry-run"], "no checkpoint file '/no/such.pt'; pass the path of an"),
        ([], "--model local-dir:/path/to/folder, or --model demo, which needs no download"),
        (["--device", "gpu"], "--device must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', got 'gpu'"),
        (
            ["--steps", "3", "--auto", "light"],
            "--steps must be None if auto is given, got 3; pass either --steps 3 or --auto light",
        ),
        (
            ["--image-column", "file"],
            "--image-column must be left out for {photos}, a folder of class folders, got 'file'; remove it: it names "
            "a column of a table",
        ),
        (["--base", "x"], "--base must be left out for {photos}, a folder of class folders, got 'x'; remove it: it is"),
        (["--classes", "a,b"], "--classes must be left out for {photos}, a folder of class folders, got ['a', 'b']; "),
        (["--shots", "none"], "--shots must be an integer of at least 1, or all, got 'none'"),
        (
            ["--test", "1.5"],
            "--test must be a fraction between 0 and 1 or a number of images, got 1.5; for example --test 0.5",
        ),
        (
            ["--max-cost", "-1"],
            "--max-cost must be a positive number, or None for no limit, got -1.0; for example --max-cost 2.5",
        ),
        ([*TOY, "--max-cost", "1"], "--max-cost cannot be enforced: LiteLLM has no price for 'openai/toy'; pass "),
        (
            [*TOY, "--max-cost", "1"],
            "; pass --max-tokens ..., or --prompt-model openai/toy --prompt-model-kwargs input_cost_per_token=... "
            "--prompt-model-kwargs output_cost_per_token=...",
        ),
        (["--prompt-model-kwargs", "5"], "--prompt-model-kwargs expects NAME=VALUE, e.g. --prompt-model-kwargs max_"),
        (
            ["--prompt-model", "groq/toy"],
            "--prompt-model 'groq/toy' needs a key; set GROQ_API_KEY in the environment, or use a self-hosted server: "
            "--prompt-model groq/toy --prompt-model-kwargs api_base=http://HOST:PORT/v1",
        ),
    ],
)
def test_errors_name_options(
    options: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with OpenAIServer({}) as server:
        filled = [option.replace("{photos}", str(photos)).replace("{server}", server.url) for option in options]
        line = said(capsys, "optimize", str(photos), "--max-described-images", "0", *filled)
    assert message.replace("{photos}", str(photos)) in line
    assert not re.search(r"(?<!-kwargs )\b[a-z_]+=['\d.]", line), line


@pytest.mark.parametrize("command", ["optimize", "classify", "describe", "evaluate", "explain", "calibrate"])
def test_a_bad_image_names_the_flag_to_continue_without_it(
    command: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, bad = tmp_path / "best.json", tmp_path / "photos"
    for file in photos.rglob("*.png"):
        (bad / file.parent.name).mkdir(parents=True, exist_ok=True)
        (bad / file.parent.name / file.name).write_bytes(file.read_bytes())
    classes = sorted(folder.name for folder in bad.iterdir())
    (bad / classes[0] / "bad.png").write_text("no picture at all")
    demo.load("pixel-animals", shots=1).program.save(str(program))
    given = [str(program)] if command in ("classify", "evaluate", "explain", "calibrate") else ["--model", "demo"]
    line = said(capsys, command, *given, str(bad))
    assert "bad.png" in line
    assert line.endswith("; pass --skip-unreadable to skip it")
    assert "skip_unreadable" not in line
    if command == "explain":  # that it does goes for the others in their own tests
        with pytest.raises(SystemExit) as exit:
            main([command, *given, str(bad), "--skip-unreadable"])
        assert exit.value.code == 0
        assert "skipped: image" in capsys.readouterr().err


def test_a_way_of_asking_needs_a_language_model(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "optimize", str(photos), "--model", "demo", "--request-mode", "single")
    assert line == "ipo-dspy: --request-mode single needs a language model; pass --prompt-model NAME"


def test_labels_that_a_program_does_not_know(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.load("pixel-animals", shots=1, classes="novel").program.save(str(tmp_path / "best.json"))
    line = said(capsys, "evaluate", "best.json", str(photos))
    assert line.endswith("correct the label, or add it: --data-classes")
    line = said(capsys, "evaluate", "best.json", str(photos), "--classes", "a,b")
    assert line.startswith("ipo-dspy: --classes must be left out for ")


def hint(text: str, *arguments: Argument, **values: object) -> InputError:
    return InputError("wrong", hint=Hint(text, *arguments, **values))


@pytest.mark.parametrize(
    ("error", "command", "message"),
    [
        (hint("pass {model}", model="a b"), "optimize", "wrong; pass --model 'a b'"),
        (hint("pass {model}", model="x"), "report", "wrong; pass model='x'"),  # it has no such option
        (hint("pass {model}", model="x"), "no command", "wrong; pass model='x'"),
        (hint("pass {allow_config_changes}", allow_config_changes=True), "demo", "wrong; pass --allow-config-changes"),
        (
            hint("pass {initial_templates}", initial_templates=["a b"]),
            "optimize",
            "wrong; pass --initial-template 'a b'",
        ),
        (hint("pass {cpus_per_worker}", cpus_per_worker=1), "optimize", "wrong; pass --ray-cpus 1"),
        (hint("pass {describer}", describer="clip"), "describe", "wrong; pass no --description-model"),
        (
            hint("pass {}", Argument("prompt_model", LMCall("a/b", (Argument("api_base", "http://x"),)))),
            "demo",
            "wrong; pass --prompt-model a/b --prompt-model-kwargs api_base=http://x",
        ),
        (InputError("must be 1", argument="seed", value="a=1"), "demo", "--seed must be 1, got 'a=1'"),
    ],
)
def test_arguments_are_options_of_the_command(error: InputError, command: str, message: str) -> None:
    assert render(error, command) == message


@pytest.mark.parametrize("option", ["--ray-cpus 2", "--ray-gpus 0", "--ray-workers 3", "--ray-store x"])
def test_what_is_for_a_cluster_is_refused_without_one(
    option: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, "optimize", str(photos), "--model", "demo", *option.split())
    assert f"{option.split()[0]} needs a cluster; for example --ray auto" in line


@pytest.mark.parametrize(
    "text",
    ["a photo with seed=0 in it", "a (lm=2) photo", "error (device=1) bad", "runs/steps=3", "{model}", "model=''"],
)
def test_text_of_users_stays_as_it_is(text: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in said(capsys, "optimize", str(photos), "--model", "demo", "--template", text)
    assert render(hint("pass {template}", template=text), "report") == f"wrong; pass template={text!r}"
    assert render(InputError(text), "optimize") == text


def test_earlier_spellings_are_accepted_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["demo", "--asking", "auto", "--out", str(tmp_path), "--max-errors", "2", "--dry-run"])
    out, err = capsys.readouterr()
    assert exit.value.code == 0
    assert "0 calls" in err + out
    assert err.splitlines()[0] == (
        "ipo-dspy: deprecated: --asking is now --request-mode, --out is now --log-dir, "
        "--max-errors is now --max-consecutive-errors"
    )
    with pytest.raises(SystemExit) as exit:
        main(["demo", "list"])
    out, err = capsys.readouterr()
    assert (exit.value.code, err) == (0, "ipo-dspy: deprecated: demo list is now demo --list\n")
    assert "pixel-animals" in out


@pytest.mark.parametrize("mode", [("list", "batch"), ("draws", "samples"), ("singles", "single")])
def test_earlier_request_modes(mode: tuple[str, str]) -> None:
    assert modernize(["demo", "--asking", mode[0]], "demo")[0] == ["demo", "--request-mode", mode[1]]
    assert modernize(["demo", f"--asking={mode[0]}"], "demo")[0] == ["demo", f"--request-mode={mode[1]}"]


def test_earlier_spellings_are_hidden(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for command in ("demo", "optimize", "bench", "doctor"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = set(re.findall(r"(?<![\w-])--[\w-]+", capsys.readouterr().out))
        assert not shown & RENAMED.keys()
        assert "--prompt-model" in shown


def test_unknown_choices_list_the_known(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, known in (
        ("--auto", "'light', 'medium', 'heavy'"),
        ("--request-mode", "'auto', 'batch', 'samples', 'si"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(["optimize", str(photos), option, "huge"])
        shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert (exit.value.code, known in shown) == (2, True), shown


def commands(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from commands(command) if hasattr(command, "commands") else [command]


def test_every_command_refuses_repeated_options() -> None:
    assert [command.name for command in commands(get_command(app)) if not isinstance(command, Command)] == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["export", "best.json", "--to", "npz", "--to", "onnx"], "--to"),
        (["evaluate", "best.json", "photos", "--device=cpu", "--device", "cpu"], "--device"),
        (["demo", "--polish", "--no-polish"], "--polish/--no-polish"),
        (["demo", "--lm", "openai/toy", "--prompt-model", "openai/toy"], "--prompt-model"),
        (["cache", "clear", "--model", "one", "--model", "other"], "--model"),
    ],
)
def test_an_option_with_one_value_is_passed_once(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"ipo-dspy: {option} must be passed at most once, got it 2 times; remove the others"
    assert said(capsys, *arguments) == message


def test_switches_lists_and_help_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be a number from 0 to 1" in said(
        capsys, "demo", "--min-recall", "cat=2", "--min-recall", "dog=2", "--json", "--json"
    )
    with pytest.raises(SystemExit) as exit:
        main(["export", "--to", "npz", "--to", "onnx", "--help"])
    assert exit.value.code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "nowhere"],
        ["report", "{tmp}"],
        ["report", "{program}"],
        ["report", "{run}", "--out", "nowhere/report.html"],
        ["watch", "nowhere", "--once"],
        ["watch", "{program}", "--no-wait"],
        *(
            [command, program, *data]
            for command, *data in (
                ["export", "--to", "npz"],
                ["serve"],
                ["check", "{photos}"],
                ["calibrate", "{photos}"],
                ["classify", "{photos}"],
                ["evaluate", "{photos}"],
                ["explain", "{photos}"],
            )
            for program in ("nowhere.json", "{photos}", "{empty}", "{other}")
        ),
    ],
    ids=" ".join,
)
def test_paths_that_cannot_be_used_are_one_line_and_exit_code_2(
    arguments: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / f"{name}.json" for name in ("empty", "other", "program")}
    places["empty"].write_bytes(b"")
    places["other"].write_text('{"answer": 42}')
    ClipClassifier(["cat", "dog"], model="demo").save(places["program"])
    with Journal(tmp_path / "run") as journal:
        journal.append({"event": "run_finished", "status": "finished", "seconds": 1.0, "calls": 0, "tokens": 0})
    values = {**places, "photos": photos, "tmp": tmp_path, "run": tmp_path / "run"}
    with pytest.raises(SystemExit) as exit:
        main([argument.format_map(values) for argument in arguments])
    out, err = capsys.readouterr()
    assert (exit.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert re.match("ipo-dspy: .*; .*", err)
