"""The end of a search with a toy scorer: how much is compared, and what an ensemble may not do."""

from collections.abc import Sequence
from typing import Any

import pytest

from helpers.toy_pairs import pairs_of
from ipo_dspy.history import Trial
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.final_stage import FinalChoice
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


class ListedScorer:
    """Has a score for each single line; an ensemble is less accurate than its lines and has a lower loss."""

    def __init__(self, scores: dict[str, Score]) -> None:
        self.scores, self.compared = scores, list[int]()

    def check(self, template: Template) -> Any:
        return type("Checked", (), {"key": str(template), "longest": 9})

    def score(self, templates: Sequence[Template]) -> list[Score]:
        return [self._score(template) for template in templates]

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        self.compared.append(len(templates))
        return pairs_of(self.score(templates))

    def _score(self, template: Template) -> Score:
        lines = [self.scores.get(line, Score(0.0, 9.0)) for line in template.lines]
        worst = min(score.accuracy for score in lines)
        fall = 10.0 * (len(lines) - 1)
        return Score(worst - fall, min(score.loss for score in lines) - 0.1 * (len(lines) - 1))


def choice_among(
    count: int, images: int, others: dict[str, Score] | None = None, **settings: Any
) -> tuple[FinalChoice, ListedScorer]:
    """Return the final choice among templates that differ by a quarter of a point each, and others."""
    scores = {f"a <CLASS> {i}.": Score(50.0 + i / 4, 1.0) for i in range(count)} | (others or {})
    recorder, scorer = EventRecorder(), ListedScorer(scores)
    state = recorder.state.search("self")
    for index, (text, score) in enumerate(scores.items()):
        state.history.add(Trial(Template.parse(text), score, index=index, step=index, tokens=9, key=text))
    state.setup["images"], state.setup["classes"] = images, [f"class {i}" for i in range(100)]
    start = state.history.start

    def record(templates: Sequence[tuple[Template, Any]]) -> None:
        for template, info in templates:
            score, index = scorer.score([template])[0], len(state.history)
            state.history.add(Trial(template, score, index=index, step=0, tokens=9, key=info.key, stage="refine"))

    config = OptimizerConfig(steps=1, proposer="evolution", **settings)
    return FinalChoice(scorer, config, recorder, state, score=record, start=start, validator=None), scorer


@pytest.mark.parametrize(("images", "compared", "lines"), [(200_000, 150, 3), (200_001, 101, None)])
def test_less_is_compared_on_many_images(images: int, compared: int, lines: int | None) -> None:
    choice, scorer = choice_among(150, images)
    outcome = choice.record(choice.select())
    assert scorer.compared[0] == compared
    assert (None if outcome["ensemble"] is None else len(outcome["ensemble"])) == lines


def test_an_ensemble_is_built_on_many_images_if_it_is_asked_for() -> None:
    choice, _ = choice_among(99, 10**6, ensemble=2)
    assert len(choice.record(choice.select())["finalists"][0].trial.template.lines) == 2


def test_an_ensemble_that_is_worse_than_the_start_template_is_not_returned() -> None:
    choice, _ = choice_among(3, 100, ensemble=2)
    outcome = choice.record(choice.select())
    assert str(outcome["finalists"][0].trial.template) == "a <CLASS> 2."
    assert len(outcome["ensemble"]) == 1  # it lowers the loss, and is reported


def test_every_phrase_of_the_winner_has_its_worth_also_if_the_search_scored_the_rest_badly() -> None:
    others = {
        "a dark blurry <CLASS>.": Score(99.0, 0.1),
        "a blurry <CLASS>.": Score(2.0, 3.0),
    }
    choice, _ = choice_among(190, 100, others, choose="plainest")
    for index in range(12):  # so that the shorter one is not among the best 200
        text = f"the <CLASS> {index}."
        trial = Trial(Template.parse(text), Score(40.0, 1.0), index=500 + index, step=9, tokens=9, key=text)
        choice.state.history.add(trial)
    selection = choice.refine(choice.select())
    assert str(selection.trial.template) == "a dark blurry <CLASS>."
    assert {worth.phrase for worth in selection.phrase_worths()} == {"dark", "dark blurry"}
