"""Options of `ipo-dspy bench` that say what is measured: the cells of a sweep, and the settings of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ipo_dspy.cli import options as opt
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.config import OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.bench.cells import Grid
    from ipo_dspy.bench.settings import Settings
    from ipo_dspy.bench.suites import Suite


@dataclass(frozen=True)
class CellOptions:
    """The cells of a sweep."""

    methods: Annotated[
        str | None,
        Option(
            help="Comma-separated, e.g. clip,clip-ensemble,ipo.", show_default="all that can run with these options"
        ),
    ] = None
    datasets: Annotated[str | None, Option(help="Comma-separated.", show_default="all of the suite")] = None
    shots: Annotated[str, Option(help="Training images per class, comma-separated.")] = "1,16"
    seeds: Annotated[str, Option(help="Random seeds, comma-separated.")] = "1,2,3"
    ablate: Annotated[
        list[str] | None,
        Option(
            help="Vary one setting of IPO and print that table instead: descriptions, history, feedback, "
            "prompts-per-step, lm or vlm; may be repeated."
        ),
    ] = None
    transfer: Annotated[
        str | None,
        Option(
            metavar="SOURCE",
            help="Learn on all classes of this data set and test on all classes of the others, or of --datasets, "
            "instead of base to novel.",
        ),
    ] = None

    def grid(self, suite: "Suite", settings: "Settings") -> "Grid":
        """Return the cells, without ablations."""
        from ipo_dspy.bench.cells import Grid
        from ipo_dspy.bench.suites import chosen_transfer, select_datasets

        asked = None if self.datasets is None else _split(self.datasets)
        if self.transfer is not None and self.ablate:
            raise InputError("--ablate varies only IPO from base to novel classes; use either --transfer or --ablate")
        source, targets = (None, ()) if self.transfer is None else chosen_transfer(self.transfer, asked, suite)
        return Grid(
            suite=suite.name,
            datasets=select_datasets(asked, suite) if source is None else (source,),
            targets=targets,
            methods=self._methods(settings.lm),
            shots=_numbers(self.shots, "--shots", 1),
            seeds=_numbers(self.seeds, "--seeds", 0),
            settings=settings,
        )

    def ablations(self, grid: "Grid", models: Mapping[str, Sequence[str]]) -> "dict[str, Grid]":
        """Return the cells of each ablation by its name, which replace those of the grid."""
        from ipo_dspy.bench.ablations import ablation

        ablations = {name: ablation(name, grid, models) for name in self.ablate or ()}
        if ablations and self.methods is not None:
            raise InputError("--ablate varies only IPO; use either --methods or --ablate")
        return ablations

    def _methods(self, lm: str | None) -> tuple[str, ...]:
        """Return the methods in the order of the tables; by default all that can run."""
        from ipo_dspy.bench.registry import METHODS, find_kind

        if self.methods is None:
            return tuple(name for name, kind in METHODS.items() if lm is not None or not kind.needs_lm)
        asked = [find_kind(name).name for name in _split(self.methods)]
        return tuple(name for name in METHODS if name in asked)


@dataclass(frozen=True)
class SettingOptions:
    """The settings of all cells."""

    steps: Annotated[int, Option(min=0, help="Steps of IPO; other optimizers get the same evaluation budget.")] = 40
    prompts_per_step: opt.PerStep = OptimizerConfig.prompts_per_step
    history_size: opt.HistorySize = OptimizerConfig.history_size
    max_described_images: opt.DescribedImages = OptimizerConfig.max_described_images
    prompt_model: Annotated[
        list[str] | None,
        Option(
            help="LLM that proposes templates, a LiteLLM name; several with --ablate lm. By default, the built-in "
            "evolutionary search."
        ),
    ] = None
    description_model: Annotated[
        list[str] | None,
        Option(help="Multimodal LLM that describes images; several with --ablate vlm. By default, CLIP does."),
    ] = None
    prompt_model_kwargs: opt.PromptModelKwargs = None
    description_model_kwargs: opt.DescriptionModelKwargs = None
    request_mode: opt.Mode = "auto"
    method_arg: Annotated[
        list[str] | None,
        Option(
            metavar="METHOD[@DATASET].NAME=VALUE",
            help="Hyper-parameter, e.g. coop.epochs=5, coop.augment=true or coprompt@dtd.sentences=FILE.json; may be "
            "repeated.",
        ),
    ] = None
    model: Annotated[str | None, Option(help="CLIP model to use instead of the suite's.")] = None
    pretrained: Annotated[str | None, Option(help="open_clip tag or checkpoint path of --model.")] = None

    @property
    def models(self) -> Mapping[str, Sequence[str]]:
        """Names of language models by the ablation that compares them."""
        return {"lm": self.prompt_model or (), "vlm": self.description_model or ()}

    def settings(self, suite: "Suite", ablate: Sequence[str] | None) -> "Settings":
        """Return the settings; a language model that an ablation varies is not among them."""
        from ipo_dspy.bench.settings import Settings

        return Settings(
            model=self.model or suite.model,
            pretrained=self.pretrained if self.model else self.pretrained or suite.pretrained,
            steps=self.steps,
            prompts_per_step=self.prompts_per_step,
            history_size=self.history_size,
            max_described_images=self.max_described_images,
            lm=self._only("lm", "--prompt-model", ablate),
            vlm=self._only("vlm", "--description-model", ablate),
            lm_kwargs=opt.settings(self.prompt_model_kwargs, "--prompt-model-kwargs"),
            vlm_kwargs=opt.settings(self.description_model_kwargs, "--description-model-kwargs"),
            request_mode=self.request_mode,
            arguments=_arguments(self.method_arg),
        )

    def _only(self, ablation: str, option: str, ablate: Sequence[str] | None) -> str | None:
        """Return the language model of all cells; None if several are compared."""
        names = self.models[ablation]
        if ablation in (ablate or ()):
            return None
        if len(names) > 1:
            raise InputError(f"{option} names {len(names)} models; pass one, or compare them: --ablate {ablation}")
        return names[0] if names else None


def _arguments(given: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    from ipo_dspy.bench.registry import with_sentences

    arguments: dict[str, dict[str, Any]] = {}
    for text in given or ():
        method, dot, rest = text.partition(".")
        if not dot:
            raise InputError(f"--method-arg {text!r} must name a method; for example --method-arg coop.epochs=5")
        arguments.setdefault(method, {}).update(opt.settings([rest], "--method-arg"))
    return with_sentences(arguments)


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in _split(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise InputError(
            f"{option} {text!r} must be a comma-separated list of integers >= {least}; for example {option} 1,2"
        )
    return tuple(dict.fromkeys(numbers))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
