"""The memory of a search: its order is total and does not depend on who came first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.errors import InputError
from ipo_dspy.history import History, Trial
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


def trial(index: int, accuracy: float = 50.0, loss: float = 1.0, tokens: int = 7) -> Trial:
    text = f"a photo {index} of a <CLASS>."
    return Trial(Template.parse(text), Score(accuracy, loss), index=index, step=index, tokens=tokens, key=text)


few = st.sampled_from([10.0, 50.0, 90.0])  # few values, so that ties are frequent
rows = st.lists(st.tuples(few, st.sampled_from([0.5, 1.0]), st.sampled_from([5, 9])), min_size=1, max_size=12)
trials = rows.map(lambda listed: [trial(i, *row) for i, row in enumerate(listed)])


@given(trials, st.randoms(use_true_random=False), st.integers(0, 15))
def test_order_of_insertion_changes_nothing(listed: list[Trial], random: object, n: int) -> None:
    mixed = list(listed)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = History(listed), History(mixed)
    assert one.best == other.best
    assert one.start == other.start == listed[0]
    assert one.top(n) == other.top(n)
    assert one.shown(n) == other.shown(n)
    assert list(one) == list(other) == listed


@given(trials, st.integers(0, 15))
def test_shown_holds_the_start_and_ends_with_the_best(listed: list[Trial], n: int) -> None:
    history = History(listed)
    shown = history.shown(n)
    assert history.start in shown
    assert set(shown) == {*history.top(n), history.start}
    assert [t.rank for t in shown] == sorted((t.rank for t in shown), reverse=True)
    if n:
        assert shown[-1] == history.best


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (trial(1, accuracy=51.0, loss=9.0, tokens=9), trial(0)),
        (trial(1, loss=0.9, tokens=9), trial(0)),
        (trial(1, loss=0.99985, tokens=9), trial(0)),
        (trial(1, tokens=6), trial(0)),
        (trial(1, loss=1.00004, tokens=6), trial(0)),
        (trial(0, loss=1.00004), trial(1, loss=0.99996)),
        (trial(0), trial(1)),
    ],
    ids=[
        "higher accuracy",
        "lower loss",
        "lower loss in the fourth decimal",
        "fewer tokens",
        "fewer tokens where four decimals are equal",
        "earlier where four decimals are equal",
        "earlier",
    ],
)
def test_ties_are_broken_as_stated(better: Trial, worse: Trial) -> None:
    assert History([worse, better]).top(2) == [better, worse]


def test_a_key_is_tried_once() -> None:
    history = History([trial(0)])
    assert trial(0).key in history
    with pytest.raises(InputError, match=r"'a photo 0 of a <CLASS>\.' was tried before; ask `key in history` first"):
        history.add(trial(0))
    assert len(history) == 1


def test_an_empty_history_shows_nothing() -> None:
    assert History().shown(3) == History().top(3) == []


@pytest.mark.parametrize(
    ("accuracy", "loss", "message"),
    [
        (100.1, 1.0, r"accuracy must be between 0 and 100 \(percent\), got 100.1; for example"),
        (float("nan"), 1.0, r"accuracy must be between 0 and 100 \(percent\), got nan"),
        (50.0, float("nan"), "loss must be finite, got nan; check the features"),
        (50.0, float("inf"), "loss must be finite, got inf"),
    ],
)
def test_impossible_scores(accuracy: float, loss: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Score(accuracy, loss)


@pytest.mark.parametrize("name", ["best", "start"])
def test_an_empty_history_says_so(name: str) -> None:
    with pytest.raises(InputError, match="history must hold a trial, got none"):
        getattr(History(), name)
