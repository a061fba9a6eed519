"""Templates scored with two models at once, compared with plain formulas on the outcomes of each image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ipo_dspy import ClipClassifier, ImageDataset, Score
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import TemplateError
from ipo_dspy.optimizer.evaluation import build_evaluation_set, encode_examples
from ipo_dspy.optimizer.trainset import collect_training_images
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.multi_encoder import MultiEncoderScorer
from ipo_dspy.scoring.objectives import build_objective
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template

TEXTS = ("a photo of a <CLASS>.", "pixel art of a <CLASS>.", "a blocky <CLASS>.", "a <CLASS> in a video game.")
TEMPLATES = list(map(Template.parse, TEXTS))


@pytest.fixture(scope="module")
def scorers(task: DemoTask) -> dict[str, ClipScorer]:
    scorers = {}
    for model in ("demo", "demo-vit"):
        scorer = encode_examples(ClipClassifier(task.classes, model=model), task.testset[::5]).scorer
        assert isinstance(scorer, ClipScorer)
        scorers[model] = scorer
    return scorers


def test_the_mean_is_taken_image_by_image(scorers: dict[str, ClipScorer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipo_dspy.scoring.multi_encoder.TABLE_ELEMENTS", 70)  # blocks of eight images
    both = MultiEncoderScorer(scorers, "mean")
    table = np.mean([scorer.outcomes(TEMPLATES) for scorer in scorers.values()], axis=0)  # [N, 2K]
    tally = both.tally_pairs(TEMPLATES)
    assert tally.images.tolist() == scorers["demo"].tally_pairs(TEMPLATES).images.tolist()
    np.testing.assert_allclose(tally.sums.sum(axis=0), table.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(tally.products, table.T @ table, rtol=1e-5)
    compared = Comparison(tally)
    difference = table[:, 1] - table[:, 0]
    error = 100 * difference.std(ddof=1) / np.sqrt(len(table))
    assert compared.accuracy_errors[1, 0] == pytest.approx(error, rel=1e-6)
    assert_equal(both.score(TEMPLATES), compared.scores)


def test_the_worst_model_is_that_of_each_template(scorers: dict[str, ClipScorer]) -> None:
    both = MultiEncoderScorer(scorers, "worst")
    each = both.score_each(TEMPLATES)
    worst = [max(scores, key=lambda score: score.rank) for scores in zip(*each.values(), strict=True)]
    assert_equal(both.score(TEMPLATES), worst)
    assert_equal(both.score(TEMPLATES), Comparison(both.tally_pairs(TEMPLATES)).scores)
    reverse = {name: scorers[name] for name in reversed(scorers)}
    assert_equal(MultiEncoderScorer(reverse, "worst").score(TEMPLATES), worst)


@pytest.mark.parametrize("across", ["mean", "worst"])
def test_an_image_counts_once(scorers: dict[str, ClipScorer], across: str) -> None:
    """A second model that is the same adds no information, so no standard error becomes smaller."""
    twice = MultiEncoderScorer({"a": scorers["demo"], "b": scorers["demo"]}, across)  # type: ignore[arg-type]
    one, two = (Comparison(scorer.tally_pairs(TEMPLATES)) for scorer in (scorers["demo"], twice))
    np.testing.assert_allclose(two.accuracy_errors, one.accuracy_errors, atol=1e-6)
    np.testing.assert_allclose(two.loss_errors, one.loss_errors, atol=1e-6)
    assert two.images == one.images
    assert_equal(twice.score(TEMPLATES), scorers["demo"].score(TEMPLATES))


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "loss", "top5", "cost", "floors"])
def test_other_objectives_are_combined_in_the_same_way(name: str, task: DemoTask) -> None:
    pair = (task.classes[1], task.classes[0])
    options: dict[str, dict[str, Any]] = {
        "cost": {"costs": {pair: 5.0}},
        "floors": {"min_recall": {task.classes[1]: 0.9}},
    }
    given = {"objective": "accuracy", "costs": None, "min_recall": None, "metric": None}
    objective = build_objective(**given | options.get(name, {"objective": name}))
    scorers = {}
    for model in ("demo", "demo-vit"):
        images = ImageDataset(task.testset[::5], classes=task.classes)
        program = ClipClassifier(task.classes, model=model)
        gathered = collect_training_images(program, {"self": program}, images, name="images")["self"]
        scorers[model] = build_evaluation_set(program, gathered, objective=objective).scorer
    for across in ("mean", "worst"):
        twice = MultiEncoderScorer({"a": scorers["demo"], "b": scorers["demo"]}, across)  # type: ignore[dict-item]
        one, two = (Comparison(scorer.tally_pairs(TEMPLATES)) for scorer in (scorers["demo"], twice))
        np.testing.assert_allclose(two.accuracy_errors, one.accuracy_errors, atol=1e-6)
        np.testing.assert_allclose(two.accuracy, one.accuracy, atol=1e-6)
        both = MultiEncoderScorer(scorers, across)  # type: ignore[arg-type]
        compared, scores = Comparison(both.tally_pairs(TEMPLATES)), both.score(TEMPLATES)
        np.testing.assert_allclose(compared.accuracy, [score.goal for score in scores], atol=1e-4)
        each = both.score_each(TEMPLATES)
        for score, *pairs in zip(scores, *each.values(), strict=True):
            expected = max(pairs, key=lambda s: s.rank).goal if across == "worst" else np.mean([s.goal for s in pairs])
            assert score.goal == pytest.approx(expected, abs=1e-9)
            assert score.missed == pytest.approx(
                max(pairs, key=lambda s: s.rank).missed if across == "worst" else np.mean([s.missed for s in pairs])
            )


def test_a_template_must_fit_every_model(scorers: dict[str, ClipScorer], monkeypatch: pytest.MonkeyPatch) -> None:
    both, template = MultiEncoderScorer(scorers, "mean"), TEMPLATES[0]
    tokens = scorers["demo"].check(template)
    assert both.check(template) == tokens  # both have the same tokenizer
    monkeypatch.setattr(scorers["demo-vit"].backbone, "context_length", tokens.longest - 1)
    with pytest.raises(TemplateError, match=r"shorten it by 1 tokens \(model demo-vit\)") as caught:
        both.check(template)
    assert caught.value.reason == "too long"


def test_templates_are_the_same_only_if_all_models_read_the_same(
    scorers: dict[str, ClipScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, lower, upper = (MultiEncoderScorer(scorers, "mean"), *map(Template.parse, ("a <CLASS>", "A <CLASS>")))
    assert both.check(lower).key == both.check(upper).key
    vit = scorers["demo-vit"].backbone
    plain = vit.token_ids
    monkeypatch.setattr(
        vit,
        "token_ids",
        lambda texts: [ids + ids[:1] * t.startswith("A") for t, ids in zip(texts, plain(texts), strict=True)],
    )
    assert both.check(lower).key != both.check(upper).key
    assert both.check(upper).longest == both.check(lower).longest + 1


def assert_equal(scores: Sequence[Score], others: Sequence[Score]) -> None:
    for name in ("accuracy", "loss"):
        np.testing.assert_allclose([getattr(s, name) for s in scores], [getattr(s, name) for s in others], atol=1e-4)
