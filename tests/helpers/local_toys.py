"""Tiny models of real architectures, saved to a folder as `transformers` would: random, or made to say one sentence."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ipo_dspy.lms.signatures import DescribeImage, ProposePrompts

WORDS = "\n".join(
    message["content"]
    for signature in (ProposePrompts, DescribeImage)
    for message in dspy.ChatAdapter().format(signature, [], dict.fromkeys(signature.input_fields, "Instruct: Output:"))
)
"""Of what DSPy asks, so that its prompts are hundreds of tokens and not thousands."""

hf: Any = transformers  # its types say less than it takes

SENTENCE = "a blurry grey photo of some toy"
"""Answer of a rigged model, each word one token and none twice."""

PROPOSAL = "a blurry grey photo of some <CLASS>"
"""Answer of a rigged model that proposes a template."""

SPECIALS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<unk>"]
QWEN_SPECIALS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
FUYU_SPECIALS = ["|SPEAKER|", "|NEWLINE|", "<0x04>"]
MINICPM_SPECIALS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<im>",
    "image_end_token": "</im>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML

WIDTH = 64
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def tokenizer(
    chat_template: str | None = None, extra: Mapping[str, str] | None = None, *, fuyu_like: bool = False
) -> Any:
    """A byte-level BPE tokenizer that writes `SENTENCE` in one token a word.

    `fuyu_like` has Fuyu's tokens and puts a space before those of an image, which Fuyu's processor takes away.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = list(dict.fromkeys([*SPECIALS, *QWEN_SPECIALS, *(extra or {}).values()]))
    late = [AddedToken(text, special=True, normalized=True) for text in FUYU_SPECIALS if fuyu_like]
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=[*specials, *late],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    if fuyu_like:
        bpe.normalizer = normalizers.Replace(Regex(r"\A(?=\|SPEAKER\|\|)"), " ")
    bpe.train_from_iterator([f"{SENTENCE} {SENTENCE}"] * 20 + [WORDS] * 2, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|im_end|>" if chat_template else "</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=chat_template,
        **({"extra_special_tokens": dict(extra)} if extra else {}),
    )


def rig(model: Any, tok: Any, last: str, sentence: str, *, again: bool = False) -> None:
    """Make a model answer a prompt that ends with `last` by `sentence` and an end token, or by itself `again`.

    With all layers zero the next token depends on the latest alone: the output matrix is made to follow a chain.
    """
    ids = tok.encode(sentence, add_special_tokens=False)
    chain = [tok.encode(last, add_special_tokens=False)[-1], *ids]
    assert len(set(chain)) == len(chain), "a token that occurs twice cannot know which one comes next"
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    assert inputs.weight is not outputs.weight
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers." in name and "vision" not in name and "visual" not in name and "norm" not in name:
                weight.zero_()
            if "embed_positions" in name:
                weight.zero_()
        inputs.weight.normal_(generator=torch.Generator().manual_seed(0))
        outputs.weight.zero_()
        for now, then in itertools.pairwise([*chain, chain[0] if again else tok.eos_token_id]):
            outputs.weight[then] = inputs.weight[now] / inputs.weight[now].norm() * 10


def phi(folder: Path, *, last: str | None = "Output:", context: int = 2048, babbles: bool = False) -> Path:
    """Phi-2's architecture, which has no chat template; `babbles` goes on with the next question by itself."""
    tok = tokenizer()
    config = hf.PhiConfig(vocab_size=len(tok), max_position_embeddings=context, **TEXT, **_ids(tok))
    return _save(
        folder,
        hf.PhiForCausalLM,
        config,
        tok,
        last=last,
        sentence=f"{SENTENCE}\nInstruct" if babbles else SENTENCE,
        again=babbles,
    )


def phi3(folder: Path, *, last: str | None = "assistant\n", chat_template: str = CHATML) -> Path:
    tok = tokenizer(chat_template)
    config = hf.Phi3Config(vocab_size=len(tok), max_position_embeddings=4096, **TEXT, **_ids(tok))
    return _save(folder, hf.Phi3ForCausalLM, config, tok, last=last)


def qwen2(
    folder: Path, *, last: str | None = "assistant\n", chat_template: str = CHATML, sentence: str = SENTENCE
) -> Path:
    tok = tokenizer(chat_template)
    config = hf.Qwen2Config(vocab_size=len(tok), max_position_embeddings=4096, **TEXT, **_ids(tok))
    return _save(folder, hf.Qwen2ForCausalLM, config, tok, last=last, sentence=sentence)


def blip2(folder: Path, *, rigged: bool = True) -> Path:
    tok = tokenizer()
    images = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = hf.Blip2Processor(images, tok, num_query_tokens=4)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = hf.OPTConfig(
        vocab_size=len(tok),
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **_ids(tok),
    )
    config = hf.Blip2Config(
        vision_config={**small, "image_size": 32, "patch_size": 16},
        qformer_config={**small, "encoder_hidden_size": 32, "vocab_size": len(tok)},
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    return _save(folder, hf.Blip2ForConditionalGeneration, config, tok, processor, last="Answer:" if rigged else None)


def fuyu(folder: Path, *, rigged: bool = True) -> Path:
    tok = tokenizer(fuyu_like=True)
    images = hf.FuyuImageProcessor(size={"height": 60, "width": 60}, patch_size={"height": 30, "width": 30})
    processor = hf.FuyuProcessor(images, tok)
    text = {**TEXT, "vocab_size": len(tok), "model_type": "persimmon", "max_position_embeddings": 4096}
    config = hf.FuyuConfig(
        text_config=text,
        image_size=60,
        patch_size=30,
        vocab_size=len(tok),
        image_token_id=tok.convert_tokens_to_ids("|SPEAKER|"),
        tie_word_embeddings=False,
        **_ids(tok),
    )
    return _save(folder, hf.FuyuForCausalLM, config, tok, processor, last="<0x04>" if rigged else None)


def llava(folder: Path, *, rigged: bool = True, text_template: bool = False) -> Path:
    """LLaVA over Llama 3's decoder; with `text_template` as published: a template for text, in the tokenizer alone."""
    chat = CHATML_PARTS.replace("IMAGE", "<image>")
    tok = tokenizer(CHATML if text_template else chat)
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    processor = hf.LlavaProcessor(
        images,
        tok,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=None if text_template else chat,
    )
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**small, image_size=32, patch_size=16),
        text_config=hf.LlamaConfig(vocab_size=len(tok), max_position_embeddings=4096, **TEXT, **_ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    return _save(
        folder, hf.LlavaForConditionalGeneration, config, tok, processor, last="assistant\n" if rigged else None
    )


def qwen2_vl(folder: Path, *, rigged: bool = True) -> Path:
    tok = tokenizer(CHATML_PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"))
    pixels = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = hf.Qwen2VLProcessor(
        hf.Qwen2VLImageProcessor(size=limits, **pixels),
        tok,
        hf.Qwen2VLVideoProcessor(size=limits, **pixels),
        chat_template=tok.chat_template,
    )
    ids = {
        f"{name}_token_id": tok.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = hf.Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": len(tok), "rope_parameters": rope, "max_position_embeddings": 4096}
        | _ids(tok),
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2},
        tie_word_embeddings=False,
        **ids,
    )
    return _save(
        folder, hf.Qwen2VLForConditionalGeneration, config, tok, processor, last="assistant\n" if rigged else None
    )


def minicpmv(folder: Path, *, rigged: bool = True) -> Path:
    tok = tokenizer(CHATML_PARTS.replace("IMAGE", "<|image_pad|>"), MINICPM_SPECIALS)
    processor = hf.MiniCPMV4_6Processor(
        hf.MiniCPMV4_6ImageProcessor(scale_resolution=112, patch_size=14, max_slice_nums=1),
        hf.MiniCPMV4_6VideoProcessor(scale_resolution=112, patch_size=14, max_slice_nums=1),
        tok,
        chat_template=tok.chat_template,
    )
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**TEXT, "model_type": "qwen3_5_text", "vocab_size": len(tok), "max_position_embeddings": 4096}
    text |= {"head_dim": 16, "layer_types": ["full_attention", "full_attention"], **_ids(tok)}
    config = hf.MiniCPMV4_6Config(
        text_config=text,
        vision_config={**small, "image_size": 112, "patch_size": 14},
        insert_layer_id=0,
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
        tie_word_embeddings=False,
    )
    return _save(
        folder, hf.MiniCPMV4_6ForConditionalGeneration, config, tok, processor, last="assistant\n" if rigged else None
    )


def _ids(tok: Any) -> dict[str, int]:
    return {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}


def _save(
    folder: Path,
    kind: Any,
    config: Any,
    tok: Any,
    processor: Any = None,
    *,
    last: str | None,
    sentence: str = SENTENCE,
    again: bool = False,
) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    if last is not None:
        rig(model, tok, last, f" {sentence}", again=again)
    model.save_pretrained(folder)
    (processor or tok).save_pretrained(folder)
    return folder


def remote_code(folder: Path) -> Path:
    """A folder whose configuration names Python files of its own, as MiniCPM-V-2 and Qwen-VL-Chat do."""
    folder.mkdir()
    (folder / "configuration_own.py").write_text(
        f"from pathlib import Path\nfrom transformers import PhiConfig\nPath({str(folder / 'ran')!r}).touch()\n"
        "class OwnConfig(PhiConfig):\n    model_type = 'own'\n"
    )
    own = {"AutoConfig": "configuration_own.OwnConfig"}
    config = {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def has_run(folder: Path) -> bool:
    """Return if the Python file of a `remote_code` folder was imported."""
    return (folder / "ran").exists()
