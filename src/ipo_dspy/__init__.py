"""ipo_dspy: Interpretable Prompt Optimization for CLIP, as a DSPy optimizer.

Names are loaded when they are first used, so that `import ipo_dspy` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.moved_modules import install as _install_moved_modules

__version__ = "0.2.0"

_HOME = {
    "IPO": "optimizer.ipo",
    "ClipClassifier": "classifier",
    "ClipDecider": "decisions",
    "Template": "template",
    "History": "history",
    "Score": "scoring.score",
    "Trial": "history",
    "ImageDataset": "data",
    "load_benchmark": "data",
    "load_class_texts": "class_texts",
    "load_hub": "data",
    "load_image_folder": "data",
    "load_image_table": "data",
    "load_images": "data",
    "load_label_sets": "data",
    "load_webdataset": "data",
    "base_novel": "data",
    "harmonic_mean": "scoring.score",
    "check": "analysis.program_check",
    "evaluate": "optimizer.evaluation",
    "LMProposer": "proposers",
    "EvolutionProposer": "proposers",
    "TemplateInstructionProposer": "proposers.gepa",
    "LMDescriber": "describers",
    "ClipDescriber": "describers",
    "PaperAdapter": "lms.adapters",
    "load_program": "program_files",
    "write_report": "report",
    "RayScorer": "distributed",
    "mlflow_observer": "integrations.mlflow",
    "IPOError": "errors",
}
"""Public names and the module that holds each."""

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from ipo_dspy.analysis.program_check import check as check
    from ipo_dspy.class_texts import load_class_texts as load_class_texts
    from ipo_dspy.classifier import ClipClassifier as ClipClassifier
    from ipo_dspy.data import ImageDataset as ImageDataset
    from ipo_dspy.data import base_novel as base_novel
    from ipo_dspy.data import load_benchmark as load_benchmark
    from ipo_dspy.data import load_hub as load_hub
    from ipo_dspy.data import load_image_folder as load_image_folder
    from ipo_dspy.data import load_image_table as load_image_table
    from ipo_dspy.data import load_images as load_images
    from ipo_dspy.data import load_label_sets as load_label_sets
    from ipo_dspy.data import load_webdataset as load_webdataset
    from ipo_dspy.decisions import ClipDecider as ClipDecider
    from ipo_dspy.describers import ClipDescriber as ClipDescriber
    from ipo_dspy.describers import LMDescriber as LMDescriber
    from ipo_dspy.distributed import RayScorer as RayScorer
    from ipo_dspy.errors import IPOError as IPOError
    from ipo_dspy.history import History as History
    from ipo_dspy.history import Trial as Trial
    from ipo_dspy.integrations.mlflow import mlflow_observer as mlflow_observer
    from ipo_dspy.lms.adapters import PaperAdapter as PaperAdapter
    from ipo_dspy.optimizer.evaluation import evaluate as evaluate
    from ipo_dspy.optimizer.ipo import IPO as IPO
    from ipo_dspy.program_files import load_program as load_program
    from ipo_dspy.proposers import EvolutionProposer as EvolutionProposer
    from ipo_dspy.proposers import LMProposer as LMProposer
    from ipo_dspy.proposers.gepa import TemplateInstructionProposer as TemplateInstructionProposer
    from ipo_dspy.report import write_report as write_report
    from ipo_dspy.scoring.score import Score as Score
    from ipo_dspy.scoring.score import harmonic_mean as harmonic_mean
    from ipo_dspy.template import Template as Template

_install_moved_modules()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "demo"]
