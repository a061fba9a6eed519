"""Loading: identity, sharing, and one clear error for each way in which a model can be missing or wrong."""

import copy
import gc
import json
import logging
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.cli_process import Processes
from helpers.clip_toys import TEXT, VISION, shared_toy, toy_backbone, write_model
from ipo_dspy.clip import hub_files
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import import_open_clip, load_backbone, unload, with_dtype
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.errors import InputError, ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse() -> None:
        raise ConnectionError("no route to host")

    import_open_clip()  # seconds on a busy machine, and not what is timed
    monkeypatch.setattr(hub_files, "_reach_hub", refuse)
    return tmp_path / "empty cache"


def test_the_same_arguments_give_the_same_object(folder: Path) -> None:
    first = load_backbone(f"local-dir:{folder}", device="cpu")
    assert load_backbone(f"local-dir:{folder}", "openai", device="cpu") is first  # pretrained is ignored
    assert copy.copy(first) is first
    assert copy.deepcopy({"a": [first]})["a"][0] is first
    assert load_backbone(f"local-dir:{folder}", device="cpu", dtype="bfloat16") is not first


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    first = toy_backbone(tmp_path, seed=0)
    second = toy_backbone(tmp_path, seed=1)
    assert second is not first
    assert second.fingerprint != first.fingerprint


def test_identity_is_json_without_the_device(folder: Path) -> None:
    toy = load_backbone(f"local-dir:{folder}", device="cpu")
    assert json.loads(json.dumps(toy.identity)) == {
        "model": f"local-dir:{folder}",
        "pretrained": "",
        "fingerprint": toy.fingerprint,
        "dtype": "float32",
    }
    assert toy.fingerprint in repr(toy)
    assert (toy.context_length, toy.device.type) == (77, "cpu")
    assert toy.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert toy.logit_bias == 0.0


def test_siglip_has_a_logit_bias() -> None:
    assert shared_toy("siglip").logit_bias == -10.0


@pytest.mark.end_to_end
def test_fingerprint_is_stable_in_another_process_and_dtype(
    folder: Path, tmp_path: Path, forking_parent: Processes
) -> None:
    here = load_backbone(f"local-dir:{folder}", device="cpu").fingerprint
    assert load_backbone(f"local-dir:{folder}", device="cpu", dtype="float16").fingerprint == here
    code = (
        "import logging, sys; from ipo_dspy.clip.loading import load_backbone; "
        "sys.stdout.write(load_backbone(sys.argv[1], device='cpu').fingerprint); "
        "root = logging.getLogger(); sys.stdout.write(repr((root.handlers, root.filters)))"
    )
    other = Processes(tmp_path, {}, parent=forking_parent).python(code, f"local-dir:{folder}")
    assert (other.out, other.err) == (f"{here}([], [])", "")  # and no logging was set up for the caller


def test_fingerprint_sees_weights_preprocessing_and_activation(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    seen = {load_backbone(f"local-dir:{folder}", device="cpu").fingerprint}
    for change in ("weight", "mean", "quick_gelu"):
        other = tmp_path / change
        shutil.copytree(folder, other)
        config = json.loads((other / "open_clip_config.json").read_text())
        if change == "weight":
            state = load_file(other / "open_clip_model.safetensors")
            state["visual.proj"][3, 5] += 1e-6
            save_file(state, other / "open_clip_model.safetensors")
        elif change == "mean":
            config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
        else:
            config["model_cfg"]["quick_gelu"] = True
        (other / "open_clip_config.json").write_text(json.dumps(config))
        seen.add(load_backbone(f"local-dir:{other}", device="cpu").fingerprint)
    assert len(seen) == 4


def test_image_features_are_those_of_the_model(folder: Path) -> None:
    toy = load_backbone(f"local-dir:{folder}", device="cpu")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = toy.model.encode_image(pixels, normalize=True)
    features = toy.encode_pixels(pixels)
    assert not features.requires_grad
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_near_and_features_stay_float32(folder: Path, dtype: str) -> None:
    exact = load_backbone(f"local-dir:{folder}", device="cpu")
    low = load_backbone(f"local-dir:{folder}", device="cpu", dtype=dtype)
    ids = exact.token_ids(["a photo of a dog.", "a cat"])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for mine, theirs in (
        (encode_token_lists(low, ids), encode_token_lists(exact, ids)),
        (low.encode_pixels(pixels), exact.encode_pixels(pixels)),
    ):
        assert mine.dtype == torch.float32
        assert (mine * theirs).sum(-1).min() > 0.99


def test_token_ids_are_never_cut(folder: Path) -> None:
    toy = load_backbone(f"local-dir:{folder}", device="cpu")
    short, long = toy.token_ids(["a dog", "dog " * 100])
    assert short == (49406, 320, 1929, 49407)
    assert len(long) == 102
    for encode in (toy.encode_shared, toy.encode_tokens_plain):
        with pytest.raises(InputError, match="102 tokens exceed the context of 77"):
            encode([short, long])
        with pytest.raises(InputError, match="no token lists"):
            encode([])


def test_a_tokenizer_of_transformers_in_the_folder(tmp_path: Path) -> None:
    """Pads with its own id; ids and features are those of open_clip's HFTokenizer."""
    write_hub_tokenizer(tmp_path)
    config = json.loads((write_model(tmp_path, "custom text") / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "any/name", "pool_type": "eos", "eos_id": 3}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    toy = load_backbone(f"local-dir:{tmp_path}", device="cpu")
    assert toy.token_ids(["a photo", "a photo of a dog"]) == [(2, 4, 5, 3), (2, 4, 5, 6, 4, 7, 3)]
    assert toy.shares_prefixes
    tokens = import_open_clip().get_tokenizer(f"local-dir:{tmp_path}")(["a photo of a dog"])
    with torch.no_grad():
        expected = toy.model.encode_text(tokens, normalize=True)
    ids = toy.token_ids(["a photo of a dog"])
    torch.testing.assert_close(encode_token_lists(toy, ids), expected, rtol=0, atol=1e-5)


def write_hub_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", "<s>", "</s>", "a", "photo", "of", "dog"]
    fast = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    make: Any = PreTrainedTokenizerFast  # untyped
    make(
        tokenizer_object=fast, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture
def registered_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a model that open_clip knows until the end of the test."""
    open_clip = import_open_clip()
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    config = tmp_path / "toy.json"
    config.write_text(json.dumps({"embed_dim": 16, "text_cfg": TEXT, "vision_cfg": VISION}))
    open_clip.add_model_config(config)
    return config.stem


def test_random_weights_are_allowed_and_warned_about(
    registered_name: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        load_backbone(registered_name, None, device="cpu")
    assert [record.name for record in caplog.records] == ["ipo_dspy.clip.loading"]  # nothing from open_clip
    assert "random weights" in caplog.text
    assert capsys.readouterr().out == ""


def test_a_checkpoint_path_gives_the_features_of_the_folder(folder: Path, tmp_path: Path, registered_name: str) -> None:
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(folder / "open_clip_model.safetensors")}, tmp_path / "weights.pt")
    toy = load_backbone(registered_name, str(tmp_path / "weights.pt"), device="cpu")
    assert toy.fingerprint == load_backbone(f"local-dir:{folder}", device="cpu").fingerprint


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B16", "openai", r"no model 'ViT-B16'; close names: ViT-B-16, .*; for example model='ViT-B-16'"),
        ("qq", "openai", r"no model 'qq'; for example model='ViT-B-16-quickgelu'"),
        ("org/name", None, r"model='hf-hub:org/name'"),
        ("ViT-B-32", "opena", r"has no weights 'opena'; its tags: openai, .*for example pretrained='openai'"),
        ("ViT-B-32", "/no/such.pt", r"no checkpoint file '/no/such.pt'"),
        ("ViT-B-16", "openai", r"QuickGELU, unlike 'ViT-B-16'; pass model='ViT-B-16-quickgelu'"),
        ("ViT-B-16-quickgelu", "laion2b_s34b_b88k", r"has no weights|write model='ViT-B-16'"),
        ("local-dir:/no/such", None, r"no folder '/no/such'"),
    ],
)
def test_unknown_names(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_backbone(name, pretrained)


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [("ViT-B-32-quickgelu", "openai"), ("hf-hub:org/name", None), ("ViT-B-16-SigLIP", None)],
)
def test_without_a_network_one_error_names_both_ways_out(
    name: str, pretrained: str | None, no_network: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModelError, match=r"Hugging Face Hub.*ConnectionError.*network.*pretrained=.*local-dir:"):
        load_backbone(name, pretrained, cache_dir=str(no_network))
    assert caplog.text == ""


def test_what_is_in_the_cache_needs_no_network(folder: Path, no_network: Path) -> None:
    repo = no_network / "models--org--name"
    shutil.copytree(folder, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    toy = load_backbone("hf-hub:org/name", device="cpu", cache_dir=str(no_network))
    assert toy.identity["model"] == "hf-hub:org/name"
    assert toy.fingerprint == load_backbone(f"local-dir:{folder}", device="cpu").fingerprint


def test_broken_folders(folder: Path, tmp_path: Path) -> None:
    def broken(case: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / case))

    (broken("no config") / "open_clip_config.json").unlink()
    (broken("cut config") / "open_clip_config.json").write_text('{"model_cfg": {')
    (broken("foreign config") / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 3}}')
    (broken("no weights") / "open_clip_model.safetensors").unlink()
    weights = broken("cut weights") / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    other = json.loads((folder / "open_clip_config.json").read_text())
    other["model_cfg"]["embed_dim"] = 8
    (broken("other shape") / "open_clip_config.json").write_text(json.dumps(other))
    for case, message in {
        "no config": "no open_clip_config.json in",
        "cut config": "is not an open_clip config",
        "foreign config": "lacks embed_dim, vision_cfg or text_cfg",
        "no weights": "no weights in .*; put open_clip_model.safetensors there",
        "cut weights": "does not load as an open_clip model .*complete",
        "other shape": "does not load as an open_clip model .*size mismatch",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_backbone(f"local-dir:{tmp_path / case}", device="cpu")


class Payload:
    """Content of a hostile checkpoint: unpickling it would touch a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_pickle_is_not_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    with (tmp_path / "model" / "open_clip_pytorch_model.bin").open("wb") as file:
        pickle.dump({"state_dict": Payload(tmp_path / "touched")}, file, protocol=2)
    with pytest.raises(ModelError, match=r"unpickling is refused .* convert them to .safetensors"):
        load_backbone(f"local-dir:{tmp_path / 'model'}", device="cpu")
    assert not (tmp_path / "touched").exists()


def test_a_tokenizers_python_file_is_not_run_whatever_the_model_asks_for(folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "own", "tokenizer_kwargs": {"trust_remote_code": True}}
    (model / "open_clip_config.json").write_text(json.dumps(config))
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(own))
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ModelError, match="contains custom code"):
        load_backbone(f"local-dir:{model}", device="cpu")
    assert not (tmp_path / "ran").exists()


TOWER_WITH_CODE = """
import builtins, sys
from huggingface_hub import constants
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.errors import ModelError
from transformers.utils import hub
builtins.input = lambda prompt="": print(prompt) or "y"
constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = sys.argv[2], True
hub.TRANSFORMERS_CACHE = sys.argv[2]  # before version 5
try:
    load_backbone(sys.argv[1], device="cpu")
except ModelError as error:
    print(error)
"""


@pytest.mark.end_to_end
def test_a_text_towers_python_file_is_not_run_even_if_the_terminal_says_yes(
    folder: Path, tmp_path: Path, forking_parent: Processes
) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "org/own", "hf_tokenizer_name": "org/own"}
    (model / "open_clip_config.json").write_text(json.dumps(config))
    repo = tmp_path / "hub" / "hub" / "models--org--own"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    (snapshot / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (snapshot / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass OwnConfig: pass\n")
    processes = Processes(tmp_path / "process", {}, parent=forking_parent)
    said = processes.python(TOWER_WITH_CODE, f"local-dir:{model}", str(repo.parent)).out
    assert "does not load as an open_clip model (The repository org/own contains custom code" in said
    assert "Do you wish to run" not in said
    assert not (tmp_path / "ran").exists()


def test_the_applications_logging_is_untouched_while_a_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, seen = logging.getLogger(), []
    before = (list(root.handlers), list(root.filters), root.level)
    create = import_open_clip().create_model

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append((list(root.handlers), list(root.filters), root.level))
        return create(*arguments, **named)

    monkeypatch.setattr(import_open_clip(), "create_model", watched)
    with_dtype(load_backbone(f"local-dir:{folder}", device="cpu"), "float32")
    assert seen == [before] * len(seen) != []


@pytest.mark.end_to_end
def test_unloaded_models_are_freed_once_nobody_holds_them(tmp_path: Path) -> None:
    first = toy_backbone(tmp_path)
    name, gone = first.name, weakref.ref(first)
    unload()
    assert load_backbone(name, device="cpu") is not first
    unload()
    del first
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("gpu9", "float32", "device must be 'auto', 'cpu', .*, got 'gpu9'"),
        ("cuda:99", "float32", "device must be a device of this machine, got 'cuda:99'"),
        ("cpu", "int8", "dtype must be one of 'float32', 'float16', 'bfloat16', got 'int8'"),
    ],
)
def test_devices_and_dtypes(device: str, dtype: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_backbone(device=device, dtype=dtype)


def test_memo_drops_the_longest_unused() -> None:
    memo = TensorLRU(max_floats=10)
    for key in "abc":
        memo.put(key, torch.zeros(4))
    assert memo.get("a") is None
    assert memo.get("b") is not None
    memo.put("d", torch.zeros(4))  # c is now the longest unused
    assert memo.get("c") is None
    memo.put("b", torch.zeros(6))  # replaced, not counted twice
    assert len(memo) == 2


def test_a_pickle_holds_the_name_and_no_weights(folder: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        toy = load_backbone(f"local-dir:{folder}", device="cpu", dtype=dtype)
        pickled = pickle.dumps(toy)
        assert pickle.loads(pickled) is toy
        assert len(pickled) < 1000


def test_another_image_encoder_has_images_of_its_own_and_the_same_texts(tmp_path: Path) -> None:
    toy = toy_backbone(tmp_path)  # pytest before 9.2 leaves methods that other tests patched on the shared one
    other = toy.with_image_encoder(lambda pixels: toy.encode_pixels(pixels).flip(1), "flipped")
    picture = Image.effect_noise((40, 40), 80).convert("RGB")
    mine = encode_images(toy, [picture, picture.rotate(90)]).features
    theirs = encode_images(other, [picture, picture.rotate(90)]).features
    torch.testing.assert_close(theirs, mine.flip(1))
    assert other.fingerprint not in {toy.fingerprint, toy.with_image_encoder(toy.encode_pixels, "plain").fingerprint}
    assert other.fingerprint == toy.with_image_encoder(toy.encode_pixels, "flipped").fingerprint
    assert other.text_memo is toy.text_memo
    assert copy.deepcopy(other) is other
    with pytest.raises(ModelError, match=r"cannot be exported or sent to another process; .* with_image_encoder"):
        pickle.dumps(other)
    with pytest.raises(ModelError, match="cannot be exported or sent to another process"):
        with_dtype(other, "bfloat16")
