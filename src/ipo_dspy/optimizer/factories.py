"""The proposer, the describer and the language models of a run, built from its configuration.

A model inside a proposer or describer object is treated like a named model: it is estimated, limited and checked.
"""

from typing import TYPE_CHECKING, Any, cast

import dspy

from ipo_dspy.errors import Hint, LanguageModelError
from ipo_dspy.optimizer.config import OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Describer
    from ipo_dspy.proposers import Proposer


def build_proposer(config: OptimizerConfig) -> "Proposer":
    """Return `lm` (also for None), `evolution`, or the caller's custom proposer.

    Raises:
        LanguageModelError: a language model is needed, but none is given or configured.
    """
    from ipo_dspy.lms import build_lm
    from ipo_dspy.proposers import EvolutionProposer, LMProposer

    if config.proposer == "evolution":
        return EvolutionProposer()
    if config.proposer is not None and not isinstance(config.proposer, str):
        _check_has_lm(config.proposer)
        return config.proposer
    if config.prompt_model is not None:
        return LMProposer(build_lm(config.prompt_model, role="prompt_model"), num_threads=config.num_threads)
    if configured_lm() is None:
        has_words = config.candidates is not None or not config.searches_class_texts
        if config.proposer is None and config.num_steps == 0 and has_words:
            return EvolutionProposer()  # is not asked
        raise LanguageModelError(
            "no language model to propose templates",
            hint=Hint(
                "pass {prompt_model}, call dspy.configure(lm=...), or pass {proposer}, which needs none",
                prompt_model="openai/gpt-4o-mini",
                proposer="evolution",
            ),
        )
    return LMProposer(num_threads=config.num_threads)


def build_describer(config: OptimizerConfig, classifier: "ClipClassifier") -> "Describer | None":
    """Return `lm`, `clip` (with the classifier's model), the caller's custom describer, or None.

    Raises:
        LanguageModelError: a multimodal model is needed, but none is given or configured.
    """
    from ipo_dspy.describers import ClipDescriber, LMDescriber

    kind = config.describer_kind
    if kind == "clip":
        return ClipDescriber(classifier.backbone, allow_url=classifier.allow_url)
    if kind == "lm":
        return LMDescriber(
            _description_lm(config),
            num_threads=config.num_threads,
            allow_url=classifier.allow_url,
            max_consecutive_errors=config.max_consecutive_errors,
        )
    return cast("Describer | None", kind)


def language_models(config: OptimizerConfig, proposer: "Proposer") -> dict[str, dspy.BaseLM]:
    """Return the language models that a run will call, by argument.

    Raises:
        LanguageModelError: a model is needed, but none is given or configured.
    """
    models = {"prompt_model": lm_of(proposer)}
    if config.describer_kind == "lm":
        models["description_model"] = _description_lm(config)
    else:
        _check_has_lm(config.describer_kind)
        models["description_model"] = lm_of(config.describer_kind)
    if config.max_described_images == 0 or not config.searches_template:
        del models["description_model"]
    return {role: lm for role, lm in models.items() if lm is not None}


def lm_of(owner: Any) -> dspy.BaseLM | None:
    """Return the language model that a proposer or describer calls, or None if it is unknown."""
    lm = getattr(owner, "lm", None)
    if _asks_configured(owner):
        return lm or configured_lm()
    return lm if isinstance(lm, dspy.BaseLM) else None


def _asks_configured(owner: Any) -> bool:
    """Return True for classes that fall back to `dspy.settings.lm`."""
    from ipo_dspy.describers import LMDescriber
    from ipo_dspy.proposers import LMProposer

    return isinstance(owner, LMProposer | LMDescriber)


def _check_has_lm(owner: Any) -> None:
    if _asks_configured(owner) and lm_of(owner) is None:
        name = type(owner).__name__
        raise LanguageModelError(
            f"{name}() has no language model; pass {name}(dspy.LM(...)), or call dspy.configure(lm=...)"
        )


def configured_lm() -> dspy.BaseLM | None:
    """Return the language model that DSPy is configured with; a decision client, such as a `ClipDecider`, is none."""
    lm = dspy.settings.lm
    return None if getattr(lm, "supports_decision_requests", False) else lm


def _description_lm(config: OptimizerConfig) -> dspy.BaseLM:
    from ipo_dspy.lms import build_lm

    if config.description_model is not None:
        return build_lm(config.description_model, role="description_model")
    if (lm := configured_lm()) is None:
        raise LanguageModelError(
            "no multimodal model to describe images",
            hint=Hint(
                "pass {description_model}, or {describer}, which needs none",
                description_model="openai/gpt-4o-mini",
                describer="clip",
            ),
        )
    return lm
