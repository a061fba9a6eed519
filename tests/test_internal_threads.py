"""Threads that keep order and settings, and stop at the first error."""

import os
import signal
import threading
from contextvars import ContextVar

import pytest

from ipo_dspy._internal.threads import in_threads, run_with_timeout

setting: ContextVar[str] = ContextVar("setting", default="none")


@pytest.mark.parametrize("num_threads", [1, 4])
def test_results_keep_the_order_of_the_items(num_threads: int) -> None:
    late = threading.Event()

    def first_is_last(item: int) -> int:
        if item == 0 and num_threads > 1:
            late.wait()
        if item == 3:
            late.set()
        return item * item

    assert in_threads(first_is_last, range(6), num_threads=num_threads) == [0, 1, 4, 9, 16, 25]


def test_settings_of_the_caller_hold_and_do_not_leak() -> None:
    def change(item: int) -> str:
        before = setting.get()
        setting.set(f"changed by {item}")
        return before

    token = setting.set("of the caller")
    try:
        assert in_threads(change, range(5), num_threads=2) == ["of the caller"] * 5
        assert setting.get() == "of the caller"
    finally:
        setting.reset(token)


def test_the_first_error_is_raised_and_the_rest_left_undone() -> None:
    begun: list[int] = []

    def fails(item: int) -> None:
        begun.append(item)
        raise KeyError(item)

    with pytest.raises(KeyError, match="0"):
        in_threads(fails, range(1000), num_threads=1)
    assert len(begun) < 1000


def test_an_error_waits_for_what_has_begun_and_leaves_the_rest() -> None:
    begun, both = [], threading.Barrier(2)

    def fails_while_another_runs(item: int) -> None:
        begun.append(item)
        both.wait(10)
        if item == 0:
            raise KeyError(item)
        threading.Event().wait(0.05)
        begun.append(100)

    with pytest.raises(KeyError, match="0"):
        in_threads(fails_while_another_runs, range(50), num_threads=2)
    assert sorted(begun) == [0, 1, 100]


def test_ctrl_c_does_not_wait_for_what_is_under_way() -> None:
    released, ended = threading.Event(), []

    def is_interrupted(item: int) -> None:
        if item == 0:
            threading.Event().wait(0.1)  # till all are handed over
            os.kill(os.getpid(), signal.SIGINT)
        released.wait(5)
        ended.append(item)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_threads(is_interrupted, range(8), num_threads=2)
        assert ended == []
    finally:
        released.set()
        signal.signal(signal.SIGINT, before)


def test_work_that_takes_too_long_is_abandoned_and_its_own_time_out_is_reported_apart() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError, match=r"no result within 0\.05 s"):
        run_with_timeout(0.05, lambda: released.wait(60))
    released.set()

    def times_out() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        run_with_timeout(60, times_out)
    assert run_with_timeout(60, lambda: 3) == 3
