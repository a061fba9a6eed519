"""Convert texts to token ids without truncation, and token ids to the padded table that a text tower reads.

open_clip's tokenizers truncate and pad in one step, but the length of a prompt has to be counted before.
`TokenizerAdapter.agrees` compares the result with the original.

Letters: M token lists, L tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PROBES = ("a", "a photo of a dog.", "A Blurry photo of 3 café tables, seen from above; it's evening & nobody is there!")
"""Texts of different length and script on which tokenizers and towers are checked at load."""


class TokenizerAdapter:
    """Token ids without truncation, and the padding of a model's own tokenizer, of open_clip or transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._hub = getattr(tokenizer, "tokenizer", None)  # a transformers tokenizer, or None for CLIP's BPE
        self._class_last = getattr(tokenizer, "tokenizer_mode", "") == "clips"  # [start, text, end, pad..., class]
        self.context_length = int(tokenizer.context_length)
        self._pad = 0 if self._hub is None or self._hub.pad_token_id is None else int(self._hub.pad_token_id)
        self._pad = getattr(tokenizer, "padding_id", self._pad)
        self._pads_to_context = getattr(tokenizer, "pads_to_context", True)
        self._left = getattr(self._hub, "padding_side", "right") == "left" and not self._class_last
        self.pads_right = not self._left and not self._class_last

    def clean(self, text: str) -> str:
        """Return the text that is split into tokens; the tokenizer of CLIP does both in one step."""
        return text if self._hub is None else str(self._tokenizer.clean_fn(text))

    def ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, start and end included."""
        if self._hub is None:
            start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
            return [(start, *self._tokenizer.encode(text), end) for text in texts]
        clean = [self.clean(text) for text in texts]
        settings = {"add_special_tokens": not self._class_last, "verbose": False}  # it would warn of long texts
        rows = self._hub(clean, **settings)["input_ids"] if clean else []
        if self._class_last:
            hub = self._hub
            return [(hub.bos_token_id, *row, hub.eos_token_id, hub.cls_token_id) for row in rows]
        if self._tokenizer.strip_sep_token:
            rows = [[0 if token == self._hub.sep_token_id else token for token in row] for row in rows]
        return [tuple(row) for row in rows]

    def padded(self, ids: Sequence[tuple[int, ...]], length: int | None = None) -> Tensor:
        """Token lists as one table [M, L]; by default L is what the tower needs, the context or the longest of them."""
        if length is None:
            length = self.context_length if self._pads_to_context else max(map(len, ids))
        table = torch.full((len(ids), length), self._pad, dtype=torch.long)  # [M, L]
        for row, tokens in zip(table, ids, strict=True):
            head = tokens[:-1] if self._class_last else tokens
            begin = length - len(head) if self._left else 0
            row[begin : begin + len(head)] = torch.tensor(head, dtype=torch.long)
            if self._class_last:
                row[-1] = tokens[-1]
        return table

    def agrees(self, texts: Sequence[str]) -> bool:
        """Return whether ids and padding equal those of the tokenizer itself."""
        fitting = [text for text, ids in zip(texts, self.ids(texts), strict=True) if len(ids) <= self.context_length]
        padded = self.padded(self.ids(fitting), self.context_length)
        return not fitting or torch.equal(padded, self._tokenizer(fitting))

    @property
    def facts(self) -> dict[str, Any]:
        """Return the inputs of the fingerprint: how this tokenizer behaves, not its name."""
        return {"context": self.context_length, "pad": self._pad, "left": self._left, "probes": self.ids(PROBES)}
