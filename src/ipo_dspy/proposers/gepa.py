"""Propose templates to DSPy's GEPA, which otherwise evaluates whatever its reflection model writes.

GEPA evaluates no candidate in a step whose proposer returns no text. So an answer that is not a template costs only the
request and the minibatch that the feedback came from.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from dspy.teleprompt.gepa import InstructionProposer

from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.errors import TemplateError
from ipo_dspy.lms.error_messages import LONGEST, one_line_error
from ipo_dspy.lms.proposal_parsing import parse_templates, read_proposal
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import ReviseTemplate
from ipo_dspy.proposers.lm import Fault

logger = logging.getLogger(__name__)

_OUTPUTS = {"confidence", "scores", "label"}
"""Fields of the predictions of a `ClipClassifier`, by which its examples are distinguished."""


class TemplateInstructionProposer(InstructionProposer):
    """Proposes only templates with `<CLASS>` for each `ClipClassifier`: `dspy.GEPA(instruction_proposer=...)`.

    The reflection model receives the template and the feedback of the metric, but no images. If it fails, or its answer
    has no new template, the classifier keeps its template, no candidate is evaluated, and a warning is logged. The
    other predictors of a program get GEPA's default proposer, whose arguments it takes.

    >>> from ipo_dspy.metrics import feedback
    >>> proposer = TemplateInstructionProposer()
    >>> lm = dspy.LM("openai/gpt-4o-mini", api_key="...")
    >>> gepa = dspy.GEPA(metric=feedback, instruction_proposer=proposer, reflection_lm=lm, auto="light")
    """

    def __call__(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """Return new instructions by predictor; missing predictors keep theirs."""
        templates = {
            name: _revise(candidate[name], [example["Feedback"] for example in reflective_dataset[name]])
            for name in components_to_update
            if _is_classifier(reflective_dataset.get(name, ()))
        }
        others = [name for name in components_to_update if name not in templates]
        instructions: dict[str, str] = super().__call__(candidate, reflective_dataset, others)
        return instructions | {name: template for name, template in templates.items() if template is not None}


def _is_classifier(examples: Sequence[Mapping[str, Any]]) -> bool:
    outputs = [example["Generated Outputs"] for example in examples]
    return bool(outputs) and all(isinstance(output, Mapping) and output.keys() == _OUTPUTS for output in outputs)


def _revise(current: str, feedback: list[str]) -> str | None:
    """Return a new template, the last one of the model's answer; None without one."""
    lm, adapter = dspy.settings.lm, dspy.ChatAdapter(use_json_adapter_fallback=False)
    inputs = {"current_template": current, "feedback": feedback}
    try:
        answer = request(lm, adapter, ReviseTemplate, inputs, field="template", read=parse_templates)
    except Fault as error:
        logger.warning("GEPA keeps the template: %s", one_line_error(error, lm))
        return None
    for text in reversed(answer.texts):
        with contextlib.suppress(TemplateError):
            if (template := str(read_proposal(text))) != current:
                return template
    fault = answer.fault or f"no new template in the answer {one_line(answer.texts[-1], LONGEST)!r}"
    logger.warning("GEPA keeps the template: %s", fault)
    return None
