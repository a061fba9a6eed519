"""Threads that keep order and settings, and stop at the first error."""

import threading
from contextvars import ContextVar

import pytest

from ipo_dspy.threads import in_threads

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
