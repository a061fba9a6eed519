"""The graph of an ONNX model: an image tower in float32 with the class embeddings and the calibration as constants.

Letters: N images, C classes, D width of the features, H and W height and width in pixels.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir.passes.common
import torch
import torch.export._trace
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.argument_checks import invalid
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.errors import Hint, ModelError
from ipo_dspy.export.weights import ClassWeights

_LIBRARIES = ("torch", "onnxscript", "onnx_ir")


class PixelClassifier(nn.Module):
    """Pixels [N, 3, H, W] to probabilities [N, C], features [N, D] and scores [N], in float32 on the CPU."""

    columns: Tensor  # [D, C]
    log_weights: Tensor  # [C]

    def __init__(self, weights: ClassWeights, backbone: Backbone) -> None:
        super().__init__()
        is_plain = backbone.device.type == "cpu" and backbone.dtype == torch.float32
        self.model = backbone.model if is_plain else copy.deepcopy(backbone.model).to("cpu", torch.float32)
        self.multi_label = weights.multi_label
        self.in_distribution = weights.threshold_score == "in_distribution"
        self.logit_bias, self.temperature = weights.logit_bias, weights.temperature
        self.register_buffer("columns", torch.from_numpy(weights.class_embeddings.T * weights.logit_scale).float())
        self.register_buffer("log_weights", torch.from_numpy(np.log(weights.class_weights)).float())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, after temperature and class weights, normalized features, and scores."""
        features = F.normalize(self.model.encode_image(pixels, normalize=False), dim=-1)
        raw = features @ self.columns + self.logit_bias
        logits = raw / self.temperature + self.log_weights
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        scores = probabilities.amax(dim=1)
        if self.in_distribution:
            highest, best = raw.max(dim=1, keepdim=True)
            is_best = torch.arange(raw.shape[1], device=raw.device) == best  # [N, C]
            scores = 2 * highest[:, 0] - raw.masked_fill(is_best, float("-inf")).logsumexp(dim=1)
        return probabilities, features, scores

    def describe(self, name: str) -> str:
        """Return the kind of image tower, or of a model of transformers, and the model's name, for messages."""
        part = getattr(self.model, "visual", None) or getattr(self.model, "model", self.model)
        return f"image tower {type(part).__name__} of {name!r}"


def onnx_program(classifier: PixelClassifier, weights: ClassWeights, pixels: Tensor, opset: int) -> Any:
    """Return torch's ONNX program of a classifier, with each field of `ClassWeights.plain` as JSON in its metadata.

    Args:
        classifier: the module.
        weights: what it was made of.
        pixels: an example of the input, [2, 3, H, W].
        opset: version of the ONNX operators.

    Raises:
        InputError: the opset lacks an operation.
        ModelError: an operation of the image tower cannot be written.
    """
    tower = classifier.describe(weights.model["model"])
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                classifier.eval(),
                (pixels,),
                dynamic_shapes=({0: torch.export.Dim("N")},),
                input_names=["pixels"],
                output_names=["probabilities", "image_features", "scores"],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = one_line(str(cause), 200)
        raise ModelError(f"the {tower} cannot be written as ONNX ({reason})", hint="use format 'open-clip'") from error
    if (written := program.model.opset_imports[""]) != opset:  # torch falls back to another one
        hint = Hint("for example {opset}", opset=written)
        raise invalid("opset", f"a version with all operations of the {tower}", opset, hint)
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)  # paths of source files
    program.model.metadata_props.update({name: json.dumps(value) for name, value in weights.plain().items()})
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what torch and onnxscript, but no other library, log and warn about inside, for steps that do no harm.

    torch has dozens of loggers with their own handlers, so each of them is disabled. What it prints is the graph so
    far, if an operation cannot be traced.
    """
    known = logging.root.manager.loggerDict
    loggers = [logging.getLogger(name) for name in (*_LIBRARIES, *known) if name.partition(".")[0] in _LIBRARIES]
    before = [(logger, logger.disabled) for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="|".join((*_LIBRARIES, "copyreg")))  # torch copies its own classes
        for logger in loggers:
            logger.disabled = True
        vars(torch.export._trace)["print"] = lambda *_, **__: None
        try:
            yield
        finally:
            vars(torch.export._trace).pop("print", None)
            for logger, was in before:
                logger.disabled = was
