"""Options that several commands share, and how their values are read."""

import json
from collections.abc import Iterator, Mapping
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

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder with a sub-folder of images per class, a .csv or .parquet table, a webdataset .tar, or a data "
        "set saved by Hugging Face datasets."
    ),
]
Program = Annotated[Path, typer.Argument(help="A program saved by optimize or ClipClassifier.save.")]
Lm = Annotated[str | None, typer.Option("--lm", help="LLM that proposes templates, a LiteLLM name; none: evolution.")]
Vlm = Annotated[str | None, typer.Option("--vlm", help="Multimodal LLM that describes images; none: CLIP does.")]
LmArg = Annotated[
    list[str] | None,
    typer.Option(
        "--lm-arg",
        metavar="NAME=VALUE",
        help="Setting of --lm, e.g. api_base=http://localhost:8000/v1 or max_tokens=500; may be repeated.",
    ),
]
VlmArg = Annotated[
    list[str] | None, typer.Option("--vlm-arg", metavar="NAME=VALUE", help="Setting of --vlm; may be repeated.")
]
Model = Annotated[str, typer.Option(help="open_clip name, local-dir:PATH, hf-hub:NAME, or demo.")]
OtherModel = Annotated[str | None, typer.Option("--model", help="Another model than the program was saved under.")]
AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download", help="Fetch the model that the program file names, without your Hugging Face token."
    ),
]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag or checkpoint path.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Steps = Annotated[int | None, typer.Option(min=0, help="Questions to the proposer, 100 if not given.")]
PerStep = Annotated[int, typer.Option(min=1, help="Templates asked for in each.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every draw.")]
Asking = Annotated[str, typer.Option(help="How an LLM is asked: batch, samples, single, or auto.")]
Descriptions = Annotated[int, typer.Option(min=0, help="Training images that are described at most.")]
MaxCalls = Annotated[int | None, typer.Option("--max-lm-calls", min=1, help="Requests to LLMs at most.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Prompt and completion tokens at most.")]
MaxCost = Annotated[float | None, typer.Option(help="USD at most, by LiteLLM's prices.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Seconds at most, over all sittings of the run.")]
MaxErrors = Annotated[int, typer.Option(min=1, help="Stop after so many LLM faults in a row.")]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Go on with a run in --out although settings have changed.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the expected calls, tokens and cost; ask nothing.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for journal, program and report; a new one in runs/ if not given. One that holds an unfinished "
        "run goes on where that stopped."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out image files that cannot be read, and count them.")]

Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Encode and score on a Ray cluster: auto, local or HOST:6379."),
]
RayWorkers = Annotated[int | None, typer.Option(min=1, help="Workers of the cluster at most; all it has room for.")]
RayCpus = Annotated[int | None, typer.Option(min=1, help="Processors of each worker; 1.")]
RayGpus = Annotated[float | None, typer.Option(min=0, help="GPUs of each worker, for encoding; 0.")]
RayStore = Annotated[Path | None, typer.Option(help="Folder on all nodes that keeps image features between runs.")]
RayImages = Annotated[
    str | None,
    typer.Option(
        help="Score candidates on these images instead of DATA: a folder, a table, or webdataset or parquet shards, "
        "e.g. 'shards/*.tar', which only the workers read."
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
    """Where images are encoded and scored, if not on this machine.

    Raises:
        InputError: an address of no kind, or something for a cluster and none named.
    """
    if address is None:
        _refuse(store=store, images=images, workers=workers, cpus=cpus, gpus=gpus)
        return None
    from ipo_dspy.distributed import RayScorer

    return RayScorer(
        address, num_workers=workers, cpus_per_worker=cpus or 1, gpus_per_worker=gpus or 0, store=store, images=images
    )


def tasks(address: str | None, workers: int | None, cpus: int | None, gpus: float | None) -> "RayTasks | None":
    """Where cells are measured, if not one after another in this process; see `scorer` for what is raised."""
    if address is None:
        _refuse(workers=workers, cpus=cpus, gpus=gpus)
        return None
    from ipo_dspy.distributed.ray_tasks import RayTasks

    return RayTasks(address, num_workers=workers, cpus_per_worker=cpus or 1, gpus_per_worker=gpus or 0)


def _refuse(**named: object) -> None:
    """What is for a cluster where there is none."""
    if given := next((name for name, value in named.items() if value is not None), None):
        raise InputError(f"--ray-{given} is for a cluster; name one: --ray auto")


def settings(arguments: list[str] | None, option: str) -> dict[str, Any]:
    """`NAME=VALUE` pairs; values are read as JSON where they are that, else as text.

    Raises:
        InputError: no pair, or a secret, which other users of the machine could read in the list of processes.

    >>> settings(["max_tokens=500", "api_base=http://localhost:8000/v1"], "--lm-arg")
    {'max_tokens': 500, 'api_base': 'http://localhost:8000/v1'}
    """
    found = {}
    for argument in arguments or ():
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():  # what was written is not repeated: it may be a key
            raise InputError(f"{option} takes NAME=VALUE with a Python name; write e.g. {option} max_tokens=500")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
        if any(map(names_secret, _names({name: found[name]}))):
            raise InputError(
                f"{option} {name}=... would show a secret in the list of processes; set it in the environment, "
                "e.g. OPENAI_API_KEY"
            )
    return found


def _names(value: Any) -> Iterator[str]:
    """All names in a value that was read as JSON."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
