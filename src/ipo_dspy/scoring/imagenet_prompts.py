"""The 80 prompts for ImageNet that OpenAI published with CLIP, which people use for other images, too."""

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.clip.template_tokens import ClassTexts, template_tokens
from ipo_dspy.errors import TemplateError
from ipo_dspy.scoring.scorers import Scorer
from ipo_dspy.template import PLACEHOLDER, Template


def imagenet_templates() -> Template:
    """Return the 80 prompts as shipped in open_clip, one line each: their ensemble (Radford et al. 2021, 3.1.4)."""
    prompts = import_open_clip().OPENAI_IMAGENET_TEMPLATES
    return Template.parse("\n".join(prompt(PLACEHOLDER) for prompt in prompts))


def fitting_lines(backbone: Backbone, template: Template, classes: ClassTexts) -> Template:
    """Return a template without the lines that do not fit the model, filled with one of the classes.

    Raises:
        TemplateError: reason `too long`, no line fits.
    """
    fitting: list[str] = []
    for line in template.lines:
        try:
            template_tokens(backbone, Template((line,)), classes)
        except TemplateError as error:
            refusal = error
        else:
            fitting.append(line)
    if not fitting:
        raise refusal
    return Template(tuple(fitting))


def best_line(scorer: Scorer, template: Template) -> Template:
    """Return the line of a template that is best alone, by `Trial.rank`: accuracy, loss, tokens, then the order."""
    lines = [Template((line,)) for line in template.lines]
    ranks = [score.rank for score in scorer.score(lines)]
    tied = [line for line, rank in zip(lines, ranks, strict=True) if rank == min(ranks)]
    return min(tied, key=lambda line: scorer.check(line).longest)
