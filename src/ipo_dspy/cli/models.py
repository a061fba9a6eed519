"""CLIP models and programs from what the command line names."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier


def build_classifier(
    classes: "tuple[str, ...]", template: str, model: str, pretrained: str | None, device: str
) -> "ClipClassifier":
    """A classifier with a start template."""
    from ipo_dspy.classifier import ClipClassifier

    name, tag = _model(model, pretrained)
    return ClipClassifier(classes, template=template, model=name, pretrained=tag, device=device)


def _model(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """`demo` is the bundled model; `local-dir:` and `hf-hub:` bring their own weights."""
    if model == "demo":
        from ipo_dspy.demo import model_path

        return f"local-dir:{model_path()}", None
    return model, None if model.startswith(("local-dir:", "hf-hub:")) else pretrained


def saved_classifier(program: Path, model: str | None, pretrained: str | None, device: str) -> "ClipClassifier":
    """A saved classifier, if asked with another model than it was saved under."""
    from ipo_dspy.classifier import ClipClassifier, read_program
    from ipo_dspy.demo import model_path

    if model is not None:
        name, tag = _model(model, pretrained)
        return ClipClassifier.from_file(program, model=name, pretrained=tag, device=device)
    saved = str(read_program(program)["clip"].get("model"))
    # The bundled model lies elsewhere in every environment; its folder's end tells it.
    bundled = saved.replace("\\", "/").endswith("ipo_dspy/demo/assets/model")
    place = f"local-dir:{model_path()}" if bundled else None
    return ClipClassifier.from_file(program, model=place, device=device)
