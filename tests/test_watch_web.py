"""`ipo-dspy watch --web`: real HTTP on loopback, next to a journal that another process writes."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import httpx
import pytest

from helpers.browser import browser, needs_browser
from ipo_dspy.run.journal import FILE_NAME
from ipo_dspy.serve.run_page import RunPageServer
from ipo_dspy.serve.run_state import seconds_left
from ipo_dspy.serve.static_files import static_files
from test_cli_watch import (
    COMMAND,
    PATIENCE,
    Row,
    answer,
    begun,
    call,
    chosen,
    end,
    fault,
    folded,
    given_up,
    keep,
    rejection,
    request,
    resumed,
    step,
    trial,
    written_by_another,
)

HOSTILE = '<img src="x" onerror="document.title=1"> of a <CLASS>.'


def searched(name: str = "self") -> Row:
    fields = {
        "classes": ["cat", "dog"],
        "model": {},
        "images": 40,
        "validation_images": 0,
        "start": "picture 0 of a <CLASS>.",
    }
    return {"event": "search_started", "predictor": name, "data_name": "pets", **fields}


def evaluated(role: str, accuracy: float) -> Row:
    counts = {"per_class": {"cat": [5, 10]}, "accuracy": accuracy, "loss": 1.0, "images": 10}
    where = {"split": "test", "class_split": "all", "role": role, "template": "a <CLASS>"}
    return {"event": "evaluation", "predictor": "self", **where, **counts}


@contextmanager
def serving(folder: Path) -> Iterator[httpx.Client]:
    """A client of the page of a run."""
    with RunPageServer(folder) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
            yield client
        server.shutdown()


def state_of(client: httpx.Client, seen: str = "") -> dict[str, Any]:
    response = client.get("state", params={"seen": seen})
    assert response.status_code == 200, response.text
    return cast("dict[str, Any]", response.json())


def looked_at(folder: Path) -> dict[str, Any]:
    with serving(folder) as client:
        return state_of(client)


# The command


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """The command in a process, and a client of the URL that it printed."""
    process = subprocess.Popen(
        [*COMMAND, str(folder), "--web", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    given_up(process)
    url = cast(IO[str], process.stdout).readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url), process.communicate()
    with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client:
        yield process, client


@pytest.mark.end_to_end
def test_a_run_from_before_it_begins_to_its_end_and_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with command(folder) as (process, client):
        waiting = state_of(client)
        assert (waiting["phase"], waiting["searches"], waiting["folder"]) == ("waiting", [], str(folder))
        with written_by_another(folder, begun(), searched(), trial(0, 0, 20.0)) as writer:
            running = state_of(client)
            assert (running["phase"], running["status"], running["data"]) == ("running", "running", "pets")
            assert running["searches"][0]["best"]["figures"] == ["20.0\u00a0%", "2.000"]
            writer.keep(trial(1, 1, 50.0, HOSTILE), step(1, elapsed=4.0))
            better = state_of(client, running["version"])
            assert better["searches"][0]["best"]["template"] == HOSTILE
            assert (better["searches"][0]["step"], better["left"]) == (1, 3.0)
            writer.keep(chosen(1), end())
        over = state_of(client)
        assert (over["phase"], over["status"], over["left"]) == ("over", "finished", None)
        assert "picture 0" in client.get("report").text
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == (
            "",
            f"waiting for {folder / FILE_NAME}; press Ctrl-C to quit\n",
        )
        assert process.returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == [FILE_NAME]


def test_sigterm_ends_it_as_any_command(tmp_path: Path) -> None:
    keep(tmp_path, begun())
    with command(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE)[1] == "ipo-dspy: interrupted\n"
        assert process.returncode == 143


def test_a_port_of_choice_and_one_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, begun())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = call(capsys, str(tmp_path), "--web", "--port", str(port))
    assert (code, out) == (2, "")
    assert err == (
        f"ipo-dspy: --port must be a port that can be used (Address already in use), got {port}; "
        "pass another one, or 0 for a free one\n"
    )
    with command(tmp_path, "--port", str(port)) as (process, client):
        assert client.base_url.port == port
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--web", "--once"], "use one of them"),
        (["--port", "8000"], "add --web"),
        (["--web", "--no-wait"], "pass the --log-dir folder of a run"),
        (["--web", "--port", "70000"], "--port"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, str(tmp_path / "none"), *options)
    assert (code > 0, out) == (True, "")
    assert message in err


# The state


def test_the_state_has_what_the_page_shows(tmp_path: Path) -> None:
    spent = [answer("step 1/0", 0.25), answer("step 2/0", None), request("step 3/0", 7200.0)]
    start = {**begun(), "settings": {"steps": 4, "max_lm_calls": 10, "max_cost": 1.0, "max_seconds": 90}}
    rows = [trial(i, 1, 20.0 + i) for i in range(1, 12)]
    bad = [rejection("duplicate"), rejection("duplicate"), rejection("too long"), fault("late")]
    with written_by_another(tmp_path, start, searched(), trial(0, 0, 20.0), *rows, step(1), *spent, *bad):
        state = looked_at(tmp_path)
    (search,) = state["searches"]
    assert state["limits"] == [
        {"name": "LLM calls", "text": "2 of 10", "share": 0.2},
        {"name": "USD", "text": "0.25 of 1", "share": 0.25},
    ]
    assert state["max_seconds"] == 90
    assert state["spending"] == "2 LLM calls, 30 tokens, 0.2500 USD and 1 of unknown price"
    assert re.fullmatch(r"waiting for openai/toy for 7\d{3} s", *state["pending"])
    assert [row["index"] for row in search["recent"]] == [11, 10, 9, 8, 7, 6, 5, 4]
    assert all(row["better"] for row in search["recent"])
    assert search["trials"] == list(range(12))
    assert search["values"] == [[20.0 + i for i in range(12)], [2.0] * 12]
    assert [measure["name"] for measure in search["measures"]] == ["Accuracy", "Loss"]
    assert search["rejected"] == [{"reason": "duplicate", "count": 2}, {"reason": "too long", "count": 1}]
    assert search["rejections"][0] == {"step": 1, "text": "x", "reason": "too long", "message": "no", "count": 1}
    assert (search["errors"], search["error"], search["classes"], search["images"]) == (1, "late", 2, 40)


def test_another_objective_is_the_first_measure(tmp_path: Path) -> None:
    rows = [{**trial(i, 0, 50.0), "value": value} for i, value in enumerate((-0.5, -0.25))]
    keep(tmp_path, begun(), {**searched(), "objective": "cost"}, *rows)
    (search,) = looked_at(tmp_path)["searches"]
    assert [(measure["name"], measure["higher"]) for measure in search["measures"]] == [
        ("Mean cost", False),
        ("Loss", False),
    ]
    assert search["values"][0] == [0.5, 0.25]
    assert search["best"]["figures"] == ["0.250", "2.000"]


def test_the_result_is_that_on_test_images(tmp_path: Path) -> None:
    rows = [trial(0, 0, 20.0), trial(1, 1, 60.0), step(1), chosen(1)]
    keep(tmp_path, begun(), searched(), *rows)
    assert looked_at(tmp_path)["searches"][0]["result"] is None  # the accuracy on training images does not count
    keep(tmp_path, evaluated("start", 40.0), evaluated("best", 50.0), end())
    (search,) = looked_at(tmp_path)["searches"]
    assert {name: search["result"][name] for name in ("name", "start", "best")} == {
        "name": "test", "start": "40.0\u00a0%", "best": "50.0\u00a0%"
    }  # fmt: skip
    assert "95 % interval" in search["result"]["interval"]
    assert search["chosen"]


def test_a_killed_run_says_how_to_resume_and_may_be_resumed(tmp_path: Path) -> None:
    keep(tmp_path, begun(), searched(), trial(0, 0, 20.0), step(1, elapsed=2.0))
    with RunPageServer(tmp_path) as server:
        server.run.watched.quiet = 0.0
        killed = server.run.look("")
        assert (killed["phase"], killed["left"], killed["seconds"]) == ("killed", None, 2.0)
        assert f"--log-dir {tmp_path}" in killed["status"]
        with written_by_another(tmp_path, resumed(), trial(1, 2, 30.0)):
            assert server.run.look("")["phase"] == "running"


def test_what_the_page_has_seen_is_not_sent_again(tmp_path: Path) -> None:
    keep(tmp_path, begun(), searched(), trial(0, 0, 20.0))
    with serving(tmp_path) as client:
        first = state_of(client)
        assert "searches" not in state_of(client, first["version"])
        keep(tmp_path, trial(1, 1, 30.0))
        second = state_of(client, first["version"])
        assert second["searches"][0]["tried"] == 2
        (tmp_path / FILE_NAME).unlink()
        assert state_of(client, second["version"])["searches"] == []
        keep(tmp_path, begun(), searched(), trial(0, 0, 70.0))
        again = state_of(client, first["version"])
        assert again["searches"][0]["best"]["figures"][0] == "70.0\u00a0%"
    with serving(tmp_path) as client:
        assert "searches" in state_of(client, again["version"])  # of an earlier server on the same port


def test_time_left_follows_the_pace_of_the_steps_of_all_classifiers() -> None:
    steps = [step(1, "a"), step(2, "a"), step(2, "a"), step(1, "b")]  # of one second each; a repeated one counts once
    one = {**begun(), "settings": {"steps": 4}}
    two = {**begun(), "settings": {"steps": 4, "start": {"a": "", "b": ""}}}
    timed = {**begun(), "settings": {"steps": 4, "max_seconds": 10.0}}
    assert seconds_left(folded(one), 0.0) is None
    assert seconds_left(folded(one, *steps[:3]), 0.0) == 2.0
    assert seconds_left(folded(two, *steps[:3]), 0.0) == 6.0
    assert seconds_left(folded(two, *steps), 0.0) == 5.0
    assert seconds_left(folded(one, *steps[:3], step(9, "a")), 0.0) == 0.0
    assert seconds_left(folded(two, *steps[:3], {**chosen(0), "predictor": "a"}), 0.0) == 4.0  # it ended early
    assert seconds_left(folded(timed, *steps[:3]), 9.5) == 0.5
    assert seconds_left(folded({**begun(), "settings": {"steps": "many", "start": 3}}, step(1)), 0.0) is None


@pytest.mark.parametrize("settings", [{"max_cost": "much"}, {"max_seconds": -1}, {"max_tokens": [1]}])
def test_settings_of_other_types_are_reported(settings: Row, tmp_path: Path) -> None:
    keep(tmp_path, {**begun(), "settings": settings}, step(1))
    with serving(tmp_path) as client:
        response = client.get("state")
    assert response.status_code == 500
    assert "the settings of the journal cannot be used" in response.json()["error"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "is damaged in line 3"),
        (json.dumps(trial(1, 1, 500.0)), "trial 1 of the journal cannot be used"),  # each line of it is well-formed
    ],
)
def test_damage_is_reported_until_it_is_repaired(line: str, message: str, tmp_path: Path) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0))
    whole = (tmp_path / FILE_NAME).read_text()
    with serving(tmp_path) as client:
        version = state_of(client)["version"]
        (tmp_path / FILE_NAME).write_text(f"{whole}{line}\n")
        for path in ("state", "state", "report"):
            response = client.get(path)
            assert response.status_code == 500
            assert message in response.json()["error"]
        (tmp_path / FILE_NAME).write_text(whole)
        assert state_of(client, version)["searches"][0]["tried"] == 1


def test_a_text_that_is_rejected_again_is_listed_once(tmp_path: Path) -> None:
    texts = ["same", *map(str, range(9)), "same", "0"]
    bad = [{**rejection("duplicate"), "step": i, "text": text} for i, text in enumerate(texts)]
    keep(tmp_path, begun(), searched(), *bad, rejection("too long"))
    (search,) = looked_at(tmp_path)["searches"]
    listed = [(one["text"], one["step"], one["count"]) for one in search["rejections"]]
    assert listed == [("x", 1, 1), ("0", 11, 2), ("same", 10, 2), *((str(i), i + 1, 1) for i in range(8, 3, -1))]
    assert search["rejected"] == [{"reason": "duplicate", "count": 12}, {"reason": "too long", "count": 1}]


def test_the_best_so_far_misses_no_floor_and_a_lower_figure_is_explained(tmp_path: Path) -> None:
    rows = [trial(0, 0, 20.0), {**trial(1, 1, 90.0), "missed": 5.0}, trial(2, 1, 40.0), trial(3, 2, 35.0)]
    keep(tmp_path, begun(), searched(), *rows)
    (search,) = looked_at(tmp_path)["searches"]
    assert (search["improvements"], search["outcome"]) == ([0, 2], [])
    keep(tmp_path, chosen(3), end())
    (search,) = looked_at(tmp_path)["searches"]
    assert search["outcome"] == [
        "trial 2 was better on the training images (40.00 % against 35.00 %), but was not chosen: it is "
        "not within the tolerance of the leading one"
    ]


def test_long_and_hidden_text(tmp_path: Path) -> None:
    text = "a\u202e\x1b[2J <CLASS> " + "x" * 5000
    keep(tmp_path, begun(), searched(), trial(0, 0, 20.0, text))
    (search,) = looked_at(tmp_path)["searches"]
    shown = search["best"]["template"]
    assert shown.startswith("a[U+202E][U+001B][2J <CLASS> xx")
    assert len(shown) == 2000


# The server


def test_only_this_machine_can_connect(tmp_path: Path) -> None:
    with RunPageServer(tmp_path) as server:
        port = server.server_address[1]
        assert server.server_address[0] == "127.0.0.1"
        if (
            sys.platform == "linux"
        ):  # the whole of 127.0.0.0/8 is this machine; a server of all interfaces answers there
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:9000"}, 200),
        ({"Host": "LOCALHOST:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["", "state", "report", "run.js"])
def test_other_hosts_and_other_sites_are_rejected(
    headers: dict[str, str], status: int, path: str, tmp_path: Path
) -> None:
    keep(tmp_path, begun())
    with serving(tmp_path) as client:
        assert client.get(path, headers=headers).status_code == status


def test_every_response_has_a_strict_policy(tmp_path: Path) -> None:
    keep(tmp_path, begun())
    with serving(tmp_path) as client:
        for path in ("", "state", "run.js", "dom.js", "chart.js", "style.css", "none", "../journal.jsonl"):
            response = client.get(path)
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "Python" not in response.headers["Server"]
        assert client.get("none").status_code == 404
        assert client.get(f"//{tmp_path}/{FILE_NAME}").status_code == 404
        report = client.get("report")
        assert report.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert '<meta http-equiv="Content-Security-Policy"' in report.text
        assert client.post("state").status_code == 501


@pytest.mark.parametrize("page", ["page", "run"])
def test_pages_have_nothing_inline_and_nothing_from_elsewhere(page: Any) -> None:
    for path, file in static_files(page).items():
        text = file.content.decode()
        assert set(re.findall(r"https?://[^\s\"]+", text)) <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), path
        assert not re.search(r"@import|url\(", text), path
        if not path:
            assert not re.search(
                r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=\"\w+\.js\"></script>)", text
            )


def test_a_browser_that_leaves_early_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path, begun(), searched(), *[trial(i, i, 20.0) for i in range(2000)])
    with serving(tmp_path) as client:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as hasty:
                hasty.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with a reset
        assert state_of(client)["searches"][0]["tried"] == 2000
    assert caplog.records == []


def test_many_tabs_read_one_journal(tmp_path: Path) -> None:
    keep(tmp_path, begun(), searched(), trial(0, 0, 20.0))
    states: list[Any] = []
    with serving(tmp_path) as client:
        tabs = [threading.Thread(target=lambda: states.append(state_of(client))) for _ in range(8)]
        for tab in tabs:
            tab.start()
        for tab in tabs:
            tab.join()
    assert [state["searches"][0]["tried"] for state in states] == [1] * 8


# A real browser


@pytest.mark.slow
@needs_browser
def test_the_page_follows_a_run_in_a_browser(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serving(folder) as client, browser(tmp_path / "profile") as window:
        window.open(str(client.base_url))
        window.wait_for("waiting for the run to begin")
        start = {**begun(), "settings": {"steps": 4, "max_lm_calls": 10}}
        with written_by_another(folder, start, searched(), trial(0, 0, 20.0)) as writer:
            window.wait_for("20.0\u00a0%", ".best")
            assert window.text("#badge") == "running"
            writer.keep(
                answer("step 1/0", 0.25), trial(1, 1, 50.0, HOSTILE), rejection("duplicate"), step(1, elapsed=4.0)
            )
            window.wait_for(HOSTILE, ".best")  # as text
            assert window.run("return document.images.length") == 0
            assert "up to 3 s left" in window.text("#facts")
            assert "1 of 10" in window.text("#facts")
            assert "step 1 of 4, 2 templates tried" in window.text("#searches")
            assert "duplicate 1" in window.text("#searches")
            assert window.run("return document.querySelectorAll('svg.curve circle.ring').length") == 2
            assert window.run("return document.title") == "50.0\u00a0% · step 1 · Prompt search: pets"
            writer.keep(request("step 2/0", 7.0))
            window.wait_for("waiting for openai/toy for", "#pending")
        window.wait_for("The run was stopped", "#next")
        assert f"--log-dir {folder}" in window.text("#next")
        keep(folder, {**trial(2, 1, 90.0), "missed": 9.0}, trial(3, 1, 30.0), rejection("duplicate"), chosen(3), end())
        window.wait_for("The run is over", "#next")
        assert "Trial 1 was better on the training images (50.00 % against 30.00 %)" in window.text("#searches")
        assert "(2 times)" in window.text("#searches")
        line = window.run("return document.querySelector('.curve .record').getAttribute('d')")
        assert line.count("V") == 1  # to trial 1: trial 2 misses a floor
        assert "CHOSEN" in window.text(".best").upper()
        for width in (360, 1280):
            for dark in (False, True):
                window.look(tmp_path / "page.png", width=width, dark=dark)
                assert window.run("return document.documentElement.scrollWidth") <= width
        assert window.complaints == []
        assert window.run("return document.querySelector('#next a').href") == f"{client.base_url}report"
        window.open(f"{client.base_url}report")
        window.wait_for("Prompt search: pets", "h1")
        assert window.complaints == []


@pytest.mark.slow
@needs_browser
def test_the_page_says_when_its_server_is_gone(tmp_path: Path) -> None:
    keep(tmp_path, begun(), searched(), trial(0, 0, 20.0))
    with browser(tmp_path / "profile") as window:
        with command(tmp_path) as (process, client):
            window.open(str(client.base_url))
            window.wait_for("20.0\u00a0%", ".best")
            with (tmp_path / FILE_NAME).open("ab") as file:
                file.write(b"{}\n")
            window.wait_for("is damaged in line", "#problem")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
        window.wait_for("ipo-dspy watch was stopped", "#problem")
        assert "20.0\u00a0%" in window.text(".best")
