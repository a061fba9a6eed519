"""Import open_clip, also where torch is a CPU build beside a torchvision made for CUDA.

That torchvision fails at import because two operator schemas are missing; declaring them is enough, since only its
image transforms are used here.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _LIB = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _LIB.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

import open_clip

__all__ = ["open_clip"]
