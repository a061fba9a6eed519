"""DSPy adapters that lay out the requests to language models (`lms.request_texts`) and read the answers.

`ProposalAdapter` lays out `ProposeTemplates`, the default request for templates. `PaperAdapter` lays out
`ProposePrompts` as the IPO paper does (section 3): task, image descriptions, scored history with the best last, what
the scores mean, and the request. Each answer stands between `<INS>` and `</INS>`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import dspy
from dspy.adapters.utils import format_field_value
from dspy.utils.exceptions import AdapterParseError

from ipo_dspy.lms.answer_tags import CLOSE_TAG, OPEN_TAG
from ipo_dspy.lms.class_text_parsing import read_class_texts
from ipo_dspy.lms.proposal_parsing import parse_templates
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.request_texts import class_text_parts, paper_parts, proposal_parts, reword_parts
from ipo_dspy.lms.signatures import (
    ProposeClassTexts,
    ProposeClassTextsFromImages,
    ProposePrompts,
    ProposeTemplates,
    ProposeTemplatesFromImages,
    RewordPrompts,
)

Layout = Callable[[Mapping[str, Any]], Iterable[str]]
"""Returns the parts of a request behind the task, from the inputs of a signature."""


class _TextAdapter(dspy.Adapter):
    """Formats the instructions of a signature, and its inputs as paragraphs."""

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """Return the task of the signature."""
        return str(signature.instructions)

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """Return the paragraphs in order; DSPy makes each image a separate part, and empty ones are omitted."""
        return "\n\n".join(str(part) for part in [prefix, *self.paragraphs(signature, inputs), suffix] if part)

    def paragraphs(self, signature: type[dspy.Signature], inputs: dict[str, Any]) -> Iterable[Any]:
        """Return the paragraphs of a request."""
        raise NotImplementedError


class PlainAdapter(_TextAdapter):
    """Formats a signature's instructions and inputs, and takes the whole answer as its one output.

    For models that answer in free text, as most local multimodal models do: BLIP-2, Fuyu, small LLaVAs.
    """

    def paragraphs(self, signature: type[dspy.Signature], inputs: dict[str, Any]) -> Iterable[Any]:
        """Return the inputs in order."""
        return [format_field_value(field, inputs[name]) for name, field in signature.input_fields.items()]

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the answer of a demonstration."""
        return str(next(iter(outputs.values())))

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, str]:
        """Return the whole answer, without the reasoning before it.

        Raises:
            AdapterParseError: the answer is blank.
        """
        answer = without_thoughts(completion).answer
        if not answer:
            raise AdapterParseError(adapter_name="PlainAdapter", signature=signature, lm_response=completion)
        (name,) = signature.output_fields
        return {name: answer}


class TaggedAdapter(_TextAdapter):
    """Formats the signatures that it has a layout for; the answers of their only output may be in tags or not."""

    layouts: ClassVar[Mapping[type[dspy.Signature], Layout]] = {}

    def read(self, completion: str) -> list[str]:
        """Return the answers of a completion."""
        return parse_templates(completion)

    def paragraphs(self, signature: type[dspy.Signature], inputs: dict[str, Any]) -> Iterable[Any]:
        """Return the task and the parts of the layout."""
        parts = self._layout(signature)(inputs)
        return [f"Task: {inputs['task']}", *parts]

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the tagged answers of a demonstration."""
        (name,) = signature.output_fields
        return "\n".join(f"{OPEN_TAG}{text}{CLOSE_TAG}" for text in outputs[name])

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, list[str]]:
        """Return the answers of a completion under the name of the output.

        Raises:
            AdapterParseError: there are none.
        """
        self._layout(signature)
        answers = self.read(completion)
        if not answers:
            raise AdapterParseError(adapter_name=type(self).__name__, signature=signature, lm_response=completion)
        (name,) = signature.output_fields
        return {name: answers}

    def _layout(self, signature: type[dspy.Signature]) -> Layout:
        for known, layout in self.layouts.items():
            if set(signature.fields) == set(known.fields):
                return layout
        names = ", ".join(known.__name__ for known in self.layouts)
        raise TypeError(
            f"signature must be one that {type(self).__name__} lays out ({names}), got {signature.__name__}; "
            "use dspy.ChatAdapter() for others"
        )


class PaperAdapter(TaggedAdapter):
    """Formats `ProposePrompts` as in the IPO paper, and `RewordPrompts` similarly."""

    layouts: ClassVar[Mapping[type[dspy.Signature], Layout]] = {
        ProposePrompts: paper_parts,
        RewordPrompts: reword_parts,
    }


class ProposalAdapter(TaggedAdapter):
    """Formats `ProposeTemplates`: what a search has found so far, in few words; and `RewordPrompts`."""

    layouts: ClassVar[Mapping[type[dspy.Signature], Layout]] = {
        ProposeTemplates: proposal_parts,
        ProposeTemplatesFromImages: proposal_parts,
        RewordPrompts: reword_parts,
    }


class ClassTextAdapter(TaggedAdapter):
    """Formats `ProposeClassTexts`: the classes with their confusions."""

    layouts: ClassVar[Mapping[type[dspy.Signature], Layout]] = {
        ProposeClassTexts: class_text_parts,
        ProposeClassTextsFromImages: class_text_parts,
    }

    def read(self, completion: str) -> list[str]:
        """Return the lines `label: text | text` of a completion."""
        return read_class_texts(completion)
