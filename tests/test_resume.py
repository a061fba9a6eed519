"""A run that is killed at any moment and resumed ends as one that was not, and pays for no answer twice."""

import json
import os
import random
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_process import Processes
from helpers.comparison import assert_alike
from helpers.openai_server import Reply, Writer
from ipo_dspy import IPO, LMProposer, demo
from ipo_dspy._internal.renames import OLD_SETTING_NAMES
from ipo_dspy.errors import JournalError
from ipo_dspy.proposers import ProposalRequest, Proposals
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState


class Sessions:
    """Sessions of one run, one after the other, each in a forked process."""

    def __init__(self, processes: Processes, server: Writer, folder: Path, steps: int) -> None:
        self.processes, self.arguments = processes, (server.url, str(folder), str(steps))
        self.journal = folder / FILE_NAME

    def begin(self) -> int:
        """Start a session; return its process id."""
        source = (Path(__file__).parent / "helpers" / "sessions.py").read_text()
        return self.processes.begin_python(source, *self.arguments)

    def size(self) -> int:
        return self.journal.stat().st_size if self.journal.exists() else 0

    def kill(self, child: int, size: int, pause: float) -> int:
        """Kill a session a moment after its journal has reached a size, and grown at all, unless it ends before."""
        grown = max(size, self.size() + 1)
        while self.size() < grown and not self.ended(child):
            time.sleep(0.002)
        time.sleep(pause)
        if not self.ended(child):
            os.kill(child, signal.SIGKILL)
        return self.processes.end().code

    @staticmethod
    def ended(child: int) -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True


def story(folder: Path) -> dict[str, Any]:
    """Return the result of a run: its trials and its choice."""
    events: list[Any] = list(replay(folder))
    trials = [(e["index"], e["step"], e["template"], e["accuracy"], e["loss"]) for e in events if e["event"] == "trial"]
    (chosen,) = (e["template"] for e in events if e["event"] == "selected")
    rejections = [(e["step"], e["text"]) for e in events if e["event"] == "rejection"]
    steps = [e["step"] for e in events if e["event"] == "step"]
    return {"trials": trials, "chosen": chosen, "rejections": rejections, "steps": steps, "end": events[-1]["status"]}


def questions(folder: Path) -> list[str]:
    return [e["request_id"] for e in replay(folder) if e["event"] == "lm_response"]


def assert_survives_kills(kills: int, seed: int, tmp_path: Path, parent: Processes) -> None:
    draw, steps, processes = random.Random(seed), max(8, kills), Processes(tmp_path, {}, parent=parent)
    with Writer() as server:
        Sessions(processes, server, tmp_path / "whole", steps).begin()
        assert processes.end().code == 0
    whole = story(tmp_path / "whole")
    size = (tmp_path / "whole" / FILE_NAME).stat().st_size
    lost, killed = 0, 0
    moments = sorted(draw.randrange(1, int(0.6 * size)) for _ in range(kills))
    with Writer() as server:
        one, code = Sessions(processes, server, tmp_path / "cut", steps), None
        while code != 0:
            before = len(questions(tmp_path / "cut")) if one.size() else 0
            asked = len(server.requests)
            child = one.begin()
            code = one.kill(child, moments[killed] if killed < kills else 10**9, draw.random() * 0.01)
            killed += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL)
            answered = len(questions(tmp_path / "cut")) - before if one.size() else 0
            lost += (now := len(server.requests) - asked - answered)
            assert 0 <= now <= 2  # on its way when the process was killed: one, and the next that is asked ahead
        assert_alike(story(tmp_path / "cut"), whole)
        assert RunState(replay(tmp_path / "cut")).requests == {}
        asked_for = questions(tmp_path / "cut")
        assert len(asked_for) == len(set(asked_for)) == len(server.requests) - lost
        assert killed == kills


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")
def test_killed_at_random_moments_it_ends_as_if_not(tmp_path: Path, forking_parent: Processes) -> None:
    assert_survives_kills(kills=3, seed=1, tmp_path=tmp_path, parent=forking_parent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")
@pytest.mark.parametrize("seed", [0, 7])
def test_killed_at_25_random_moments_it_ends_as_if_not(tmp_path: Path, seed: int, forking_parent: Processes) -> None:
    assert_survives_kills(kills=25, seed=seed, tmp_path=tmp_path, parent=forking_parent)


class Counts:
    """Writes two templates a step and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def propose(self, ask: ProposalRequest) -> Proposals:
        self.asked += 1
        return Proposals((f"a {'very ' * ask.step}dark <CLASS>.", f"a {'so ' * ask.step}blurry <CLASS>."))


def run(task: demo.DemoTask, folder: Path, **options: Any) -> tuple[Any, Counts]:
    proposer = Counts()
    given = {"proposer": proposer, "describer": None, "steps": 3, "log_dir": folder, **options}
    return IPO(**given).compile(task.program, task.trainset), proposer


def test_a_finished_run_is_repeated_without_a_request(task: demo.DemoTask, tmp_path: Path) -> None:
    first, _ = run(task, tmp_path)
    again, proposer = run(task, tmp_path)
    assert proposer.asked == 0
    assert again.detailed_results.trials == first.detailed_results.trials
    assert again.template == first.template


def test_more_steps_continue_the_run_and_limits_may_change(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path / "a")
    more, proposer = run(task, tmp_path / "a", steps=5, patience=9, max_tokens=10**6, num_threads=2)
    assert proposer.asked == 2
    whole, _ = run(task, tmp_path / "b", steps=5)
    assert more.detailed_results.trials == whole.detailed_results.trials
    assert [e["event"] for e in replay(tmp_path / "a")].count("run_finished") == 1


def test_other_settings_are_listed_and_refused_unless_allowed(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    changed = {"seed": 4, "prompts_per_step": 2}
    message = "settings: prompts_per_step was 8 and is 2; seed was 0 and is 4; restore prompts_per_step=8, seed=0, use"
    with pytest.raises(JournalError, match=message):
        run(task, tmp_path, **changed)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    _, proposer = run(task, tmp_path, **changed, steps=4, allow_config_changes=True)
    assert proposer.asked == 1
    (resumed,) = (e for e in replay(tmp_path) if e["event"] == "run_resumed")
    assert resumed["changed"] == {"steps": [3, 4], "prompts_per_step": [8, 2], "seed": [0, 4]}
    with pytest.raises(JournalError, match="prompts_per_step was 2 and is 8"):
        run(task, tmp_path, seed=4)


def test_a_run_recorded_under_earlier_names_of_settings_is_resumed(task: demo.DemoTask, tmp_path: Path) -> None:
    given: dict[str, Any] = {"describer": None, "prompts_per_step": 2, "log_dir": tmp_path, "task_description": "Cats."}
    with Writer() as server:
        proposer = LMProposer(server.lm(), request_mode="batch")
        IPO(proposer=proposer, steps=1, **given).compile(task.program, task.trainset)
        recorded = (tmp_path / FILE_NAME).read_text().replace('"request_mode": "batch"', '"asking": "list"')
        for old, new in OLD_SETTING_NAMES.items():
            recorded = recorded.replace(f'"{new}":', f'"{old}":')
        assert all(name in recorded for name in ('"overlap":', '"task": "Cats."', '"max_errors":', '"asking": {'))
        (tmp_path / FILE_NAME).write_text(recorded)
        more = {**given, "max_consecutive_errors": 9}
        IPO(proposer=proposer, steps=2, **more).compile(task.program, task.trainset)
        other = IPO(proposer=proposer, steps=2, **{**more, "task_description": "Dogs."})
        with pytest.raises(JournalError, match=r"task_description was 'Cats\.' and is 'Dogs\.'"):
            other.compile(task.program, task.trainset)
    (resumed,) = (event for event in replay(tmp_path) if event["event"] == "run_resumed")
    assert resumed["changed"] == {"steps": [1, 2], "max_consecutive_errors": [3, 9]}


def test_other_images_or_another_model_are_refused_always_and_the_run_stays_as_it_was(
    task: demo.DemoTask, tmp_path: Path
) -> None:
    run(task, tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    other = demo.load("pixel-animals", shots=2)
    with pytest.raises(JournalError, match=r"other images, labels or classes, whose scores cannot be compared; use"):
        run(other, tmp_path, allow_config_changes=True)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_other_validation_images_are_refused_always(task: demo.DemoTask, tmp_path: Path) -> None:
    def compile_on(valset: Any) -> None:
        optimizer = IPO(proposer=Counts(), describer=None, steps=1, log_dir=tmp_path, allow_config_changes=True)
        optimizer.compile(task.program, task.trainset, valset=valset)

    first, second = task.testset[:12], task.testset[12:24]
    compile_on(first)
    for other in (second, first[:11], None):
        with pytest.raises(JournalError, match="other validation images, whose scores cannot be compared; use"):
            compile_on(other)
    compile_on(first)


@pytest.mark.parametrize("damage", ["removed", "emptied"])
def test_a_journal_that_is_taken_away_in_mid_run_costs_nothing(
    task: demo.DemoTask, tmp_path: Path, damage: str
) -> None:
    def take_away(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 2:
            if damage == "removed":
                (tmp_path / "cut" / FILE_NAME).unlink()
            else:
                os.truncate(tmp_path / "cut" / FILE_NAME, 0)

    run(task, tmp_path / "whole")
    run(task, tmp_path / "cut", observers=[take_away])
    assert story(tmp_path / "cut") == story(tmp_path / "whole")
    _, proposer = run(task, tmp_path / "cut")
    assert proposer.asked == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("template", "a photo of a dog.", "trial 1 of the journal cannot be used"),
        ("accuracy", 900.0, "trial 1 of the journal cannot be used"),
        ("tokens", "many", "has 'many' as 'tokens', not an integer"),
    ],
)
def test_a_trial_that_cannot_be_taken_over_is_one_line(
    task: demo.DemoTask, tmp_path: Path, field: str, value: object, message: str
) -> None:
    run(task, tmp_path)
    events = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    second = [event for event in events if event["event"] == "trial"][1]
    second[field] = value
    (tmp_path / FILE_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(JournalError, match=message):
        run(task, tmp_path, steps=4)


def test_two_processes_do_not_share_a_run(task: demo.DemoTask, tmp_path: Path) -> None:
    from ipo_dspy.run.journal import Journal

    with Journal(tmp_path), pytest.raises(JournalError, match="is being written by another process"):
        run(task, tmp_path)
    run(task, tmp_path)


def test_a_damaged_journal_is_reported_with_the_line(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path)
    lines = (tmp_path / FILE_NAME).read_bytes().split(b"\n")
    lines[2] = lines[2][:-9]
    (tmp_path / FILE_NAME).write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"is damaged in line 3; restore it from a backup or start a run in another"):
        run(task, tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
from ipo_dspy import IPO, LMProposer, demo
from ipo_dspy._internal.renames import OLD_SETTING_NAMES
from ipo_dspy.errors import JournalError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
task = demo.load("pixel-animals", shots=1)
optimizer = IPO(proposer="evolution", describer=None, steps=4, log_dir=sys.argv[1])
size = int(sys.argv[2])
sys.dont_write_bytecode = True  # the limit would cut it, and other tests import it
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    optimizer.compile(task.program, task.trainset)
except JournalError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
best = optimizer.compile(task.program, task.trainset)
print(len(best.detailed_results.trials))
"""


@pytest.mark.end_to_end
def test_a_full_disk_stops_the_run_cleanly_and_it_resumes_once_there_is_room(
    tmp_path: Path, forking_parent: Processes
) -> None:
    done = Processes(tmp_path, {}, parent=forking_parent).python(FULL, str(tmp_path / "run"), "6000")
    error, trials = done.out.splitlines()
    assert "cannot be written (File too large); the journal is intact, and the run can be resumed from it" in error
    assert trials == str(1 + 4 * 8)


def test_nothing_else_is_left_next_to_the_journal(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", FILE_NAME]


@pytest.mark.usefixtures("no_cache")
def test_budgets_hold_over_all_sessions(task: demo.DemoTask, tmp_path: Path) -> None:
    for allowed, asked in ((3, 3), (3, 0), (5, 2)):
        with Writer() as server:
            given: dict[str, Any] = {"describer": None, "steps": 9, "prompts_per_step": 2, "log_dir": tmp_path}
            best = IPO(prompt_model=server.lm(), max_lm_calls=allowed, **given).compile(task.program, task.trainset)
            assert len(server.requests) == asked
        assert (best.detailed_results.status, best.detailed_results.calls) == ("max_lm_calls", allowed)


class Flat(Writer):
    """Says the same usage of each request: 310 tokens, or 165 millionths of a dollar."""

    def answer(self, body: dict[str, Any]) -> Reply:
        usage = {"prompt_tokens": 300, "completion_tokens": 10, "total_tokens": 310}
        return replace(super().answer(body), usage=usage)


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("limit", "allowed", "steps"),
    [("max_lm_calls", 4, 3), ("max_tokens", 1000, 3), ("max_tokens", 931, 3), ("max_cost", 0.0005, 3)],
)
def test_limits_are_exact_to_one_request(
    limit: str, allowed: float, steps: int, task: demo.DemoTask, tmp_path: Path
) -> None:
    with Flat() as server:
        lm = server.lm(model="openai/gpt-3.5-turbo")
        given: dict[str, Any] = {"describer": None, "steps": 9, "prompts_per_step": 2, limit: allowed}
        best = IPO(prompt_model=lm, log_dir=tmp_path, **given).compile(task.program, task.trainset)
        assert len(server.requests) == 1 + steps
    results = best.detailed_results
    assert results.status == limit
    assert (results.spent.unpriced, results.spent.cost) == (0, pytest.approx((1 + steps) * 165e-6))
    assert max(t.step for t in results.trials) == steps


def test_another_start_template_or_way_of_asking_is_refused(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path)
    other = task.program.deepcopy()
    other.template = "the <CLASS>."
    optimizer = IPO(proposer=Counts(), describer=None, steps=3, log_dir=tmp_path)
    with pytest.raises(
        JournalError, match=r"start was {'self': 'a photo of a <CLASS>\.'} and is {'self': 'the <CLASS>\.'}"
    ):
        optimizer.compile(other, task.trainset)
    with Writer() as server:
        given: dict[str, Any] = {"describer": None, "steps": 1, "prompts_per_step": 2, "log_dir": tmp_path / "lm"}
        IPO(prompt_model=server.lm(temperature=1.0), **given).compile(task.program, task.trainset)
        with pytest.raises(
            JournalError, match=r"proposer_settings was .*'temperature': 1.0.* and is .*'temperature': 0.5"
        ):
            IPO(prompt_model=server.lm(temperature=0.5), **given).compile(task.program, task.trainset)


def test_a_run_of_another_version_is_reported_as_such(task: demo.DemoTask, tmp_path: Path) -> None:
    run(task, tmp_path)
    content = (tmp_path / FILE_NAME).read_text()
    (tmp_path / FILE_NAME).write_text(content.replace('"schema": 3', '"schema": 1'))
    with pytest.raises(JournalError, match="holds a run of another version of ipo_dspy"):
        run(task, tmp_path, allow_config_changes=True)


def _strip_rule(journal: Path) -> None:
    """Leave out the settings that version 0.1 did not have."""
    journal.write_text(re.sub(r'"(choose|tolerance|ensemble|polish)": [^,]+, ', "", journal.read_text(), count=4))


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("later", "is_old", "why"),
    [
        ({}, False, "choose was 'best' and is 'plainest'"),
        ({}, True, "version 0.1 selected the most accurate template, as choose='best' does"),
        ({"choose": "best", "ensemble": 4, "tolerance": 0.0}, True, "ensemble was 1 and is 4"),
    ],
)
def test_a_template_that_another_rule_replaces_is_named(
    later: dict[str, Any], is_old: bool, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = demo.load("pixel-animals", shots=2)
    optimize: dict[str, Any] = {"proposer": "evolution", "steps": 8, "log_dir": tmp_path}
    before = IPO(**optimize, choose="best", tolerance=0.9).compile(task.program, task.trainset)
    if is_old:
        _strip_rule(tmp_path / FILE_NAME)
    now = IPO(**optimize, **later).compile(task.program, task.trainset)
    assert str(now.template) != str(before.template)
    said = f"the template in best.json was {str(before.template)!r} and is now {str(now.template)!r}: {why}"
    assert caplog.messages == [said]
    IPO(**optimize, **later).compile(task.program, task.trainset)
    assert caplog.messages == [said]


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("earlier", "later", "is_old"),
    [
        ({"steps": 2, "choose": "best"}, {"steps": 25, "choose": "best", "tolerance": 0.9}, False),
        ({"steps": 2, "choose": "best"}, {"steps": 25, "choose": "best"}, True),
        ({"steps": 2, "choose": "best"}, {"steps": 25}, False),
    ],
)
def test_a_template_that_more_steps_replace_is_not_laid_to_the_rule(
    earlier: dict[str, Any], later: dict[str, Any], is_old: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = demo.load("pixel-animals", shots=2)
    before = IPO(proposer="evolution", log_dir=tmp_path, **earlier).compile(task.program, task.trainset)
    if is_old:
        _strip_rule(tmp_path / FILE_NAME)
    now = IPO(proposer="evolution", log_dir=tmp_path, **later).compile(task.program, task.trainset)
    assert str(now.template) != str(before.template)
    assert caplog.messages == []
