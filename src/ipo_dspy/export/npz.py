"""Class weights as an .npz file that `numpy.load` reads without pickle: numbers and texts as separate arrays."""

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from ipo_dspy._internal.file_io import atomic_write, open_regular
from ipo_dspy._internal.json_input import has_type, parse_json
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.errors import ProgramFileError

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


_LIMIT = 1024**3
"""Bytes of all arrays after decompression; the embeddings of 200,000 classes of width 1024 are within."""
_TYPES: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("logit_scale", "logit_bias", "temperature", "threshold"), float),
        "unknown_label": str | None,
        "threshold_score": str,
        "multi_label": bool,
        "class_texts": list[list[str]],
        "preprocessing": dict[str, Any] | None,
        "model": dict[str, str],
    }
)
"""Types of the values that are no arrays."""
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_npz(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write an array for each field; those that are no list of texts and no number are JSON.

    Raises:
        OSError: the file cannot be written.
    """
    import numpy as np

    arrays: dict[str, Any] = {"class_embeddings": weights.class_embeddings, "class_weights": weights.class_weights}
    for name, value in weights.plain().items():
        is_array = isinstance(value, bool | float) or name in ("labels", "template")
        arrays[name] = np.array(value if is_array else json.dumps(value))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    atomic_write(path, file.getvalue())


def read_npz(path: str | os.PathLike[str]) -> "ClassWeights":
    """Return the class weights in a file that `write_npz` wrote.

    Raises:
        ProgramFileError: it cannot be read, or is of another kind.

    >>> from ipo_dspy import demo
    >>> import tempfile
    >>> task = demo.load("pixel-animals", shots=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     task.program.export(f"{folder}/weights.npz", format="npz")
    ...     read_npz(f"{folder}/weights.npz").labels == task.classes
    True
    """
    import numpy as np

    from ipo_dspy.export.weights import ClassWeights

    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > _LIMIT:
                raise ValueError(f"it has {size:,} bytes after decompression")
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            values = {name: arrays[name] for name in arrays.files}
        for name, value in values.items():
            if value.ndim == 0:
                values[name] = value.item() if value.dtype.kind in "bf" else parse_json(str(value))
        values.setdefault("threshold_score", "confidence")  # files of earlier versions
        lists = {name: tuple(map(str, values[name])) for name in ("labels", "template")}
        _check(values, len(lists["labels"]))
        return ClassWeights(**{**values, **lists, "class_texts": tuple(map(tuple, values["class_texts"]))})
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or f"it is not a file of class weights: {one_line(str(error), 100)}"
        hint = "export the program again"
        raise ProgramFileError(f"{os.fspath(path)!r} cannot be read ({reason})", hint=hint) from error


def _check(values: Mapping[str, Any], classes: int) -> None:
    """Raise a ValueError if values are not those of a classifier with this number of classes."""
    import numpy as np

    from ipo_dspy.scoring.calibration import ThresholdScore

    for name, annotation in _TYPES.items():
        if not has_type(values[name], annotation, largest=math.inf):
            raise ValueError(f"{name} is of another type, or not finite")
    if values["threshold_score"] not in get_args(ThresholdScore):
        raise ValueError("threshold_score is unknown")
    width = np.shape(values["class_embeddings"])[-1]
    for name, shape in {"class_embeddings": (classes, width), "class_weights": (classes,)}.items():
        array = np.asarray(values[name])
        if array.dtype.kind != "f" or array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} must be {list(shape)} finite numbers")
    if len(values["class_texts"]) != classes or (values["class_weights"] < 0).any() or values["temperature"] <= 0:
        raise ValueError("a class lacks its texts, or a class weight or the temperature is not positive")
