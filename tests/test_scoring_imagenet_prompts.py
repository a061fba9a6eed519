"""The prompts for ImageNet: which of them is best, and which fit a model."""

from collections.abc import Sequence

import pytest

from ipo_dspy import demo
from ipo_dspy.clip.template_tokens import TemplateTokens
from ipo_dspy.errors import TemplateError
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.imagenet_prompts import best_line, fitting_lines, imagenet_templates
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


class Toy:
    """Scores a template by its text; a word is a token."""

    def __init__(self, **scores: tuple[float, float]) -> None:
        self.scores = scores

    def check(self, template: Template) -> TemplateTokens:
        return TemplateTokens(str(template), len(str(template).split()))

    def score(self, templates: Sequence[Template]) -> list[Score]:
        return [Score(*self.scores[str(template).split()[0]]) for template in templates]

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        raise NotImplementedError


LINES = Template.parse("a very dark <CLASS>\nb small <CLASS>\nc old <CLASS>")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"a": (50.0, 0.9), "b": (40.0, 0.1), "c": (40.0, 0.1)}, "a"),
        ({"a": (50.0, 0.9), "b": (50.0, 0.8), "c": (50.0, 0.7)}, "c"),
        ({"a": (50.0, 0.70001), "b": (50.0, 0.70004), "c": (50.0, 0.70003)}, "b"),
        ({"a": (50.0, 0.7), "b": (50.0, 0.7), "c": (50.0, 0.8)}, "b"),
    ],
    ids=["accuracy", "loss", "order, the loss counts to four decimals", "tokens"],
)
def test_the_best_line_ranks_first_as_a_trial_does(scores: dict[str, tuple[float, float]], best: str) -> None:
    assert str(best_line(Toy(**scores), LINES)).startswith(best)


def test_lines_that_do_not_fit_the_model_are_left_out(task: demo.DemoTask) -> None:
    backbone = task.program.backbone
    assert fitting_lines(backbone, imagenet_templates(), task.classes) == imagenet_templates()
    long = Template.parse(f"a photo of a <CLASS>.\na {'very ' * 40} old <CLASS>.\na <CLASS>.")
    assert fitting_lines(backbone, long, task.classes).lines == ("a photo of a <CLASS>.", "a <CLASS>.")
    with pytest.raises(TemplateError, match="the model takes 32; shorten"):
        fitting_lines(backbone, long, [*task.classes, "hen " * 40])
