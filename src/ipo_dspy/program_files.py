"""Saved programs: JSON files with a program's state, read and written in one place.

DSPy's own `load` reads UTF-8 without a byte order mark only, and fails on package names that it does not record itself.
This module also reads files that an editor, another system, or another version of DSPy wrote.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.saving import get_dependency_versions

from ipo_dspy._internal.file_io import atomic_write, read_json
from ipo_dspy._internal.file_kinds import PROGRAM_FILE, SAVED_PROGRAM, described
from ipo_dspy.decisions import ClipDecider, is_decider
from ipo_dspy.errors import InputError, ProgramFileError

LIMIT = 64 * 1024**2
"""Maximum size of a program file in bytes: templates, class names, and the demonstrations of other predictors."""
_REMEDY = f"pass a file written by program.save, or the {PROGRAM_FILE} of a run"


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state in a saved program.

    Raises:
        ProgramFileError: the file is missing, truncated, or of another kind.
    """
    name = os.fspath(path)
    if os.path.isfile(Path(name) / PROGRAM_FILE):  # noqa: PTH113  # that of `Path` raises for a long name
        raise ProgramFileError(f"{name!r} is a folder; pass {str(Path(name) / PROGRAM_FILE)!r}")
    kind = described(name)
    if kind not in (None, SAVED_PROGRAM):
        raise ProgramFileError(f"{name!r} is {kind}, not a saved program; {_REMEDY}")
    try:
        state = read_json(name, limit=LIMIT)
    except OSError as error:
        raise ProgramFileError(f"{name!r} cannot be read ({error.strerror}); pass the path used with save()") from error
    except ValueError as error:
        raise ProgramFileError(f"{name!r} is not valid JSON ({error}); save the program again") from error
    if not isinstance(state, dict):
        raise ProgramFileError(f"{name!r} does not contain a saved program; {_REMEDY}")
    return state


def load_program(program: dspy.Module, path: str | os.PathLike[str], *, allow_unsafe_lm_state: bool = False) -> None:
    """Load a saved program into one of the same kind, like `program.load`, also from files of other systems.

    Reads UTF-8 and UTF-16, with or without a byte order mark, and files of other versions of DSPy.

    Raises:
        ProgramFileError: the file is missing, truncated, or of another kind of program.
    """
    apply_state(program, read_state(path), path, allow_unsafe_lm_state=allow_unsafe_lm_state)


def apply_state(
    program: dspy.Module, state: dict[str, Any], path: str | os.PathLike[str], *, allow_unsafe_lm_state: bool = False
) -> None:
    """Load a state that was read from `path`.

    DSPy refuses language models of other packages, so every `ClipDecider` is restored here. One that a predictor has
    already is kept: a file does not decide which model is loaded.

    Raises:
        ProgramFileError: it belongs to another kind of program, or is malformed; the message names the file.
    """
    name = os.fspath(path)
    try:
        deciders = {}
        for key, predictor in program.named_parameters():
            saved = state if predictor is program else state.get(key)
            if isinstance(saved, dict) and is_decider(saved.get("lm")):
                own = predictor.lm if isinstance(getattr(predictor, "lm", None), ClipDecider) else None
                deciders[key] = own or ClipDecider.load_state(saved["lm"])
                bare = {**saved, "lm": None}
                state = bare if saved is state else {**state, key: bare}
        program.load_state(state, allow_unsafe_lm_state=allow_unsafe_lm_state)
        for key, predictor in program.named_parameters():
            if key in deciders:
                predictor.lm = deciders[key]
    except (ProgramFileError, InputError) as error:  # the latter from a ClipDecider
        raise ProgramFileError(f"{name!r}: {error}") from error
    except (KeyError, RecursionError) as error:
        fact = f"lacks {error}" if isinstance(error, KeyError) else "is nested too deeply"
        raise ProgramFileError(
            f"{name!r} {fact}; load it into the kind of program that wrote it, here {type(program).__name__}"
        ) from error


def write_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a program's state as `program.save` does, but atomically: to a temporary file that is then moved to `path`.

    Raises:
        OSError: the file cannot be written.
    """
    atomic_write(Path(path), state_bytes(state))


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """Return the content of the file of a program's state."""
    content = {**state, "metadata": {"dependency_versions": get_dependency_versions()}}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate cannot be encoded as UTF-8; its backslash form is JSON's own escape.
    return text.encode("utf-8", errors="backslashreplace")
