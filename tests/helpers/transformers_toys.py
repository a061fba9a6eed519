"""Tiny CLIPs of each supported family of transformers, random, saved to a folder with tokenizer and image processor."""

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from ipo_dspy.clip.compat import patch_torchvision, quiet_transformers

patch_torchvision()
hf: Any = transformers  # its types say less than it takes

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCHES = {**SMALL, "image_size": 32, "patch_size": 16}
PROJECTED = {"projection_dim": 24, "logit_scale_init_value": 2.0}
LETTERS = [*string.printable.strip(), "é", "ç", "狗"]
LEXICON = ["a", "photo", "of", "dog", "cat", "the", "##s", "狗", "猫", "的"]


def clip(folder: Path, **text: Any) -> Path:
    tok = clip_tokenizer()
    ids = {"eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id, "pad_token_id": tok.pad_token_id}
    text = {**SMALL, **ids, "vocab_size": len(tok), "max_position_embeddings": 77, **text}
    config = hf.CLIPConfig(text_config=text, vision_config=PATCHES, **PROJECTED)
    return save(folder, hf.CLIPModel(config), hf.CLIPProcessor(clip_images(), tok))


def metaclip_2(folder: Path) -> Path:
    tok = roberta_tokenizer()
    text = {**SMALL, "vocab_size": len(tok), "max_position_embeddings": 77, "eos_token_id": tok.eos_token_id}
    config = hf.MetaClip2Config(text_config=text, vision_config=PATCHES, **PROJECTED)
    return save(folder, hf.MetaClip2Model(config), hf.CLIPProcessor(clip_images(), tok))


def siglip(folder: Path, tok: Any = None, positions: int = 64) -> Path:
    tok = tok or sentencepiece_tokenizer(folder)
    text = {**SMALL, "vocab_size": len(tok), "max_position_embeddings": positions}
    config = hf.SiglipConfig(text_config=text, vision_config=PATCHES)
    images = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    return save(folder, hf.SiglipModel(config), hf.SiglipProcessor(images, tok))


def siglip2(folder: Path) -> Path:
    """SigLIP 2 as NaFlex: images of any shape as patches."""
    tok = gemma_tokenizer(hf.Siglip2Tokenizer)
    text = {**SMALL, "vocab_size": len(tok), "max_position_embeddings": 64}
    config = hf.Siglip2Config(text_config=text, vision_config={**SMALL, "num_patches": 16, "patch_size": 8})
    images = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=20)
    return save(folder, hf.Siglip2Model(config), hf.Siglip2Processor(images, tok))


def siglip2_fixed(folder: Path) -> Path:
    """SigLIP 2 with one image size: SigLIP's architecture with Gemma's tokenizer."""
    return siglip(folder, gemma_tokenizer(hf.GemmaTokenizer))


def altclip(folder: Path) -> Path:
    tok = roberta_tokenizer()
    text = {**SMALL, "vocab_size": len(tok), "max_position_embeddings": 80, "project_dim": 28}
    config = hf.AltCLIPConfig(text_config=text, vision_config=PATCHES, **PROJECTED)
    return save(folder, hf.AltCLIPModel(config), hf.AltCLIPProcessor(clip_images(), tok))


def chinese_clip(folder: Path) -> Path:
    tok = bert_tokenizer()
    text = {**SMALL, "vocab_size": len(tok), "max_position_embeddings": 60}
    config = hf.ChineseCLIPConfig(text_config=text, vision_config=PATCHES, **PROJECTED)
    images = hf.ChineseCLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    return save(folder, hf.ChineseCLIPModel(config), hf.ChineseCLIPProcessor(images, tok))


def align(folder: Path) -> Path:
    tok = bert_tokenizer()
    text = hf.AlignTextConfig(**SMALL, vocab_size=len(tok), max_position_embeddings=64)
    vision = {
        "image_size": 32,
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "hidden_dim": 16,
    }
    config = hf.AlignConfig(
        text_config=text.to_dict(), vision_config=vision, projection_dim=16, temperature_init_value=0.1
    )
    images = hf.EfficientNetImageProcessor(size={"height": 32, "width": 32})
    return save(folder, hf.AlignModel(config), hf.AlignProcessor(images, tok))


def legacy_clip(folder: Path) -> Path:
    """A CLIP whose config names a wrong end token, as those of the first checkpoints do."""
    return clip(folder, eos_token_id=2)


KINDS = {
    "clip": clip,
    "legacy clip": legacy_clip,
    "metaclip_2": metaclip_2,
    "siglip": siglip,
    "siglip2": siglip2,
    "siglip2 fixed": siglip2_fixed,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
    "align": align,
}


def save(folder: Path, model: Any, processor: Any) -> Path:
    """Write a model with larger random weights than at init, so that features differ clearly."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3, generator=generator)
            elif name == "logit_scale":
                weight.fill_(2.0)
            elif name == "logit_bias":
                weight.fill_(-3.0)
    with quiet_transformers():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def clip_images() -> Any:
    return hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def clip_tokenizer() -> Any:
    """The tokenizer of CLIP, with the vocabulary that comes with open_clip."""
    from ipo_dspy.clip.loading import import_open_clip

    bpe = import_open_clip().tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(token, token): number for token, number in bpe.encoder.items()}
    merges = [pair for pair, _ in sorted(bpe.bpe_ranks.items(), key=lambda item: item[1])]
    return hf.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def roberta_tokenizer() -> Any:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in LEXICON] + [(letter, -8.0) for letter in LETTERS if letter != "▁"]
    tok = hf.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=77)
    return tok


def bert_tokenizer() -> Any:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LEXICON, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return hf.BertTokenizer(vocab=vocab, model_max_length=52)


def gemma_tokenizer(kind: Any) -> Any:
    """Gemma's tokenizer with the settings of the published SigLIP 2."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [letter for letter in LETTERS if letter not in "▁"]
    tokens = [*specials, "▁", *letters, "do", "dog", "▁a", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [("d", "o"), ("do", "g"), ("▁", "a")]
    settings = {"padding_side": "right", "model_max_length": 64, "model_input_names": ["input_ids"]}
    return kind(vocab=vocab, merges=merges, add_bos_token=False, add_eos_token=True, **settings)


def sentencepiece_tokenizer(folder: Path) -> Any:
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a dog", "the cat of cafés", string.ascii_lowercase, string.digits] * 3),
        model_prefix=str(prefix),
        vocab_size=60,
        hard_vocab_limit=False,
        character_coverage=1.0,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return hf.SiglipTokenizer(str(prefix) + ".model", model_input_names=["input_ids"])


def converted(source: Path, folder: Path) -> Path:
    """Write an open_clip folder with a vision transformer as a CLIP of transformers with the same weights."""
    from safetensors.torch import load_file

    settings = json.loads((source / "open_clip_config.json").read_text())
    cfg, pixels = settings["model_cfg"], settings["preprocess_cfg"]
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    tok = clip_tokenizer()
    config = hf.CLIPConfig(
        vision_config={
            **_tower(vision["width"], vision["layers"], vision["width"] // vision["head_width"]),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            **_tower(text["width"], text["layers"], text["heads"]),
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "eos_token_id": tok.eos_token_id,
        },
        projection_dim=cfg["embed_dim"],
    )
    model = hf.CLIPModel(config)
    state = load_file(source / "open_clip_model.safetensors")
    model.load_state_dict(dict(_renamed(state)), strict=True)
    model.save_pretrained(folder)
    size = vision["image_size"]
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=pixels["mean"],
        image_std=pixels["std"],
    )
    hf.CLIPProcessor(images, tok).save_pretrained(folder)
    return folder


def _tower(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
    }


def _renamed(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    names = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
    }
    parts = {
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "transformer.resblocks": "text_model.encoder.layers",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }
    for name, value in state.items():
        new = name
        for part, other in parts.items():
            new = new.replace(part, other)
        if name in names:
            yield names[name], value
        elif name in ("visual.proj", "text_projection"):
            yield f"{'visual_projection' if 'visual' in name else 'text_projection'}.weight", value.T.contiguous()
        elif "attn.in_proj" in name:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                yield new.replace("attn.in_proj_", f"self_attn.{letter}_proj."), third.clone()
        else:
            yield new, value
