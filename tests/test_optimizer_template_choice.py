"""The choice among trials: rules on toys with known outcomes, and whole runs on a bundled task."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipo_dspy import IPO, demo
from ipo_dspy.errors import InputError
from ipo_dspy.history import Trial
from ipo_dspy.optimizer.results import DetailedResults
from ipo_dspy.optimizer.template_choice import Best, Candidates, Plainest, Selection, compared_trials
from ipo_dspy.run.journal import Journal
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.comparison import Comparison, PairTally
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

START = "a photo of a <CLASS>."
IMAGES = 100


def trial(text: str, index: int, stage: str = "search") -> Trial:
    return Trial(Template.parse(text), Score(50.0, 1.0), index=index, step=0, tokens=len(text), key=text, stage=stage)


def select(rule: Best | Plainest, wrong: dict[str, range], losses: dict[str, float] | None = None) -> Selection:
    """Choose among templates that are wrong on some of a hundred images; the first one is the start template."""
    trials = [trial(text, index) for index, text in enumerate(wrong)]
    correct = np.array([[float(i not in wrong[text]) for text in wrong] for i in range(IMAGES)])
    noise = np.linspace(-0.1, 0.1, IMAGES)[:, None] * np.arange(len(wrong))
    nats = np.array([[(losses or {}).get(text, 1.0) for text in wrong]]) + noise
    comparison = Comparison(PairTally.of(np.hstack([correct, nats]), np.arange(IMAGES) % 4, classes=4))
    return Candidates.of(trials, comparison, trials[0]).select(rule)


def chosen(rule: Best | Plainest, wrong: dict[str, range], losses: dict[str, float] | None = None) -> str:
    return str(select(rule, wrong, losses).trial.template)


LONG, SHORT, WORSE = "a clear red sketch of a <CLASS>.", "a sketch of a <CLASS>.", "a <CLASS>."
WRONG = {START: range(40), LONG: range(10), SHORT: range(1, 12), WORSE: range(20)}


def test_the_plainest_wins_among_those_that_cannot_be_told_apart() -> None:
    assert chosen(Best(), WRONG) == LONG
    assert chosen(Plainest(), WRONG) == SHORT  # wrong on two images more, right on one more: 1 point, error 1.7
    assert chosen(Plainest(tolerance=0.0), WRONG) == LONG
    assert chosen(Plainest(tolerance=9.0), WRONG) == WORSE


def test_a_higher_loss_is_told_apart_as_well() -> None:
    assert chosen(Plainest(), WRONG, {SHORT: 2.0}) == LONG


def test_a_difference_in_loss_of_less_than_three_percent_is_not_worth_words() -> None:
    wrong = {START: range(40), LONG: range(10), SHORT: range(10)}
    assert chosen(Plainest(), wrong, {SHORT: 1.029}) == SHORT  # the error of the difference is 0.006
    assert chosen(Plainest(), wrong, {SHORT: 1.031}) == LONG
    assert chosen(Plainest(tolerance=2.0), wrong, {SHORT: 1.059}) == SHORT
    assert chosen(Plainest(tolerance=0.0), wrong, {SHORT: 1.001}) == LONG
    assert chosen(Plainest(), wrong, {SHORT: 0.31, LONG: 0.3}) == LONG


def test_the_lowest_loss_leads_not_the_highest_accuracy() -> None:
    wrong = {START: range(40), LONG: range(1, 12), SHORT: range(10)}  # SHORT is more accurate by 1 point, error 1.7
    assert chosen(Plainest(), wrong) == SHORT
    assert chosen(Plainest(), wrong, {SHORT: 2.0}) == LONG
    assert chosen(Best(), wrong, {SHORT: 2.0}) == SHORT


def test_another_objective_leads_before_the_loss() -> None:
    texts = (START, LONG, SHORT)
    trials = [trial(text, index) for index, text in enumerate(texts)]
    correct = np.array([[i >= 40, i > 10, i >= 10] for i in range(IMAGES)], dtype=np.float64)
    nats = np.ones((IMAGES, 3)) * [1.0, 0.5, 2.0]
    tally = PairTally.of(np.hstack([correct, nats]), np.arange(IMAGES) % 4, classes=4)
    scores = tuple(Score(accuracy, loss) for accuracy, loss in ((60.0, 1.0), (89.0, 0.5), (90.0, 2.0)))
    for given, expected in ((tally, LONG), (replace(tally, scores=scores), SHORT)):
        chosen_trial = Candidates.of(trials, Comparison(given), trials[0]).select(Plainest()).trial
        assert str(chosen_trial.template) == expected


def test_a_leader_is_not_worse_than_the_start_template() -> None:
    selection = select(Plainest(tolerance=9.0), {START: range(10), LONG: range(30), SHORT: range(9)}, {LONG: 0.5})
    assert str(selection.trial.template) == SHORT
    assert [str(selection.candidates.trials[k].template) for k in selection.tied] == [SHORT, START]


def test_words_are_counted_not_phrases() -> None:
    two_phrases, one_phrase = "a dim red <CLASS>.", "a <CLASS> in shades of grey."
    assert chosen(Plainest(), {START: range(40), one_phrase: range(10), two_phrases: range(10)}) == two_phrases


def test_the_choice_is_never_worse_than_the_start_template() -> None:
    wrong = {START: range(10), WORSE: range(12), LONG: range(9)}
    assert chosen(Plainest(tolerance=9.0), wrong) == START


def test_of_equally_plain_ones_the_better_wins_and_of_equal_ones_the_earlier() -> None:
    other = "a mosaic of a <CLASS>."
    assert chosen(Plainest(), {START: range(40), SHORT: range(11), other: range(1, 11)}) == other
    equal = {START: range(40), SHORT: range(10), other: range(11)}
    assert chosen(Plainest(), equal) == SHORT
    assert chosen(Plainest(), equal, {other: 0.999}) == other  # the error of the difference is 0.006
    assert chosen(Best(), {START: range(40), LONG: range(10), SHORT: range(10)}) == SHORT
    equal = {START: range(40), "a big red <CLASS>.": range(10), "a red big <CLASS>.": range(10)}
    assert chosen(Best(), equal) == "a big red <CLASS>."


def test_phrases_go_one_after_another_but_not_beyond_twice_the_tolerance() -> None:
    wrong = {
        START: range(60),
        "a b c <CLASS>.": range(0),
        "a b <CLASS>.": range(1),
        WORSE: range(2),
        "<CLASS>": range(9),
    }
    assert chosen(Plainest(), wrong) == WORSE


def test_the_report_says_what_to_expect() -> None:
    report = select(Plainest(), WRONG).report()
    assert (report.images, report.compared, report.accuracy, report.tied) == (IMAGES, 4, 89.0, 2)
    assert report.interval.low < report.expected <= report.accuracy < 100
    assert report.beats_start
    assert report.gain == pytest.approx(report.expected - 60.0)
    again = select(Plainest(), {START: range(40), SHORT: range(1, 40)}).report()
    assert not again.beats_start
    assert select(Plainest(), WRONG).report() == report


def test_all_equal_is_the_start_template_or_a_plainer_one() -> None:
    equal = {START: range(10), LONG: range(10), SHORT: range(10)}
    selection = select(Plainest(), equal)
    assert str(selection.trial.template) == START
    assert selection.report().optimism < 1e-6
    assert len(selection.tied) == 3


def test_compared_are_the_best_the_start_and_all_variants_of_winners() -> None:
    trials = [trial(START, 0), *(trial(f"a <CLASS> {i}", i) for i in range(1, 9)), trial("<CLASS>", 9, "refine")]
    assert [t.index for t in compared_trials(trials, trials[0], 400)] == list(range(10))
    assert [t.index for t in compared_trials(trials, trials[0], 3)] == [0, 1, 2, 3, 9]
    assert [t.index for t in compared_trials(trials, trials[5], 3)] == [1, 2, 3, 5, 9]


@pytest.mark.parametrize(("name", "value"), [("choose", "shortest"), ("tolerance", -1), ("ensemble", 0)])
def test_bad_arguments(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"{name} must be .*, got {value!r}"):
        IPO(proposer="evolution", **{name: value})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[DetailedResults, Path]:
    folder = tmp_path_factory.mktemp("run")
    task = demo.load("pixel-animals", shots=4, seed=1)
    best = IPO(proposer="evolution", steps=8, seed=1, log_dir=folder, progress=False).compile(
        task.program, task.trainset
    )
    return best.detailed_results, folder


@pytest.mark.end_to_end
def test_every_phrase_of_a_winner_is_worth_something(results: tuple[DetailedResults, Path]) -> None:
    (search,) = results[0].searches
    assert search.best.score.rank <= search.baseline.score.rank
    assert search.phrases
    for worth in search.phrases:
        assert (
            worth.accuracy > worth.accuracy_error - 1e-9
            or worth.loss > worth.loss_error - 1e-9
            or (search.best.score.accuracy - worth.accuracy < search.baseline.score.accuracy)
        ), worth


def test_the_journal_has_what_the_result_has(results: tuple[DetailedResults, Path]) -> None:
    (search,) = results[0].searches
    with Journal(results[1]) as journal:
        selected = RunState(journal.past).searches["self"].selected
    assert selected is not None
    assert selected["choice"] == search.choice.fields
    assert selected["phrases"] == [worth.fields for worth in search.phrases]
    assert [row["template"] for row in selected["tied"]] == [str(f.trial.template) for f in search.tied]
    assert len(search.tied) <= 5
    assert search.choice.tied >= len(search.tied)


def test_one_image_per_class_says_what_cannot_be_known() -> None:
    task = demo.load("pixel-animals", shots=1, seed=1)
    best = IPO(proposer="evolution", steps=2, progress=False).compile(task.program, task.trainset)
    assert not best.detailed_results.searches[0].choice.is_spread_known


@pytest.mark.end_to_end
def test_an_ensemble_is_an_ordinary_template_that_is_reported_line_by_line(tmp_path: Path) -> None:
    task = demo.load("inverted-objects", shots=4, seed=1)
    given: dict[str, Any] = {"proposer": "evolution", "steps": 8, "seed": 1, "progress": False, "tolerance": 0.25}
    optimizer = IPO(**given, ensemble=3, log_dir=tmp_path)
    best = optimizer.compile(task.program, task.trainset)
    (search,) = best.detailed_results.searches
    assert 2 <= len(best.template.lines) <= 3
    assert best.template == search.best.template
    assert [line.text for line in search.ensemble] == list(best.template.lines[1:])
    assert all(line.loss > 0.25 * line.loss_error for line in search.ensemble)
    single = IPO(**given).compile(task.program, task.trainset)
    assert search.best.score.loss < single.detailed_results.best.score.loss
    assert [line.text for line in single.detailed_results.searches[0].ensemble][:1] == [search.ensemble[0].text]
    assert np.isclose(search.choice.accuracy, search.best.score.accuracy)
