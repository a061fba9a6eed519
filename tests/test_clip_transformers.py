"""CLIPs of transformers: the features are those of transformers itself, and everything else works as with open_clip."""

import copy
import functools
import json
import pickle
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import transformers
from PIL import Image

from helpers import transformers_toys as toys
from helpers.cli_process import Processes
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.cli import main
from ipo_dspy.clip import hub_files
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import model_path
from ipo_dspy.clip.image_features import encode_images, open_image
from ipo_dspy.clip.loading import import_open_clip, load_backbone, with_dtype
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.clip.tokenizer import TokenizerAdapter
from ipo_dspy.clip.transformers_files import FAMILIES
from ipo_dspy.clip.transformers_model import _Block
from ipo_dspy.distributed.model_ref import ModelRef, files_of
from ipo_dspy.errors import InputError, ModelError
from ipo_dspy.export import FORMATS
from ipo_dspy.export.npz import read_npz

hf: Any = transformers  # its types say less than it takes
TEXTS = [
    "a",
    "a photo of a dog.",
    "the cat, seen from above; it's evening",
    "a photo of a dog and a cat",
    "狗 的 a photo",
]
SIGMOID = ("siglip", "siglip2", "siglip2 fixed")
CAUSAL = ("clip", "legacy clip", "metaclip_2")
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


@functools.cache
def folder_of(root: Path, kind: str) -> Path:
    return toys.KINDS[kind](root / kind.replace(" ", "_"))


def loaded(root: Path, kind: str) -> Backbone:
    return load_backbone(f"transformers:{folder_of(root, kind)}", device="cpu")


@functools.cache
def own(folder: Path) -> tuple[Any, Any]:
    """The model and the processor as a user of transformers loads them."""
    return hf.AutoModel.from_pretrained(folder).eval(), hf.AutoProcessor.from_pretrained(folder)


@functools.cache
def pictures() -> list[Image.Image]:
    return [Image.effect_noise(size, 90).convert("RGB").rotate(9) for size in ((32, 32), (70, 40), (33, 90), (200, 31))]


@pytest.mark.parametrize("kind", toys.KINDS)
def test_features_are_those_of_transformers(kind: str, root: Path) -> None:
    backbone, (model, processor) = loaded(root, kind), own(folder_of(root, kind))
    padding = {"padding": "max_length", "max_length": 64} if kind in SIGMOID else {"padding": True}
    images = pictures()
    with torch.no_grad():
        texts = model.get_text_features(**processor.tokenizer(TEXTS, return_tensors="pt", **padding)).pooler_output
        seen = model.get_image_features(**processor.image_processor(images, return_tensors="pt")).pooler_output
    mine = encode_token_lists(backbone, backbone.token_ids(TEXTS))
    torch.testing.assert_close(mine, F.normalize(texts, dim=-1), rtol=0, atol=1e-5)
    assert torch.pdist(mine).min() > 0.01
    torch.testing.assert_close(encode_images(backbone, images).features, F.normalize(seen, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", toys.KINDS)
def test_preprocessing_is_described_as_plain_values(kind: str, root: Path) -> None:
    backbone = loaded(root, kind)
    if kind == "siglip2":
        assert backbone.preprocessing is None
        return
    values = json.loads(json.dumps(backbone.preprocessing))
    image = Image.radial_gradient("L").resize((97, 65)).convert("RGB")
    height, width = values["resize_size"]
    if values["resize_mode"] == "shortest":
        height, width = height, height * 97 // 65
        assert (width - values["size"][1], values["crop_rounding"]) == (15, "down")
    resized = image.resize((width, height), getattr(Image.Resampling, values["interpolation"].upper()))
    left, top = (width - values["size"][1]) // 2, (height - values["size"][0]) // 2
    cropped = np.asarray(resized.crop((left, top, left + values["size"][1], top + values["size"][0]))) / 255
    expected = (cropped - values["mean"]) / values["std"]
    mine = backbone.preprocess(image).permute(1, 2, 0).numpy()
    assert np.abs(mine - expected).max() < 4 / 255 / min(values["std"])  # Pillow and torchvision round differently


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == set(toys.KINDS) - {"siglip2 fixed", "legacy clip"}


@pytest.mark.parametrize("kind", toys.KINDS)
def test_probabilities_are_those_of_the_zero_shot_pipeline(kind: str, root: Path) -> None:
    folder, classes, picture = folder_of(root, kind), ["dog", "cat", "the cats"], pictures()[1]
    pipeline = hf.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    answer = pipeline(picture, candidate_labels=classes, hypothesis_template="a photo of a {}")
    expected = {row["label"]: row["score"] for row in answer}
    classifier = ClipClassifier(
        classes, template="a photo of a <CLASS>", model=loaded(root, kind), multi_label=kind in SIGMOID
    )
    features = encode_images(classifier.backbone, [picture]).features
    mine = classifier.probabilities(features, classifier.template, classes)[0].tolist()
    assert dict(zip(classes, mine, strict=True)) == pytest.approx(expected, abs=1e-5)
    assert max(expected.values()) > 1.03 * min(expected.values())
    exported = classifier.class_weights().probabilities(features)[0]
    assert exported == pytest.approx([expected[name] for name in classes], abs=1e-5)


@pytest.mark.parametrize("kind", ["siglip2", "clip"])
def test_a_model_without_plain_preprocessing_is_used_like_others(kind: str, root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(root, kind), tmp_path / "model"))
    lanczos = {"resample": Image.Resampling.LANCZOS}
    edit(folder / "processor_config.json", lambda config: config["image_processor"].update(lanczos))
    classifier = ClipClassifier(["dog", "cat"], model=f"transformers:{folder}", device="cpu")
    assert list(classifier.predict(pictures())) == [classifier(image=picture).label for picture in pictures()]
    for format in FORMATS.keys() - {"onnx", "open-clip"}:
        classifier.export(tmp_path / format, format=format)
    plain = classifier.class_weights().plain()
    assert read_npz(tmp_path / "npz").plain() == plain | {"model": plain["model"] | {"model": "model"}}  # no folder
    assert read_npz(tmp_path / "npz").preprocessing is None


@pytest.mark.parametrize("kind", toys.KINDS)
def test_scale_bias_and_context(kind: str, root: Path) -> None:
    backbone = loaded(root, kind)
    assert backbone.logit_scale == pytest.approx(10.0 if kind == "align" else np.exp(2.0), rel=1e-5)
    assert (backbone.has_sigmoid_head, backbone.logit_bias) == ((True, -3.0) if kind in SIGMOID else (False, 0.0))
    lengths = {"chinese_clip": 52, "align": 52, "altclip": 77, **dict.fromkeys(CAUSAL, 77)}
    assert backbone.context_length == lengths.get(kind, 64)
    assert backbone.shares_prefixes == (kind in CAUSAL)
    assert len(backbone.token_ids(["dog " * 200])[0]) > backbone.context_length  # never cut


@pytest.mark.parametrize("kind", CAUSAL)
def test_shared_prefixes_give_the_features_of_the_model(kind: str, root: Path) -> None:
    backbone = loaded(root, kind)
    assert backbone.shares_prefixes
    texts = [f"{start} {word}" for start in ("a photo of a", "a", "the photo") for word in ("dog", "cat", "dog.", "of")]
    ids = sorted(set(backbone.token_ids(texts)))
    plain = backbone.encode_tokens_plain(ids)
    torch.testing.assert_close(backbone.encode_shared(ids), plain, rtol=0, atol=1e-5)
    with torch.no_grad():
        model, _ = own(folder_of(root, kind))
        features = [model.get_text_features(torch.tensor([row])).pooler_output for row in ids]
    torch.testing.assert_close(plain, F.normalize(torch.cat(features), dim=-1), rtol=0, atol=1e-5)


def test_blocks_run_under_version_4_of_transformers() -> None:
    class OldLayer(torch.nn.Module):
        """The signature of a layer there, which has no defaults for its masks."""

        def __init__(self) -> None:
            super().__init__()
            self.layer_norm1 = self.layer_norm2 = self.mlp = torch.nn.Identity()
            self.self_attn = hf.models.clip.modeling_clip.CLIPAttention(hf.CLIPTextConfig(**toys.SMALL))

        def forward(self, hidden_states: Any, attention_mask: Any, causal_attention_mask: Any) -> tuple[Any]:
            assert causal_attention_mask is None
            return (hidden_states + attention_mask.sum(),)

    x = torch.ones(1, 3, 32)
    assert torch.equal(_Block(OldLayer())(x, attn_mask=torch.zeros(3, 3)), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["clip", "siglip2", "align"])
def test_low_precision_is_near(kind: str, dtype: str, root: Path) -> None:
    exact = loaded(root, kind)
    low = with_dtype(exact, dtype)
    ids = exact.token_ids(TEXTS)
    for mine, theirs in (
        (encode_token_lists(low, ids), encode_token_lists(exact, ids)),
        (encode_images(low, pictures()).features, encode_images(exact, pictures()).features),
    ):
        assert mine.dtype == torch.float32
        assert (mine * theirs).sum(-1).min() > 0.98


@pytest.mark.parametrize("kind", SIGMOID)
def test_siglip_reads_lower_case_and_a_full_context(kind: str, root: Path) -> None:
    backbone = loaded(root, kind)
    lower, upper = backbone.token_ids(["a photo of a dog", "A Photo of a DOG"])
    assert lower == upper
    table = backbone._tokens.padded([lower])
    assert table.shape == (1, 64)
    assert tuple(table[0, : len(lower)].tolist()) == lower  # padded on the right


def test_a_siglip_of_open_clip_reads_no_punctuation(root: Path) -> None:
    hub = import_open_clip().tokenizer.HFTokenizer(str(folder_of(root, "siglip2 fixed")), 64, clean="canonicalize")
    assert TokenizerAdapter(hub).clean(" A {Photo}, of a \ue000!") == "a photo of a \ue000"


def test_siglip_drops_punctuation_as_its_tokenizer_does(root: Path) -> None:
    one, other = loaded(root, "siglip").token_ids(["a photo, of a: dog!", "a photo of a dog"])
    assert one == other


def test_padding_that_the_tokenizer_masks_is_masked(root: Path, tmp_path: Path) -> None:
    """SigLIP's padding token is its end token, so that the mask cannot be read from the ids."""
    folder = Path(shutil.copytree(folder_of(root, "siglip"), tmp_path / "masked"))
    names = ["input_ids", "attention_mask"]
    edit(folder / "tokenizer_config.json", lambda config: config.update(model_input_names=names))
    backbone, (model, processor) = load_backbone(f"transformers:{folder}", device="cpu"), own(folder)
    inputs = processor.tokenizer(TEXTS, return_tensors="pt", padding="max_length", max_length=64)
    assert inputs["attention_mask"].min() == 0
    with torch.no_grad():
        expected = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    mine = encode_token_lists(backbone, backbone.token_ids(TEXTS))
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    assert (mine - encode_token_lists(loaded(root, "siglip"), backbone.token_ids(TEXTS))).abs().max() > 0.01


@pytest.fixture(scope="module")
def same_weights(root: Path) -> Path:
    """The bundled CLIP with a vision transformer, as a folder of transformers."""
    return toys.converted(model_path("demo-vit"), root / "demo-vit")


SHOTS = 2


@pytest.mark.end_to_end
def test_the_same_weights_classify_the_same_through_both_libraries(same_weights: Path, task: demo.DemoTask) -> None:
    here = ClipClassifier(task.classes, model=f"transformers:{same_weights}", device="cpu")
    there = ClipClassifier(task.classes, model="demo-vit", device="cpu")
    texts = ["a photo of a cat.", "pixel art of a horse", "A Blurry photo of 3 café tables"]
    ids = here.backbone.token_ids(texts)
    assert ids == there.backbone.token_ids(texts)
    features = [encode_token_lists(each.backbone, ids) for each in (here, there)]
    torch.testing.assert_close(*features, rtol=0, atol=1e-5)
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        here.backbone.encode_pixels(pixels), there.backbone.encode_pixels(pixels), rtol=0, atol=1e-5
    )
    answers = [[each(image=example.image) for example in task.testset[::8]] for each in (here, there)]
    assert len(answers[0]) > 50  # images that are not resized, for which the libraries round differently
    for mine, theirs in zip(*answers, strict=True):
        assert mine.label == theirs.label
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


def test_a_search_saves_a_program_that_loads_again(same_weights: Path, task: demo.DemoTask, tmp_path: Path) -> None:
    name = f"transformers:{same_weights}"
    student = ClipClassifier(task.classes, model=name, device="cpu")
    optimizer = IPO(proposer="evolution", steps=1, describer=None, progress=False, log_dir=tmp_path / "run")
    best = optimizer.compile(student, task.trainset, valset=task.valset)
    assert len(best.detailed_results.searches[0].trials) > 1
    again = ClipClassifier.from_file(tmp_path / "run" / "best.json", device="cpu")
    assert again.model_name == name
    assert again.backbone is student.backbone
    image = task.testset[0].image
    assert again(image=image).probabilities == best(image=image).probabilities


@pytest.mark.end_to_end
def test_the_command_line_takes_a_folder(
    same_weights: Path, task: demo.DemoTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert exit.value.code in (0, None), err
        return out

    for example in task.trainset:
        (tmp_path / "photos" / example.label).mkdir(parents=True, exist_ok=True)
        number = len(list((tmp_path / "photos" / example.label).iterdir()))
        open_image(example.image).save(tmp_path / "photos" / example.label / f"{number}.png")
    model, run = f"transformers:{same_weights}", str(tmp_path / "run")
    photos = str(tmp_path / "photos")
    call("optimize", photos, "--model", model, "--steps", "1", "--log-dir", run, "--device", "cpu")
    program = f"{run}/best.json"
    first = next(Path(photos).rglob("*.png"))
    rows = json.loads(call("classify", program, str(first), "--json", "--device", "cpu"))
    assert rows[0]["label"] in task.classes
    assert "accuracy" in call("evaluate", program, photos, "--device", "cpu")


@pytest.mark.parametrize("kind", CAUSAL)
def test_learned_tokens_run_through_the_text_tower(kind: str, root: Path) -> None:
    backbone = loaded(root, kind)
    tower, ids = TextTower(backbone), sorted(set(backbone.token_ids(TEXTS)))
    embedded = tower.embed(ids)
    tokens = embedded.tokens.requires_grad_()
    features = tower.encode(tokens, embedded.ends)
    torch.testing.assert_close(features.detach(), backbone.encode_tokens_plain(ids), rtol=0, atol=1e-5)
    features.sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens"):
        ImageTower(backbone)


def test_fingerprints_depend_on_what_a_model_computes(root: Path, tmp_path: Path) -> None:
    folder = folder_of(root, "clip")
    first = loaded(root, "clip").fingerprint

    def changed(name: str, file: str, change: Any) -> str:
        other = Path(shutil.copytree(folder, tmp_path / name))
        edit(other / file, change)
        return load_backbone(f"transformers:{other}", device="cpu").fingerprint

    assert (
        changed("same", "config.json", lambda config: config.update(transformers_version="9", dtype="float16")) == first
    )
    seen = {
        first,
        changed("act", "config.json", lambda config: config["text_config"].update(hidden_act="gelu")),
        changed("mean", "processor_config.json", lambda config: config["image_processor"].update(image_mean=[0.1] * 3)),
        changed("length", "tokenizer_config.json", lambda config: config.update(model_max_length=60)),
    }
    assert len(seen) == 4


def edit(path: Path, change: Any) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_folder_needs_no_network(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = Path(shutil.copytree(folder_of(root, "altclip"), tmp_path / "model"))
    backbone = load_backbone(f"transformers:{folder}", device="cpu")
    assert copy.deepcopy(backbone) is backbone
    assert pickle.loads(pickle.dumps(backbone)) is backbone
    reference = ModelRef.of(backbone)
    assert (reference.load("cpu"), files_of(backbone)) == (backbone, [str(folder)])


def cached(folder: Path, cache: Path) -> Path:
    """Put a folder into a cache of the hub as `org/name`; return its snapshot."""
    repo = cache / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(folder, repo / "snapshots" / ("0" * 40)))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub_files, "_reach_hub", refuse)
    return tmp_path / "cache"


def test_a_model_in_the_cache_of_the_hub_needs_no_network(root: Path, no_network: Path) -> None:
    snapshot = cached(folder_of(root, "siglip2"), no_network)
    for downloads in ("refused", "allowed"):
        options: dict[str, Any] = {"cache_dir": str(no_network), "downloads": downloads}
        backbone = load_backbone("transformers:org/name", device="cpu", **options)
        assert backbone.fingerprint == loaded(root, "siglip2").fingerprint
    (snapshot / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"named by a file and not on this machine \(preprocessor_config.json of org"):
        load_backbone(
            "transformers:org/name", device="cpu", dtype="float16", cache_dir=str(no_network), downloads="refused"
        )


def test_a_program_does_not_download_the_model_it_names(no_network: Path, tmp_path: Path) -> None:
    ClipClassifier(["cat", "dog"], model="transformers:no-such-org-here/no-such-model").save(tmp_path / "program.json")
    program = ClipClassifier.from_file(tmp_path / "program.json")
    with pytest.raises(ModelError, match=r"named by a file and not on this machine .*config.json.* allow_download"):
        _ = program.backbone
    program = ClipClassifier.from_file(tmp_path / "program.json", allow_download=True)
    with pytest.raises(ModelError, match=r"cannot be fetched .*ConnectionError.*network"):
        _ = program.backbone


class Hub:
    """A hub of one repository, in place of the requests of huggingface_hub; it records what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.tokens = folder, list[str](), list[Any]()

    def list_repo_files(self, repo: str) -> list[str]:
        self.tokens.append(huggingface_hub.utils.get_token_to_send(None))  # type: ignore[attr-defined]
        return [path.name for path in self.folder.iterdir()] + ["tf_model.h5", "README.md", "onnx/model.safetensors"]

    def snapshot_download(self, repo: str, *, allow_patterns: list[str], cache_dir: str | None) -> str:
        self.fetched = sorted(allow_patterns)
        return str(self.folder)


@pytest.mark.parametrize("downloads", ["allowed", "anonymous"])
def test_a_download_takes_what_is_needed_and_a_token_only_of_the_user(
    downloads: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(folder_of(root, "clip"), tmp_path / "repo"))
    (folder / "pytorch_model.bin").touch()
    (folder / "modeling_own.py").touch()
    hub = Hub(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr(hub_files, "_reach_hub", lambda: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    load_backbone("transformers:org/fetched", device="cpu", cache_dir=str(tmp_path / "none"), downloads=downloads)
    names = ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert hub.fetched == names
    assert hub.tokens == (["hf_planted"] if downloads == "allowed" else [None])


def test_names_and_families_are_checked_at_construction(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model must name a folder or a Hub model, got 'transformers:'"):
        ClipClassifier(["cat", "dog"], model="transformers:")
    edit_to = tmp_path / "xclip"
    edit_to.mkdir()
    (edit_to / "config.json").write_text('{"model_type": "xclip"}')
    message = r"kind 'xclip'; supported transformers models: CLIP \(clip\), MetaCLIP 2 .*ALIGN \(align\)$"
    with pytest.raises(ModelError, match=message):
        ClipClassifier(["cat", "dog"], model=f"transformers:{edit_to}")
    (edit_to / "config.json").write_text("[")
    with pytest.raises(ModelError, match=r"config.json' cannot be read"):
        ClipClassifier(["cat", "dog"], model=f"transformers:{edit_to}")
    clip = f"transformers:{folder_of(root, 'clip')}"
    with pytest.raises(ModelError, match="model must be a model with a sigmoid head"):
        ClipClassifier(["cat", "dog"], model=clip, multi_label=True)
    with pytest.raises(ModelError, match="pretrained must be None for 'transformers:"):
        ClipClassifier(["cat", "dog"], model=clip, pretrained="laion2b_s34b_b88k")
    ClipClassifier(["cat"], model=f"transformers:{folder_of(root, 'siglip')}", multi_label=True)


def test_a_folder_of_transformers_under_another_prefix_is_recognized(root: Path) -> None:
    folder = folder_of(root, "clip")
    for name in (f"local-dir:{folder}", str(folder)):
        with pytest.raises(ModelError, match=f"pass model='transformers:{folder}'"):
            load_backbone(name, None)


def test_broken_folders(root: Path, tmp_path: Path) -> None:
    def broken(case: str, file: str | None = None) -> Path:
        folder = Path(shutil.copytree(folder_of(root, "clip"), tmp_path / case))
        if file is not None:
            (folder / file).unlink()
        return folder

    from safetensors.torch import load_file, save_file

    broken("no config", "config.json")
    broken("no weights", "model.safetensors")
    broken("no images", "processor_config.json")
    broken("no tokenizer", "tokenizer.json")
    weights = broken("cut weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    weights = broken("fewer weights") / "model.safetensors"
    save_file({name: value for name, value in load_file(weights).items() if name != "logit_scale"}, weights)
    edit(broken("other shape") / "config.json", lambda config: config.update(projection_dim=8))
    edit(broken("other size") / "config.json", lambda config: config["vision_config"].update(image_size=48))
    images = broken("no crop") / "processor_config.json"
    edit(images, lambda config: config["image_processor"].update(do_center_crop=False))
    edit(broken("small vocabulary") / "config.json", lambda config: config["text_config"].update(vocab_size=10))
    for case, message in {
        "nothing": "no folder .*; pass model='transformers:PATH'",
        "no config": r"no config.json in .*model.save_pretrained\(folder\)",
        "no weights": "no model.safetensors in",
        "no images": "no preprocessor_config.json in",
        "no tokenizer": "no tokenizer.json in",
        "cut weights": "does not load as a transformers model .*complete",
        "fewer weights": "lacks 1 of its weights, e.g. 'logit_scale'",
        "other shape": "does not load as a transformers model",
        "other size": "does not load as a transformers model",
        "no crop": "image processor of .* must give images of one size",
        "small vocabulary": "does not load as a transformers model",
    }.items():
        with pytest.raises(ModelError, match=message) as caught:
            load_backbone(f"transformers:{tmp_path / case}", device="cpu")
        assert "\n" not in str(caught.value)


class Payload:
    """Content of a hostile checkpoint: unpickling it would touch a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_pickled_weights_are_read_as_tensors_only(root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(folder_of(root, "clip"), tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert load_backbone(f"transformers:{folder}", device="cpu").fingerprint == loaded(root, "clip").fingerprint
    torch.save({**state, "logit_scale": Payload(tmp_path / "touched")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"does not load|unpickling is refused"):
        load_backbone(f"transformers:{folder}", device="cpu")
    assert not (tmp_path / "touched").exists()


def test_no_second_model_is_loaded(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(root, "clip"), tmp_path / "model"))
    second = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": str(tmp_path / "second")}
    edit(folder / "processor_config.json", lambda config: config.update(audio_tokenizer=second))
    assert load_backbone(f"transformers:{folder}", device="cpu").fingerprint == loaded(root, "clip").fingerprint


@pytest.mark.end_to_end
def test_a_missing_tokenizer_package_is_named(root: Path, tmp_path: Path, forking_parent: Processes) -> None:
    script = (
        "import sys\n"
        "sys.modules['sentencepiece'] = None\n"
        "from ipo_dspy.clip.loading import load_backbone\n"
        f"load_backbone('transformers:{folder_of(root, 'siglip')}', device='cpu')\n"
    )  # in a process of its own: transformers looks for packages once
    said = Processes(tmp_path, {}, parent=forking_parent).python(script).err
    message = r"sentencepiece and protobuf must be .* of 'transformers:.*'; run pip install 'ipo_dspy\[local\]'$"
    assert re.search(f"InputError: {message}", said.strip()), said


def test_python_files_of_a_model_are_not_run(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(root, "clip"), tmp_path / "model"))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    auto_map = {
        "AutoConfig": "own.Own",
        "AutoModel": "own.Own",
        "AutoProcessor": "own.Own",
        "AutoTokenizer": ["own.Own", None],
    }
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        edit(folder / file, lambda config: config.update(auto_map=auto_map))
    assert load_backbone(f"transformers:{folder}", device="cpu").fingerprint == loaded(root, "clip").fingerprint
    edit(folder / "config.json", lambda config: config.update(model_type="own"))
    with pytest.raises(ModelError, match=r"kind 'own'.*; Python files that come with a model are not run"):
        load_backbone(f"transformers:{folder}", device="cpu")
    edit(folder / "config.json", lambda config: config.update(model_type="clip", attn_implementation="org/kernel"))
    edit(folder / "config.json", lambda config: config["text_config"].update(attn_implementation="org/kernel"))
    model = load_backbone(f"transformers:{folder}", device="cpu").model.model
    for part in (model, model.text_model, model.vision_model):  # no code of a kernel of the hub
        assert part.config._attn_implementation == "sdpa"
    assert not (tmp_path / "ran").exists()
