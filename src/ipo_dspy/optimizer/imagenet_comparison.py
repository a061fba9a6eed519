"""Compare a template with the 80 prompts for ImageNet, the usual choice without a search.

The best of them on the images that decide shows how far one gets by trying a published list; their ensemble, by using
all of it. They are not shown to proposers and are not trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipo_dspy.classifier.image_lists import example_list
from ipo_dspy.optimizer.evaluation import build_evaluation_set
from ipo_dspy.optimizer.final_stage import MANY_LOGITS
from ipo_dspy.optimizer.template_choice import leaders
from ipo_dspy.optimizer.trainset import collect_training_images
from ipo_dspy.run.events import ImagenetPromptsEvent
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.imagenet_prompts import best_line, fitting_lines, imagenet_templates
from ipo_dspy.scoring.intervals import Z
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.clip.template_tokens import ClassTexts
    from ipo_dspy.scoring.scorers import Scorer


@dataclass(frozen=True, slots=True)
class ImagenetComparison:
    """A template compared with the best of the prompts for ImageNet on the same images; accuracies are in percent.

    Attributes:
        best: the prompt that ranks first on these images, by `Trial.rank`.
        ensemble: all prompts that fit the model, one line each.
        gain: points by which the template is more accurate than `best`, both without the optimism of their choice.
        gain_error: standard error of the gain.
    """

    best: Template
    ensemble: Template
    gain: float
    gain_error: float

    @property
    def beats_best(self) -> bool:
        """True if the gain is larger than chance would make it (two-sided, 5 %)."""
        return self.gain > Z * self.gain_error > 0


def compare_with_imagenet(
    classifier: "ClipClassifier",
    examples: "Sequence[dspy.Example]",
    *,
    optimism: float = 0.0,
    label_field: str = "label",
    skip_unreadable: bool = False,
) -> ImagenetComparison:
    """Compare the template of a classifier with the best of the 80 prompts for ImageNet on labeled examples.

    Pass the examples that decided in the search; the best prompt is chosen on them, too.
    `optimizer.evaluation.evaluate` scores prompt and ensemble on other examples.

    Args:
        classifier: classifier with the template.
        examples: labeled examples, at least one.
        optimism: points by which the accuracy of the template is too high because it was chosen on these examples
            (`SearchResult.choice.optimism`); subtracted from the gain, as that of the best prompt is added.
        label_field: field of the examples with the correct class.
        skip_unreadable: skip images that cannot be read.

    Raises:
        DataError: labels outside the classes.
        ImageError: an image cannot be read (without `skip_unreadable`).
        TemplateError: no prompt fits the model.

    >>> from ipo_dspy import demo
    >>> from ipo_dspy.optimizer.evaluation import evaluate
    >>> task = demo.load("pixel-animals", shots=2)
    >>> compared = compare_with_imagenet(task.program, task.trainset)
    >>> len(compared.ensemble.lines), compared.beats_best
    (80, False)
    >>> prompt, ensemble = evaluate(task.program, task.valset, templates=[compared.best, compared.ensemble])
    >>> prompt.template == compared.best
    True
    """
    images = collect_training_images(
        classifier, {"self": classifier}, example_list(examples, "examples"), name="examples", label_field=label_field
    )["self"]
    scorer = build_evaluation_set(classifier, images, skip_unreadable=skip_unreadable).scorer
    prompts = ImagenetPrompts(EventRecorder(), classifier.backbone, classifier.texts_of(images.classes))
    return prompts.compare(scorer, classifier.template, images=len(images.images), optimism=optimism)


class ImagenetPrompts:
    """The prompts for ImageNet in a run, scored on one set of images after the other.

    Args:
        recorder: records the scores.
        backbone: the model; prompts that do not fit it are left out.
        classes: texts of the classes of all images.
        predictor: name of the classifier in events.

    Raises:
        TemplateError: no prompt fits the model.
    """

    def __init__(
        self, recorder: EventRecorder, backbone: "Backbone", classes: "ClassTexts", predictor: str = "self"
    ) -> None:
        self.recorder, self.predictor, self.classes = recorder, predictor, classes
        self.ensemble = fitting_lines(backbone, imagenet_templates(), classes)
        self.best: Template | None = None

    def score(
        self, scorer: "Scorer", *, split: str, class_split: str = "all", images: int, fingerprint: str
    ) -> dict[str, Score]:
        """Score the best prompt and the ensemble on a set of images, and record both unless an earlier session has.

        The best prompt is the one that ranks first on the images of the first call, which are those that decide.

        Args:
            scorer: scores templates on the images.
            split: name of the images.
            class_split: classes of the images: `all`, `base` or `novel`.
            images: number of images.
            fingerprint: identifies the images, their labels and classes.

        Returns:
            The scores as `imagenet_best` and `imagenet_ensemble`.
        """
        event = self.recorder.state.search(self.predictor).imagenet.get((split, class_split))
        lines = self.ensemble.lines if self.best is None else self.best.lines
        if (
            event is None
            or event["template"] not in lines
            or (event["fingerprint"], event["prompts"]) != (fingerprint, len(self.ensemble.lines))
        ):
            best = self.best or best_line(scorer, self.ensemble)
            scores = [score.fields for score in scorer.score([best, self.ensemble])]
            event = ImagenetPromptsEvent(
                event="imagenet_prompts",
                predictor=self.predictor,
                split=split,
                class_split=class_split,
                fingerprint=fingerprint,
                images=images,
                prompts=len(self.ensemble.lines),
                template=str(best),
                best=scores[0],
                ensemble=scores[1],
            )
            self.recorder.record(event)
        self.best = Template((event["template"],))
        return {f"imagenet_{name}": Score(**event[name]) for name in ("best", "ensemble")}

    def compare(
        self, scorer: "Scorer", template: Template, *, images: int, optimism: float = 0.0
    ) -> ImagenetComparison:
        """Compare a template with the best prompt on the images of a scorer; see `compare_with_imagenet`.

        On many images, where the optimism of the prompt is negligible, the other prompts are not compared.
        """
        best = self.best or best_line(scorer, self.ensemble)
        lines = best.lines if images * len(self.classes) > MANY_LOGITS else self.ensemble.lines
        compared = Comparison(scorer.tally_pairs([template, *(Template((line,)) for line in lines)]))
        chosen = 1 + lines.index(best.lines[0])
        prompts_optimism = compared.optimism(lambda accuracy, loss, _: 1 + leaders(accuracy[:, 1:], loss[:, 1:]))
        gain = float(compared.accuracy[0] - compared.accuracy[chosen]) - optimism + prompts_optimism
        return ImagenetComparison(best, self.ensemble, gain, float(compared.accuracy_errors[0, chosen]))
