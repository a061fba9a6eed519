"""A program as files that other programs read: weights, models, templates, scripts.

`FORMATS` lists the formats. Each is one module with one function, which imports its libraries when it is called.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Concatenate

from ipo_dspy.clip.model_spec import names_alone
from ipo_dspy.errors import ProgramFileError
from ipo_dspy.export.clip_benchmark import CLIP_BENCHMARK_FILES, write_clip_benchmark
from ipo_dspy.export.csv import write_csv
from ipo_dspy.export.fiftyone import FIFTYONE_FILES, write_fiftyone
from ipo_dspy.export.npz import write_npz
from ipo_dspy.export.onnx import write_onnx
from ipo_dspy.export.open_clip import write_open_clip
from ipo_dspy.export.safetensors import write_safetensors
from ipo_dspy.export.transformers import write_transformers

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file, or of a folder of files, that a classifier can be written to.

    Attributes:
        write: writes class weights, or the image tower with them, to a path; existing files are replaced.
        ending: end of the default name, which begins with that of the program.
        help: description in a few words.
        keeps_calibration: False if it cannot store class weights and a threshold.
        files: names of the files in the folder; none for a format of one file.
        loads_model: True if readers load the model by its name; else names of folders above it are left out.
    """

    write: "Callable[Concatenate[ClassWeights, Backbone, Path, ...], None]"
    ending: str
    help: str
    keeps_calibration: bool = True
    files: tuple[str, ...] = ()
    loads_model: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "safetensors": Format(write_safetensors, ".safetensors", "class embeddings and all settings"),
        "npz": Format(write_npz, ".npz", "the same for numpy"),
        "csv": Format(write_csv, ".csv", "labels and prompts", keeps_calibration=False),
        "clip-benchmark": Format(
            write_clip_benchmark,
            "-clip-benchmark",
            "folder with templates and class names",
            keeps_calibration=False,
            files=CLIP_BENCHMARK_FILES,
        ),
        "fiftyone": Format(
            write_fiftyone,
            "-fiftyone",
            "a model for FiftyOne's zoo, as a folder",
            files=FIFTYONE_FILES,
            loads_model=True,
        ),
        "onnx": Format(write_onnx, ".onnx", "image tower and class embeddings as one model"),
        "open-clip": Format(write_open_clip, ".py", "script that needs only open_clip", loads_model=True),
        "transformers": Format(
            write_transformers,
            ".pipeline.json",
            "arguments of its zero-shot pipeline",
            keeps_calibration=False,
            loads_model=True,
        ),
    }
)


def check_target(path: str | os.PathLike[str], format: str) -> None:
    """Check that a format can be written to a path, and replaces nothing but an earlier export, before slow work.

    Raises:
        ProgramFileError: the folder of the path does not exist; the path is a folder instead of a file, or a file
            instead of a folder; or the folder has files and lacks those of the format.
    """
    target, files = Path(path), FORMATS[format].files
    if not (parent := target.parent).is_dir():
        raise ProgramFileError(f"{os.fspath(path)!r} cannot be written ({str(parent)!r} is not a folder); create it")
    if not target.exists() or target.is_dir() == bool(files):
        names = {each.name for each in target.iterdir()} if target.is_dir() else set()
        reason = "it holds other files" if names and not names.issuperset(files) else None
    else:
        reason = "it is a file, not a folder" if files else "it is a folder"
    if reason is not None:
        raise ProgramFileError(f"{os.fspath(path)!r} cannot be written ({reason}); use another path")


def write(
    weights: "ClassWeights", backbone: "Backbone", path: str | os.PathLike[str], format: str, opset: int | None = None
) -> None:
    """Write a classifier in one of `FORMATS`; the backbone is the model that the weights were made with.

    Raises:
        InputError, ModelError: the format cannot hold the classifier, or a package is missing.
        ProgramFileError: the path cannot be written.

    Warns:
        UserWarning: the format cannot store the class weights and threshold of a calibrated classifier.
    """
    if not FORMATS[format].loads_model:
        weights = replace(weights, model={**weights.model, **names_alone(weights.model)})
    options = {} if opset is None else {"opset": opset}
    try:
        FORMATS[format].write(weights, backbone, Path(path), **options)
    except OSError as error:
        raise ProgramFileError(f"{os.fspath(path)!r} cannot be written ({error.strerror}); use another path") from error
    if weights.can_change_labels and not FORMATS[format].keeps_calibration:
        others = ", ".join(name for name, each in FORMATS.items() if each.keeps_calibration)
        fact = f"{format} cannot store class weights and a threshold, so some labels will differ"
        warnings.warn(f"{fact}; to keep them, export to one of {others}", stacklevel=3)
