"""Class weights as an .npz file that `numpy.load` reads without pickle: numbers and texts as arrays of their own."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.file_io import atomic_write, open_regular
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.errors import ProgramFileError

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights


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
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        for name, value in values.items():
            if value.ndim == 0:
                values[name] = value.item() if value.dtype.kind in "bf" else json.loads(str(value))
        lists = {name: tuple(map(str, values[name])) for name in ("labels", "template")}
        texts = tuple(map(tuple, values["class_texts"]))
        return ClassWeights(**{**values, **lists, "class_texts": texts})
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or f"it is not a file of class weights: {one_line(str(error), 100)}"
        hint = "export the program again"
        raise ProgramFileError(f"{os.fspath(path)!r} cannot be read ({reason})", hint=hint) from error
