"""Encode filled templates to class features: tokenize, remove duplicates, encode, average the lines.

The filled prompts of one call are reduced to distinct token lists. Where the text tower allows it, each distinct prefix
of all of them is computed once (`clip.prefix_plan`, `clip.prefix_encoder`); other towers encode them in batches on
the full context. Both agree to 1e-5 with `plain_class_features` on every normalized feature in float32.

Letters: T templates, C classes, M token lists, L tokens, D width of the features.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.prefix_plan import TokenList, chunks
from ipo_dspy.clip.template_tokens import ClassTexts, filled_token_lists, texts_of
from ipo_dspy.errors import InputError
from ipo_dspy.template import Template

NODES = 16_384
"""Nodes in one pass: about 400 MB at the width of ViT-B, and enough for the matrix products to be efficient."""
BATCH = 256
"""Token lists in one pass of a tower that shares no prefixes."""


def class_features(backbone: Backbone, templates: Sequence[Template], classes: ClassTexts) -> Tensor:
    """Features of every class under every template: [T, C, D], float32, normalized, on the CPU.

    Several lines of one template, and several texts of one class, are averaged after normalizing and the mean is
    normalized again, as in open_clip's `build_zero_shot_classifier` (Radford et al. 2021, section 3.1.4). Features of
    lines are cached on the backbone, so templates of known lines are not encoded again.

    Raises:
        TemplateError: reason `too long`; nothing is ever cut.
        InputError: no templates. DataError: no classes.
    """
    if not templates:
        raise InputError("no templates to encode; pass e.g. [Template.parse('a photo of a <CLASS>.')]")
    names = tuple(classes)
    lines = {line: Template((line,)) for template in templates for line in template.lines}
    with backbone.lock:
        cached = {line: backbone.text_memo.get((line, names)) for line in lines}
        by_line = {line: features for line, features in cached.items() if features is not None}  # [C, D] each
        missing = [line for line in lines if line not in by_line]
        if missing:
            filled = [filled_token_lists(backbone, lines[line], names) for line in missing]
            features = encode_token_lists(backbone, list(itertools.chain(*filled)))
            counts = [len(texts_of(entry)) for entry in names]
            for line, part in zip(missing, torch.split(F.normalize(features, dim=-1), sum(counts)), strict=True):
                by_line[line] = _mean_of_texts(part, counts)
                backbone.text_memo.put((line, names), by_line[line])
    has_several = any(len(texts_of(entry)) > 1 for entry in names)
    return torch.stack(
        [_average([by_line[line] for line in template.lines], has_several) for template in templates]
    )  # [T, C, D]


def _average(lines: Sequence[Tensor], has_several: bool) -> Tensor:
    """Return the normalized mean of the features of the lines of a template, each [C, D].

    A single line is normalized already, unless a class has several texts.
    """
    if len(lines) == 1 and not has_several:
        return lines[0]
    return F.normalize(torch.stack(list(lines)).mean(dim=0), dim=-1)


def _mean_of_texts(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the mean feature of each class [C, D] from the features of all texts, in order of the classes."""
    if max(counts) == 1:
        return features
    of_class = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, of_class, features)
    return sums / torch.tensor(counts)[:, None]


def plain_class_features(backbone: Backbone, templates: Sequence[Template], classes: ClassTexts) -> Tensor:
    """Reference implementation of `class_features`, for tests: no batches, no shared prefixes, no cache: [T, C, D]."""
    rows = []
    for template in templates:
        for entry in classes:
            prompts = [prompt for text in texts_of(entry) for prompt in template.fill(text)]
            features = backbone.encode_tokens_plain(backbone.token_ids(prompts))  # [prompts, D]
            rows.append(F.normalize(features.mean(dim=0), dim=-1).cpu())
    return torch.stack(rows).reshape(len(templates), len(classes), -1)  # [T, C, D]


def encode_token_lists(backbone: Backbone, lists: Sequence[TokenList]) -> Tensor:
    """Return features of token lists, each distinct one encoded once: [M, D], float32, normalized, on the CPU."""
    distinct = sorted(set(lists))
    if backbone.shares_prefixes:
        parts = [backbone.encode_shared(piece).cpu() for piece in chunks(distinct, NODES)]
    else:
        starts = range(0, len(distinct), BATCH)
        parts = [backbone.encode_tokens_plain(distinct[start : start + BATCH]).cpu() for start in starts]
    index = {tokens: number for number, tokens in enumerate(distinct)}
    return torch.cat(parts)[[index[tokens] for tokens in lists]]  # [M, D]
