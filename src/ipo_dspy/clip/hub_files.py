"""Files of the Hugging Face Hub: from the cache without the network, else downloaded as far as that is allowed.

A model that a file names, rather than the user, is not downloaded unless the user allows it, and then without the
user's hub token.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.clip.open_clip_names import DEFAULT_MODEL, DEFAULT_PRETRAINED
from ipo_dspy.clip.transformers_files import CONFIG_FILE, TRANSFORMERS, files_to_fetch, missing_file
from ipo_dspy.errors import Argument, Hint, ModelError

Downloads: TypeAlias = Literal["allowed", "anonymous", "refused"]
"""Permission to fetch missing files: `allowed` for a model that the user names, `refused` for one that a file names,
`anonymous` (without the user's hub token) where the user allows that."""
WAYS_OUT = Hint(
    "connect to the network once, or use local weights: {pretrained}, {model}, or {demo}, which needs no download",
    pretrained="/path/to/weights.safetensors",
    model="local-dir:/path/to/folder",
    demo=Argument("model", "demo"),
)
_SWITCHES: Mapping[str, str] = {"refused": "HF_HUB_OFFLINE", "anonymous": "HF_HUB_DISABLE_IMPLICIT_TOKEN"}


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as the loading of one model may use it."""

    cache_dir: str | None = None  # folder of downloads; None for the default of huggingface_hub
    downloads: Downloads = "allowed"  # permission to fetch missing files

    @contextlib.contextmanager
    def restrict(self) -> Iterator[None]:
        """Restrict all requests to the hub inside to `downloads`.

        open_clip and transformers send requests even if all files are cached, and have no argument against that.
        huggingface_hub reads these two constants before each request.
        """
        if self.downloads == "allowed":
            yield
            return
        from huggingface_hub import constants

        switch = _SWITCHES[self.downloads]
        before = getattr(constants, switch)
        setattr(constants, switch, True)
        try:
            yield
        finally:
            setattr(constants, switch, before)

    def file(self, repo: str, names: Sequence[str], shown: str, otherwise: Hint = WAYS_OUT) -> Path:
        """Return the first of `names` that a repository has; `shown` is the model in messages.

        Raises:
            ModelError: it has none of them (`otherwise` is the hint), cannot be reached, or may not be asked.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with _reporting(f"{names[0]!r} of {repo!r}, which {shown} needs,", WAYS_OUT):
            for name in names:
                cached = try_to_load_from_cache(repo, name, cache_dir=self.cache_dir)
                if isinstance(cached, str):
                    return Path(cached)
            if self.downloads != "refused":
                _reach_hub()
                for name in names:
                    with contextlib.suppress(EntryNotFoundError):
                        try:
                            return Path(hf_hub_download(repo, name, cache_dir=self.cache_dir))
                        except LocalEntryNotFoundError as error:  # the network went away between the two
                            raise ConnectionError(one_line_error(error)) from error
        raise self._absent(repo, names, shown, otherwise)

    def checkpoint(self, repo: str, shown: str) -> Path:
        """Return the folder of a repository of transformers; `shown` is the model in messages.

        Raises:
            ModelError: it lacks a file, cannot be reached, or may not be asked.
        """
        from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

        hint = Hint(
            "check the name, connect to the network once, or pass {model} or {demo}, which need no download",
            model=f"{TRANSFORMERS}/path/to/folder",
            demo=Argument("model", "demo"),
        )
        with _reporting(shown, hint):
            config = try_to_load_from_cache(repo, CONFIG_FILE, cache_dir=self.cache_dir)
            folder = Path(config).parent if isinstance(config, str) else None
            absent = CONFIG_FILE if folder is None else missing_file(folder)
            if absent is not None and self.downloads != "refused":
                _reach_hub()
                names = files_to_fetch(HfApi().list_repo_files(repo))
                folder = Path(snapshot_download(repo, allow_patterns=names, cache_dir=self.cache_dir))
                absent = missing_file(folder)
        if folder is not None and absent is None:
            return folder
        raise self._absent(repo, [absent or CONFIG_FILE], shown)

    def _absent(self, repo: str, names: Sequence[str], shown: str, hint: Hint = WAYS_OUT) -> ModelError:
        if self.downloads == "refused":
            return refusal(f"{names[0]} of {repo} on the Hugging Face Hub", shown)
        return ModelError(f"{repo!r} on the Hugging Face Hub has no {' or '.join(names)}", hint=hint)


def refusal(file: str, shown: str) -> ModelError:
    """Return the error for a missing file that may not be downloaded."""
    return ModelError(
        f"{shown} is named by a file and not on this machine ({file} is missing)",
        hint=Hint(
            "if you trust the file, pass {allow_download} to fetch it without your hub token, or pass a model "
            "yourself, e.g. {model}, {pretrained}",
            allow_download=True,
            model=DEFAULT_MODEL,
            pretrained=DEFAULT_PRETRAINED,
        ),
    )


@contextlib.contextmanager
def _reporting(shown: str, hint: Hint) -> Iterator[None]:
    """Raise a ModelError for an error of a download."""
    import httpx

    try:
        yield
    except (OSError, httpx.HTTPError, ValueError) as error:  # ValueError: an invalid name
        reason = f"{type(error).__name__}: {one_line_error(error)}"
        fact = f"{shown} is not in the cache and cannot be fetched from the Hugging Face Hub ({reason})"
        raise ModelError(fact, hint=hint) from error


def _reach_hub() -> None:
    """Send one request, so that a machine without a network fails at once and not after five retries for each file."""
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=10)
