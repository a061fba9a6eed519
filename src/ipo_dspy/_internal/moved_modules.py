"""Keep the import paths of earlier versions working for modules that moved, with a warning that names the new path."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "ipo_dspy.analysis.outcomes": "ipo_dspy.analysis.program_outcomes",
    "ipo_dspy.bench.optimizers": "ipo_dspy.bench.dspy_optimizers",
    "ipo_dspy.events": "ipo_dspy.run.events",
    "ipo_dspy.journal": "ipo_dspy.run.journal",
    "ipo_dspy.metric": "ipo_dspy.scoring.metrics",
    "ipo_dspy.occlusion": "ipo_dspy.analysis.word_ablation",
    "ipo_dspy.optimizer.selection": "ipo_dspy.optimizer.template_choice",
    "ipo_dspy.phrases": "ipo_dspy.phrase_bank",
    "ipo_dspy.proposal_parsing": "ipo_dspy.lms.proposal_parsing",
    "ipo_dspy.scorers": "ipo_dspy.scoring.scorers",
    "ipo_dspy.scoring.calibrator": "ipo_dspy.scoring.calibration",
    "ipo_dspy.scoring.worth": "ipo_dspy.scoring.part_worth",
    "ipo_dspy.signatures": "ipo_dspy.lms.signatures",
    "ipo_dspy.spending": "ipo_dspy.run.budget",
    "ipo_dspy.tracking": "ipo_dspy.integrations.mlflow",
    "ipo_dspy.vocabulary": "ipo_dspy.phrase_bank",
}


class MovedModules(MetaPathFinder, Loader):
    """An import hook that resolves an old module path to a module that forwards to the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a moved module, else None."""
        if fullname not in MOVED:
            return None
        warnings.warn(
            f"{fullname} has moved to {MOVED[fullname]}; the old path will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Forward every attribute to the module at the new path."""
        moved = importlib.import_module(MOVED[module.__name__])
        vars(module)["__getattr__"] = partial(getattr, moved)


def install() -> None:
    """Install the import hook in this process."""
    sys.meta_path.append(MovedModules())
