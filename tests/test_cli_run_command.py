"""The command line around a run: stopping and resuming, limits, faults, settings of models, folders of earlier runs."""

import json
import os
import re
import shlex
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_calls import call
from helpers.cli_process import Processes
from helpers.openai_server import KEY, Reply, Writer
from ipo_dspy import __version__, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.optimizer import final_stage
from ipo_dspy.run.journal import FILE_NAME, replay

STEPS = 5


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture of each of six classes."""
    folder = tmp_path_factory.mktemp("photos")
    for example in demo.load("pixel-animals", shots=1).trainset[:6]:
        (folder / example.label).mkdir()
        open_image(example.image).save(folder / example.label / "1.png")
    return folder


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    folder = tmp_path_factory.mktemp("processes")
    return Processes(folder, {"HOME": str(folder), "OPENAI_API_KEY": KEY}, parent=forking_parent)


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The trials of a run that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with Writer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        with pytest.raises(SystemExit):
            main(search(photos, out, server))
    return trials(out)


def search(photos: Path, out: Path | str, server: Writer | None, *more: str, model: str = "openai/toy") -> list[str]:
    """Arguments of a short search, some of which others replace; without a server by evolution."""
    once = ["--prompt-model-kwargs", "num_retries=0", "--prompt-model-kwargs", "cache=false"]
    asked = (
        [] if server is None else ["--prompt-model", model, "--prompt-model-kwargs", f"api_base={server.url}", *once]
    )
    usual = {"--model": "demo", "--shots": "1", "--test": "0", "--prompts-per-step": "2", "--steps": str(STEPS)}
    short = [part for pair in usual.items() if pair[0] not in more for part in pair]
    return ["optimize", str(photos), *short, "--log-dir", str(out), *asked, *more]


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """The trials of the search, without those that took the winner apart."""
    events: list[Any] = [e for e in replay(folder) if e["event"] == "trial" and e.get("stage") != "refine"]
    return [(e["index"], e["step"], e["template"], e["accuracy"]) for e in events]


def steps(folder: Path) -> list[int]:
    return [event["step"] for event in replay(folder) if event["event"] == "step"]


def command(err: str) -> str:
    """Return the printed command that resumes the run."""
    (line,) = (line for line in err.splitlines() if "resume with: " in line)
    return line.partition("resume with: ")[2]


class Gated(Writer):
    """Holds back the answer to its third request for templates until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate, self.waited_in_vain = threading.Event(), threading.Event(), False

    def answer(self, body: dict[str, Any]) -> Reply:
        reply = super().answer(body)
        if self.asked == 3 and not self.gate.is_set():
            self.reached.set()
            self.waited_in_vain = not self.gate.wait(60)
        return reply


def interrupt(child: int, processes: Processes) -> None:
    """Ctrl-C, and wait until the process has said that it has noticed."""
    os.kill(child, signal.SIGINT)
    while "stopping after this step" not in processes.so_far():
        time.sleep(0.01)


@pytest.mark.end_to_end
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_ctrl_c_stops_after_the_step_and_the_printed_command_resumes(
    processes: Processes,
    photos: Path,
    undisturbed: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a run"  # the command must quote it
    with Gated() as server:
        child = processes.begin(*search(photos, out, server))
        assert server.reached.wait(60)
        interrupt(child, processes)
        server.gate.set()
        done = processes.end()
        assert (done.code, server.asked, steps(out)) == (130, 3, [1, 2, 3])
        assert "best template" in done.out
        assert "; stopped" in done.out
        assert (out / "best.json").is_file()
        assert trials(out) == undisturbed[: len(trials(out))]

        name, *arguments = shlex.split(command(done.err))
        code, _, _ = call(capsys, *arguments)
    assert (name, code, server.asked) == ("ipo-dspy", 0, STEPS)
    assert trials(out) == undisturbed


@pytest.mark.end_to_end
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_ctrl_c_twice_stops_at_once_and_the_journal_is_whole(
    processes: Processes,
    photos: Path,
    undisturbed: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with Gated() as server:
        child = processes.begin(*search(photos, out, server))
        assert server.reached.wait(60)
        interrupt(child, processes)
        os.kill(child, signal.SIGINT)
        done = processes.end()  # while the answer is still held back
        assert not server.waited_in_vain
        server.gate.set()
        assert done.code == 130
        assert "Traceback" not in done.err
        assert done.err.splitlines()[-1] == "ipo-dspy: interrupted"
        assert f"responses and trials so far are in {out / FILE_NAME}; resume with: " in done.err
        assert steps(out)[:1] == [1]
        assert 3 not in steps(out)
        content = (out / FILE_NAME).read_bytes()
        assert content.endswith(b"\n")
        assert all(json.loads(line)["event"] for line in content.splitlines())
        assert call(capsys, *shlex.split(command(done.err))[1:])[0] == 0
    assert trials(out) == undisturbed


@pytest.mark.end_to_end
def test_a_server_that_dies_leaves_the_best_and_the_command(
    photos: Path, undisturbed: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    gone = dict.fromkeys(range(2, 1000), Reply("gone", status=503))
    with Writer(gone) as server:
        code, printed, err = call(capsys, *search(photos, out, server, "--max-consecutive-errors", "2"))
        assert (code, server.asked) == (1, 4)
        assert "; the language model failed" in printed
        assert err.splitlines()[-1].startswith("ipo-dspy: the language model failed (")
        assert "gone" in err
        said = [line for line in err.splitlines() if line.startswith("step 3: ")]
        assert len(said) == 2
        assert f"(asked at 127.0.0.1:{server.port})" in said[0]
        saved = json.loads((out / "best.json").read_text())
        assert any(e["template"] in json.dumps(saved) for e in replay(out) if e["event"] == "trial")
        server.odd.clear()
        assert call(capsys, *shlex.split(command(err))[1:])[0] == 0
    assert trials(out) == undisturbed


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("I'm sorry, but I can't help with that."), "gave no proposals"),
        (Reply("", finish_reason="content_filter"), "content filter"),
        (Reply("<INS>a picture of a dog</INS>"), "proposals were rejected"),
    ],
    ids=["refusals", "content filter", "never a placeholder"],
)
@pytest.mark.parametrize("steps", ["1", "9"])
def test_a_model_that_gives_nothing_usable_leaves_the_start_template_and_the_command(
    reply: Reply, why: str, steps: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with Writer(dict.fromkeys(range(1000), reply)) as server:
        code, _, err = call(capsys, *search(photos, out, server, "--steps", steps))
        assert code == 1
        assert err.splitlines()[-1].startswith("ipo-dspy: the language model failed (")
        assert why in err
        assert "try another model or --request-mode single (requires --allow-config-changes" in err
        assert "a photo of a <CLASS>." in (out / "best.json").read_text()
        asked = server.asked
        server.odd.clear()
        resumed = shlex.split(command(err))[1:]
        resumed[resumed.index("--steps") + 1] = "12"
        again, _, err = call(capsys, *resumed)
        assert (again, server.asked > asked) == (0, True)
    assert [event["status"] for event in replay(out) if event["event"] == "run_finished"][-1] == "finished"


@pytest.mark.parametrize("option", ["--prompt-model", "--description-model"])
def test_a_wrong_key_is_one_line_before_anything_is_encoded(
    option: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded before the key was tried")

    monkeypatch.setattr("ipo_dspy.clip.image_features._encode", explode)
    out = tmp_path / "run"
    with Writer() as server, Refusing() as refusing:
        asked = [option, "openai/refused", f"{option}-kwargs", f"api_base={refusing.url}"]
        answering = server if option == "--description-model" else None
        code, printed, err = call(capsys, *search(photos, out, answering, *asked))
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert "set OPENAI_API_KEY to a valid API key" in err
    assert KEY not in err
    assert len(refusing.requests) == 1
    assert not (out / "best.json").exists()


class Refusing(Writer):
    def answer(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        return Reply(f"Incorrect API key provided: {KEY}", status=401)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("limit", "model", "row", "asked"),
    [
        (["--max-lm-calls", "3"], "toy", ["calls", "3", "3"], 3),
        (["--max-tokens", "200"], "toy", ["tokens", "TOKENS", "200"], 2),
        (["--max-cost", "0.0001"], "gpt-3.5-turbo", ["USD", "0.0002", "0.0001"], 2),
    ],
    ids=["calls", "tokens", "cost"],
)
def test_limits_reach_the_run_and_are_shown_next_to_the_spending(
    limit: list[str],
    model: str,
    row: list[str],
    asked: int,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = [*limit, "--max-seconds", "5000"]
    with Writer() as server:
        code, printed, err = call(capsys, *search(photos, tmp_path / "run", server, *more, model=f"openai/{model}"))
        assert (code, len(server.requests)) == (0, asked)
    assert f"{limit[0]} reached; raise it; resume with: ipo-dspy optimize" in err
    table = {cells[0]: cells for line in printed.splitlines() if (cells := [c.strip() for c in line.split("│")[1:-1]])}
    assert table[row[0]] == [str(server.tokens) if cell == "TOKENS" else cell for cell in row]
    assert table["seconds"][2] == "5000"
    assert ("calls of unknown price" in table["USD"][1]) == (model == "toy")
    assert f"; {limit[0]} reached" in printed


def test_a_limit_has_one_name_in_what_is_printed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer() as server:
        eyes = [
            "--description-model",
            "openai/eyes",
            "--description-model-kwargs",
            f"api_base={server.url}",
            "--description-model-kwargs",
            "cache=false",
        ]
        code, printed, err = call(capsys, *search(photos, tmp_path / "run", server, *eyes, "--max-lm-calls", "4"))
    assert code == 0
    assert "an image could not be described: the limit of 4 LLM calls is reached (4 spent)" in err
    assert "max_lm_calls" not in printed + err
    assert "1 template tried, 0 rejected, 4 LLM calls, " in printed


def test_a_limit_on_time_ends_a_search_without_language_models(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, _ = call(capsys, *search(photos, tmp_path / "run", None, "--max-seconds", "0.0001"))
    assert code == 0
    assert "; --max-seconds reached" in printed
    assert trials(tmp_path / "run")


def test_a_limit_on_cost_is_refused_where_the_price_is_unknown(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer() as server:
        code, printed, err = call(capsys, *search(photos, tmp_path / "run", server, "--max-cost", "1"))
    assert (code, printed, server.requests) == (2, "", [])
    assert "LiteLLM has no price for 'openai/toy'" in err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_an_estimate_and_sends_no_request(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer() as server:
        eyes = [
            "--description-model",
            "openai/eyes",
            "--description-model-kwargs",
            f"api_base={server.url}",
            "--dry-run",
        ]
        dry = search(photos, tmp_path / "run", server, *eyes, model="openai/gpt-4o-mini")
        code, printed, _ = call(capsys, *dry)
        assert code == 0
        for word in ("no requests were sent", "ping", "descriptions", "templates", "+ unknown"):
            assert word in printed
        code, printed, _ = call(capsys, *dry, "--json")
        found = json.loads(printed)
        assert (code, found["calls"], found["cost"]) == (0, 2 + 6 + STEPS + 1, None)
        assert found["tokens"] == sum(i["prompt_tokens"] + i["completion_tokens"] for i in found["items"])
        priced = {item["what"] for item in found["items"] if item["cost"]}
        assert priced == {"ping", "templates", "rewordings"}
        assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = search(photos, tmp_path / "run", None, "--dry-run", "--objective", "macro_f1", "--choose", "best")
    code, printed, err = call(capsys, *dry)
    assert code == 0
    assert {line[:16].rstrip(): line[16:] for line in printed.splitlines()} == {
        "data": "6 classes; 6 training, 0 validation, 0 test images",
        "model": "demo",
        "search": f"{STEPS} steps, about {2 * STEPS} proposed templates, from the built-in evolutionary search",
        "scored": "by macro F1 on 6 training images",
        "selected": "the leading templates are compared in pairs on the training images, and the best one is selected",
        "written to": f"{tmp_path / 'run'} (journal.jsonl, best.json, report.html)",
    }
    assert err == "no language model is used and no key is needed: 0 calls, 0 tokens, 0 USD\n"
    words = ["--test", "0.5", "--min-recall", "cat=0.5", "--prompt-model", "openai/gpt-4o-mini", "--dry-run", "--json"]
    demo.export("pixel-animals", tmp_path / "photos")
    code, printed, _ = call(capsys, *search(tmp_path / "photos", tmp_path / "run", None, *words))
    plan = json.loads(printed)["plan"]
    assert plan["search"].endswith("from openai/gpt-4o-mini")
    assert plan["scored"] == "by accuracy with recall floors on 50 training images"
    assert plan["selected"].endswith(
        "on the validation images, and the plainest of those that cannot be told apart is selected"
    )
    assert plan["tested"] == "start, best, and the prompts for ImageNet on 1150 test images"
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_search_for_words_alone_selects_no_template(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.json").write_text('{"cat": ["kitten"]}')
    given = ["--optimize", "class_texts", "--candidates", str(tmp_path / "texts.json"), "--dry-run", "--json"]
    alone = ["optimize", str(photos), "--model", "demo", "--shots", "1", "--test", "0", *given]
    _, printed, _ = call(capsys, *alone)
    plan = json.loads(printed)["plan"]
    assert plan["words"] == "other texts for the classes are tried; the template stays"
    assert not {"search", "selected"} & plan.keys()
    _, printed, _ = call(capsys, *alone, "--initial-template", "paper")
    plan = json.loads(printed)["plan"]
    assert plan["selected"].startswith("the leading templates are compared")
    assert plan["words"] == "then other texts for the classes are tried"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"zebra": ["x"]}, "--candidates must be given for names of classes, got 'zebra'"),
        ({"cat": ["kitten", "bat"]}, "text 'bat' of class 'cat' must not be a text or the name of class 'bat'"),
        (None, "--min-recall must be given for names of classes, got 'zebra'"),
    ],
)
def test_a_dry_run_finds_what_the_run_would_refuse(
    texts: dict[str, list[str]] | None,
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    words = ["--optimize", "template", "--optimize", "class_texts", "--candidates", str(tmp_path / "texts.json")]
    command = search(photos, tmp_path / "run", None, *(["--min-recall", "zebra=0.5"] if texts is None else words))
    dry, run = (call(capsys, *command, *flag) for flag in (["--dry-run"], []))
    assert dry[0] == run[0] == 2
    assert message in dry[2]
    assert dry[2] in run[2]


def test_the_number_of_templates_tried_says_how_many_were_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_stage, "COMPARED", 2)
    _, printed, _ = call(capsys, *search(photos, tmp_path / "run", None, "--choose", "best"))
    assert re.search(r"\n11 templates tried \(\d of them compared in pairs\), ", printed)
    assert re.search(r"\d templates compared in pairs", printed)


@pytest.mark.parametrize("option", ["--prompt-model", "--description-model"])
def test_a_server_that_is_not_there_leaves_one_line_and_no_folder(
    option: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with socket.socket() as taken:  # bound, and nothing listens
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        asked = [option, "openai/toy", f"{option}-kwargs", f"api_base=http://{place}/v1"]
        code, printed, err = call(capsys, *search(photos, tmp_path / "run", None, *asked))
        assert (code, printed) == (2, "")
        assert err == f"ipo-dspy: {option} 'openai/toy': nothing listens at {place}; {CORRECT}\n"
        assert list(tmp_path.iterdir()) == []
        assert call(capsys, *search(photos, tmp_path / "run", None, *asked, "--dry-run"))[0] == 0


CORRECT = "start the server, or correct its api_base"


def test_a_dry_run_needs_no_key(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    asked = ["--prompt-model", "openai/gpt-4o-mini", "--description-model", "openai/gpt-4o-mini", "--json"]
    code, printed, _ = call(capsys, *search(photos, tmp_path / "run", None, *asked, "--dry-run"))
    assert code == 0
    assert json.loads(printed)["cost"] > 0
    code, _, err = call(capsys, *search(photos, tmp_path / "run", None, *asked))
    assert code == 2
    assert "--prompt-model 'openai/gpt-4o-mini' needs a key; set OPENAI_API_KEY in the environment" in err


def test_asking_again_is_said_when_the_first_try_fails(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = Reply("busy", status=503, headers=(("Retry-After", "0"),))
    with Writer({1: busy, 2: busy}) as server:
        given = [
            "--prompt-model",
            "openai/toy",
            "--prompt-model-kwargs",
            f"api_base={server.url}",
            "--prompt-model-kwargs",
            "cache=false",
        ]
        code, _, err = call(capsys, *search(photos, tmp_path / "run", None, *given))
    assert code == 0
    (line,) = err.splitlines()
    assert line.startswith(f"openai/toy at 127.0.0.1:{server.port} gave no answer (")
    assert line.endswith("busy); trying up to 6 times with exponential back-off")


def test_settings_of_a_model_arrive_at_the_wire(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--prompt-model-kwargs", "max_tokens=77", "--prompt-model-kwargs", "temperature=0.25", "--steps", "1"]
    with Writer() as server:
        assert call(capsys, *search(photos, tmp_path / "run", server, *more))[0] == 0
    body = server.requests[-1]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (77, 0.25, "toy")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("api_key={}", "--prompt-model-kwargs api_key=... would expose a secret in the process list"),
        ("apikey={}", "would expose a secret"),
        ('headers={{"X-Key": "{}"}}', "would expose a secret"),
        ('extra_headers={{"X-Key": "{}"}}', "would expose a secret"),
        ('extra_body={{"a": {{"api-key": "{}"}}}}', "--prompt-model-kwargs extra_body=... would expose a secret"),
        ("api-key={}", "expects NAME=VALUE"),
        ("{}", "expects NAME=VALUE"),
    ],
)
@pytest.mark.parametrize("given", [["--prompt-model", "openai/toy"], []], ids=["with a model", "without"])
def test_keys_are_refused_as_arguments_and_not_repeated(
    argument: str, message: str, given: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = search(photos, "run", None, *given, "--prompt-model-kwargs", argument.format("planted0123456789"))
    code, printed, err = call(capsys, *arguments)
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert "planted" not in err
    assert not Path("run").exists()


def test_settings_without_a_model_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--prompt-model", "--description-model"):
        code, _, err = call(capsys, *search(photos, "run", None, f"{option}-kwargs", "max_tokens=5"))
        assert (code, err.splitlines()) == (
            2,
            [f"ipo-dspy: {option}-kwargs max_tokens=... needs a model; pass {option} NAME"],
        )


def test_a_secret_in_an_address_is_not_in_the_printed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipo_dspy.cli import resume

    address = "http://me:pla/nted@host/0f9d8c7b6a5e4d3c/v1?key=planted&b=1"
    monkeypatch.setattr(resume, "_invoked", ["demo", "--prompt-model-kwargs", f"api_base={address}"])
    printed = "'api_base=http://USER:PASSWORD@host/KEY/v1?key=VALUE&b=VALUE'"
    assert resume.command(Path("a b")) == f"ipo-dspy demo --prompt-model-kwargs {printed} --log-dir 'a b'"


@pytest.mark.end_to_end
def test_a_finished_run_is_printed_again_and_other_settings_are_refused_unless_allowed(
    photos: Path, undisturbed: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with Writer() as server:
        same = search(photos, out, server, "--json")
        first = json.loads(call(capsys, *same)[1])
        asked = len(server.requests)
        code, printed, _ = call(capsys, *same)
        again = json.loads(printed)
        assert (code, len(server.requests)) == (0, asked)
        assert {**again, "seconds": 0} == {**first, "seconds": 0}
        assert trials(out) == undisturbed

        before = (out / FILE_NAME).read_bytes()
        other = ("--prompts-per-step", "3", "--seed", "4", "--steps", str(STEPS + 1))
        changed = search(photos, out, server, "--json", *other)
        code, printed, err = call(capsys, *changed)
        assert (code, printed, len(server.requests), len(err.splitlines())) == (1, "", asked, 1)
        assert (
            "prompts_per_step was 2 and is 3; seed was 0 and is 4; restore --prompts-per-step 2, --seed 0, use another"
            in err
        )
        assert "--steps was" not in err
        assert "--allow-config-changes" in err
        assert (out / FILE_NAME).read_bytes() == before

        code, printed, _ = call(capsys, *changed, "--allow-config-changes")
        assert (code, steps(out)[-1]) == (0, STEPS + 1)
        assert trials(out)[: len(undisturbed)] == undisturbed


def test_templates_may_be_asked_for_one_by_one(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer() as server:
        more = ["--request-mode", "single", "--steps", "2"]
        assert call(capsys, *search(photos, tmp_path / "run", server, *more))[0] == 0
        assert server.asked == 2 * 2
        code, _, err = call(capsys, *search(photos, tmp_path / "other", server, "--request-mode", "one"))
    assert code == 2
    assert "'one' is not one of 'auto', 'batch', 'samples', 'single'" in " ".join(err.replace("│", " ").split())


def test_the_version_is_printed_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"{__version__}\n")
