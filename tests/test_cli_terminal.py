"""Text from outside on the terminal: no control character of a server, file, or folder reaches it."""

import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import ipo_dspy
from helpers.openai_server import KEY, OpenAIServer, Reply
from ipo_dspy import IPO, demo
from ipo_dspy.cli import main, terminal
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.run.journal import Journal

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\x9b31m\r[bold]x[/red]"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CLI = Path(ipo_dspy.__file__).parent / "cli"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, whose pictures have names that a terminal would obey."""
    folder = tmp_path_factory.mktemp("photos")
    task = demo.load("pixel-animals", shots=1)
    for example in task.trainset[:2]:
        (folder / example.label).mkdir()
        open_image(example.image).save(folder / example.label / f"a{HOSTILE.replace('/', '')}.png")
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "best.json"
    demo.load("pixel-animals", shots=1).program.save(file)
    return file


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch, no_cache: None) -> Iterator[None]:
    """With a key, and what `guard` sets put back."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def assert_no_controls_in(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return all that a command shows, once it is known to hold no control characters."""
    with pytest.raises(SystemExit):
        main(list(arguments))
    out, err = capsys.readouterr()
    assert RAW.search(out + err) is None, out + err
    return out + err


@pytest.mark.parametrize(
    "command",
    [
        ("classify", "PROGRAM", "PHOTOS"),
        ("evaluate", "PROGRAM", "PHOTOS"),
        ("describe", "PHOTOS", "--model", "demo"),
        ("describe", "PHOTOS", "--model", "demo", "--skip-unreadable"),
        ("explain", "PROGRAM", "PHOTOS"),
        ("calibrate", "PROGRAM", "PHOTOS", "--unknown", "PHOTOS", "--out", "OUT.json"),
        ("optimize", "PHOTOS", "--model", "demo", "--steps", "1", "--test", "0", "--log-dir", "OUT"),
    ],
    ids=lambda command: command[0],
)
def test_names_of_files(
    command: tuple[str, ...], photos: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    next(iter(broken.iterdir())).joinpath(f"b{HOSTILE.replace('/', '')}.png").write_bytes(b"no picture")
    for folder in (photos, broken):
        places = {"PHOTOS": str(folder), "PROGRAM": str(program), "OUT": str(tmp_path / folder.name / "run")}
        places["OUT.json"] = str(tmp_path / "calibrated.json")
        assert_no_controls_in(capsys, *(places.get(word, word) for word in command))


@pytest.mark.parametrize("command", ["classify", "evaluate"])
@pytest.mark.parametrize("depth", range(6))
def test_fields_of_a_program_file(
    command: str, depth: int, photos: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each text of the file in turn is hostile, and each name."""
    texts: list[str] = []

    def spoiled(value: object) -> object:
        if isinstance(value, dict):
            return {name: spoiled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [spoiled(inner) for inner in value]
        if isinstance(value, str):
            texts.append(value)
            return value + HOSTILE if len(texts) % 6 == depth else value
        return value

    file = tmp_path / "best.json"
    file.write_text(json.dumps(spoiled(json.loads(program.read_text()))))
    assert_no_controls_in(capsys, command, str(file), str(photos))
    file.write_text(json.dumps({**json.loads(program.read_text()), HOSTILE: HOSTILE}))
    assert_no_controls_in(capsys, command, str(file), str(photos))


@pytest.mark.end_to_end
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
def test_what_a_server_says(status: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply(f"{HOSTILE} of a <CLASS>", status=status)
    asked = (
        "--model",
        "demo",
        "--steps",
        "1",
        "--test",
        "0",
        "--max-consecutive-errors",
        "1",
        "--log-dir",
        str(tmp_path / "run"),
    )
    with OpenAIServer({"Say: ready": "ready", "": reply}) as server:
        own = (f"api_base={server.url}", "num_retries=0")
        lm, vlm = ((option, "openai/toy", *(a for one in own for a in (f"{option}-kwargs", one))) for option in OPTIONS)
        output = assert_no_controls_in(capsys, "optimize", str(photos), *lm, *asked)
        output += assert_no_controls_in(capsys, "describe", str(photos), *vlm)
        output += assert_no_controls_in(capsys, "doctor", *vlm)
    assert "[U+001B]" in output


OPTIONS = ("--prompt-model", "--description-model")


def test_a_journal_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = demo.load("pixel-animals", shots=1)
    IPO(proposer="evolution", steps=1, describer=None, log_dir=tmp_path).compile(task.program, task.trainset)
    with Journal(tmp_path) as journal:
        journal.append({"event": "error", "predictor": "self", "step": 1, "message": HOSTILE})
        journal.append(
            {
                "event": "rejection",
                "predictor": "self",
                "step": 1,
                "text": HOSTILE,
                "reason": HOSTILE,
                "message": HOSTILE,
            }
        )
    assert "[U+001B]" in assert_no_controls_in(capsys, "watch", "--once", str(tmp_path))
    assert_no_controls_in(capsys, "report", str(tmp_path))


def test_markup_of_others_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    from ipo_dspy.cli import output as show

    show.rows("[red]title[/blue]", ["[a]"], [("[bold]cell[/red]",)])
    show.note("[bold]note[/red]")
    show.template("[bold]a <CLASS>[/red]")
    out, err = capsys.readouterr()
    for text in ("[red]title[/blue]", "[bold]cell[/red]", "[bold]a <CLASS>[/red]"):
        assert text in out
    assert "[bold]note[/red]" in err


def test_anything_that_is_rendered_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=Text(HOSTILE))
    table.add_column(Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    terminal.Terminal(width=300).print(table, Text(HOSTILE))
    terminal.line(HOSTILE)
    assert RAW.search(capsys.readouterr().out) is None


def test_log_messages_and_tracebacks_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.guard()
    logger = logging.Logger("of-a-library")
    logger.addHandler(logging.StreamHandler())
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        logger.exception("failed: %s %d", HOSTILE, 5)
        sys.excepthook(ValueError, error, error.__traceback__)
    err = capsys.readouterr().err
    assert err.count("Traceback") == 2
    assert err.count("[U+001B]") > 4
    assert RAW.search(err) is None


def test_warnings_are_printable_and_show_no_source(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        terminal.guard()
        warnings.warn(f"drops {HOSTILE}", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: drops ")
    assert RAW.search(first) is None
    assert "test_cli_terminal.py" in rest[0]  # this one is for programmers


def test_nothing_else_writes_to_the_terminal() -> None:
    allowed = {"terminal.py", "doctor_environment.py"}  # the latter asks for the width alone
    ways = re.compile(r"(?<!\w)Console\(|typer\.echo\(|(?<![\w.])print\(|sys\.std(?:out|err)\.write\((?!json|\"ipo)")
    for file in CLI.glob("*.py"):
        found = {} if file.name in allowed else ways.findall(file.read_text())
        assert set(found) <= {"typer.echo(", "print("} & ALLOWED.get(file.name, set()), file


ALLOWED = {"app.py": {"typer.echo("}, "doctor_models.py": {"print("}, "option_groups.py": {"print("}}
"""The version; the script of a process whose output is read; and an example."""
