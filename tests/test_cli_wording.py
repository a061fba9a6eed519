"""What the command line says of mistakes names its own options, whoever in the package found the mistake."""

import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.openai_server import KEY, OpenAIServer
from ipo_dspy import demo
from ipo_dspy.cli import main
from ipo_dspy.cli.wording import in_options
from ipo_dspy.clip.image_features import open_image


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


TOY = ["--lm", "openai/toy", "--lm-arg", "api_base={server}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "ViT-B-61"], "write e.g. --model ViT-B-16"),
        (["--model", "some/folder"], "or --model hf-hub:some/folder if it is on the Hugging Face hub"),
        (["--model", "local-dir:/nowhere"], "no folder '/nowhere'; write --model local-dir:PATH with the folder"),
        (["--model", "{photos}"], "is a folder; write --model local-dir:{photos}"),
        (["--pretrained", "opeani"], "'ViT-B-16-quickgelu' has no weights 'opeani'"),
        (["--pretrained", "opeani"], "; write e.g. --pretrained openai"),
        (["--model", "ViT-B-16"], "unlike 'ViT-B-16'; write --model ViT-B-16-quickgelu, --pretrained openai"),
        ([], "or --model local-dir:/path/to/folder, or --model demo, which needs no download"),
        (["--device", "gpu"], "unknown device 'gpu'; write 'auto', 'cpu',"),
        (["--steps", "3", "--auto", "light"], "steps must be None with --auto light, got 3"),
        (["--auto", "huge"], "auto must be one of 'light', 'medium', 'heavy', got 'huge'"),
        (["--test", "1.5"], "--test 1.5 is not a share between 0 and 1; write e.g. --test 0.5"),
        (["--max-cost", "-1"], "--max-cost -1.0 is not a number above 0; write e.g. --max-cost 2.5, or leave it out"),
        ([*TOY, "--asking", "one"], "request_mode must be one of 'auto', 'batch', 'samples', 'single', got 'one'"),
        ([*TOY, "--max-cost", "1"], "--max-cost 1 cannot be kept: LiteLLM has no price for --lm 'openai/toy'; write "),
        (
            [*TOY, "--max-cost", "1"],
            "write --max-tokens ..., or --lm openai/toy --lm-arg input_cost_per_token=... --lm-arg output_cost_",
        ),
        (["--lm-arg", "5"], "--lm-arg takes NAME=VALUE with a Python name; write e.g. --lm-arg max_tokens=500"),
        (["--lm", "groq/toy"], "--lm groq/toy needs a key: set GROQ_API_KEY in the environment, or name a server of"),
    ],
)
def test_mistakes_are_told_in_options(
    options: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with OpenAIServer({}) as server:
        filled = [option.replace("{photos}", str(photos)).replace("{server}", server.url) for option in options]
        line = said(capsys, "optimize", str(photos), "--max-descriptions", "0", *filled)
    assert message.replace("{photos}", str(photos)) in line
    assert not re.search(r"(?<!-arg )\b[a-z_]+=['\d.]", line), line


@pytest.mark.parametrize("command", ["optimize", "classify", "describe", "evaluate", "explain"])
def test_a_bad_image_names_the_flag_to_go_on_without_it(
    command: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, bad = tmp_path / "best.json", tmp_path / "photos"
    for file in photos.rglob("*.png"):
        (bad / file.parent.name).mkdir(parents=True, exist_ok=True)
        (bad / file.parent.name / file.name).write_bytes(file.read_bytes())
    classes = sorted(folder.name for folder in bad.iterdir())
    (bad / classes[0] / "bad.png").write_text("no picture at all")
    demo.load("pixel-animals", shots=1).program.save(str(program))
    given = [str(program)] if command in ("classify", "evaluate", "explain") else ["--model", "demo"]
    line = said(capsys, command, *given, str(bad))
    assert "bad.png" in line
    assert "--skip-bad goes on without it" in line
    assert "skip_unreadable" not in line
    if command == "explain":  # that it does goes for the others in their own tests
        with pytest.raises(SystemExit) as exit:
            main([command, *given, str(bad), "--skip-bad"])
        assert exit.value.code == 0
        assert "skipped: image" in capsys.readouterr().err


def test_a_way_of_asking_needs_a_language_model(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "optimize", str(photos), "--model", "demo", "--asking", "single")
    assert line == "ipo-dspy: --asking single says how a language model is asked; name one: --lm NAME"


def test_labels_that_a_program_does_not_know(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.load("pixel-animals", shots=1, classes="novel").program.save(str(tmp_path / "best.json"))
    line = said(capsys, "evaluate", "best.json", str(photos))
    assert line.endswith("mend the label or score on the classes of the data: --data-classes")


@pytest.mark.parametrize(
    ("text", "command", "told"),
    [
        ("write model='a b'", "optimize", "write --model 'a b'"),
        ("write model='x'", "report", "write model='x'"),  # it has no such option
        ("write model='x'", "no command", "write model='x'"),
        ("the model was trained, seed was 0 and is 4", "demo", "the model was trained, --seed was 0 and is 4"),
        ("a provider said model=gpt-4o", "optimize", "a provider said model=gpt-4o"),
        ("write allow_config_changes=True (--allow-changes) to go on", "demo", "write --allow-changes to go on"),
        ("description_model 'x' fails, or write describer='clip', which needs none", "describe",
         "--vlm 'x' fails, or leave --vlm out: CLIP then describes"),
    ],
)  # fmt: skip
def test_what_is_an_option_of_the_command_and_nothing_else(text: str, command: str, told: str) -> None:
    assert in_options(text, command) == told


@pytest.mark.parametrize("option", ["--ray-cpus 2", "--ray-gpus 0", "--ray-workers 3", "--ray-store x"])
def test_what_is_for_a_cluster_is_refused_without_one(
    option: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, "optimize", str(photos), "--model", "demo", *option.split())
    assert f"{option.split()[0]} is for a cluster; name one: --ray auto" in line


def test_what_the_user_wrote_stays_as_it_is() -> None:
    """A folder may be called like an argument, and end in what only looks like Python."""
    for text in ("'runs/seed=0' holds another run", r"no folder '/data/steps=3'", r"pretrained='a\xz' is odd"):
        assert in_options(text, "optimize") == text.replace("pretrained=", "--pretrained ")
