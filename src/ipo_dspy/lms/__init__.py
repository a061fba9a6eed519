"""Language models by name: strings become `dspy.LM`s that go through LiteLLM, ready ones pass as they are."""

import difflib
import os

import dspy

from ipo_dspy.errors import LanguageModelError


def build_lm(model: "str | dspy.BaseLM", *, role: str, temperature: float = 1.0) -> dspy.BaseLM:
    """A DSPy language model for a LiteLLM name, e.g. `openai/gpt-4o-mini` or `ollama_chat/phi3`.

    Args:
        model: a LiteLLM name, or a ready LM, which is returned as it is.
        role: the argument's name, for messages.
        temperature: of the draws; ignored for a ready LM.

    Raises:
        LanguageModelError: LiteLLM knows no such provider or model, or its key is not in the environment.
    """
    if isinstance(model, dspy.BaseLM):
        return model
    if not isinstance(model, str):
        raise LanguageModelError(
            f"{role}={model!r} is neither a name nor an LM; write {role}='openai/gpt-4o-mini' or {role}=dspy.LM(...)"
        )
    _check_name(model, role)
    _check_key(model, role)
    return dspy.LM(model, engine="litellm", temperature=temperature)


def _check_name(model: str, role: str) -> None:
    # Set before LiteLLM loads: otherwise its import fetches a price list over the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True  # else it prints advice on stdout
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as error:
        providers = [str(getattr(p, "value", p)) for p in litellm.provider_list]
        rest = model.partition("/")[2] or "..."
        known = [*litellm.model_list, *(f"{provider}/{rest}" for provider in providers)]
        close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise LanguageModelError(
            f"{role}={model!r} is no model that LiteLLM knows{hint}; write provider/name, e.g. 'openai/gpt-4o-mini' "
            "or 'ollama_chat/phi3'"
        ) from error


def _check_key(model: str, role: str) -> None:
    """A missing key would show after images are encoded and requests retried; a wrong one only the provider knows."""
    import litellm

    missing = [name for name in litellm.validate_environment(model)["missing_keys"] if name.endswith("_API_KEY")]
    if missing:
        raise LanguageModelError(
            f"{role}={model!r} needs a key: set {missing[0]} in the environment, or pass "
            f"{role}=dspy.LM({model!r}, api_key=..., engine='litellm')"
        )
