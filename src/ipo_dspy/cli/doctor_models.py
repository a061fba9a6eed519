"""Checks of `ipo-dspy doctor` that use models: load a local CLIP, send one request to a language model."""

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.threads import run_with_timeout
from ipo_dspy.cli.doctor_environment import Check
from ipo_dspy.cli.messages import render
from ipo_dspy.cli.options import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.clip.bundled import resolve_model_name
from ipo_dspy.errors import Hint, IPOError, LanguageModelError, ModelError

if TYPE_CHECKING:
    import dspy

LOAD_SECONDS = 300
ANSWER_SECONDS = 20
HUB_SECONDS = 10


def clip(model: str, pretrained: str | None, device: str) -> Check:
    """Check that a CLIP model loads from local files."""
    from ipo_dspy.clip.loading import load_backbone

    name, began = f"CLIP {model}", time.monotonic()
    load = partial(load_backbone, resolve_model_name(model), pretrained, device=device, downloads="refused")
    try:
        backbone = run_with_timeout(LOAD_SECONDS, load)
    except TimeoutError:
        return Check(name, "fail", f"not loaded after {LOAD_SECONDS} s", "use a smaller model, e.g. --model demo")
    except ModelError as error:
        if isinstance(error.hint, Hint) and "allow_download" in error.hint.values:
            return not_downloaded(name)
        return Check(name, "fail", *_split(error))
    return Check(name, "ok", f"loads in {time.monotonic() - began:.1f} s on {backbone.device}")


def default_model() -> Check:
    """Check that the default weights of `optimize` are downloaded; nothing is loaded."""
    from ipo_dspy.clip.hub_files import Hub
    from ipo_dspy.clip.loading import import_open_clip
    from ipo_dspy.clip.weights import resolve

    name, model = "default CLIP", f"{DEFAULT_MODEL}, {DEFAULT_PRETRAINED}"
    try:
        file = resolve(import_open_clip(), DEFAULT_MODEL, DEFAULT_PRETRAINED, Hub(None, "refused")).checkpoint
    except ModelError:
        fact = f"{model}: not downloaded yet; the first optimize fetches about 600 MB"
        return Check(name, "warn", fact, "without a network, or to try it out: --model demo, which is bundled")
    return Check(name, "ok", f"{model}: {file}")


def not_downloaded(name: str) -> Check:
    """Check that a CLIP model that is not downloaded yet could be."""
    from huggingface_hub import constants, get_session

    try:
        run_with_timeout(HUB_SECONDS + 2, lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
    except Exception as error:  # noqa: BLE001 - any error means that the hub cannot be reached
        local = "connect to the network once, or use a local model: --model local-dir:PATH, or --model demo"
        remedy = "unset HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else local
        return Check(name, "fail", f"not downloaded, and no network ({type(error).__name__})", remedy)
    return Check(name, "warn", "not downloaded; the Hugging Face Hub can be reached", "the first use downloads it")


def language_model(option: str, model: str, settings: Mapping[str, Any]) -> Check:
    """Check that a language model answers a minimal, uncached request; for `--description-model`, with an image."""
    from ipo_dspy.lms import build_lm
    from ipo_dspy.lms.api_keys import check_key
    from ipo_dspy.lms.error_messages import key_variable, one_line_error

    name, role = f"{option} {model}", option.lstrip("-").replace("-", "_")
    limits = {"cache": False, "num_retries": 0, "timeout": ANSWER_SECONDS}
    lm: dspy.BaseLM | None = None
    try:
        lm = build_lm(model, role=role, settings={**settings, **limits})
        check_key(lm, role=role)
        began = time.monotonic()
        _ask(lm, with_image=role == "description_model")
    except LanguageModelError as error:
        fact, remedy = _split(error)
        return Check(name, "fail", fact, remedy or f"export {key_variable(model)}=YOUR_KEY")
    except Exception as error:  # noqa: BLE001 - every provider raises different errors
        reason = one_line_error(error, lm).partition(" To fix: ")[0] or type(error).__name__
        return Check(name, "fail", f"does not answer: {reason}", _remedy(error, option, model))
    return Check(name, "ok", f"answers in {time.monotonic() - began:.1f} s; {_price(lm)}")


def _split(error: IPOError) -> tuple[str, str]:
    """Split the message of an `IPOError` into fact and remedy."""
    fact, _, remedy = render(error, "doctor").rpartition("; ")
    return (fact, remedy) if fact else (remedy, "see ipo-dspy --help")


def _ask(lm: "dspy.BaseLM", *, with_image: bool) -> None:
    from huggingface_hub import constants

    from ipo_dspy.lms import LOCAL
    from ipo_dspy.lms.requests import ping

    ask = partial(ping, with_image=with_image)
    if not lm.model.startswith(LOCAL):
        ask(lm)  # `lms.client` limits its time
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        run_with_timeout(LOAD_SECONDS, lambda: ask(lm))  # an in-process model is loaded first
    finally:
        constants.HF_HUB_OFFLINE = before


def _remedy(error: Exception, option: str, model: str) -> str:
    from dspy.utils import exceptions as dspy_errors

    from ipo_dspy.lms import LOCAL
    from ipo_dspy.lms.error_messages import FATAL, key_variable, suggest_fix

    if model.startswith(LOCAL):
        return f"hf download {model.removeprefix(LOCAL)}, or use a folder that contains it: {option} {LOCAL}/PATH"
    server = f"start the server, or pass its address: {option} {model} {option}-kwargs api_base=http://HOST:PORT/v1"
    match error:
        case dspy_errors.LMAuthError():
            return f"{suggest_fix(error, model)}: export {key_variable(model)}=YOUR_KEY"
        case dspy_errors.LMUnsupportedModelError():
            return f"{suggest_fix(error, model)}, e.g. {option} openai/gpt-4o-mini"
        case dspy_errors.LMRateLimitError():
            return "retry in a minute; if it persists, check the account's rate limits and credit"
        case dspy_errors.LMInvalidRequestError() if option == "--description-model":
            return f"use a multimodal model, e.g. {option} openai/gpt-4o-mini"
        case TimeoutError() | dspy_errors.LMTimeoutError():
            return f"retry if a local model was still loading; otherwise {server}"
    return suggest_fix(error, model) if isinstance(error, FATAL) else server


def _price(lm: "dspy.BaseLM") -> str:
    """Return USD per million tokens by LiteLLM's price list or by the model's settings."""
    from ipo_dspy.lms.usage import price_of

    # Of 1,000 tokens, because some providers charge more for very long prompts.
    prompt, completion = price_of(lm, 1000, 0), price_of(lm, 0, 1000)
    if prompt is None or completion is None:
        return "price unknown"
    return f"{prompt * 1000:.2f} USD in and {completion * 1000:.2f} USD out per million tokens"
