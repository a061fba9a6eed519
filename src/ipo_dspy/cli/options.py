"""Options that several commands share, and functions that parse their values."""

import inspect
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Context, Option
from typer.core import TyperCommand, TyperOption

from ipo_dspy._internal.secrets import names_secret
from ipo_dspy.cli.objective_options import Goal
from ipo_dspy.cli.progress import spinner
from ipo_dspy.clip.weights import DEFAULT_MODEL as DEFAULT_MODEL
from ipo_dspy.clip.weights import DEFAULT_PRETRAINED as DEFAULT_PRETRAINED
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.config import ChoiceRule, OptimizerConfig

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier


class Command(TyperCommand):
    """A command that refuses a repeated option with one value, of which Typer would silently take the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raises InputError for a repeated option."""
        _, _, passed = self.make_parser(ctx).parse_args(list(args))
        remaining = super().parse_args(ctx, args)
        for option, count in Counter(passed).items():
            repeats = isinstance(option, TyperOption) and (
                option.multiple or (option.is_flag and not option.secondary_opts)
            )
            if count > 1 and not repeats and not ctx.resilient_parsing:
                name = "/".join([*option.opts, *option.secondary_opts])
                raise InputError(f"{name} must be passed at most once, got it {count} times; remove the others")
        return remaining


def ipo_options(ctx: Context) -> dict[str, Any]:
    """Return the options of a command that are arguments of `IPO`, except its models and folder."""
    from ipo_dspy.optimizer.ipo import IPO

    arguments = inspect.signature(IPO).parameters.keys() - {"prompt_model", "description_model", "log_dir"}
    return {name: value for name, value in ctx.params.items() if name in arguments}


Data = Annotated[
    Path,
    Argument(
        help="A folder with a sub-folder of images per class, a .csv or .parquet table, a webdataset .tar, or a data "
        "set saved by Hugging Face datasets."
    ),
]
Program = Annotated[Path, Argument(help="A program saved by optimize or ClipClassifier.save.")]
PromptModel = Annotated[
    str | None,
    Option(help="LLM that proposes templates, a LiteLLM name. By default, the built-in evolutionary search."),
]
DescriptionModel = Annotated[
    str | None, Option(help="Multimodal LLM that describes images, a LiteLLM name. By default, CLIP does.")
]
PromptModelKwargs = Annotated[
    list[str] | None,
    Option(
        metavar="NAME=VALUE",
        help="Setting of --prompt-model, e.g. api_base=http://localhost:8000/v1 or max_tokens=500; may be repeated.",
    ),
]
DescriptionModelKwargs = Annotated[
    list[str] | None, Option(metavar="NAME=VALUE", help="Setting of --description-model; may be repeated.")
]
Model = Annotated[
    str, Option(help="CLIP model: open_clip name, local-dir:PATH, hf-hub:NAME, transformers:NAME_OR_FOLDER, or demo.")
]
Pretrained = Annotated[str | None, Option(help="open_clip tag or checkpoint path.")]
Device = Annotated[str, Option(help="PyTorch device, or auto.")]
PerStep = Annotated[int, Option(min=1, help="Templates proposed per step.")]
HistorySize = Annotated[int, Option(min=0, help="Number of best earlier templates shown to the proposer.")]
Mode = Annotated[
    Literal["auto", "batch", "samples", "single"],
    Option(
        help="Templates of a step: batch (all in one response), samples (of one prompt), or single (one prompt each)."
    ),
]
DescribedImages = Annotated[int, Option(min=0, help="Maximum number of training images to describe.")]
AllowChanges = Annotated[bool, Option("--allow-config-changes", help="Resume a run even if its settings have changed.")]
DryRun = Annotated[
    bool,
    Option("--dry-run", help="Check the CLIP model, and print the expected calls, tokens and cost; send no requests."),
]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
SkipUnreadable = Annotated[bool, Option("--skip-unreadable", help="Skip and count unreadable images.")]

Ray = Annotated[
    str | None, Option("--ray", metavar="ADDRESS", help="Encode and score on a Ray cluster: auto, local or HOST:6379.")
]
RayWorkers = Annotated[
    int | None, Option("--ray-workers", min=1, help="Maximum number of workers.", show_default="as many as fit")
]
RayCpus = Annotated[int | None, Option("--ray-cpus", min=1, help="CPUs per worker.", show_default="1")]
RayGpus = Annotated[float | None, Option("--ray-gpus", min=0, help="GPUs per worker, for encoding.", show_default="0")]


@dataclass(frozen=True)
class SavedModel:
    """The CLIP model of a saved program."""

    model: Annotated[str | None, Option("--model", help="Override the CLIP model stored in the program.")] = None
    pretrained: Pretrained = None
    device: Device = "auto"
    allow_download: Annotated[
        bool,
        Option(
            "--allow-download", help="Download the model that the program file names, without your Hugging Face token."
        ),
    ] = False

    def load(self, program: str | Path) -> "ClipClassifier":
        """Load a saved program and its model."""
        from ipo_dspy.classifier import ClipClassifier

        with spinner("Loading the model ..."):
            classifier = ClipClassifier.from_file(program, **vars(self))
            _ = classifier.backbone
        return classifier


@dataclass(frozen=True)
class LanguageModels:
    """The language models of a run, and their settings."""

    prompt_model: PromptModel = None
    description_model: DescriptionModel = None
    prompt_model_kwargs: PromptModelKwargs = None
    description_model_kwargs: DescriptionModelKwargs = None

    def __iter__(self) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """Yield the option, the name, and the settings of each model."""
        prompt_settings = settings(self.prompt_model_kwargs, "--prompt-model-kwargs")
        yield "--prompt-model", self.prompt_model, prompt_settings
        description_settings = settings(self.description_model_kwargs, "--description-model-kwargs")
        yield "--description-model", self.description_model, description_settings


@dataclass(frozen=True)
class SearchOptions(Goal):
    """The options of a search that `demo` and `optimize` share."""

    choose: Annotated[
        ChoiceRule,
        Option(
            help="Select the template with the fewest words of those that cannot be told apart from the one with the "
            "lowest loss (plainest), or the most accurate one on the images that decide (best)."
        ),
    ] = "plainest"
    tolerance: Annotated[
        float, Option(min=0, help="Standard errors by which the plainest template may be worse than the leading one.")
    ] = OptimizerConfig.tolerance
    ensemble: Annotated[int, Option(min=1, help="Maximum number of lines of the template.")] = OptimizerConfig.ensemble
    polish: Annotated[
        bool,
        Option(help="At the end, ask the prompt model for plain rewordings of the best templates."),
    ] = OptimizerConfig.polish
    images_in_request: Annotated[
        int,
        Option(
            min=0,
            help="Maximum number of training images sent to --prompt-model in each request: "
            "the most confident mistakes of the best template.",
        ),
    ] = OptimizerConfig.images_in_request
    seed: Annotated[int, Option(min=0, help="Random seed.")] = 0
    max_lm_calls: Annotated[int | None, Option("--max-lm-calls", min=1, help="Maximum number of LLM requests.")] = None
    max_tokens: Annotated[int | None, Option(min=1, help="Maximum number of prompt and completion tokens.")] = None
    max_cost: Annotated[float | None, Option(help="Maximum cost in USD, at LiteLLM's prices.")] = None
    max_seconds: Annotated[float | None, Option(help="Maximum wall-clock seconds, summed over all sessions.")] = None
    max_consecutive_errors: Annotated[int, Option(min=1, help="Stop after this many consecutive LLM errors.")] = (
        OptimizerConfig.max_consecutive_errors
    )
    log_dir: Annotated[
        Path | None,
        Option(
            help="Folder for journal, program and report; an unfinished run in it is resumed.",
            show_default="a new one in runs/",
        ),
    ] = None
    allow_config_changes: AllowChanges = False


def ray_arguments(
    address: str | None, workers: int | None, cpus: int | None, gpus: float | None, **others: object
) -> dict[str, Any] | None:
    """Return the arguments of `RayScorer` or `RayTasks`; None without --ray, which the other options need."""
    if address is not None:
        resources = {"num_workers": workers, "cpus_per_worker": cpus or 1, "gpus_per_worker": gpus or 0}
        return {"address": address, **resources, **others}
    passed = {**others, "workers": workers, "cpus": cpus, "gpus": gpus}
    if option := next((name for name, value in passed.items() if value is not None), None):
        raise InputError(f"--ray-{option} needs a cluster; for example --ray auto")
    return None


def settings(arguments: list[str] | None, option: str) -> dict[str, Any]:
    """Parse `NAME=VALUE` pairs; values are JSON, or else text. Secrets are refused: other users can see the arguments.

    >>> settings(["max_tokens=500", "api_base=http://localhost:8000/v1"], "--prompt-model-kwargs")
    {'max_tokens': 500, 'api_base': 'http://localhost:8000/v1'}
    """
    parsed: dict[str, Any] = {}
    names: list[str] = []

    def collect_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names.extend(name for name, _ in pairs)
        return dict(pairs)

    for argument in arguments or ():
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():  # the argument is not quoted, because it may be a key
            raise InputError(f"{option} expects NAME=VALUE, e.g. {option} max_tokens=500")
        try:
            parsed[name] = json.loads(value, object_pairs_hook=collect_names)
        except ValueError:
            parsed[name] = value
        if any(map(names_secret, [name, *names])):
            raise InputError(
                f"{option} {name}=... would expose a secret in the process list; set it in the environment, "
                "e.g. OPENAI_API_KEY"
            )
    return parsed
