"""Outputs of predictors that a `ClipDecider` answers, as classifiers whose template and texts can be searched."""

import dspy

from ipo_dspy.class_texts import LabeledTexts
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.decision_types import decision_questions
from ipo_dspy.decisions import ClipDecider, Question, parse_question
from ipo_dspy.errors import InputError
from ipo_dspy.template import Template, has_placeholder


class DecisionOutput(ClipClassifier):
    """The classifier that equals one `Choice` output of a predictor; its template and texts are written there.

    Decision weights of the output are class weights here; another template or other texts drop them there too.

    Args:
        predictor: the predictor.
        output: name of the output.
        decider: the model that answers the predictor.
        question: the output's template, options, and texts.
        shared: the signature's instructions belong to several outputs, so the template is kept with this output.
    """

    def __init__(
        self, predictor: dspy.Predict, output: str, decider: ClipDecider, question: Question, *, shared: bool
    ) -> None:
        texts = dict(zip(question.options, question.texts, strict=True))
        source = decider.model_source
        super().__init__(texts, template=question.template, model=source, allow_url=decider.allow_url)
        self._set_calibration(None, predictor.fields.get(output, {}).get("weights", {}))
        self.predictor, self.output, self._shared = predictor, output, shared

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The options; setting them with their texts sets the output's criteria."""
        return self._labels

    @classes.setter
    def classes(self, classes: LabeledTexts | None) -> None:
        ClipClassifier.classes.fset(self, classes)  # type: ignore[attr-defined]
        if "predictor" in vars(self):  # not while this object is made
            self.predictor.set_criteria(self.output, {label: list(texts) for label, texts in self.class_texts.items()})
            self.predictor.fields[self.output].pop("weights", None)

    @property
    def template(self) -> Template:
        """The template by which the output is answered."""
        return Template.parse(self.signature.instructions)

    @template.setter
    def template(self, template: str | Template) -> None:
        ClipClassifier.template.fset(self, template)  # type: ignore[attr-defined]
        text = self.signature.instructions
        if not self.is_calibrated:
            self.predictor.fields.get(self.output, {}).pop("weights", None)
        if self._shared:
            self.predictor.fields.setdefault(self.output, {})["instructions"] = text
        else:
            self.predictor.signature = self.predictor.signature.with_instructions(text)


def decision_outputs(name: str, predictor: dspy.Predict) -> dict[str, DecisionOutput]:
    """Return the `Choice` outputs of a predictor; none if no `ClipDecider` answers it.

    Args:
        name: name of the predictor, which is the name of an only output; of several it is followed by theirs.
        predictor: a predictor of a program.

    Raises:
        InputError: an output that CLIP cannot answer.
    """
    decider = predictor.lm or dspy.settings.lm
    if not isinstance(decider, ClipDecider):
        return {}
    try:
        questions = decision_questions(predictor)
    except ValueError as error:
        raise InputError(f"predictor {name!r} of the student cannot be answered by its ClipDecider: {error}") from error
    instructions = predictor.signature.instructions
    found = {}
    for output, question in questions.items():
        if question["type"] == "choice":
            shared = len(questions) > 1 or has_placeholder(str(question["instructions"]))
            parsed = parse_question(output, question, instructions, decider.template)
            found[output] = DecisionOutput(predictor, output, decider, parsed, shared=shared)
    return {name if len(found) == 1 else f"{name}.{output}": one for output, one in found.items()}
