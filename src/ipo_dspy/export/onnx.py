"""A classifier as one ONNX model: pixels to probabilities, with labels and preprocessing in its metadata.

A runtime needs neither tokenizer nor text tower. Before the file is put in place, onnxruntime has read it, and its
probabilities of a few images were compared with those of torch.

Letters: N images, C classes, D width of the features, H and W height and width in pixels.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ipo_dspy._internal.file_io import sync_folder
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.argument_checks import require_int
from ipo_dspy.errors import Hint, ModelError, missing_package

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights

OPSET = 18
"""The oldest in which torch writes operations, for the widest choice of runtimes: onnxruntime reads it since 1.14."""
LARGEST = 2**30
"""Maximum size of the weights in the model file, in bytes. Larger ones get a separate file next to it, because
protobuf reads at most 2 GB."""
TOLERANCE = 1e-4
"""Maximum difference of a probability between onnxruntime and torch."""


def check_onnx(opset: int) -> None:
    """Check the packages and the opset, before slow work.

    Raises:
        InputError: a package is missing, or torch does not write the opset.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package("onnxruntime and onnxscript", extra="onnx", purpose="to write ONNX models") from error
    require_int("opset", opset, OPSET)


def write_onnx(weights: "ClassWeights", backbone: "Backbone", path: Path, *, opset: int = OPSET) -> None:
    """Write a model with the input `pixels` [N, 3, H, W] for any N, and three outputs, all float32.

    The outputs are `probabilities` [N, C], those of `ClassWeights.probabilities`; `image_features` [N, D], normalized;
    and `scores` [N], those of `ClassWeights.scores`, which are compared with the threshold. The metadata has each field
    of `ClassWeights.plain` as JSON. Weights of more than 1 GB are in a second file, `path` with `.data` added, which
    must stay next to the first.

    Args:
        weights: the classifier without its image tower.
        backbone: the model with the image tower, on any device and in any number format.
        path: the file; an existing one is replaced.
        opset: version of the ONNX operators.

    Raises:
        InputError: the opset lacks an operation.
        ModelError: the image tower cannot be written, or gives other probabilities in onnxruntime; or what happens to
            images before it cannot be described.
        OSError: the file cannot be written.
    """
    import torch
    from PIL import Image

    from ipo_dspy.export.onnx_graph import PixelClassifier, onnx_program

    if weights.preprocessing is None:
        fact = f"the images of {weights.model['model']!r} are not resized and cropped to one shape in a known way"
        raise ModelError(f"{fact}, which an ONNX model needs", hint="use format 'npz'")
    classifier = PixelClassifier(weights, backbone)
    tower = classifier.describe(weights.model["model"])
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels = torch.stack([backbone.preprocess(Image.fromarray(image)) for image in noise])
    with backbone.lock:  # torch replaces the parameters of the model while it traces it
        program = onnx_program(classifier, weights, pixels[:2], opset)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        size = sum(each.const_value.nbytes for each in program.model.graph.initializers.values())
        program.save(draft, external_data=size > LARGEST)
        with torch.no_grad():
            expected = weights.probabilities(classifier(pixels)[1].numpy())
        difference = np.abs(_probabilities(draft, [pixels[:2].numpy(), pixels[2:].numpy()], tower) - expected).max()
        if not difference <= TOLERANCE:  # also NaN
            fact = f"the {tower} gives probabilities in onnxruntime that differ from torch's by up to {difference:.1e}"
            raise ModelError(fact, hint=Hint("pass another {opset}", opset=...))
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights before the model that names them
            file.replace(path.with_name(file.name))
        if size <= LARGEST:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # of an earlier export of a larger model
    sync_folder(path.parent)


def _probabilities(file: Path, batches: list[Any], tower: str) -> Any:
    """Return what onnxruntime computes for batches of pixels: [N, C]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(["probabilities"], {"pixels": batch})[0] for batch in batches])
    except Exception as error:  # its errors have no common base
        fact = f"onnxruntime {onnxruntime.__version__} cannot run the {tower} ({one_line(str(error), 200)})"
        raise ModelError(fact, hint=Hint("pass a lower {opset}", opset=...)) from error
