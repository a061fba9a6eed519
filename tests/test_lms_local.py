"""Models in this process: tiny ones of real architectures, loaded from disk and asked through DSPy and LiteLLM."""

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import litellm
import pytest
import torch
from dspy.utils.exceptions import (
    AdapterParseError,
    ContextWindowExceededError,
    LMInvalidRequestError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)
from PIL import Image

from helpers import local_toys as toys
from ipo_dspy import IPO, LMDescriber, demo
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.errors import LanguageModelError
from ipo_dspy.lms import build_lm, register_transformers
from ipo_dspy.lms.local import generation as sampling
from ipo_dspy.lms.local import models as loading
from ipo_dspy.lms.local.models import LocalModelSpec, load
from ipo_dspy.run.journal import replay

import_open_clip()  # fixes torchvision, which image processors need, where it is built for another torch
IMAGE_MODELS = {
    "blip-2": toys.blip2,
    "fuyu": toys.fuyu,
    "llava": toys.llava,
    "minicpmv4_6": toys.minicpmv,
    "qwen2_vl": toys.qwen2_vl,
}
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    register_transformers()
    yield
    dspy.cache = before


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring where a layer is 64 wide."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Saves a toy when it is first asked for."""
    root = tmp_path_factory.mktemp("models")
    known: dict[str, Path] = {}

    def make(build: Callable[..., Path], **settings: Any) -> Path:
        key = f"{build.__name__} {settings}"
        if key not in known:
            known[key] = build(root / f"{len(known)}-{build.__name__}", **settings)
        return known[key]

    return make


def lm(folder: Path, **settings: Any) -> dspy.LM:
    given = {"device": "cpu", "num_retries": 0, "temperature": 0, "max_tokens": 20, **settings}
    return dspy.LM(f"transformers/{folder}", engine="litellm", **given)


def last(model: dspy.LM) -> Any:
    return model.history[-1]["response"]


def chat(model: dspy.LM, *messages: dict[str, Any]) -> tuple[str, int]:
    """The answer to messages as they are, and the tokens of the prompt, without DSPy."""
    answer = litellm.completion(model=model.model, messages=list(messages), max_retries=0, **model.kwargs)
    return answer.choices[0].message.content, answer.usage.prompt_tokens


@contextmanager
def forwards(folder: Path) -> Iterator[list[torch.Tensor]]:
    """Logits of each pass through the output layer while the block runs, [n, L, vocabulary]."""
    seen: list[torch.Tensor] = []
    head = load(LocalModelSpec(str(folder), "cpu")).model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, out: seen.append(out.detach().clone()))
    yield seen
    handle.remove()


# Text


@pytest.mark.parametrize("build", [toys.phi, toys.phi3, toys.qwen2])
def test_a_text_model_answers_and_says_what_it_took(build: Make, made: Make) -> None:
    model = lm(made(build))
    assert model("What is this?") == [toys.SENTENCE]
    usage = model.history[-1]["usage"]
    assert usage["completion_tokens"] == len(toys.SENTENCE.split()) + 1  # and the end token
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert last(model).choices[0].finish_reason == "stop"


def test_a_model_without_template_is_asked_in_its_own_form(made: Make) -> None:
    folder = made(toys.phi)
    model, loaded = lm(folder), load(LocalModelSpec(str(folder), "cpu"))
    seen: list[torch.Tensor] = []
    handle = loaded.model.get_input_embeddings().register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model("What is this?")
    handle.remove()
    assert loaded.tokenizer.decode(seen[0][0]) == "Instruct: What is this?\n\nOutput:"
    assert model.history[-1]["usage"]["prompt_tokens"] == seen[0].shape[1]


def test_a_template_is_used_and_one_without_system_gets_its_text_in_the_question(made: Make) -> None:
    said = {"role": "system", "content": "You see."}, {"role": "user", "content": "What?"}
    text, tokens = chat(lm(made(toys.qwen2)), *said)
    other_text, other_tokens = chat(lm(made(toys.qwen2, chat_template=toys.NO_SYSTEM)), *said)
    assert text == other_text == toys.SENTENCE
    assert tokens > other_tokens  # two turns with their marks, or one


def test_role_marks_end_an_answer_of_a_model_without_template(made: Make) -> None:
    model = lm(made(toys.phi, babbles=True))
    assert model("What is this?") == [toys.SENTENCE]
    assert last(model).choices[0].finish_reason == "stop"


def test_an_answer_without_a_form_comes_through_predict(made: Make) -> None:
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    wrong_form = pytest.raises(AdapterParseError, match=toys.SENTENCE)
    with dspy.context(lm=lm(made(toys.phi3)), adapter=adapter), wrong_form:
        dspy.Predict("question -> answer")(question="What is this?")


# Draws


def test_several_draws_are_one_generate(made: Make) -> None:
    folder = made(toys.qwen2, last=None)
    model = lm(folder, temperature=1.0, n=4, max_tokens=6, seed=1)
    load(LocalModelSpec(str(folder), "cpu"))
    with forwards(folder) as seen:
        texts = model("Say something")
    assert len(texts) == len(set(texts)) == 4
    assert len(seen) == 6  # one a token, not one a token and draw
    assert {logits.shape[0] for logits in seen} == {4}
    assert model.history[-1]["usage"]["completion_tokens"] == 4 * 6


def test_greedy_draws_are_made_once(made: Make) -> None:
    folder = made(toys.qwen2, last=None)
    model = lm(folder, temperature=0, n=3, max_tokens=4)
    with forwards(folder) as seen:
        texts = model("Say something")
    assert texts == [texts[0]] * 3
    assert {logits.shape[0] for logits in seen} == {1}


def test_the_same_seed_gives_the_same_text_whatever_the_global_generator(made: Make) -> None:
    model = lm(made(toys.qwen2, last=None), temperature=1.0, n=2)
    torch.manual_seed(1)
    first, following = model("Say", seed=5), torch.rand(3)
    torch.manual_seed(2)
    assert model("Say", seed=5) == first
    assert model("Say", seed=6) != first
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), following)


def test_without_a_seed_each_request_samples_another_answer(made: Make) -> None:
    model = lm(made(toys.qwen2, last=None), temperature=1.0)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    texts = []
    for rollout in (1, 2, 1):
        torch.manual_seed(0)
        texts += model("Say", rollout_id=rollout)
    assert texts[0] != texts[1]
    assert texts[2] == texts[0]  # from DSPy's cache


@pytest.mark.parametrize("setting", [{"temperature": 1e-4}, {"top_p": 1e-6}, {"top_k": 1}, {"min_p": 1.0}])
def test_settings_that_leave_one_token_are_greedy(setting: dict[str, float], made: Make) -> None:
    folder = made(toys.qwen2, last=None)
    assert lm(folder, **{"temperature": 1.0, **setting})("Say") == lm(folder)("Say")


def test_a_penalty_on_repetition_changes_the_text(made: Make) -> None:
    folder = made(toys.qwen2, last=None)
    assert lm(folder, repetition_penalty=5.0)("Say") != lm(folder)("Say")


@pytest.mark.parametrize(("name", "limit"), [("max_tokens", 3), ("max_completion_tokens", 4)])
def test_the_token_limit_cuts_and_says_so(name: str, limit: int, made: Make) -> None:
    model = lm(made(toys.phi3), **{"max_tokens": None, name: limit})
    assert model("What is this?") == [" ".join(toys.SENTENCE.split()[:limit])]
    assert last(model).choices[0].finish_reason == "length"
    assert model.history[-1]["usage"]["completion_tokens"] == limit


@pytest.mark.parametrize("stop", ["photo", ["never", "to of", "ey pho"], [" grey", "photo"]])
def test_stop_strings_end_the_answer_wherever_tokens_begin(stop: str | list[str], made: Make) -> None:
    model = lm(made(toys.phi3), stop=stop)
    (text,) = model("What is this?")
    where = min(toys.SENTENCE.index(one) for one in ([stop] if isinstance(stop, str) else stop) if one in toys.SENTENCE)
    assert text == toys.SENTENCE[:where].strip()
    assert last(model).choices[0].finish_reason == "stop"
    assert model.history[-1]["usage"]["completion_tokens"] < 6


def test_each_draw_ends_for_itself(made: Make) -> None:
    folder = made(toys.qwen2, last=None)
    free = lm(folder, temperature=1.0, n=4, seed=3, max_tokens=8)
    texts = free("Say")
    stop = next(char for char in "".join(texts)[3:] if char.isascii() and char.isalpha())
    stopped = lm(folder, temperature=1.0, n=4, seed=3, max_tokens=8, stop=stop)
    assert stopped("Say") == [text.partition(stop)[0].strip() for text in texts]
    before, after = ([choice.finish_reason for choice in last(model).choices] for model in (free, stopped))
    assert after == ["stop" if stop in text else reason for text, reason in zip(texts, before, strict=True)]


def test_a_draw_that_ended_is_not_lengthened_by_what_fills_it_up() -> None:
    tok = toys.tokenizer()
    ends, goes_on = (tok.encode(f": a{words} photo", add_special_tokens=False) for words in ("", " blurry grey of"))
    rows = torch.tensor([ends + [tok.pad_token_id] * 3, goes_on])
    watch = sampling.StopStringCriteria(tok, ["photo"])
    stopped = [watch(rows[:, :length], None).tolist() for length in range(2, 7)]
    assert stopped == [[False, False], [True, False], [True, False], [True, False], [True, True]]
    draws = [watch.read(index, row, ()) for index, row in enumerate(rows)]
    assert draws == [sampling.Completion("a", 2, "stop"), sampling.Completion("a blurry grey of", 5, "stop")]


# Images


def picture(color: str = "red") -> Image.Image:
    return Image.new("RGB", (48, 40), color)


def look(model: dspy.LM, *pictures: Image.Image) -> tuple[str, int]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "How does it look?"}]
    parts += [{"type": "image_url", "image_url": {"url": dspy.Image(one).url}} for one in pictures]
    return chat(model, {"role": "user", "content": parts})


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_image_model_answers(name: str, made: Make) -> None:
    text, tokens = look(lm(made(IMAGE_MODELS[name])), picture())
    assert text == toys.SENTENCE
    assert tokens > 15


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_image_reaches_the_model(name: str, made: Make) -> None:
    folder = made(IMAGE_MODELS[name], rigged=False)
    model = lm(folder, max_tokens=1)
    with forwards(folder) as seen:
        for color in ("red", "blue", "red"):
            look(model, picture(color))
    red, blue, again = (logits[0, -1] for logits in seen)
    assert torch.equal(red, again)
    assert not torch.allclose(red, blue, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_image_model_describes_for_the_optimizer(name: str, made: Make) -> None:
    folder = made(IMAGE_MODELS[name])
    with forwards(folder) as seen:
        described = LMDescriber(lm(folder, max_tokens=10)).describe([picture("red"), picture("blue")], ["dog", "toy"])
    assert described.texts == (toys.SENTENCE, toys.SENTENCE.replace("toy", "subject"))
    assert described.faults == ()
    assert len(seen) == 2 * 8  # one answer an image, a pass for each token


def test_a_template_for_text_gets_the_image_token_where_the_image_is(made: Make) -> None:
    text, tokens = look(lm(made(toys.llava, text_template=True)), picture(), picture("blue"))
    other_text, other_tokens = look(lm(made(toys.llava)), picture(), picture("blue"))
    assert text == other_text == toys.SENTENCE
    assert 1 <= tokens - other_tokens <= 2  # a line break after each image


def test_an_image_model_also_reads_text_alone(made: Make) -> None:
    assert lm(made(toys.qwen2_vl))("What is this?") == [toys.SENTENCE]


@pytest.mark.parametrize(
    ("build", "url", "message"),
    [
        (toys.phi, None, r"accepts text only; use a multimodal model, e\.g\. 'transformers/llava"),
        (toys.llava, "https://example.com/a.png", r"do not fetch URLs \('https://example.com/a.png'\); pass the image"),
        (
            toys.llava,
            "data:image/png;base64,AAAA",
            r"in the message cannot be read: data URI image .* cannot be read as an image",
        ),
        (
            toys.llava,
            "data:image/png;base64,!",
            r"in the message cannot be read: data URI image .* cannot be read as an image",
        ),
        (toys.blip2, "none", r"accepts exactly one image, got 0; use another model"),
    ],
)
def test_images_that_cannot_be_used_are_refused(build: Make, url: str | None, message: str, made: Make) -> None:
    url = url or dspy.Image(picture()).url
    parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(litellm.BadRequestError, match=message):
        chat(lm(made(build)), {"role": "user", "content": parts[:1] if url == "none" else parts})


# Loading


def test_threads_share_one_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loads = toys.qwen2(tmp_path / "qwen2"), []
    read = loading._read

    def counted(source: LocalModelSpec, *rest: Any) -> Any:
        loads.append(source)
        return read(source, *rest)

    monkeypatch.setattr(loading, "_read", counted)
    model = lm(folder)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda i: model(f"What is {i}?")[0], range(16))) == {toys.SENTENCE}
    assert len(loads) == 1
    lm(folder, dtype="bfloat16")("What?")
    assert [source.dtype for source in loads] == ["auto", "bfloat16"]


def test_threads_draw_what_they_would_draw_alone(made: Make) -> None:
    models = [lm(made(toys.qwen2, last=None), temperature=1.0), lm(made(toys.phi, last=None), temperature=1.0)]
    models = [model.copy(max_tokens=6) for model in models]
    ask = [(models[i % 2], i) for i in range(8)]
    alone = [model("Say", seed=seed) for model, seed in ask]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda one: one[0]("Say", seed=one[1]), ask)) == alone


def test_weights_have_the_type_and_place_asked_for(made: Make) -> None:
    folder = made(toys.phi)
    lm(folder, dtype="torch.bfloat16")("What?")
    weight = load(LocalModelSpec(str(folder), "cpu", "torch.bfloat16")).model.get_input_embeddings().weight
    assert (weight.dtype, weight.device.type) == (torch.bfloat16, "cpu")


def test_asynchronous_requests_are_answered(made: Make) -> None:
    assert asyncio.run(lm(made(toys.phi)).acall("What is this?")) == [toys.SENTENCE]


def test_a_stream_brings_the_whole_answer(made: Make) -> None:
    said = [{"role": "user", "content": "What is this?"}]
    name = f"transformers/{made(toys.phi)}"
    chunks = list(litellm.completion(model=name, messages=said, stream=True, temperature=0, device="cpu"))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == toys.SENTENCE
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_engine_need_not_be_named(made: Make) -> None:
    given = {"device": "cpu", "temperature": 0, "num_retries": 0}
    assert dspy.LM(f"transformers/{made(toys.phi)}", **given)("What is this?") == [toys.SENTENCE]


def test_unloaded_models_are_loaded_again(made: Make) -> None:
    source = LocalModelSpec(str(made(toys.phi)), "cpu")
    before = load(source)
    assert load(source) is before
    loading.unload()
    assert load(source) is not before


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_pickle(folder: Path) -> None:
    without_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def without_some(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.fc1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def half_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:500])


def half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "ph')


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (gone, "is not a folder with a config.json"),
        (half_a_config, "cannot be loaded"),
        (without_weights, "cannot be loaded"),
        (with_pickle, "cannot be loaded"),
        (cut, r"cannot be loaded \(SafetensorError"),
        (without_some, r"lacks 1 of its weights, e\.g\. model\.layers\.1\.mlp\.fc1\.weight"),
        (without_tokenizer, "has no tokenizer"),
        (half_a_tokenizer, "cannot be loaded"),
    ],
)
def test_half_a_model_is_refused_by_name(damage: Callable[[Path], None], fact: str, made: Make, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made(toys.phi), folder)
    damage(folder)
    rest = "copy or download the complete folder again, or use 'transformers/microsoft/phi-2'"
    with pytest.raises(LMUnsupportedModelError, match=f"{re.escape(repr(str(folder)))} {fact}.*; {rest}") as caught:
        lm(folder)("What?")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_sentencepiece(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("the SentencePiece library was not found")

    folder = tmp_path / "copy"
    shutil.copytree(made(toys.phi), folder)
    monkeypatch.setattr(toys.hf.AutoTokenizer, "from_pretrained", needs_sentencepiece)
    message = r"needs a package that is not installed \(the SentencePiece.*\); run pip install 'ipo_dspy\[local\]'"
    with pytest.raises(LMUnsupportedModelError, match=message):
        lm(folder)("What?")


def test_a_name_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        LMUnsupportedModelError, match=r"'no-such/model' was not found .* Hub; check its name, the network"
    ):
        lm(Path("no-such/model"))("What?")


def test_foreign_code_runs_only_when_asked(tmp_path: Path) -> None:
    folder = toys.remote_code(tmp_path / "own")
    line = re.escape(f"dspy.LM('transformers/{folder}', engine='litellm', trust_remote_code=True)")
    with pytest.raises(LMUnsupportedModelError, match=f"requires custom code; review it, then use {line}"):
        lm(folder)("What?")
    assert not toys.has_run(folder)
    with pytest.raises(LMUnsupportedModelError, match="cannot be loaded"):  # its code ran; there are no weights
        lm(folder, trust_remote_code=True)("What?")
    assert toys.has_run(folder)


# Refusals


def test_a_prompt_that_leaves_no_room_is_reported_as_such(made: Make) -> None:
    folder = made(toys.phi, context=64)
    with pytest.raises(
        ContextWindowExceededError, match=r"the prompt has \d+ tokens but .* has a context of 64; shorten"
    ):
        lm(folder)("What is this? " * 20)
    model = lm(made(toys.phi, context=64, last=None), max_tokens=1000)
    model("What?")  # gets the room that there is
    assert last(model).choices[0].finish_reason == "length"
    assert model.history[-1]["usage"]["total_tokens"] == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, r"dtype='int8' .* use dtype='float32', 'bfloat16' or 'float16'"),
        ({"device": "tpu9"}, r"device 'tpu9' is not available for a local model; use device='cpu', or omit it"),
        ({"temprature": 1}, r"'temprature' is not a setting of a local model; supported: n, max_tokens, temperature"),
        ({"top_p": 2}, r"2 is out of range for the setting 'top_p'"),
        ({"temperature": -1}, r"-1 is out of range for the setting 'temperature'"),
        ({"seed": "x"}, r"'x' is out of range for the setting 'seed'"),
        ({"max_tokens": 0}, r"0 is out of range for the setting 'max_tokens'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str, made: Make) -> None:
    with pytest.raises(LMUnsupportedFeatureError, match=message):
        lm(made(toys.phi), **settings)("What?")


def test_a_fault_inside_a_model_is_not_a_lost_connection(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(LocalModelSpec(str(made(toys.phi)), "cpu"))
    monkeypatch.setattr(loaded.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(LMInvalidRequestError, match=r"could not answer \(ZeroDivisionError.*use a smaller"):
        lm(made(toys.phi))("What?")


def test_names_are_known_without_calling_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    assert build_lm("transformers/microsoft/phi-2", role="prompt_model").model == "transformers/microsoft/phi-2"
    assert [item["provider"] for item in litellm.custom_provider_map] == ["transformers"]
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    ready = dspy.LM("transformers/microsoft/phi-2", engine="litellm")
    assert build_lm(ready, role="prompt_model") is ready
    assert litellm.get_llm_provider("transformers/microsoft/phi-2")[:2] == ("microsoft/phi-2", "transformers")
    with pytest.raises(LanguageModelError, match="close: transformers/"):
        build_lm("transformer/microsoft/phi-2", role="prompt_model")


# End to end


def run(folder: Path, **settings: Any) -> tuple[Any, list[Any]]:
    task = demo.load("pixel-animals", shots=1)
    best = IPO(steps=2, prompts_per_step=4, log_dir=folder, seed=0, **settings).compile(task.program, task.trainset)
    return best, [*replay(folder)]


@pytest.mark.end_to_end
def test_a_run_with_models_that_babble_ends_with_the_start_template(made: Make, tmp_path: Path) -> None:
    # Unseeded, some draws hold tags; their text is rejected, which is not an error.
    babbler = lm(made(toys.qwen2, last=None), temperature=1.0, max_tokens=24, seed=1)
    best, events = run(tmp_path / "run", prompt_model=babbler, description_model=lm(made(toys.llava), max_tokens=3))
    assert str(best.template) == "a photo of a <CLASS>."
    faults = [event["message"] for event in events if event["event"] == "error"]
    assert sum("gave no proposals: nothing in the answer can be used" in fault for fault in faults) == 2
    assert events[-1]["status"] == "errors"
    assert events[-1]["tokens"] > 1000


def test_a_run_takes_the_proposals_of_a_local_model_and_keeps_the_rejections(made: Make, tmp_path: Path) -> None:
    name = f"transformers/{made(toys.qwen2, sentence=toys.PROPOSAL)}"
    best, events = run(tmp_path / "run", prompt_model=name, describer=None, choose="best")
    assert [str(trial.template) for trial in best.detailed_results.trials][1:] == [toys.PROPOSAL]
    assert best.detailed_results.rejections == {"duplicate": 2 * 4 - 1}
    asked = [event for event in events if event["event"] == "lm_response" and event["request_id"].startswith("step")]
    assert [(len(event["texts"]), event["calls"]) for event in asked] == [(4, 1), (4, 1)]  # four draws in a request
