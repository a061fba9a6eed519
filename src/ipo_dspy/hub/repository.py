"""Publish a program in a repository of the Hugging Face Hub, and fetch one.

Only `best.json` is fetched, and its size is checked before. A token is sent only to the Hub's endpoint
(`HF_ENDPOINT`), and is redacted in errors.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.secrets import remember_secrets
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.errors import Hint, ProgramFileError
from ipo_dspy.program_files import LIMIT

TIMEOUT = 30.0
"""Seconds to wait for each answer of the Hub; huggingface_hub itself waits for some of them without a limit."""
_NAME = re.compile(r"(?!.*(?:--|\.\.))(?:\w|\w[\w.-]{0,94}\w)/(?:\w|\w[\w.-]{0,94}\w)", re.ASCII)
_DENIED = (401, 403, 404)
"""Statuses that say nothing about the network: the hub answers 401 or 404 for a private repository as for none."""

_SESSION = threading.Lock()
"""Held while huggingface_hub's session has our timeout: its publishing requests accept no timeout themselves."""

logger = logging.getLogger(__name__)


def check_repository_name(name: str) -> None:
    """Check that a name is of the form `user/name`, before anything is sent.

    Raises:
        ProgramFileError: it is not.

    >>> check_repository_name("user/name")
    """
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        condition = "'user/name' of letters, digits, '-', '_' and '.'"
        raise ProgramFileError(f"must be {condition}", argument="name", value=name, hint="for example 'user/pets'")


def push_files(
    repository: str, files: Mapping[str, bytes], *, token: str | None, private: bool | None, message: str
) -> str:
    """Commit files to a repository, which is created if it does not exist, and return the address of the commit.

    Args:
        repository: `user/name`.
        files: the content of each file.
        token: a token of the Hub; the one of this machine if None.
        private: whether a new repository is private; the user's default if None.
        message: message of the commit.

    Raises:
        ProgramFileError: the Hub does not respond, or rejects the request.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_session

    api = HfApi(token=token, library_name="ipo_dspy")
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in files.items()]
    remedy = Hint("run `hf auth login`, or pass {token} of a user who may write there", token=...)
    with _SESSION, _one_error(f"{repository!r} cannot be published", token, remedy):
        session: Any = get_session()
        before, session.timeout = getattr(session, "timeout", None), TIMEOUT
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            return api.create_commit(repository, operations, commit_message=message).commit_url
        finally:
            session.timeout = before


def fetch_program(repository: str, *, revision: str | None, token: str | None) -> Path:
    """Return the path of a repository's `best.json` in the cache, after fetching it if it is new.

    If the hub cannot be reached, the file is the one that was fetched before, with a warning in the log.

    Raises:
        ProgramFileError: the Hub does not answer, has no such repository, revision, or file, or refuses; or the file is
            larger than a program.
    """
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    name = "the name" if revision is None else "the name and {revision}"
    remedy = Hint(f"check {name}; a private repository needs {{token}}", revision=revision, token=...)
    with _one_error(f"{repository!r} cannot be fetched", token, remedy):
        url = hf_hub_url(repository, PROGRAM_FILE, revision=revision)
        try:
            file = get_hf_file_metadata(url, token=token, timeout=TIMEOUT)
        except (OSError, httpx.TransportError) as error:
            cached = try_to_load_from_cache(repository, PROGRAM_FILE, revision=revision)
            if getattr(error, "response", None) is not None or not isinstance(cached, str):
                raise
            logger.warning("the Hub cannot be reached; using the cached copy of %r", repository)
            return Path(cached)
        if file.size is None or file.size > LIMIT:
            size = file.size or "unknown"
            fact = f"{PROGRAM_FILE} of {repository!r} has {size} bytes, more than the {LIMIT:,} of a program"
            raise ProgramFileError(fact, hint="pass another repository")
        commit = file.commit_hash  # whose size was checked; a branch may have moved on
        path = Path(hf_hub_download(repository, PROGRAM_FILE, revision=commit, token=token, etag_timeout=TIMEOUT))
        reference = path.parents[2] / "refs" / (revision or "main")  # for `try_to_load_from_cache`
        if commit and revision != commit:
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)
        return path


@contextlib.contextmanager
def _one_error(fact: str, token: str | None, remedy: Hint) -> Iterator[None]:
    """Raise one error for all that may go wrong with a hub, or with a server that is none."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    remember_secrets(filter(None, [token]))
    try:
        yield
    except ProgramFileError:
        raise
    except (OSError, httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint: Hint | str = remedy if status in _DENIED else f"check the network, and that {constants.ENDPOINT} is a hub"
        if isinstance(error, EntryNotFoundError) and status in _DENIED:
            hint = f"it has no {PROGRAM_FILE}; pass a repository that push_to_hub wrote"
        # Messages with a status are advice on huggingface_hub, except for what the hub itself says.
        said = str(error) if status is None else getattr(error, "server_message", None)
        words = [f"HTTP {status}" if status else type(error).__name__, one_line(said or "", 200)]
        raise ProgramFileError(f"{fact} ({': '.join(filter(None, words))})", hint=hint) from error
