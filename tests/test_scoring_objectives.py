"""Objectives: tallies of parts add up, values and errors against plain definitions, and the rule for floors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ipo_dspy.history import Trial
from ipo_dspy.optimizer.template_choice import Best, Candidates, Plainest
from ipo_dspy.optimizer.user_metric import MetricOfAll
from ipo_dspy.scoring.class_objectives import ClassObjective, jackknife_groups
from ipo_dspy.scoring.comparison import Comparison, PairTally
from ipo_dspy.scoring.metrics import probabilities, tally_pairs, tally_templates
from ipo_dspy.scoring.objectives import COST, OBJECTIVES, Objective, ObjectiveText
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.tally import BINS, Tally
from ipo_dspy.template import Template

NAMES = tuple("abcdefghi")
COSTS = {("a", "b"): 5.0, ("b", "a"): 0.0, ("c", "a"): 2.5}
GOALS = [*(Objective(name) for name in OBJECTIVES), Objective(COST, COSTS), Objective(min_recall={"a": 0.9, "c": 0.5})]
SCALE = 3.0


def random_images(n: int, classes: int, templates: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features [N, D], labels [N] and texts [T, C, D]; predictions are right more often than by chance."""
    torch.manual_seed(seed)
    centers = torch.randn(classes, 8)
    labels = torch.randint(classes, (n,))
    return (
        centers[labels] + torch.randn(n, 8),
        labels,
        0.3 * centers[None] + 0.1 * torch.randn(templates, classes, 8),
    )


def tallies_of(goal: ClassObjective, images: Any, labels: Any, texts: Any, **given: Any) -> list[Tally]:
    return tally_templates(images, labels, texts, logit_scale=SCALE, pairs=goal.pairs, **given)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 9), st.integers(1, 39), st.integers(1, 7), st.integers(0, 999))
def test_tallies_of_parts_are_that_of_the_whole(n: int, classes: int, cut: int, block: int, seed: int) -> None:
    images, labels, texts = random_images(n, classes, 2, seed)
    for objective in GOALS:
        goal = ClassObjective.of(objective, NAMES[:classes])
        whole = tallies_of(goal, images, labels, texts)
        parts = [
            tallies_of(goal, images[part], labels[part], texts, block=block) for part in (slice(cut), slice(cut, None))
        ]
        for one, first, second in zip(whole, *parts, strict=True):
            added = first + second
            assert one.classes is not None
            assert added.classes is not None
            for name in ("right", "given", "there", "pairs", "top5"):
                assert np.array_equal(getattr(one.classes, name), getattr(added.classes, name)), name
            np.testing.assert_array_equal(one.classes.bins[:, :2], added.classes.bins[:, :2])
            assert (one.images, one.correct) == (added.images, added.correct)
            ours, theirs = goal.score(one), goal.score(added)
            assert (ours.accuracy, ours.missed) == (theirs.accuracy, theirs.missed)
            assert ours.goal == pytest.approx(theirs.goal, abs=1e-4 if goal.name == "loss" else 1e-12)


def plain_measures(labels: Any, chances: Any, floors: dict[int, float]) -> dict[str, float]:
    """Return the definitions, one class or image after the other."""
    predicted, n = chances.argmax(1), len(labels)
    seen = sorted(set(labels.tolist()))
    recall = {c: float(np.mean(predicted[labels == c] == c)) for c in seen}
    f1, cost, error = [], 0.0, 0.0
    for c in seen:
        hits = float(((predicted == c) & (labels == c)).sum())
        precision = hits / (predicted == c).sum() if (predicted == c).any() else 0.0
        f1.append(2 * precision * recall[c] / (precision + recall[c]) if hits else 0.0)
    for label, other in zip(labels, predicted, strict=True):
        cost += 0.0 if label == other else COSTS.get((NAMES[label], NAMES[other]), 1.0)
    confidence = chances.max(1)
    for b in range(BINS):
        inside = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if inside.any():
            error += inside.mean() * abs((predicted == labels)[inside].mean() - confidence[inside].mean())
    ranks = (chances > chances[np.arange(n), labels][:, None]).sum(1)
    return {
        "accuracy": 100 * float((predicted == labels).mean()),
        "balanced_accuracy": 100 * float(np.mean(list(recall.values()))),
        "macro_f1": 100 * float(np.mean(f1)),
        "loss": -float(-np.log(chances[np.arange(n), labels]).mean()),
        "top5": 100 * float((ranks < 5).mean()),
        COST: -cost / n,
        "calibration_error": 100 * error,
        "missed": sum(max(0.0, 100 * (floor - recall[c])) for c, floor in floors.items() if c in recall),
    }


@pytest.mark.parametrize("seed", range(8))
def test_objectives_are_their_plain_definitions(seed: int) -> None:
    classes = 3 + seed % 7
    images, labels, texts = random_images(5 + 11 * seed, classes, 1, seed)
    chances = probabilities(images, texts[0], logit_scale=SCALE).numpy()
    for objective in GOALS:
        goal = ClassObjective.of(objective, NAMES[:classes])
        (tally,) = tallies_of(goal, images, labels, texts)
        plain, score = plain_measures(labels.numpy(), chances, dict(goal.floors)), goal.score(tally)
        assert score.goal == pytest.approx(plain[goal.name], abs=1e-4), objective
        assert score.missed == pytest.approx(plain["missed"], abs=1e-6)
        for name, value in tally.measures.items():
            assert value == pytest.approx(-plain[name] if name == "loss" else plain[name], abs=1e-3), name


@pytest.mark.parametrize("objective", GOALS, ids=lambda one: one.name)
def test_outcomes_have_the_value_as_their_mean_and_add_up(objective: Objective) -> None:
    images, labels, texts = random_images(60, 7, 3, 1)
    labels[labels == 6] = 0  # a class without images
    goal = ClassObjective.of(objective, NAMES[:7])
    tallies = tallies_of(goal, images, labels, texts)
    outcomes = goal.outcomes(tallies)
    whole = tally_pairs(images, labels, texts, logit_scale=SCALE, outcomes=outcomes)
    parts = [
        tally_pairs(images[i::3], labels[i::3], texts, logit_scale=SCALE, outcomes=outcomes, block=7) for i in range(3)
    ]
    added = parts[0] + parts[1] + parts[2]
    np.testing.assert_allclose(added.products, whole.products, rtol=1e-5, atol=1e-4)
    means = goal.unit * whole.sums.sum(axis=0)[:3] / 60
    np.testing.assert_allclose(means, [goal.score(tally).goal for tally in tallies], atol=2e-4)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_standard_errors_are_those_of_a_bootstrap(name: str) -> None:
    """Of the difference between two templates, with classes of very different size."""
    images, labels, texts = random_images(900, 6, 2, 3)
    kept = torch.rand(900) < torch.tensor([1.0, 1.0, 0.5, 0.5, 0.2, 0.1])[labels]
    images, labels = images[kept], labels[kept]
    goal = ClassObjective.of(Objective(name), NAMES[:6])

    def values(rows: Any) -> list[float]:
        return [goal.score(tally).goal for tally in tallies_of(goal, images[rows], labels[rows], texts)]

    outcomes = goal.outcomes(tallies_of(goal, images, labels, texts))
    compared = Comparison(tally_pairs(images, labels, texts, logit_scale=SCALE, outcomes=outcomes))
    draws = [values(torch.randint(len(labels), (len(labels),))) for _ in range(400)]
    bootstrap = float(np.std([first - second for first, second in draws]))
    assert compared.accuracy_errors[0, 1] == pytest.approx(bootstrap, rel=0.15)
    naive = Comparison(tally_pairs(images, labels, texts, logit_scale=SCALE)).accuracy_errors[0, 1]
    assert abs(naive / bootstrap - 1) > 0.1  # the error of the accuracy is another one


def test_a_jackknife_of_a_mean_has_the_error_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    chances = rng.dirichlet(np.ones(4), 800)
    hits = (chances.argmax(1) == labels).astype(float)
    metric = MetricOfAll(lambda labels, probabilities: float((probabilities.argmax(1) == labels).mean()), labels)
    outcomes = metric.outcomes(chances)
    assert outcomes.mean() == pytest.approx(hits.mean())
    assert np.sqrt(outcomes.var(ddof=1)) == pytest.approx(np.sqrt(hits.var(ddof=1)), rel=0.35)  # 20 groups
    assert np.bincount(jackknife_groups(800)).tolist() == [40] * 20


def test_a_jackknife_counts_the_variance_between_classes() -> None:
    """Two templates that are good at different classes: the error of their difference is that of the accuracy."""
    ratios = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 200)
        chances = np.array([[0.95, 0.95, 0.2, 0.2], [0.2, 0.95, 0.95, 0.2]])  # [K, C]
        right = rng.random((2, 200)) < chances[:, labels]
        predicted = np.eye(4)[np.where(right, labels, (labels + 1) % 4)]  # [K, N, C]
        metric = MetricOfAll(lambda labels, probabilities: float((probabilities.argmax(1) == labels).mean()), labels)
        by_metric, by_name = (
            Comparison(PairTally.of(np.hstack([table, np.zeros((200, 2))]), labels, 4)).accuracy_errors[0, 1]
            for table in (np.array([metric.outcomes(one) for one in predicted]).T, right.T)
        )
        ratios.append(by_metric / by_name)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def candidates(rows: Sequence[tuple[float, float, float]], words: Sequence[str], seed: int) -> Candidates:
    """Return candidates with these values, losses and misses of floors; the first one is the start."""
    rng = np.random.default_rng(seed)
    table = np.hstack([rng.random((40, len(rows))), rng.random((40, len(rows)))])
    pairs = PairTally.of(table, np.arange(40) % 4, 4)
    scores = tuple(Score(50.0, loss, value, missed) for value, loss, missed in rows)
    comparison = Comparison(PairTally(pairs.images, pairs.sums, pairs.products, 1.0, scores))
    comparison.loss = np.array([loss for _, loss, _ in rows])
    trials = [
        Trial(Template.parse(f"{text} <CLASS>"), score, i, 0, 4 + len(text), str(i))
        for i, (text, score) in enumerate(zip(words, scores, strict=False))
    ]
    return Candidates.of(trials, comparison, trials[0])


values = st.tuples(
    st.floats(-1, 1).map(lambda x: round(x, 2)),
    st.floats(0, 2).map(lambda x: round(x, 2)),
    st.sampled_from([0.0, 0.0, 2.5, 10.0]),
)


@settings(deadline=None)
@given(
    st.lists(values, min_size=2, max_size=6),
    st.integers(0, 50),
    st.sampled_from([Plainest(1.0), Plainest(3.0), Best()]),
)
def test_the_result_is_never_worse_than_the_start_and_misses_floors_by_least(rows: Any, seed: int, rule: Any) -> None:
    compared = candidates(rows, ["a", "one dark", "a dim old", "two small round", "so very", "an"], seed)
    selection = compared.select(rule)
    winner = selection.trial.score
    assert winner.missed == min(missed for _, _, missed in rows)
    assert (winner.missed, -winner.goal, winner.loss) <= (rows[0][2], -rows[0][0], rows[0][1])
    draws = np.random.default_rng(seed).normal(0, 1, (20, len(rows)))
    assert (compared.comparison.missed[compared.choose(rule, draws, draws, 1.4)] == winner.missed).all()
    report = selection.report("metric f")
    assert 1 <= report.possibly_best <= len(rows)
    assert np.isfinite([report.expected, report.interval.low, report.interval.high]).all()


def test_values_are_shown_as_people_know_them() -> None:
    loss, share = ObjectiveText.of("loss"), ObjectiveText.of("top5")
    assert (loss.number(-0.25), loss.interval(-0.3, -0.2), loss.gain(0.1)) == (
        "0.2500",
        "0.200 to 0.300",
        "loss -0.100",
    )
    assert (share.brief(81.25), share.gain(-1.0, 0.5)) == (
        "81.2 %",
        "-1.0 points of top-5 accuracy, standard error 0.5",
    )
