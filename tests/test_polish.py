"""Rewordings of the tied templates: one request after the search, within limits, never sent again by a resumed run."""

from pathlib import Path
from typing import Any

import pytest

from helpers.openai_server import Reply, Writer
from ipo_dspy import IPO, LMProposer, demo
from ipo_dspy.optimizer.results import DetailedResults
from ipo_dspy.proposers import ProposalRequest, Proposals
from ipo_dspy.run.journal import replay

pytestmark = pytest.mark.usefixtures("no_cache")
STEPS = 3
TIED = "Templates that do about equally well, the plainest first:\n- "
PLAIN = "<INS>pixel art of a <CLASS>.</INS>\n<INS>a sprite of a <CLASS>.</INS>"


def run(server: Writer, task: demo.DemoTask, folder: Path | None = None, **options: Any) -> DetailedResults:
    given = {"prompt_model": server.lm(), "steps": STEPS, "prompts_per_step": 4, "log_dir": folder, "tolerance": 3.0}
    optimizer = IPO(**{**given, "describer": None, **options})
    results: DetailedResults = optimizer.compile(task.program, task.trainset).detailed_results
    return results


def refined(results: DetailedResults) -> list[str]:
    return [str(trial.template) for trial in results.trials if trial.stage == "refine"]


def events(folder: Path, kind: str) -> list[Any]:
    return [event for event in replay(folder) if event["event"] == kind]


def test_rewordings_of_the_tied_templates_are_scored_and_selected_as_others(task: demo.DemoTask) -> None:
    with Writer(rewording=Reply(PLAIN)) as server:
        results = run(server, task, tolerance=100.0)
    (request,) = server.reworded
    assert "at most 8 rewordings" in request
    shown = request.split(TIED)[1].split("\n\n")[0].split("\n- ")
    searched = [trial for trial in results.trials if trial.stage == "search"]
    assert 1 < len(shown) <= 20
    assert set(shown) <= {
        f"{t.template}  (loss {t.score.loss:.4f}, accuracy {t.score.accuracy:.2f} %)" for t in searched
    }
    assert refined(results)[:2] == ["pixel art of a <CLASS>.", "a sprite of a <CLASS>."]
    assert results.searches[0].choice.compared == len(results.trials)
    assert results.calls == len(server.requests) == 1 + STEPS + 1


def test_at_most_twenty_are_shown(task: demo.DemoTask) -> None:
    initial = [f"a {word} <CLASS>." for word in "abcdefghijklmnopqrstuvwxyz"]
    with Writer() as server:
        run(server, task, tolerance=1e6, steps=1, initial_templates=initial)
    assert server.reworded[0].count("\n- ") == 20


@pytest.mark.parametrize("options", [{"polish": False}, {"choose": "best"}, {"steps": 0}])
def test_it_is_not_asked_for(task: demo.DemoTask, options: dict[str, Any]) -> None:
    with Writer() as server:
        given = {"prompt_model": server.lm(), "steps": STEPS, "describer": None, **options}
        expected = IPO(**given).estimate(task.program, task.trainset)
        results = run(server, task, **options)
    assert server.reworded == []
    assert "rewordings" not in {item.what for item in expected.items}
    assert results.calls == expected.total.calls


def test_it_is_not_asked_for_after_an_interruption(task: demo.DemoTask) -> None:
    def stop(event: Any) -> None:
        if event["event"] == "step" and event["step"] == STEPS:
            optimizer.stop()

    with Writer() as server:
        optimizer = IPO(prompt_model=server.lm(), steps=STEPS, describer=None, observers=[stop], prefetch=False)
        optimizer.compile(task.program, task.trainset)
    assert (server.asked, server.reworded) == (STEPS, [])


def test_the_estimate_counts_it(task: demo.DemoTask) -> None:
    with Writer() as server:
        expected = IPO(prompt_model=server.lm(), steps=STEPS).estimate(task.program, task.trainset)
        run(server, task, tolerance=100.0)
    (item,) = (item for item in expected.items if item.what == "rewordings")
    assert item.calls == 1
    assert 0.8 * len(server.reworded[0]) / 4 <= item.prompt_tokens <= 2000


def test_a_resumed_run_does_not_ask_again(task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer(rewording=Reply(f"{PLAIN}\n<INS>a dog.</INS>")) as server:
        first = run(server, task, tmp_path)
        asked = len(server.requests)
        again = run(server, task, tmp_path)
        assert (len(server.requests), len(server.reworded)) == (asked, 1)
        without = run(server, task, tmp_path, polish=False)
        more = run(server, task, tmp_path, steps=STEPS + 2)
    assert (again.trials, again.rejections) == (first.trials, first.rejections)
    assert again.rejections["no class placeholder"] == 1
    assert "a sprite of a <CLASS>." not in map(str, (trial.template for trial in without.trials))
    searched = [trial for trial in first.trials if trial.stage == "search"]
    assert list(more.trials[: len(searched)]) == searched  # and further steps, which were not asked for before
    assert max(trial.step for trial in more.trials) == STEPS + 2


def test_it_stays_within_a_limit_and_follows_when_that_is_raised(task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer(rewording=Reply(PLAIN)) as server:
        limited = run(server, task, tmp_path, max_lm_calls=1 + STEPS)
        assert (limited.status, limited.calls, server.reworded) == ("finished", 1 + STEPS, [])
        raised = run(server, task, tmp_path, max_lm_calls=2 + STEPS)
        assert (raised.calls, len(server.reworded)) == (2 + STEPS, 1)
        plain = run(server, task, polish=False)
    (error,) = events(tmp_path, "error")
    assert error["message"].startswith(f"the result is not reworded: the limit of {1 + STEPS} LLM calls is reached")
    assert limited.best == plain.best
    assert "pixel art of a <CLASS>." in refined(raised)


def test_it_is_not_asked_for_after_a_limit(task: demo.DemoTask) -> None:
    with Writer() as server:
        results = run(server, task, max_lm_calls=STEPS)
    assert (results.status, server.reworded) == ("max_lm_calls", [])


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply("overloaded", status=500), "overloaded"),
        (Reply(cut_at=20), "gave no proposals"),
        (Reply("I would rather not."), "nothing in the answer can be used: 'I would rather not.'"),
        (Reply(""), "the answer is empty"),
        (Reply("no", finish_reason="content_filter"), "content filter"),
    ],
)
def test_a_failure_does_not_lose_the_result(task: demo.DemoTask, tmp_path: Path, reply: Reply, message: str) -> None:
    with Writer(rewording=reply) as server:
        results = run(server, task, tmp_path)
        plain = run(server, task, polish=False)
    (error,) = events(tmp_path, "error")
    assert error["message"].startswith("the result is not reworded: ")
    assert message in error["message"]
    assert (results.status, results.best, results.trials) == ("finished", plain.best, plain.trials)


def test_unusable_rewordings_are_rejected(task: demo.DemoTask, tmp_path: Path) -> None:
    texts = ["a photo of a <CLASS>.", "a sprite of a <CLASS>.", "a sprite of a <CLASS>."]
    many = [f"a picture {number} of a <CLASS>." for number in range(6)]
    with Writer(rewording=Reply("\n".join(f"<INS>{text}</INS>" for text in many + texts))) as server:
        results = run(server, task, tmp_path, tolerance=1.0)
    reasons = [event["reason"] for event in events(tmp_path, "rejection") if event["stage"] == "refine"]
    assert reasons == ["duplicate", "duplicate"]  # the start template, and one that came twice
    assert refined(results)[:7] == [*many, "a sprite of a <CLASS>."]  # what was paid for is scored


def test_scores_that_the_proposer_does_not_see_are_not_shown(task: demo.DemoTask) -> None:
    with Writer() as server:
        run(server, task, prompt_model=None, proposer=LMProposer(server.lm(), feedback="accuracy"))
    assert "accuracy" in server.reworded[0]
    assert "loss" not in server.reworded[0]


class Own:
    """A custom proposer that can also reword."""

    def __init__(self) -> None:
        self.shown: tuple[str, ...] = ()

    def propose(self, ask: ProposalRequest) -> Proposals:
        return Proposals((f"a {'very ' * ask.step}dark <CLASS>.",))

    def polish(self, ask: ProposalRequest) -> Proposals:
        self.shown = tuple(str(trial.template) for trial in ask.shown)
        return Proposals(("a sprite of a <CLASS>.",))


def test_a_custom_proposer_may_reword(task: demo.DemoTask) -> None:
    own = Own()
    results = IPO(proposer=own, steps=1, describer=None).compile(task.program, task.trainset).detailed_results
    assert set(own.shown) <= {str(trial.template) for trial in results.trials}
    assert refined(results)[0] == "a sprite of a <CLASS>."
