"""The checks of `ipo-dspy doctor` that load or ask models: a CLIP from this machine, a language model once.

Nothing is downloaded, and each wait has an end.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy._internal.threads import within
from ipo_dspy.cli.doctor_environment import Check
from ipo_dspy.cli.options import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.cli.wording import ROLES, in_options
from ipo_dspy.clip.bundled import located
from ipo_dspy.errors import LanguageModelError, ModelError

if TYPE_CHECKING:
    import dspy


LOAD_SECONDS = 300
ANSWER_SECONDS = 20
HUB_SECONDS = 10
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is never there, so that a download fails at once."""
DEFAULT_SIZE = "about 600 MB"
"""Of ViT-B-16: 150 million numbers of 4 bytes."""
PIXELS = 32
"""Side of the picture that a multimodal model is shown; some refuse smaller ones."""


def demo_model(where: str) -> Check:
    """The bundled CLIP loads."""
    from ipo_dspy.clip.loading import load_backbone
    from ipo_dspy.demo import model_path

    began = time.monotonic()
    try:
        loaded = load_backbone(f"local-dir:{model_path()}", None, device=where)
    except ModelError as error:
        return Check("CLIP demo", "fail", *_split(str(error)))
    return Check("CLIP demo", "ok", f"loads in {time.monotonic() - began:.1f} s on {loaded.device}")


def default_model() -> Check:
    """Whether the weights that `optimize` takes by default are on this machine; nothing is loaded or fetched."""
    from ipo_dspy.clip.loading import import_open_clip
    from ipo_dspy.clip.weights import resolve

    name = "CLIP by default"
    called = f"{DEFAULT_MODEL}, {DEFAULT_PRETRAINED}"
    try:
        with _no_download():
            file = resolve(import_open_clip(), DEFAULT_MODEL, DEFAULT_PRETRAINED, None).checkpoint
    except ModelError:
        found = f"{called}: not downloaded yet; the first optimize fetches {DEFAULT_SIZE}"
        return Check(name, "warn", found, "without a network, or to try it out: --model demo, which is bundled")
    return Check(name, "ok", f"{called}: {file}")


_LOAD = """
import sys
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.errors import ModelError
try:
    print(load_backbone(sys.argv[1], sys.argv[2] or None, device=sys.argv[3]).device)
except ModelError as error:
    print(error)
    sys.exit(3)
"""


def other_model(model: str, pretrained: str | None, where: str) -> Check:
    """Another CLIP loads from what is on this machine.

    In a process of its own without a network: so nothing is downloaded, a model too large for the memory takes only
    that process with it, and the wait has an end.
    """
    name = f"CLIP {model}"
    proxies = {f"{scheme}_proxy": NOWHERE for scheme in ("http", "https", "HTTP", "HTTPS")}
    offline = {**os.environ, **proxies, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", _LOAD, located(model), pretrained or "", where]
    began = time.monotonic()
    try:
        done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, "fail", f"not loaded after {LOAD_SECONDS} s", "name a smaller model, e.g. --model demo")
    told = done.stdout.strip()
    if done.returncode == 0:
        return Check(name, "ok", f"found, loads in {time.monotonic() - began:.1f} s on {told}")
    if done.returncode != 3:
        found = f"loading it ended its process (exit code {done.returncode}); is the memory large enough?"
        return Check(name, "fail", found, "name a smaller model, e.g. --model demo, or --device cpu")
    if "cannot be fetched" in told:
        return not_downloaded(name)
    return Check(name, "fail", *_split(told))


def not_downloaded(name: str) -> Check:
    """Whether a CLIP that is not on this machine could be fetched."""
    fault = hub_fault()
    if fault is None:
        return Check(name, "warn", "not downloaded; the Hugging Face hub can be reached", "the first use downloads it")
    remedy = (
        "unset HF_HUB_OFFLINE"
        if os.environ.get("HF_HUB_OFFLINE")
        else "connect to the network once, or name a model that is here: --model local-dir:PATH, or --model demo"
    )
    return Check(name, "fail", f"not downloaded, and no network ({fault})", remedy)


def _split(message: str) -> tuple[str, str]:
    """Fact and remedy of a message of ours, whose last part says what to write."""
    fact, _, remedy = in_options(message, "doctor").rpartition("; ")
    return (fact, remedy) if fact else (remedy, "see ipo-dspy --help")


def language_model(option: str, model: str, settings: Mapping[str, Any]) -> Check:
    """A language model answers one tiny request, with a tiny picture for `--vlm`; never from the cache."""
    from ipo_dspy.lms.api_keys import check_key
    from ipo_dspy.lms.error_messages import brief, key_variable

    name, lm = f"{option} {model}", cast(Any, None)
    try:
        lm = _build(option, model, settings)
        check_key(lm, role=_role(option))
        began = time.monotonic()
        _ask(lm, picture=option == "--vlm")
    except LanguageModelError as error:
        fact, _, remedy = in_options(brief(error, lm), "doctor").partition("; ")
        return Check(name, "fail", fact, remedy or f"export {key_variable(model)}=YOUR_KEY")
    except Exception as error:  # noqa: BLE001 - every provider has errors of its own
        said = brief(error, lm).partition(" To fix: ")[0] or type(error).__name__
        return Check(name, "fail", f"does not answer: {said}", _remedy(error, option, model))
    return Check(name, "ok", f"answers in {time.monotonic() - began:.1f} s; {_price(lm)}")


def hub_fault() -> str | None:
    """Why the Hugging Face hub cannot be reached, if so."""
    from huggingface_hub import constants, get_session

    try:
        within(HUB_SECONDS + 2, lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
    except Exception as error:  # noqa: BLE001 - whatever it was, nothing came back
        return type(error).__name__
    return None


def _role(option: str) -> str:
    return next(role for role, of in ROLES.items() if of == option)


def _build(option: str, model: str, settings: Mapping[str, Any]) -> "dspy.BaseLM":
    from ipo_dspy.lms import build_lm

    once = {"cache": False, "num_retries": 0, "timeout": ANSWER_SECONDS}
    return build_lm(model, role=_role(option), settings={**settings, **once})


def _ask(lm: "dspy.BaseLM", *, picture: bool) -> None:
    from ipo_dspy.lms import LOCAL
    from ipo_dspy.lms.requests import greet

    local = lm.model.startswith(LOCAL)
    ask = _show_picture if picture else greet
    if not local:
        ask(lm)  # it ends in time by itself: see `lms.client`
        return
    with _no_download():  # a model that runs in this process is loaded first
        within(LOAD_SECONDS, lambda: ask(lm))


@contextlib.contextmanager
def _no_download() -> Iterator[None]:
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _show_picture(lm: "dspy.BaseLM") -> None:
    """An answer counts whatever it says: some models answer a picture that they do not see."""
    import dspy
    from PIL import Image

    from ipo_dspy.lms.requests import request

    request(
        lm,
        dspy.ChatAdapter(use_json_adapter_fallback=False),
        dspy.Signature("image: dspy.Image -> colour: str", "Name the colour."),
        {"image": dspy.Image(Image.new("RGB", (PIXELS, PIXELS), "red"))},
        field="colour",
    )


def _remedy(error: Exception, option: str, model: str) -> str:
    """What to write, by the kind of fault."""
    from dspy.utils.exceptions import (
        LMAuthError,
        LMInvalidRequestError,
        LMRateLimitError,
        LMTimeoutError,
        LMUnsupportedModelError,
    )

    from ipo_dspy.lms import LOCAL
    from ipo_dspy.lms.error_messages import FATAL, key_variable, remedy

    if model.startswith(LOCAL):
        return f"hf download {model.removeprefix(LOCAL)}, or name a folder that holds it: {option} {LOCAL}/PATH"
    server = f"start the server, or name its address: {option} {model} {option}-arg api_base=http://HOST:PORT/v1"
    match error:
        case LMAuthError():
            return f"{remedy(error, model)}: export {key_variable(model)}=YOUR_KEY"
        case LMUnsupportedModelError():
            return f"{remedy(error, model)}, e.g. {option} openai/gpt-4o-mini"
        case LMRateLimitError():
            return "wait a minute and write the same again; if it stays so, look at the account's limits and credit"
        case LMInvalidRequestError() if option == "--vlm":
            return "name a model that sees pictures, e.g. --vlm openai/gpt-4o-mini"
        case TimeoutError() | LMTimeoutError():
            return f"write the same again if a local model was still loading; else {server}"
        case _ if isinstance(error, FATAL):
            return remedy(error, model)
    return server


def _price(lm: Any) -> str:
    """USD per million tokens by LiteLLM's own list, or by what the user gave."""
    from ipo_dspy.lms.usage import price

    model, given = str(lm.model), lm.kwargs
    # By the thousand: some providers charge more for very long prompts.
    sent, answered = price(model, 1000, 0), price(model, 0, 1000)
    if "input_cost_per_token" in given:
        sent, answered = given["input_cost_per_token"] * 1000, given.get("output_cost_per_token", 0.0) * 1000
    if sent is None or answered is None:
        return "price unknown"
    return f"{sent * 1000:.2f} USD in and {answered * 1000:.2f} USD out per million tokens"
