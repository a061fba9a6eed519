"""The ledger: no question is asked twice, and no limit is overstepped by more than one request, in any threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dspy.utils.exceptions import LMError
from hypothesis import given
from hypothesis import strategies as st

from helpers.openai_server import OpenAIServer, Reply
from ipo_dspy.errors import BudgetError, InputError
from ipo_dspy.lms.requests import ping
from ipo_dspy.run.journal import Journal, replay
from ipo_dspy.run.ledger import Budget, Ledger, LMResponse, Usage
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import RunState


def test_an_answer_is_kept_before_it_is_used_and_another_session_has_it(tmp_path: Path) -> None:
    answer = LMResponse(
        ("a <CLASS>.", "lone \ud83d"), model="m", prompt_tokens=7, completion_tokens=2, cost=0.5, cut=True, fault="f"
    )
    with Journal(tmp_path) as journal:
        assert Ledger(EventRecorder(journal)).once("self", "step 1/0", lambda: answer) == answer
    with Journal(tmp_path) as journal:
        ledger = Ledger(EventRecorder(journal, past=journal.past))
        assert ledger.once("self", "step 1/0", lambda: pytest.fail("asked again")).texts[0] == "a <CLASS>."
        assert (ledger.spent.calls, ledger.spent.tokens, ledger.spent.cost) == (1, 9, 0.5)
        assert ledger.once("other", "step 1/0", lambda: LMResponse(("another's",))).texts == ("another's",)


def test_a_question_that_failed_is_asked_again() -> None:
    ledger = Ledger()

    def fails() -> LMResponse:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            ledger.once("self", "q", fails)
    assert ledger.once("self", "q", lambda: LMResponse(("x",))).texts == ("x",)
    assert ledger.spent.calls == 1


class Reads(OpenAIServer):
    """Answers the pings, and keeps the kinds of events that a journal has at that moment."""

    def __init__(self, folder: Path, *replies: Reply) -> None:
        super().__init__({})
        self.folder, self.left, self.kinds = folder, list(replies), list[str]()

    def answer(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        self.kinds = [event["event"] for event in replay(self.folder)]
        return self.left.pop(0)


@pytest.mark.usefixtures("no_cache")
def test_a_request_is_recorded_before_it_is_sent_and_once_for_all_sessions(tmp_path: Path) -> None:
    for session in range(2):
        with Reads(tmp_path, Reply("ready")) as server, Journal(tmp_path) as journal:
            ledger, lm = Ledger(EventRecorder(journal, past=journal.past)), server.lm(timeout=50)
            ledger.once("self", "step 1/0", partial(ping, lm))
            assert len(server.requests) == 1 - session
            assert server.kinds == ["lm_request"][session:]
            assert ledger.spent.calls == 1
    request, _ = events = replay(tmp_path)
    assert [event["event"] for event in events] == ["lm_request", "lm_response"]
    assert request["event"] == "lm_request"
    assert (request["request_id"], request["model"], request["timeout"]) == ("step 1/0", "openai/toy", 50)
    assert [one.model for one in RunState(events[:1]).pending] == ["openai/toy"]
    assert RunState(events).requests == {}


@pytest.mark.usefixtures("no_cache")
def test_a_request_that_failed_is_not_waited_for_while_others_are(tmp_path: Path) -> None:
    with Reads(tmp_path, Reply("ready"), Reply("no", status=400)) as server, Journal(tmp_path) as journal:
        ledger, lm = Ledger(EventRecorder(journal)), server.lm()

        def outer() -> LMResponse:
            answer = ping(lm)
            with pytest.raises(LMError):
                ledger.once("self", "step 1/1", lambda: ping(lm))
            assert [request for _, request in ledger.recorder.state.requests] == ["step 1/0"]
            assert [request for _, request in RunState(replay(tmp_path)).requests] == ["step 1/0"]
            return answer

        ledger.once("self", "step 1/0", outer)
    assert RunState(replay(tmp_path)).requests == {}


def test_the_same_question_from_many_threads_is_asked_once() -> None:
    ledger, asked = Ledger(), []

    def ask() -> LMResponse:
        asked.append(1)
        threading.Event().wait(0.05)
        return LMResponse(("x",))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ledger.once("self", "q", ask), range(8)))
    assert len(asked) == 1
    assert {answer.texts for answer in answers} == {("x",)}


def test_observers_receive_answers_in_the_order_of_the_journal_whichever_threads_ask(tmp_path: Path) -> None:
    """The first observer is slower with some events than with others, and the threads overtake each other there."""
    received: list[Any] = []

    def slow(event: Any) -> None:
        threading.Event().wait(0.02 * (int(event["request_id"]) % 3))

    with Journal(tmp_path) as journal, ThreadPoolExecutor(8) as pool:
        ledger = Ledger(EventRecorder(journal, [slow, received.append]))
        list(pool.map(lambda i: ledger.once("self", str(i), lambda: LMResponse(("x",))), range(16)))
    assert received == replay(tmp_path)
    assert len(received) == 16


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=30),
    st.integers(1, 100),
    st.sampled_from(["max_lm_calls", "max_tokens", "max_cost"]),
)
def test_no_limit_is_overstepped_by_more_than_one_request(sizes: list[int], allowed: int, limit: str) -> None:
    limits: dict[str, Any] = {limit: allowed}
    ledger = Ledger(limits=Budget(**limits))
    given_out: list[int] = []
    lock = threading.Lock()

    def ask(index: int) -> None:
        def answer() -> LMResponse:
            threading.Event().wait(0.0002)
            with lock:
                given_out.append(sizes[index])
            return LMResponse((), prompt_tokens=sizes[index], cost=float(sizes[index]))

        with suppress(BudgetError):
            ledger.once("self", f"q{index}", answer)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(len(sizes))))
    spent = ledger.limits.spent_of(ledger.spent)[limit]
    units = [1] * len(given_out) if limit == "max_lm_calls" else given_out
    if len(units) < len(sizes):
        assert spent >= allowed
    if limit == "max_lm_calls":
        assert spent <= allowed
    elif len(set(sizes)) == 1:  # where no request is more expensive than those before it, the bound is one request
        assert spent < allowed + sizes[0]


def test_requests_wait_for_those_in_flight_where_they_could_use_up_what_is_left() -> None:
    ledger = Ledger(limits=Budget(max_tokens=30))
    ledger.once("self", "first", lambda: LMResponse((), prompt_tokens=10))
    in_flight, most = 0, 0
    lock = threading.Lock()

    def answer() -> LMResponse:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        threading.Event().wait(0.02)
        with lock:
            in_flight -= 1
        return LMResponse((), prompt_tokens=10)

    def ask(index: int) -> bool:
        try:
            ledger.once("self", f"q{index}", answer)
        except BudgetError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(ask, range(6)))
    assert (sum(sent), ledger.spent.tokens) == (2, 30)
    assert most <= 2


def test_seconds_are_those_of_all_sessions(tmp_path: Path) -> None:
    now = [100.0]
    with Journal(tmp_path) as journal:
        ledger = Ledger(EventRecorder(journal), clock=lambda: now[0])
        now[0] += 5
        ledger.once("self", "q", lambda: LMResponse(()))
    now[0] = 9000.0
    with Journal(tmp_path) as journal:
        again = Ledger(EventRecorder(journal, past=journal.past), Budget(max_seconds=6), clock=lambda: now[0])
        assert again.spent.seconds == 5
        again.check_time()
        now[0] += 1
        with pytest.raises(BudgetError, match="the limit of 6 seconds is reached"):
            again.check_time()
        with pytest.raises(BudgetError, match="the limit of 6 seconds is reached"):
            again.once("self", "r", lambda: LMResponse(()))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_lm_calls": 0}, "max_lm_calls must be a positive integer, .* got 0; for example max_lm_calls=100"),
        ({"max_tokens": 1.5}, "max_tokens must be a positive integer, .* got 1.5"),
        ({"max_cost": -1}, "max_cost must be a positive number, .* got -1; for example max_cost=2.5"),
        ({"max_cost": float("nan")}, "max_cost must be a positive number, .* got nan"),
        ({"max_seconds": True}, "max_seconds must be a positive number, .* got True"),
    ],
)
def test_limits_that_limit_nothing_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**limits)


def test_unknown_prices_are_counted_and_said() -> None:
    spent = (
        Usage().plus(LMResponse((), cost=None)).plus(LMResponse((), cost=0.25)).plus(LMResponse((), calls=0, cost=None))
    )
    assert (spent.calls, spent.cost, spent.unpriced) == (2, 0.25, 1)
    assert "0.2500 USD + 1 calls of unknown price" in repr(spent)


def test_what_a_request_costs_is_learnt_from_those_of_its_kind() -> None:
    ledger = Ledger(limits=Budget(max_tokens=3000))
    ledger.once("", "greet openai/x", lambda: LMResponse((), prompt_tokens=15))  # kept: in journals
    ledger.once("self", "step 0/0", lambda: LMResponse((), calls=0))  # from a cache: says nothing of the price

    def ask(index: int) -> None:
        def answer() -> LMResponse:
            threading.Event().wait(0.01)
            return LMResponse((), prompt_tokens=3000)

        with suppress(BudgetError):
            ledger.once("self", f"step 1/{index}", answer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert ledger.spent.tokens == 3015


def test_a_journal_in_which_a_server_gave_budget_back_gives_none(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        Ledger(EventRecorder(journal)).once(
            "self", "q", lambda: LMResponse((), prompt_tokens=-40, completion_tokens=-2, cost=-1.0)
        )
    with Journal(tmp_path) as journal:
        spent = Ledger(EventRecorder(journal, past=journal.past)).spent
    assert (spent.calls, spent.tokens, spent.cost) == (1, 0, 0.0)


def test_estimated_requests_are_kept_and_said(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        Ledger(EventRecorder(journal)).once("self", "q", lambda: LMResponse((), prompt_tokens=40, estimated=1))
    with Journal(tmp_path) as journal:
        spent = Ledger(EventRecorder(journal, past=journal.past)).spent
    assert spent.estimated == 1
    assert "40 tokens (estimated)" in repr(spent)
