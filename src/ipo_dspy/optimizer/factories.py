"""Which proposer and describer a run uses, from the names and models that the caller gave.

Mistakes show here, before anything slow: an unknown name lists the known ones, a missing language model names the
ways to give one or to do without.
"""

from typing import TYPE_CHECKING, Any

import dspy

from ipo_dspy.errors import InputError, LanguageModelError

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Describer
    from ipo_dspy.proposers import Proposer


def build_proposer(
    given: "str | Proposer | None",
    prompt_model: str | dspy.BaseLM | None,
    *,
    num_threads: int | None = None,
) -> "Proposer":
    """`lm` (also for None), `evolution`, or the caller's own.

    Raises:
        LanguageModelError: a language model is needed, and none is given or known.
        InputError: an unknown name, or a model beside a proposer that would not ask it.
    """
    from ipo_dspy.lms import build_lm
    from ipo_dspy.proposers import EvolutionProposer, LMProposer

    if prompt_model is not None and given not in (None, "lm"):
        raise InputError(
            f"prompt_model must be None beside proposer={_shown(given)}, which would not ask it, got "
            f"{name_of(prompt_model)!r}; leave one of the two out"
        )
    if given is not None and not isinstance(given, str):
        if isinstance(given, LMProposer) and model_of(given) is None:
            raise LanguageModelError(_NO_LM.format(owner="LMProposer()", instead="pass LMProposer(dspy.LM(...))"))
        return given
    if given == "evolution":
        return EvolutionProposer()
    if given not in (None, "lm"):
        raise InputError(f"proposer={given!r} is unknown; write 'lm', 'evolution' or pass a Proposer")
    if prompt_model is None and dspy.settings.lm is None:
        raise LanguageModelError(
            "no language model to propose templates; write IPO(prompt_model='openai/gpt-4o-mini'), or "
            "dspy.configure(lm=...), or IPO(proposer='evolution'), which needs none"
        )
    lm = None if prompt_model is None else build_lm(prompt_model, role="prompt_model")
    return LMProposer(lm, num_threads=num_threads)


def describer_kind(given: "str | Describer | None", description_model: str | dspy.BaseLM | None) -> Any:
    """`auto` resolved: a language model that was named describes, else CLIP does."""
    if given == "auto":
        return "clip" if description_model is None else "lm"
    return given


def check_describer(given: "str | Describer | None", description_model: str | dspy.BaseLM | None) -> None:
    """Refuse what `build_describer` could not build.

    Raises:
        LanguageModelError: a multimodal model is needed, and none is given or known.
        InputError: an unknown name, or a model beside a describer that would not ask it.
    """
    from ipo_dspy.describers import LMDescriber

    kind = describer_kind(given, description_model)
    if description_model is not None and kind != "lm":
        raise InputError(
            f"description_model must be None beside describer={_shown(kind)}, which would not ask it, got "
            f"{name_of(description_model)!r}; leave one of the two out"
        )
    if isinstance(kind, LMDescriber) and _lm_of(kind) is None:
        raise LanguageModelError(_NO_LM.format(owner="LMDescriber()", instead="pass LMDescriber(dspy.LM(...))"))
    if kind == "lm":
        description_lm(description_model)
    elif isinstance(kind, str) and kind != "clip":
        raise InputError(f"describer={kind!r} is unknown; write 'lm', 'clip', None or pass a Describer")


def build_describer(
    given: "str | Describer | None",
    description_model: str | dspy.BaseLM | None,
    classifier: "ClipClassifier",
    *,
    num_threads: int | None,
    max_errors: int,
) -> "Describer | None":
    """`lm`, `clip` (with the classifier's own model), None, or the caller's own."""
    from ipo_dspy.describers import ClipDescriber, LMDescriber

    kind = describer_kind(given, description_model)
    if kind == "clip":
        return ClipDescriber(classifier.backbone, allow_url=classifier.allow_url)
    if kind == "lm":
        return LMDescriber(
            description_lm(description_model),
            num_threads=num_threads,
            allow_url=classifier.allow_url,
            max_errors=max_errors,
        )
    return kind  # type: ignore[no-any-return]  # None or the caller's own


def name_of(thing: Any) -> str | None:
    """How a model, proposer or describer is called in a journal: never its key or address."""
    if thing is None or isinstance(thing, str):
        return thing
    return str(getattr(thing, "model", None) or type(thing).__name__)


def asks_a_model(given: "str | Proposer | None") -> bool:
    """Whether a language model proposes: it is waited for, where other proposers only take time from the scorer."""
    from ipo_dspy.proposers import LMProposer

    return given in (None, "lm") or isinstance(given, LMProposer)


def model_of(proposer: "Proposer") -> dspy.BaseLM | None:
    """The language model that a proposer asks, if that can be known."""
    from ipo_dspy.proposers import LMProposer

    return _lm_of(proposer) if isinstance(proposer, LMProposer) else None


def describing_model(
    given: "str | Describer | None", description_model: str | dspy.BaseLM | None
) -> dspy.BaseLM | None:
    """Return the language model that describes images, by name or inside a describer, if that can be known.

    Raises:
        LanguageModelError: one is needed, and none is given or known.
    """
    from ipo_dspy.describers import LMDescriber

    kind = describer_kind(given, description_model)
    if kind == "lm":
        return description_lm(description_model)
    return _lm_of(kind) if isinstance(kind, LMDescriber) else None


def _lm_of(asks: Any) -> dspy.BaseLM | None:
    return asks.lm or dspy.settings.lm


def _shown(given: Any) -> str:
    return repr(given) if given is None or isinstance(given, str) else type(given).__name__


_NO_LM = "{owner} has no language model to ask; {instead}, or call dspy.configure(lm=...)"


def description_lm(description_model: str | dspy.BaseLM | None) -> dspy.BaseLM | None:
    """The model that describes images.

    Raises:
        LanguageModelError: none is given or known.
    """
    from ipo_dspy.lms import build_lm

    if description_model is not None:
        return build_lm(description_model, role="description_model")
    if dspy.settings.lm is None:
        raise LanguageModelError(
            "no multimodal model to describe images; write IPO(description_model='openai/gpt-4o-mini'), or "
            "describer='clip', which needs none"
        )
    return dspy.settings.lm
