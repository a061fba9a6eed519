"""`ipo-dspy cache`: inspect and clear the cache of image features."""

import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer, confirm

from ipo_dspy.cli import output as show
from ipo_dspy.cli import terminal
from ipo_dspy.cli.options import Command, Json
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from ipo_dspy.clip.feature_store import FeatureStore, StoreEntry

cache = Typer(name="cache", help="Manage the image-feature cache.", no_args_is_help=True)


@cache.command(cls=Command)
def info(as_json: Json = False) -> None:
    """Show the cache folder, its size and its models."""
    store = _store()
    entries = [] if store is None else store.contents()
    if as_json:
        models = [{**asdict(e.origin), "images": e.images, "bytes": e.bytes, "used": e.used} for e in entries]
        about = (None, None, 0) if store is None else (str(store.folder), store.limit, store.size())
        show.write_json({**dict(zip(("folder", "limit", "bytes"), about, strict=True)), "models": models})
    elif store is None:
        terminal.line("the image-feature cache is off: IPO_DSPY_CACHE is off")
    else:
        used = f"{store.folder}: {show.size(store.size())} of at most {show.size(store.limit)}"
        terminal.line(used if entries else f"{used}; no image has been encoded yet")
        if entries:
            columns = ["model", "fingerprint", "computed in", "images>", "size>", "last used"]
            show.rows("features of images", columns, map(_row, entries))


@cache.command(cls=Command)
def clear(
    model: Annotated[str | None, Option(help="Clear only this model: its name or fingerprint, see info.")] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Clear the cache; features are computed again when needed."""
    store = _store()
    if store is None:
        raise InputError("the image-feature cache is off; set IPO_DSPY_CACHE=/a/folder")
    what = f"everything in {store.folder}"
    if model is not None:
        entries = store.contents()
        matches = [entry for entry in entries if model in (entry.origin.name, entry.origin.fingerprint)]
        if not matches:
            names = ", ".join(repr(entry.origin.name) for entry in entries) or "none"
            raise InputError(f"no cached features for model {model!r}; cached models: {names}")
        what = f"{sum(entry.images for entry in matches)} images of {model} from {store.folder}"
    if not yes and not sys.stdin.isatty():
        raise InputError(f"this would remove {what}; add --yes")
    if not yes and not confirm(f"Remove {what}?"):
        terminal.line("nothing was removed")
        return
    before = store.size()
    store.clear(None if model is None else lambda origin: model in (origin.name, origin.fingerprint))
    terminal.line(f"removed {what}: {show.size(before - store.size())}")


def _store() -> "FeatureStore | None":
    from ipo_dspy.clip.cache_config import cache_folder, cache_limit
    from ipo_dspy.clip.feature_store import FeatureStore

    folder = cache_folder()
    return None if folder is None else FeatureStore(folder, cache_limit())


def _row(held: "StoreEntry") -> Sequence[str]:

    origin = held.origin
    when = datetime.datetime.fromtimestamp(held.used).strftime("%Y-%m-%d %H:%M")
    return origin.name, origin.fingerprint, origin.arithmetic, f"{held.images:,}", show.size(held.bytes), when
