"""The demo CLIP: open_clip's own towers, a compact token table for training, and export to an open_clip folder.

Of CLIP's 49,408 tokens a few thousand occur in the captions. Training keeps only those rows; export scatters them into
the full table and leaves all other rows zero, so words never seen are neutral and the file compresses well.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from demo.openclip import open_clip

CONTEXT, VOCAB, COMPACT = 32, 49408, 6144
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 2], "width": 16, "head_width": 64, "patch_size": None},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCAB, "width": 112, "heads": 4, "layers": 3},
}
PREPROCESS_CFG = {
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip
# CLIP's own word pattern, written for the standard library.
_PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


@dataclass
class Vocabulary:
    """Token ids in order of first use; row 0 of the compact table is the start token, row 1 the end token."""

    ids: list[int] = field(default_factory=lambda: [VOCAB - 2, VOCAB - 1])

    def __post_init__(self) -> None:
        """Build the lookup tables."""
        self._tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
        self._rows = {token: row for row, token in enumerate(self.ids)}
        self._words: dict[str, list[int]] = {}

    def _word(self, word: str) -> list[int]:
        if word not in self._words:
            rows = []
            for token in self._tokenizer.encode(word):
                if token not in self._rows:
                    if len(self.ids) >= COMPACT:
                        raise ValueError(f"more than {COMPACT} tokens in use; raise COMPACT")
                    self._rows[token] = len(self.ids)
                    self.ids.append(token)
                rows.append(self._rows[token])
            self._words[word] = rows
        return self._words[word]

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compact rows [N, L] and the position of the end token [N]."""
        rows = [[row for word in _PATTERN.findall(text.lower()) for row in self._word(word)] for text in texts]
        rows = [[0, *row[: CONTEXT - 2], 1] for row in rows]
        longest = -(-max(map(len, rows)) // 8) * 8
        out = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out, torch.tensor([len(row) - 1 for row in rows])


def build_model() -> Any:
    """A fresh open_clip model whose token table is compact."""
    cfg = json.loads(json.dumps(MODEL_CFG))
    cfg["text_cfg"]["vocab_size"] = COMPACT
    return open_clip.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])


def encode_text(model: Any, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Text features [N, D] of compact rows [N, L]; as model.encode_text, with L cut to the longest text."""
    length = rows.shape[1]
    x = model.token_embedding(rows) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(rows)), ends]
    return functional.normalize((x @ model.text_projection).float(), dim=-1)


def encode_text_by_length(model: Any, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """As encode_text, the shorter and the longer half apart, since most captions are short."""
    order = ends.argsort()
    halves = order.tensor_split(2)
    parts = [encode_text(model, rows[half, : int(ends[half].max()) + 1], ends[half]) for half in halves]
    return torch.cat(parts)[order.argsort()]


def encode_image(visual: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Image features [N, D] of pictures in 0..1."""
    x = ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    return functional.normalize(visual(x).float(), dim=-1)


def export(state: dict[str, torch.Tensor], vocabulary: Vocabulary, folder: Path) -> None:
    """Write an open_clip folder with all token rows."""
    full = torch.zeros(VOCAB, MODEL_CFG["text_cfg"]["width"])
    full[torch.tensor(vocabulary.ids)] = state["token_embedding.weight"][: len(vocabulary.ids)].float()
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    write_folder({**state, "token_embedding.weight": full}, config, folder)


def write_folder(state: dict[str, torch.Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write open_clip_config.json and open_clip_model.safetensors (fp16), each file whole."""
    folder.mkdir(parents=True, exist_ok=True)
    out = {}
    for name, value in state.items():
        out[name] = value.half().contiguous() if value.is_floating_point() else value.contiguous()
    weights, path = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    save_file(out, f"{weights}.tmp", metadata={"format": "pt"})
    Path(f"{weights}.tmp").chmod(0o644)  # safetensors makes files for the owner only
    Path(f"{weights}.tmp").replace(weights)
    Path(f"{path}.tmp").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    Path(f"{path}.tmp").replace(path)
