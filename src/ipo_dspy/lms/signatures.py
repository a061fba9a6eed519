"""DSPy signatures of the requests to language models, and an adapter for the format of the IPO paper.

`ProposePrompts`, `RewordPrompts` and `ReviseTemplate` work with any DSPy adapter; `PaperAdapter` lays out the first as
the IPO paper does (section 3): task, image descriptions, scored history with the best last, what the scores mean, the
request, and each answer between `<INS>` and `</INS>`. The parts that are the same in every step come first, to benefit
from providers' prompt caches. The wording is not that of the paper.
"""

from collections.abc import Iterable
from typing import Any

import dspy
import pydantic
from dspy.adapters.utils import format_field_value
from dspy.utils.exceptions import AdapterParseError

from ipo_dspy.lms.proposal_parsing import CLOSE_TAG, OPEN_TAG, parse_templates
from ipo_dspy.lms.reasoning import without_thoughts


class ScoredTemplate(pydantic.BaseModel):
    """An earlier prompt template and how it did on the training images; a score that is not told is None."""

    template: str
    loss: float | None = None
    accuracy: float | None = None


class ProposePrompts(dspy.Signature):
    """You improve prompt templates for a CLIP zero-shot image classifier.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. A good template truthfully says what the images have
    in common besides their class: medium, style, lighting, viewpoint, background, quality.
    """

    task: str = dspy.InputField(desc="what is being classified")
    descriptions: list[str] = dspy.InputField(desc="descriptions of some training images, class names left out")
    guessed: bool = dspy.InputField(desc="whether the descriptions are CLIP's guesses, some of them wrong")
    history: list[ScoredTemplate] = dspy.InputField(desc="earlier templates, best last")
    rejected: list[str] = dspy.InputField(desc="answers that could not be used, and why")
    count: int = dspy.InputField(desc="how many new templates to write")
    templates: list[str] = dspy.OutputField(desc="new templates, each one short sentence holding <CLASS> once")


class RewordPrompts(dspy.Signature):
    """You put prompt templates for a CLIP zero-shot image classifier into plain words.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. The templates come from a search and do about equally
    well. Say what they have in common as a person would say it of the images: short, grammatical, in everyday
    words, without contradictions or repetitions.
    """

    task: str = dspy.InputField(desc="what is being classified")
    tied: list[ScoredTemplate] = dspy.InputField(desc="templates that do about equally well, the plainest first")
    count: int = dspy.InputField(desc="how many rewordings to write at most")
    templates: list[str] = dspy.OutputField(desc="rewordings, each one short sentence holding <CLASS> once")


class ReviseTemplate(dspy.Signature):
    """You improve the prompt template of a CLIP zero-shot image classifier.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. A good template truthfully says what the images have
    in common besides their class: medium, style, lighting, viewpoint, background, quality.
    """

    current_template: str = dspy.InputField(desc="the template now")
    feedback: list[str] = dspy.InputField(desc="how images were classified with it, and with what probabilities")
    template: str = dspy.OutputField(desc="a better template, one short sentence holding <CLASS> once")


class DescribeImage(dspy.Signature):
    """Describe in one or two sentences how this image looks.

    Say what a photographer or painter would: medium, style, lighting, viewpoint, colours, texture, background,
    quality. Do not name the main subject; call it "the subject".
    """

    image: dspy.Image = dspy.InputField()
    description: str = dspy.OutputField(desc="how the image looks, without naming its subject")


class PlainAdapter(dspy.Adapter):
    """Formats a signature's instructions and inputs, and takes the whole answer as its one output.

    For models that answer in free text, as most local multimodal models do: BLIP-2, Fuyu, small LLaVAs.
    """

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
        """Return the inputs in order; DSPy makes each image a separate part."""
        values = [format_field_value(field, inputs[name]) for name, field in signature.input_fields.items()]
        return "\n\n".join(str(part) for part in [prefix, *values, suffix] if part)

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


class SummarizeDescriptions(dspy.Signature):
    """Say in few words how the images of a data set look, from descriptions of some of them.

    Keep what many have in common and what sets groups of them apart: medium, style, lighting, viewpoint, colours,
    texture, background, quality. Say how often each occurs.
    """

    descriptions: list[str] = dspy.InputField()
    words: int = dspy.InputField(desc="how many words the summary may have in all")
    summary: list[str] = dspy.OutputField(desc="one sentence for each thing to know")


class PaperAdapter(dspy.Adapter):
    """Formats `ProposePrompts` as in the IPO paper, and `RewordPrompts` similarly.

    `proposal_parsing` parses the answers.
    """

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
        """Return task, descriptions, history, legend and request; empty parts are omitted."""
        _require(signature)
        parts = _reword_parts(inputs) if "tied" in signature.fields else _propose_parts(inputs)
        return "\n\n".join(part for part in [prefix, f"Task: {inputs['task']}", *parts, suffix] if part)

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the tagged answers of a demonstration."""
        return "\n".join(f"{OPEN_TAG}{text}{CLOSE_TAG}" for text in outputs["templates"])

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, list[str]]:
        """Return the answers of a completion as `{"templates": [...]}`.

        Raises:
            AdapterParseError: it has no template.
        """
        _require(signature)
        answers = parse_templates(completion)
        if not answers:
            raise AdapterParseError(adapter_name="PaperAdapter", signature=signature, lm_response=completion)
        return {"templates": answers}


def _require(signature: type[dspy.Signature]) -> None:
    if set(signature.fields) not in (set(ProposePrompts.fields), set(RewordPrompts.fields)):
        raise TypeError(
            f"PaperAdapter writes ProposePrompts and RewordPrompts only, not {signature.__name__}; use "
            "dspy.ChatAdapter() for others"
        )


def _propose_parts(inputs: dict[str, Any]) -> list[str]:
    return [
        *_section(_GUESSED if inputs.get("guessed") else "How some training images look:", inputs["descriptions"]),
        *_section("Templates tried so far, with their scores, the best last:", map(_scored, inputs["history"])),
        _score_legend(inputs["history"]),
        *_section("Answers that could not be used:", inputs["rejected"]),
        f"Write {inputs['count']} new template(s) that differ from all of these and should have "
        f"{_goal(inputs['history'])}. {_FORM}",
    ]


_GUESSED = "How some training images look, guessed by CLIP from a list of phrases, so some of them are wrong:"


def _reword_parts(inputs: dict[str, Any]) -> list[str]:
    return [
        *_section("Templates that do about equally well, the plainest first:", map(_scored, inputs["tied"])),
        _score_legend(inputs["tied"]),
        f"Write at most {inputs['count']} rewordings that say the same in plain words and differ from all of these. "
        f"{_FORM}",
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = "\n".join(f"- {line}" for line in lines)
    return [f"{title}\n{listed}"] if listed else []


_LOSS = "Loss is the mean cross-entropy over the training images: lower is better."
_ACCURACY = "Accuracy is the percentage of them classified correctly: higher is better."
_ACCURACY_ALONE = "Accuracy is the percentage of the training images classified correctly: higher is better."


def _shown_scores(history: Iterable[ScoredTemplate]) -> tuple[bool, bool]:
    """Return whether all losses and all accuracies are shown; both True without any history."""
    prompts = list(history)
    return all(p.loss is not None for p in prompts), all(p.accuracy is not None for p in prompts)


def _score_legend(history: Iterable[ScoredTemplate]) -> str:
    """Return an explanation of the scores that are shown."""
    meanings = {(True, True): f"{_LOSS} {_ACCURACY}", (True, False): _LOSS, (False, True): _ACCURACY_ALONE}
    return meanings.get(_shown_scores(history), "")


def _goal(history: Iterable[ScoredTemplate]) -> str:
    """Return the goal of a new template."""
    aims = {(True, False): "a lower loss", (False, True): "a higher accuracy"}
    return aims.get(_shown_scores(history), "a lower loss and a higher accuracy")


def _scored(prompt: ScoredTemplate) -> str:
    text = prompt.template.replace("\n", " | ")
    loss = [] if prompt.loss is None else [f"loss {prompt.loss:.4f}"]
    accuracy = [] if prompt.accuracy is None else [f"accuracy {prompt.accuracy:.2f} %"]
    return f"{text}  ({', '.join([*loss, *accuracy])})"


_FORM = (
    f"Each is one short sentence in plain words that holds <CLASS> once, between {OPEN_TAG} and {CLOSE_TAG}. "
    "Write nothing else."
)
