"""`ipo-dspy watch`: the state from events, and the command next to a real process that writes the journal."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import pytest
from rich.console import Console

from ipo_dspy.cli import main
from ipo_dspy.cli.watch import ASCII_BARS, draw, sparkline
from ipo_dspy.errors import JournalError
from ipo_dspy.report.run_watcher import RunWatcher, status
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import FILE_NAME, Journal, is_written, tail
from ipo_dspy.run.state import RunState, SearchState

COMMAND = [sys.executable, "-c", "from ipo_dspy.cli import main; main()", "watch"]
PATIENCE = 60
"""Seconds after which a process that should have ended is given up."""

Row = dict[str, Any]


def begun(steps: int = 4) -> Row:
    fields = {"schema": 1, "started": "2025-01-01T00:00:00+00:00", "seed": 0, "versions": {}}
    return {"event": "run_started", **fields, "settings": {"steps": steps, "patience": None}}


def trial(index: int, step: int, accuracy: float, text: str = "", predictor: str = "self") -> Row:
    fields = {"index": index, "step": step, "accuracy": accuracy, "loss": 2.0, "tokens": 5, "key": str(index)}
    return {"event": "trial", "predictor": predictor, "template": text or f"picture {index} of a <CLASS>.", **fields}


def step(number: int, predictor: str = "self", elapsed: float = 0.0) -> Row:
    counts = {"proposed": 2, "accepted": 1, "calls": 1, "tokens": 15, "seconds": 1.0, "run_seconds": elapsed}
    return {"event": "step", "predictor": predictor, "step": number, **counts}


def answer(question: str, cost: float | None) -> Row:
    counts = {"calls": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost": cost, "seconds": 1.0, "run_seconds": 2.5}
    return {
        "event": "lm_response",
        "predictor": "self",
        "request_id": question,
        "model": "toy",
        "texts": [],
        **counts,
    } | {
        "truncated": False,
        "error": None,
    }


def request(question: str, seconds: float, model: str = "openai/toy", timeout: float | None = None) -> Row:
    """A request that was sent some seconds ago."""
    started = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()
    given = {"model": model, "started": started, "timeout": timeout, "run_seconds": 1.0}
    return {"event": "lm_request", "predictor": "self", "request_id": question, **given}


def rejection(reason: str) -> Row:
    return {"event": "rejection", "predictor": "self", "step": 1, "text": "x", "reason": reason, "message": "no"}


def fault(message: str) -> Row:
    return {"event": "error", "predictor": "self", "step": 1, "message": message}


def chosen(index: int) -> Row:
    return {
        "event": "selected",
        "predictor": "self",
        "index": index,
        "template": "x",
        "selected_on": "train",
        "finalists": [],
    }


def end(status: str = "finished") -> Row:
    return {"event": "run_finished", "status": status, "seconds": 9.5, "calls": 2, "tokens": 30}


def resumed(**changed: list[Any]) -> Row:
    return {"event": "run_resumed", "started": "2025-01-02T00:00:00+00:00", "changed": changed, "versions": {}}


def folded(*rows: Row) -> RunState:
    return RunState(cast(Event, row) for row in rows)


def search_of(*rows: Row) -> SearchState:
    (search,) = folded(*rows).searches.values()
    return search


def keep(folder: Path, *rows: Row) -> None:
    with Journal(folder) as journal:
        journal.append(*rows)


def shown(folder: Path, **settings: Any) -> str:
    """Return the output of `--once` in a terminal of many columns."""
    watched, console = RunWatcher(folder), Console(width=200, **settings)
    watched.look()
    with console.capture() as capture:
        console.print(draw(watched, console))
    return capture.get()


def test_better_ones_best_and_curve() -> None:
    rows = [trial(0, 0, 20.0), trial(1, 1, 50.0), trial(2, 1, 40.0), step(1), step(2), trial(3, 3, 60.0), step(3)]
    search = search_of(*rows)
    assert [row.index for row in search.better] == [0, 1, 3]
    assert (search.start, search.best) == (search.better[0], search.better[-1])
    assert search.curve == [20.0, 50.0, 50.0, 60.0]
    assert (search.steps, len(search.history)) == (3, 4)


def test_of_two_with_the_same_accuracy_the_order_of_trials_decides() -> None:
    search = search_of(trial(0, 0, 50.0), trial(1, 1, 50.0))
    assert [row.index for row in search.better] == [0]


def test_what_was_chosen_is_shown_as_best_and_no_longer_after_a_resume() -> None:
    rows = [trial(0, 0, 20.0), trial(1, 1, 50.0), trial(2, 1, 60.0), chosen(1), end("max_tokens")]
    state = folded(begun(), *rows)
    assert [state.searches["self"].best] == [t for t in state.searches["self"].history if t.index == 1]
    assert (status(state, held=False, folder=""), state.seconds) == ("stopped: --max-tokens is reached", 9.5)
    state = folded(begun(), *rows, resumed(steps=[4, 9]))
    assert [state.searches["self"].best] == [t for t in state.searches["self"].history if t.index == 2]
    assert (status(state, held=True, folder=""), state.settings["steps"]) == ("running", 9)


def test_spending_counts_each_answer_once_and_unknown_prices_apart() -> None:
    state = folded(answer("step 1/0", 0.5), answer("step 1/0", 0.5), answer("step 2/0", None))
    assert (state.usage.calls, state.usage.tokens, state.usage.cost, state.usage.unpriced) == (2, 30, 0.5, 1)
    assert state.seconds == 2.5


def test_several_searches_stand_apart() -> None:
    state = folded(trial(0, 0, 20.0, predictor="a"), trial(0, 0, 30.0, predictor="b"), step(2, predictor="b"))
    assert {name: search.steps for name, search in state.searches.items()} == {"a": 0, "b": 2}


@pytest.mark.parametrize(
    ("rows", "held", "shown"),
    [
        ([], False, "waiting for its journal"),
        ([begun()], True, "running"),
        ([begun()], None, "running"),
        (
            [begun()],
            False,
            "stopped: no process is writing to it; resume by re-running the command with --log-dir FOLDER",
        ),
        ([begun(), end()], False, "finished"),
        ([begun(), end()], True, "finished"),
        ([begun(), end("errors")], False, "stopped: too many consecutive errors"),
        ([begun(), end("max_lm_calls")], False, "stopped: --max-lm-calls is reached"),
    ],
)
def test_status(rows: list[Row], held: bool | None, shown: str) -> None:
    assert status(folded(*rows), held=held, folder="FOLDER") == shown


def test_a_field_of_another_type_is_reported(tmp_path: Path) -> None:
    keep(tmp_path, begun(), {**trial(0, 0, 20.0), "accuracy": "high"})
    with pytest.raises(JournalError, match="'trial' has 'high' as 'accuracy'"):
        RunWatcher(tmp_path).look()


def test_a_torn_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0), trial(1, 1, 50.0))
    whole = (tmp_path / FILE_NAME).read_bytes()
    events = next(tail(tmp_path))
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / FILE_NAME).write_bytes(whole[:cut])
        looks = tail(tmp_path)
        first = next(looks)
        assert first == events[: whole[:cut].count(b"\n")]
        with (tmp_path / FILE_NAME).open("ab") as file:
            file.write(whole[cut:])
        assert [*first, *next(looks)] == events
        assert next(looks) == []


def test_damage_names_its_line_in_the_whole_file(tmp_path: Path) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0))
    looks = tail(tmp_path / FILE_NAME)
    next(looks)
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(JournalError, match="damaged in line 3"):
        next(looks)


def test_another_run_in_the_same_folder_starts_from_scratch(tmp_path: Path) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0), trial(1, 1, 50.0))
    watched = RunWatcher(tmp_path)
    watched.look()
    (tmp_path / FILE_NAME).unlink()
    keep(tmp_path, begun(), trial(0, 0, 30.0))
    watched.look()
    assert [row.score.accuracy for row in watched.state.searches["self"].better] == [30.0]


def test_a_lock_is_seen_and_left_as_it_was(tmp_path: Path) -> None:
    assert is_written(tmp_path) is False
    assert list(tmp_path.iterdir()) == []
    with written_by_another(tmp_path, begun()) as writer:
        assert is_written(tmp_path) is True
        writer.finish()
    assert is_written(tmp_path) is False
    keep(tmp_path, end())


def test_what_is_drawn(tmp_path: Path) -> None:
    rows = [trial(0, 0, 20.0), trial(1, 1, 60.0, "[red]a[/] \u202e<CLASS>\nan icon of a <CLASS>"), step(1)]
    more = [answer("step 1/0", 0.25), answer("step 2/0", None), rejection("duplicate"), rejection("duplicate")]
    keep(tmp_path, begun(), *rows, *more, rejection("too long"), fault("late"), fault("[bold]later\x1b[2J"), end())
    lines = [" ".join(line.split()) for line in shown(tmp_path).splitlines()]
    assert lines[0].endswith("finished, 9.5 s")
    assert lines[1] == "2 LLM calls, 30 tokens, 0.2500 USD and 1 of unknown price"
    assert "step 1 of 4, 2 templates tried" in lines
    assert "start 0 20.00 % 2.0000 picture 0 of a <CLASS>." in lines
    assert "best 1 60.00 % 2.0000 [red]a[/] [U+202E]<CLASS> | an icon of a <CLASS>" in lines
    assert "rejected: duplicate 2, too long 1" in lines
    assert "errors: 2, the last: [bold]later[U+001B][2J" in lines


def test_why_the_figure_falls_at_the_end(tmp_path: Path) -> None:
    choice = {
        "images": 40, "accuracy": 50.0, "optimism": 4.0, "expected": 46.0, "low": 30.0, "high": 62.0, "gain": 26.0,
        "gain_error": 5.0, "compared": 3, "tied": 2, "possibly_best": 2, "is_spread_known": True,
    }  # fmt: skip
    rows = [trial(0, 0, 20.0), trial(1, 1, 60.0), trial(2, 1, 50.0), step(1)]
    keep(tmp_path, begun(), *rows)
    assert "was not chosen" not in shown(tmp_path)
    tied = [{"index": i, "accuracy": 60.0 - i, "error": 1.0, "tied": i > 0} for i in range(3)]
    keep(tmp_path, {**chosen(2), "choice": choice, "candidates": tied}, end())
    lines = [line.strip() for line in shown(tmp_path).splitlines()]
    assert (
        "trial 1 was better on the training images (60.00 % against 50.00 %), but was not chosen: of the "
        "tied ones, the template with the fewest words wins"
    ) in lines
    assert (
        "expected: 46.0 % on new images of these classes, 95 % interval 30.0 to 62.0 (50.0 % on training images, minus "
        "4.0 points of optimism)"
    ) in lines


def waited_for(folder: Path) -> list[tuple[str, float]]:
    """Return model and seconds of the lines on waiting, the seconds in thousands: a test may take some."""
    lines = re.findall(r"^waiting for (.*) for (\d+) s$", shown(folder), re.MULTILINE)
    return [(model, int(seconds) // 1000) for model, seconds in lines]


def test_the_request_that_was_sent_first_is_waited_for(tmp_path: Path) -> None:
    rows = [request("step 1/0", 4200, "openai/[b]a\u202e"), request("step 1/1", 2200, "openai/b", timeout=9000.0)]
    with written_by_another(tmp_path, begun(), *rows) as writer:
        assert waited_for(tmp_path) == [("openai/[b]a[U+202E]", 4)]
        writer.keep(answer("step 1/0", None))
        assert waited_for(tmp_path) == [("openai/b", 2)]
        writer.keep({"event": "lm_failure", "predictor": "self", "request_id": "step 1/1"})
        assert waited_for(tmp_path) == []
        writer.keep(request("step 2/0", 9.2, timeout=9.0))  # of a session that was killed: it would have ended
        assert waited_for(tmp_path) == []
        writer.keep(request("step 2/1", 1200))
        assert waited_for(tmp_path) == [("openai/toy", 1)]
    assert waited_for(tmp_path) == []  # no process is left that could wait
    for row in (begun(), resumed(), end()):
        assert folded(request("step 2/0", 1), row).pending == []


def test_a_time_of_another_form_is_reported(tmp_path: Path) -> None:
    for started in ("soon", "0001-01-01T00:00:00"):
        with pytest.raises(JournalError, match=f"started must be a time in ISO 8601, got '{started}'"):
            folded({**request("step 1/0", 1), "started": started})


def test_what_was_described_is_explained(tmp_path: Path) -> None:
    rows = [{"event": "description", "predictor": "self", "source": f"/{i}.png", "text": "grainy"} for i in range(2)]
    keep(tmp_path, begun(), *rows, trial(0, 0, 20.0))
    lines = shown(tmp_path).splitlines()
    assert "step 0 of 4, 1 template tried" in lines
    assert "2 training images described for the proposer" in lines


def test_a_run_whose_process_is_gone_says_how_to_resume(tmp_path: Path) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0))
    output = " ".join(shown(tmp_path).split())
    assert f"stopped: no process is writing to it; resume by re-running the command with --log-dir {tmp_path}" in output


def test_no_price_is_said_so(tmp_path: Path) -> None:
    keep(tmp_path, begun(), answer("step 1/0", None))
    assert "1 LLM call, 15 tokens, price unknown" in shown(tmp_path)


def test_sparkline_keeps_the_ends_and_fits() -> None:
    assert sparkline([1.0], ASCII_BARS) == "_"
    assert sparkline([float(i) for i in range(8)], ASCII_BARS) == ASCII_BARS
    long = sparkline([*[0.0] * 500, 9.0], ASCII_BARS, width=10)
    assert long == "_" * 9 + "#"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(["watch", *arguments])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


@pytest.mark.parametrize("option", ["--once", "--no-wait"])
def test_an_unknown_folder(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, str(tmp_path / "nowhere"), option)
    assert (code, out) == (2, "")
    assert "no journal in" in err
    assert "pass the --log-dir folder of a run, e.g. 'runs/1'" in err
    keep(tmp_path / "photos-1", begun())
    _, _, err = call(capsys, str(tmp_path / "photo-1"), option)
    assert f"ipo-dspy watch {tmp_path / 'photos-1'}" in err


def test_once_and_a_run_that_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, begun(), trial(0, 0, 20.0), end())
    code, once, _ = call(capsys, str(tmp_path), "--once")
    assert code == 0
    code, followed, _ = call(capsys, str(tmp_path))
    assert code == 0
    assert followed == f"step   0   20.00 %  loss 2.0000  picture 0 of a <CLASS>.\n{once}"


WRITER = """
import json, sys
from ipo_dspy.run.journal import Journal
with Journal(sys.argv[1]) as journal:
    print("ready", flush=True)
    for line in sys.stdin:
        journal.append(json.loads(line))
        print("kept", flush=True)
"""


class Writer:
    """Another process that writes a run's journal, row by row on request."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WRITER, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._said()

    def keep(self, *rows: Row) -> None:
        for row in rows:
            cast(IO[str], self._process.stdin).write(json.dumps(row) + "\n")
            cast(IO[str], self._process.stdin).flush()
            self._said()

    def finish(self) -> None:
        self._process.communicate()

    def _said(self) -> None:
        assert cast(IO[str], self._process.stdout).readline()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.finish()


def written_by_another(folder: Path, *rows: Row) -> Writer:
    writer = Writer(folder)
    writer.keep(*rows)
    return writer


@pytest.mark.end_to_end
def test_a_run_is_followed_in_a_pipe_from_before_it_begins_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watcher = subprocess.Popen([*COMMAND, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    given_up(watcher)
    out, err = cast(IO[str], watcher.stdout), cast(IO[str], watcher.stderr)
    assert err.readline() == f"waiting for {folder / FILE_NAME}; press Ctrl-C to quit\n"
    with written_by_another(folder, begun(), trial(0, 0, 20.0)) as writer:
        assert out.readline() == "step   0   20.00 %  loss 2.0000  picture 0 of a <CLASS>.\n"
        writer.keep(trial(1, 1, 15.0), trial(2, 1, 50.0), step(1))
        assert out.readline() == "step   1   50.00 %  loss 2.0000  picture 2 of a <CLASS>.\n"
        writer.keep(end())
        assert watcher.poll() is None  # the writer still holds the journal
        writer.finish()
    rest, said = watcher.communicate(timeout=PATIENCE)
    assert (watcher.returncode, said) == (0, "")
    assert "finished, 9.5 s" in rest
    assert "step 1 of 4, 3 templates tried" in rest
    assert "\x1b" not in rest


def given_up(process: "subprocess.Popen[Any]") -> None:
    """End a process that does not end by itself, so that a failing test does not wait for ever."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.daemon = True
    timer.start()


def terminal(folder: Path) -> tuple["subprocess.Popen[bytes]", Iterator[str]]:
    """The command in a terminal, and all that it has shown there so far, as often as it shows more."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [*COMMAND, str(folder)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    given_up(process)
    return process, _shown(ours)


def _shown(descriptor: int) -> Iterator[str]:
    seen = b""
    while True:
        try:
            more = os.read(descriptor, 65536)
        except OSError as error:  # how Linux says that the other side is closed
            assert error.errno == errno.EIO  # noqa: PT017
            more = b""
        if not more:
            os.close(descriptor)
            return
        seen += more
        yield re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


@pytest.mark.end_to_end
def test_in_a_terminal_the_best_template_shows_and_the_end_ends_it(tmp_path: Path) -> None:
    with written_by_another(tmp_path, begun(), trial(0, 0, 20.0), step(1)) as writer:
        process, screens = terminal(tmp_path)
        assert any("running" in screen and "picture 0" in screen for screen in screens)
        writer.keep(trial(1, 2, 50.0, "[red]an icon of a <CLASS>."), step(2))
        assert any("best      2   50.00 %  2.0000  [red]an icon of a <CLASS>." in screen for screen in screens)
        writer.keep(end("patience"))
    last = " ".join(list(screens)[-1].split())
    assert process.wait(timeout=PATIENCE) == 0
    assert "stopped: no improvement for --patience steps, 9.5 s" in last
    assert "20.00 % ▁▁█ 50.00 %" in last


def test_ctrl_c_leaves_without_a_message_and_the_run_continues(tmp_path: Path) -> None:
    with written_by_another(tmp_path, begun(), trial(0, 0, 20.0)) as writer:
        process, screens = terminal(tmp_path)
        assert any("picture 0" in screen for screen in screens)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in [*screens, ""][-1]
        assert process.wait(timeout=PATIENCE) == 0
        writer.keep(trial(1, 1, 50.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME]


def test_seconds_increase_while_a_run_is_silent(tmp_path: Path) -> None:
    with written_by_another(tmp_path, begun(), step(1, elapsed=3.0)):
        past = time.time() - 100
        os.utime(tmp_path / FILE_NAME, (past, past))
        watched = RunWatcher(tmp_path)
        watched.look()
        assert watched.seconds >= 103.0
    over = RunWatcher(tmp_path)
    over.look()
    assert over.seconds == 3.0


def test_the_time_of_waiting_counts(tmp_path: Path) -> None:
    watched = RunWatcher(tmp_path / "none")
    watched.look()
    first = watched.seconds
    assert 0.0 < first < watched.seconds
