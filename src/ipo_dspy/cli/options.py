"""Options that several commands share, and how their values are read."""

import inspect
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipo_dspy._internal.secrets import names_secret
from ipo_dspy.clip.weights import DEFAULT_MODEL as DEFAULT_MODEL
from ipo_dspy.clip.weights import DEFAULT_PRETRAINED as DEFAULT_PRETRAINED
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from ipo_dspy.distributed import RayScorer
    from ipo_dspy.distributed.ray_tasks import RayTasks


def ipo_options(ctx: typer.Context) -> dict[str, Any]:
    """Return the options of a command that are arguments of `IPO`, but those of models and the folder."""
    from ipo_dspy.optimizer.ipo import IPO

    arguments = inspect.signature(IPO).parameters.keys() - {"prompt_model", "description_model", "log_dir"}
    values = {name: value for name, value in ctx.params.items() if name in arguments}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}


class RequestMode(StrEnum):
    """How a language model is asked for templates."""

    AUTO = "auto"
    BATCH = "batch"
    SAMPLES = "samples"
    SINGLE = "single"


Data = Annotated[
    Path,
    typer.Argument(
        help="A folder with a sub-folder of images per class, a .csv or .parquet table, a webdataset .tar, or a data "
        "set saved by Hugging Face datasets."
    ),
]
Program = Annotated[Path, typer.Argument(help="A program saved by optimize or ClipClassifier.save.")]
PromptModel = Annotated[
    str | None,
    typer.Option(help="LLM that proposes templates, a LiteLLM name. By default, the built-in evolutionary search."),
]
DescriptionModel = Annotated[
    str | None, typer.Option(help="Multimodal LLM that describes images, a LiteLLM name. By default, CLIP does.")
]
PromptModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Setting of --prompt-model, e.g. api_base=http://localhost:8000/v1 or max_tokens=500; may be repeated.",
    ),
]
DescriptionModelKwargs = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Setting of --description-model; may be repeated.")
]
Model = Annotated[str, typer.Option(help="open_clip name, local-dir:PATH, hf-hub:NAME, or demo.")]
OtherModel = Annotated[str | None, typer.Option("--model", help="Override the CLIP model stored in the program.")]
AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download", help="Fetch the model that the program file names, without your Hugging Face token."
    ),
]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag or checkpoint path.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Steps = Annotated[
    int | None, typer.Option(min=0, help="Search steps; each asks the proposer once.", show_default="100")
]
PerStep = Annotated[int, typer.Option(min=1, help="Templates proposed per step.")]
HistorySize = Annotated[int, typer.Option(min=0, help="Best earlier templates shown to the proposer.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Mode = Annotated[
    RequestMode,
    typer.Option(help="Templates of a step: all in one response, samples of one prompt, or one prompt for each."),
]
DescribedImages = Annotated[int, typer.Option(min=0, help="Maximum number of training images to describe.")]
MaxCalls = Annotated[int | None, typer.Option("--max-lm-calls", min=1, help="Maximum number of LLM requests.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Maximum number of prompt and completion tokens.")]
MaxCost = Annotated[float | None, typer.Option(help="Maximum cost in USD, by LiteLLM's prices.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Maximum wall-clock seconds, summed over all sessions.")]
MaxErrors = Annotated[int, typer.Option(min=1, help="Stop after this many consecutive LLM errors.")]
AllowChanges = Annotated[
    bool, typer.Option("--allow-config-changes", help="Resume a run even if its settings have changed.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the expected calls, tokens and cost; send no requests.")]
LogDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for journal, program and report; an unfinished run in it is resumed.",
        show_default="a new one in runs/",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Skip unreadable images, and count them.")]

Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Encode and score on a Ray cluster: auto, local or HOST:6379."),
]
RayWorkers = Annotated[
    int | None, typer.Option("--ray-workers", min=1, help="Maximum number of workers.", show_default="as many as fit")
]
RayCpus = Annotated[int | None, typer.Option("--ray-cpus", min=1, help="CPUs per worker.", show_default="1")]
RayGpus = Annotated[
    float | None, typer.Option("--ray-gpus", min=0, help="GPUs per worker, for encoding.", show_default="0")
]
RayStore = Annotated[
    Path | None, typer.Option("--ray-store", help="Folder on all nodes that keeps image features between runs.")
]
RayImages = Annotated[
    str | None,
    typer.Option(
        "--ray-images",
        help="Score candidates on these images instead of DATA: a folder, a table, or webdataset or parquet shards, "
        "e.g. 'shards/*.tar', which only the workers read.",
    ),
]


def scorer(
    address: str | None,
    workers: int | None,
    cpus: int | None,
    gpus: float | None,
    store: Path | None,
    images: str | None,
) -> "RayScorer | None":
    """Return the cluster that encodes and scores images, if one was named.

    Raises:
        InputError: an invalid address, or an option of a cluster without one.
    """
    if address is None:
        _refuse(store=store, images=images, workers=workers, cpus=cpus, gpus=gpus)
        return None
    from ipo_dspy.distributed import RayScorer

    return RayScorer(
        address, num_workers=workers, cpus_per_worker=cpus or 1, gpus_per_worker=gpus or 0, store=store, images=images
    )


def tasks(address: str | None, workers: int | None, cpus: int | None, gpus: float | None) -> "RayTasks | None":
    """Return the cluster that measures cells, if one was named; raises as `scorer` does."""
    if address is None:
        _refuse(workers=workers, cpus=cpus, gpus=gpus)
        return None
    from ipo_dspy.distributed.ray_tasks import RayTasks

    return RayTasks(address, num_workers=workers, cpus_per_worker=cpus or 1, gpus_per_worker=gpus or 0)


def _refuse(**named: object) -> None:
    """Refuse options of a cluster where none is named."""
    if given := next((name for name, value in named.items() if value is not None), None):
        raise InputError(f"--ray-{given} needs a cluster; for example --ray auto")


def settings(arguments: list[str] | None, option: str) -> dict[str, Any]:
    """Parse `NAME=VALUE` pairs; values are JSON, or else text.

    Raises:
        InputError: not a pair, or a secret, which other users of the machine could read in the process list.

    >>> settings(["max_tokens=500", "api_base=http://localhost:8000/v1"], "--prompt-model-kwargs")
    {'max_tokens': 500, 'api_base': 'http://localhost:8000/v1'}
    """
    found = {}
    for argument in arguments or ():
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():  # what was written is not repeated: it may be a key
            raise InputError(f"{option} expects NAME=VALUE, e.g. {option} max_tokens=500")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
        if any(map(names_secret, _names({name: found[name]}))):
            raise InputError(
                f"{option} {name}=... would expose a secret in the process list; set it in the environment, "
                "e.g. OPENAI_API_KEY"
            )
    return found


def _names(value: Any) -> Iterator[str]:
    """Iterate over all names in a JSON value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
